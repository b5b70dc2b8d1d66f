"""Leaving when asked: SIGTERM, SIGINT and SIGHUP end a run after a save.

Schedulers send SIGTERM some time before they take a machine away, and a
terminal that is closed sends SIGHUP to what runs in it. The trainer
polls at every step and evaluation at every batch, since a flag looked at only
between epochs is looked at too late.
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
  """Raised out of an evaluation that is left unfinished."""


class Preemption:
  """Says when to save and leave; a context manager around the run.

  One process: the first of the signals is remembered, the second ends the
  process at once. Several processes: JAX's preemption service catches SIGTERM
  on any of them and has all of them leave at the same poll, so every process
  must poll equally often; SIGINT and SIGHUP are passed on as SIGTERM. A SIGHUP
  that is ignored, as `nohup` has it, stays so.

  Args:
    say: called with one line when asked to leave; standard error if None.
  """

  # A Ctrl-C often comes twice, from the terminal and from the launcher that
  # passes it on. Only a later one is a person's second thought.
  SAME_SECONDS = 1.0

  # Of all runs of this process, one after another: once signalled, the service
  # names a poll later than any that it has seen, and waits for that one alone.
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
      return  # Python allows handlers in the main thread only
    # Of several processes, SIGTERM belongs to JAX's service.
    for number in _SIGNALS:
      if number == signal.SIGTERM and self._several:
        continue
      if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
        continue
      self._previous[number] = signal.signal(number, self._handle)

  def uninstall(self) -> None:
    """Puts back the handlers that were there."""
    for number, handler in self._previous.items():
      # None: set by other than Python, so it cannot be put back from here.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._previous.clear()

  def __enter__(self) -> "Preemption":
    self.install()
    return self

  def __exit__(self, *exc: Any) -> None:
    self.uninstall()

  def reached(self) -> bool:
    """Whether to save and leave now; stays true. Call at every step."""
    processes.moved()
    if self._several and not self._reached:
      self._reached = multihost_utils.reached_preemption_sync_point(
        next(self._ticks)
      )
      if self._reached and self._signal is None:
        self._signal = signal.SIGTERM  # received here or by another process
    return self._reached

  def check(self) -> None:
    """For loops that cannot return early.

    Raises:
      Interrupted: it is time to leave.
    """
    if self.reached():
      raise Interrupted(signal.Signals(self._signal).name)

  @property
  def exit_code(self) -> int | None:
    """128 + the signal's number, as shells count; None if not asked to leave.

    With several processes always 143 (SIGTERM), the same on each.
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
