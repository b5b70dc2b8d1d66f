"""Ends a run after a save when SIGTERM, SIGINT or SIGHUP arrives.

Schedulers send SIGTERM some time before they take a machine away, and a
terminal that closes sends SIGHUP to its programs. The trainer polls at every
step and evaluation at every batch: an epoch may be longer than the notice.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from vgsgan.common import streams
from vgsgan.parallel import processes


class Interrupted(Exception):
  """Raised by `Preemption.check` to stop an unfinished evaluation."""


class Preemption:
  """Tells when to save and leave; a context manager around the run.

  With one process, the first signal is remembered and the second ends the
  process at once. With several, JAX's preemption service catches SIGTERM on any
  process and makes all leave at the same poll, so every process must poll
  equally often; SIGINT and SIGHUP are passed on as SIGTERM. If SIGHUP is
  ignored, as under `nohup`, it stays ignored.

  Args:
    say: called with one line when a signal arrives; None for standard error.
  """

  # A Ctrl-C often arrives twice, from the terminal and from the launcher that
  # passes it on. A second signal counts only after this time.
  SAME_SECONDS = 1.0

  # Shared by all runs of this process: once signalled, the service waits for
  # one poll number, later than any that it has seen.
  _ticks = itertools.count(1)

  def __init__(self, say: Callable[[str], Any] | None = None):
    self._say = say or streams.say
    self._several = jax.process_count() > 1
    self._signal: int | None = None
    self._received = 0.0  # time.monotonic(), seconds
    self._reached = False
    self._previous: dict[int, Any] = {}

  def install(self) -> None:
    """Takes over the signals; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
      return  # Python allows handlers only in the main thread.
    # With several processes JAX's service handles SIGTERM.
    for number in _SIGNALS:
      if number == signal.SIGTERM and self._several:
        continue
      if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
        continue
      self._previous[number] = signal.signal(number, self._handle)

  def uninstall(self) -> None:
    """Restores the previous handlers."""
    for number, handler in self._previous.items():
      # A handler that native code set is None, and cannot be restored.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._previous.clear()

  def __enter__(self) -> "Preemption":
    self.install()
    return self

  def __exit__(self, *exc: Any) -> None:
    self.uninstall()

  def reached(self) -> bool:
    """True from the poll on at which to save and leave; call at every step."""
    processes.moved()
    if self._several and not self._reached:
      self._reached = multihost_utils.reached_preemption_sync_point(
        next(self._ticks)
      )
      if self._reached and self._signal is None:
        self._signal = signal.SIGTERM  # received here or by another process
    return self._reached

  def check(self) -> None:
    """Polls as `reached` does, for loops that cannot return early.

    Raises:
      Interrupted: it is time to leave.
    """
    if self.reached():
      raise Interrupted(signal.Signals(self._signal).name)

  @property
  def exit_code(self) -> int | None:
    """128 + the signal's number, as in shells; None if no signal arrived.

    With several processes it is 143 (SIGTERM) on each.
    """
    if not self._reached:
      return None
    return 128 + (signal.SIGTERM if self._several else self._signal)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if self._signal is not None:
      if now - self._received >= self.SAME_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
      return
    self._signal, self._received = number, now
    name = signal.Signals(number).name
    line = f"{name}: saving after this step, then leaving"
    if number != signal.SIGTERM or not self._several:
      line += "; again to leave at once"
    try:
      self._say(line)
    except RuntimeError:
      # The signal interrupted a `print`, which cannot be entered twice.
      streams.say(line)
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      self._reached = True


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
