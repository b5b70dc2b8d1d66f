"""What a run writes for people: metrics, events, and lines in the terminal."""

import contextlib
import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

import numpy as np
import tqdm
from PIL import Image
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from vgsgan import processes
from vgsgan.jsonfiles import dumps, refused, replace, write_json


class Took:
  """How long a `Logbook.status` took; `seconds` is set when it ends."""

  seconds: float = 0.0


class Logbook:
  """The files and the terminal lines of one run.

  `metrics.jsonl` holds a JSON object a line: `step`, `split` and the figures,
  to seven significant digits. JSON knows no NaN and no infinity: they are the
  strings "nan", "inf" and "-inf", which Python's `float` reads. The same
  figures go to TensorBoard as `split/name`.

  Args:
    workdir: the run's folder; made if missing.
    enabled: False, on all processes but one, writes and says nothing.
    stream: text file that lines for people go to; standard error if None.
    terminal: whether to draw a progress bar; asks `stream` if None.

  Raises:
    UserError: the folder cannot be made.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    enabled: bool = True,
    stream: Any = None,
    terminal: bool | None = None,
  ):
    self.workdir = pathlib.Path(workdir)
    self.path = self.workdir / "metrics.jsonl"
    self._enabled = enabled
    self._stream = sys.stderr if stream is None else stream
    self._terminal = self._stream.isatty() if terminal is None else terminal
    self._events: event_file_writer.EventsWriter | None = None
    self._bar: Bar | None = None
    self._written: set[tuple[int, str]] = set()
    if enabled:
      with refused(self.workdir):
        self.workdir.mkdir(parents=True, exist_ok=True)

  def __enter__(self) -> "Logbook":
    return self

  def __exit__(self, *exc: Any) -> None:
    self.close()

  def close(self) -> None:
    """Closes the event file."""
    if self._events:
      events, self._events = self._events, None
      with refused(self.workdir):
        events.close()

  def write(
    self, step: int, split: str, metrics: Mapping[str, SupportsFloat]
  ) -> None:
    """Records figures, on disk when this returns.

    Raises:
      UserError: the disk is full, or refuses otherwise.
    """
    # What a run wrote just before it was stopped, and now computes again.
    if not self._enabled or (step, split) in self._written:
      return
    figures = {name: _rounded(value) for name, value in metrics.items()}
    line = dumps({"step": step, "split": split, **figures})
    self._append(self.path, line.encode() + b"\n")
    self._write_events(step, split, figures)
    self._show(step, split, figures)

  def rewind(self, step: int) -> None:
    """Sets aside the lines after `step`, and those that cannot be read.

    An interrupted run then leaves the lines of one that was not. What is set
    aside is appended to `metrics.dropped.jsonl`, and a line says so.

    Raises:
      UserError: a file cannot be read or written.
    """
    if not self._enabled:
      return
    kept, later, unread = [], [], []
    with refused(self.path):
      data = self.path.read_bytes() if self.path.exists() else b""
    for line in filter(None, data.split(b"\n")):
      written = _written_by(line)
      if not written:
        unread.append(line + b"\n")
      elif written[0] > step:
        later.append(line + b"\n")
      else:
        kept.append(line + b"\n")
        self._written.add(written)
    if later or unread:
      aside = self.path.with_suffix(".dropped.jsonl")
      # Appended before they are taken out, so that a kill loses none.
      self._append(aside, b"".join(later + unread))
      what = [f"{len(later)} after step {step}"] if later else []
      what += [f"{len(unread)} that cannot be read"] if unread else []
      self.warn(
        f"lines of {self.path} moved to {aside.name}: {', '.join(what)}"
      )
    if b"".join(kept) != data:
      replace(self.path, b"".join(kept))
    restarted = any(self.workdir.glob("events.out.tfevents.*"))
    # At a mark TensorBoard forgets events of that step and later, but takes the
    # first mark of all for the beginning, where there is nothing to forget.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add_event(step=step + 1 if restarted else 0, session_log=start)

  def write_json(self, path: str | os.PathLike, obj: Any) -> None:
    """Writes a JSON file, whole or not at all; see `write_json` below."""
    if self._enabled:
      write_json(path, obj)

  def write_picture(self, step: int, name: str, pixels: np.ndarray) -> None:
    """Keeps uint8 pixels [h, w, 3] as `NAME/STEP.png` and as an event."""
    if not self._enabled:
      return
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png")
    path = self.workdir / name / f"{step}.png"
    with refused(path):
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

  @contextlib.contextmanager
  def bar(self, name: str, first: int, total: int) -> Iterator["Bar"]:
    """Shows progress from step `first` to `total`; call `update` on it."""
    show = self._enabled and self._terminal
    self._bar = Bar(name, first, total, self._stream, show)
    try:
      yield self._bar
    finally:
      self._bar.close()
      self._bar = None

  @contextlib.contextmanager
  def status(
    self, what: str, limit: float = processes.STALL_SECONDS
  ) -> Iterator[Took]:
    """Says what is being waited for, and then how long it took.

    Args:
      what: in words.
      limit: seconds after which one of several processes gives it up.
    """
    took = Took()
    processes.moved(what, limit)
    began = time.perf_counter()
    if self._bar and self._bar.shown:
      self._bar.describe(what)
    else:
      self.info(f"{what} ...")
    try:
      yield took
    finally:
      processes.moved(f"going on after {what}")
      took.seconds = time.perf_counter() - began
      if self._bar:
        self._bar.describe(None)
        self._bar.idle += took.seconds
    self.info(f"{what}: {took.seconds:.1f} s")

  def info(self, line: str) -> None:
    """Says a line, above the bar if there is one."""
    if not self._enabled:
      return
    if self._terminal:
      tqdm.tqdm.write(line, file=self._stream)
    else:
      print(line, file=self._stream, flush=True)

  def warn(self, line: str) -> None:
    self.info(f"warning: {line}")

  def _show(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
    # Names with a slash belong to tables; a line has room for the few.
    few = {k: v for k, v in figures.items() if "/" not in k} or figures
    text = " ".join(f"{k} {_short(v)}" for k, v in list(few.items())[:6])
    if self._bar and self._bar.shown and split == self._bar.name:
      self._bar.postfix(text)
    else:
      of, rate = "", ""
      if self._bar:
        of = f"/{self._bar.total}"
        rate = self._bar.rate(step) if split == self._bar.name else ""
      self.info(f"step {step}{of} {split} {text}{rate}")

  def _append(self, path: pathlib.Path, data: bytes) -> None:
    # Unbuffered: nothing is left over to fail a second time at exit.
    with refused(path), open(path, "ab", buffering=0) as file:
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
    with refused(self.workdir):
      if self._events is None:
        # Not `SummaryWriter`: its thread dies unseen of a full disk, and
        # whoever flushes or closes it does not learn what was lost.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._events = event_file_writer.EventsWriter(
          str(self.workdir / "events"), suffix
        )
      self._events.write_event(event_pb2.Event(wall_time=time.time(), **fields))
      self._events.flush()


class Bar:
  """Progress through the steps: drawn in a terminal, else only reckoned.

  Attributes:
    idle: seconds spent on other things than steps, left out of the rate.
  """

  def __init__(
    self, name: str, first: int, total: int, stream: Any, shown: bool
  ):
    self.name, self.total, self.shown = name, total, shown
    self.idle = 0.0
    self._step, self._since = first, time.perf_counter()
    self._bar = tqdm.tqdm(
      desc=name,
      initial=first,
      total=total,
      file=stream,
      disable=not shown,
      unit=" step",
      dynamic_ncols=True,
      bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| [{rate_fmt}, {remaining}"
      " left]{postfix}",
    )

  def update(self, step: int) -> None:
    """Moves to `step`."""
    self._bar.update(step - self._bar.n)

  def describe(self, what: str | None) -> None:
    self._bar.set_description_str(what or self.name)

  def postfix(self, text: str) -> None:
    self._bar.set_postfix_str(text)

  def rate(self, step: int) -> str:
    """Steps a second since the last call, and the time left at that rate."""
    now = time.perf_counter()
    seconds, steps = now - self._since - self.idle, step - self._step
    self._step, self._since, self.idle = step, now, 0.0
    if steps <= 0 or seconds <= 0:
      return ""
    left = tqdm.tqdm.format_interval((self.total - step) * seconds / steps)
    return f" {steps / seconds:.3g} steps/s, {left} left"

  def close(self) -> None:
    self._bar.close()


def _written_by(line: bytes) -> tuple[int, str] | None:
  """Step and split of a line of metrics; None if it is not one."""
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


def _short(value: int | float | str) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
