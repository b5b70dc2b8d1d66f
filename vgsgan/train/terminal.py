"""Prints lines and a progress bar in the terminal."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm

from vgsgan.common import streams
from vgsgan.parallel import processes

_ROOM = 20  # Columns reserved for the bar.


class Timer:
  """Times a `Terminal.status`; `seconds` is set when it ends."""

  seconds: float = 0.0


class Terminal:
  """Shows what a program does and waits for.

  Args:
    enabled: False, on all processes but one, prints nothing.
    stream: text file for the lines; standard error if None.
  """

  def __init__(self, *, enabled: bool = True, stream: Any = None):
    self._enabled = enabled
    self._stream = streams.Lasting(sys.stderr if stream is None else stream)
    # Without a known width, the bar would print line after line.
    self._draws = self._stream.isatty() and width(self._stream) > 0
    self._bar: Bar | None = None

  @contextlib.contextmanager
  def bar(self, name: str, first: int, total: int) -> Iterator["Bar"]:
    """Shows progress from step `first` to `total`; call `update` on it."""
    show = self._enabled and self._draws
    self._bar = Bar(name, first, total, self._stream, show)
    try:
      yield self._bar
    finally:
      self._bar.close()
      self._bar = None

  @contextlib.contextmanager
  def status(
    self, activity: str, limit: float = processes.STALL_SECONDS
  ) -> Iterator[Timer]:
    """Shows an activity, and its duration when it ends.

    Args:
      activity: in words.
      limit: seconds after which a process of several gives up.
    """
    timer = Timer()
    processes.moved(activity, limit)
    began = time.perf_counter()
    if self._bar and self._bar.shown:
      self._bar.describe(activity)
    else:
      self.info(f"{activity} ...")
    try:
      yield timer
    finally:
      processes.moved(f"going on after {activity}")
      timer.seconds = time.perf_counter() - began
      if self._bar:
        self._bar.describe(None)
        self._bar.idle += timer.seconds
    self.info(f"{activity}: {timer.seconds:.1f} s")

  def info(self, line: str) -> None:
    """Prints a line, above the bar if there is one."""
    if not self._enabled:
      return
    if self._draws:
      tqdm.tqdm.write(line, file=self._stream)
    else:
      print(line, file=self._stream, flush=True)

  def warn(self, line: str) -> None:
    self.info(f"warning: {line}")

  def show(self, step: int, split: str, figures: Mapping[str, Any]) -> None:
    """Shows figures of a step: in the bar if they are of its split."""
    ordered = {k: figures[k] for k in ("loss",) if k in figures} | figures
    words = [f"{name} {short(value)}" for name, value in ordered.items()]
    if self._bar and self._bar.shown and split == self._bar.name:
      self._bar.show(words)
      return
    of, rate = "", ""
    if self._bar:
      of = f"/{self._bar.total}"
      rate = self._bar.rate(step) if split == self._bar.name else ""
    self.info(f"step {step}{of} {split} {' '.join(words[:6])}{rate}")


class Bar:
  """Progress through the steps; drawn in a terminal only.

  Attributes:
    idle: seconds spent outside steps since the last rate, which excludes them.
  """

  def __init__(
    self, name: str, first: int, total: int, stream: Any, shown: bool
  ):
    self.name, self.total, self.shown = name, total, shown
    self.idle = 0.0
    self._step, self._since = first, time.perf_counter()
    self._bar = _Drawn(
      desc=name,
      initial=first,
      total=total,
      file=stream,
      disable=not shown,
      dynamic_ncols=True,
      bar_format="{front} |{bar}| {pace}, {remaining} left{more}",
    )

  def update(self, step: int) -> None:
    """Moves to `step`."""
    self._bar.update(step - self._bar.n)

  def describe(self, activity: str | None) -> None:
    """Shows an activity in the place of the steps; None for none."""
    self._bar.waiting = activity
    self._bar.refresh()

  def show(self, words: list[str]) -> None:
    """Shows figures: the first before the bar, the others as they fit."""
    self._bar.words = words
    self._bar.refresh()

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


class _Drawn(tqdm.tqdm):
  """A bar after the main figure and before the others, as they fit."""

  waiting, words = None, ()

  @property
  def format_dict(self) -> dict[str, Any]:
    fields = super().format_dict
    steps, seconds = fields["n"] - fields["initial"], fields["elapsed"]
    rate = fields["rate"] or (steps / seconds if steps and seconds else 0.0)
    if not rate:
      pace = "? steps/s"
    else:
      pace = f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step"
    of = f"{fields['n']}/{fields['total']}"
    first, others = self.words[:1], self.words[1:]
    front = " ".join([*first, fields["prefix"], of])
    if self.waiting:
      front, others = self.waiting, ()
    taken = len(f"{front} || {pace}, 00:00:00 left") + _ROOM
    more = ""
    for word in others:
      if taken + len(f"{more}, {word}") > (fields["ncols"] or 0):
        break
      more += f", {word}"
    return fields | {"front": front, "pace": pace, "more": more}


def width(stream: Any) -> int:
  """Columns of a stream's terminal; 0 if unknown."""
  try:
    return os.get_terminal_size(stream.fileno()).columns
  except (AttributeError, OSError, ValueError):
    return 0


def short(value: int | float | str) -> str:
  """A figure to four significant digits."""
  return f"{value:.4g}" if isinstance(value, float) else str(value)
