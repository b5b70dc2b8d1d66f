"""Writes a run's metrics, TensorBoard events and lines in the terminal."""

import io
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
from PIL import Image
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from vgsgan.common.files import explain_os_errors, replace
from vgsgan.common.jsonfiles import dumps, write_json
from vgsgan.train import terminal


class Logbook(terminal.Terminal):
  """The files and the terminal lines of one run.

  `metrics.jsonl` holds a JSON object a line: `step`, `split` and the figures,
  to seven significant digits. JSON has no NaN and no infinity: they are the
  strings "nan", "inf" and "-inf", which Python's `float` reads. The same
  figures go to TensorBoard as `split/name`.

  Args:
    workdir: the run's folder; created if missing.
    enabled: False, on all processes but one, writes and prints nothing.
    stream: text file for the terminal lines; standard error if None.

  Raises:
    UserError: the folder cannot be created.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    enabled: bool = True,
    stream: Any = None,
  ):
    super().__init__(enabled=enabled, stream=stream)
    self.workdir = pathlib.Path(workdir)
    self.path = self.workdir / "metrics.jsonl"
    self._events: event_file_writer.EventsWriter | None = None
    self._written: set[tuple[int, str]] = set()
    if enabled:
      with explain_os_errors(self.workdir):
        self.workdir.mkdir(parents=True, exist_ok=True)

  def __enter__(self) -> "Logbook":
    return self

  def __exit__(self, *exc: Any) -> None:
    self.close()

  def close(self) -> None:
    """Closes the event file."""
    if self._events:
      events, self._events = self._events, None
      with explain_os_errors(self.workdir):
        events.close()

  def write(
    self,
    step: int,
    split: str,
    metrics: Mapping[str, SupportsFloat],
    shown: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes figures to disk, before it returns, and shows a few.

    Args:
      step: updates made so far.
      split: the split, or `compile`, that the figures belong to.
      metrics: all figures by name.
      shown: figures for the terminal, none if empty; None shows those whose
        names have no slash.

    Raises:
      UserError: the disk is full, or the file cannot be written.
    """
    # A resumed run computes again what it wrote just before it was stopped.
    if not self._enabled or (step, split) in self._written:
      return
    figures = {name: _rounded(value) for name, value in metrics.items()}
    line = dumps({"step": step, "split": split, **figures})
    self._append(self.path, line.encode() + b"\n")
    self._write_events(step, split, figures)
    # Names with a slash belong to tables; a line has room for the few.
    few = {k: v for k, v in figures.items() if "/" not in k} or figures
    if shown is None or shown:
      self.show(step, split, few if shown is None else shown)

  def rewind(self, step: int) -> None:
    """Removes the lines after `step`, and those that cannot be read.

    An interrupted run then leaves the lines of an uninterrupted one. The
    removed lines go to `metrics.dropped.jsonl`, with a warning.

    Raises:
      UserError: a file cannot be read or written.
    """
    if not self._enabled:
      return
    kept, later, unreadable = [], [], []
    with explain_os_errors(self.path):
      data = self.path.read_bytes() if self.path.exists() else b""
    for line in filter(None, data.split(b"\n")):
      written = _written_by(line)
      if not written:
        unreadable.append(line + b"\n")
      elif written[0] > step:
        later.append(line + b"\n")
      else:
        kept.append(line + b"\n")
        self._written.add(written)
    if later or unreadable:
      dropped = self.path.with_suffix(".dropped.jsonl")
      # They are appended there before they are removed, so a kill loses none.
      self._append(dropped, b"".join(later + unreadable))
      counts = [f"{len(later)} after step {step}"] if later else []
      if unreadable:
        counts.append(f"{len(unreadable)} that cannot be read")
      self.warn(
        f"lines of {self.path} moved to {dropped.name}: {', '.join(counts)}"
      )
    if b"".join(kept) != data:
      replace(self.path, b"".join(kept))
    restarted = any(self.workdir.glob("events.out.tfevents.*"))
    # At a mark TensorBoard forgets the events from that step on. It takes the
    # first mark for the beginning of the run, and forgets nothing there.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add_event(step=step + 1 if restarted else 0, session_log=start)

  def write_json(self, path: str | os.PathLike, obj: Any) -> None:
    """Writes a JSON file, whole or not at all; see `jsonfiles.write_json`."""
    if self._enabled:
      write_json(path, obj)

  def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
    """Writes uint8 pixels [h, w, 3] as `NAME/STEP.png` and as an event."""
    if not self._enabled:
      return
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png")
    path = self.workdir / name / f"{step}.png"
    with explain_os_errors(path):
      path.parent.mkdir(exist_ok=True)
      replace(path, encoded.getvalue())
    height, width, _ = pixels.shape
    image = summary.Summary.Image(
      height=height,
      width=width,
      colorspace=3,
      encoded_image_string=encoded.getvalue(),
    )
    value = summary.Summary.Value(tag=name, image=image)
    self._add_event(step=step, summary=summary.Summary(value=[value]))

  def _append(self, path: pathlib.Path, data: bytes) -> None:
    # Unbuffered, so that nothing is left to fail a second time at exit.
    with explain_os_errors(path), open(path, "ab", buffering=0) as file:
      while data:
        data = data[file.write(data) :]

  def _write_events(
    self, step: int, split: str, figures: Mapping[str, Any]
  ) -> None:
    scalars = summary.Summary(
      value=[
        summary.Summary.Value(tag=f"{split}/{k}", simple_value=float(v))
        for k, v in figures.items()
      ]
    )
    self._add_event(step=step, summary=scalars)

  def _add_event(self, **fields: Any) -> None:
    with explain_os_errors(self.workdir):
      if self._events is None:
        # Not `SummaryWriter`: on a full disk its thread dies silently, and
        # `flush` and `close` do not report the loss.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._events = event_file_writer.EventsWriter(
          str(self.workdir / "events"), suffix
        )
      self._events.write_event(event_pb2.Event(wall_time=time.time(), **fields))
      self._events.flush()


def _written_by(line: bytes) -> tuple[int, str] | None:
  """Step and split of a line of metrics; None if it cannot be read."""
  try:
    entry = json.loads(line)
    step, split = entry["step"], entry["split"]
  except (ValueError, KeyError, TypeError):
    return None
  whole = isinstance(step, int) and isinstance(split, str)
  return (step, split) if whole else None


def _rounded(value: SupportsFloat) -> int | float | str:
  if isinstance(value, int | np.integer):
    return int(value)
  number = float(value)
  return float(f"{number:.7g}") if math.isfinite(number) else str(number)
