"""Standard output and error that survive the loss of their reader."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# A write that fails for one of these reasons may succeed later.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR)


class Lasting:
  """A text stream whose writes never fail; without a reader they are dropped.

  The reader of a pipe may end, and a terminal may close. From then on the
  stream's descriptor leads to the null device, so that neither native code nor
  Python's flush at exit fails.

  Args:
    stream: a text file; other attributes and methods are passed on to it.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes the text if the stream still has a reader."""
    with self._dropping():
      try:
        self._stream.write(text)
      except UnicodeEncodeError as error:
        plain = text.encode(error.encoding, "backslashreplace")
        self._stream.write(plain.decode(error.encoding))
    return len(text)

  def writelines(self, lines: Iterable[str]) -> None:
    """Writes all lines, as `write` does."""
    self.write("".join(lines))

  def flush(self) -> None:
    """Flushes the stream if it still has a reader."""
    with self._dropping():
      self._stream.flush()

  def end(self) -> None:
    """Flushes a last time and drops text that cannot be written."""
    with self._dropping(passing=()):
      self._stream.flush()

  def isatty(self) -> bool:
    """True if the stream leads to a terminal; False if it is closed."""
    try:
      return self._stream.isatty()
    except ValueError:
      return False

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  @contextlib.contextmanager
  def _dropping(self, passing: tuple[int, ...] = _PASSING) -> Iterator[None]:
    try:
      yield
    except ValueError:
      pass  # The stream is closed in Python.
    except OSError as error:
      if error.errno not in passing:
        # A stream without a descriptor cannot fail at exit.
        with contextlib.suppress(OSError, ValueError):
          _lead_nowhere(self._stream.fileno())


@contextlib.contextmanager
def lasting() -> Iterator[None]:
  """Makes a program's exit status independent of the readers of its output.

  Closed standard streams lead to the null device. Otherwise the next opened
  file would take their number, and native code would write into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      _lead_nowhere(number)
  before = sys.stdout, sys.stderr
  # A stream that was closed before Python started is None.
  sys.stdout = out = Lasting(before[0] or open(1, "w", closefd=False))
  sys.stderr = err = Lasting(before[1] or open(2, "w", closefd=False))
  try:
    yield
  finally:
    out.end()
    err.end()
    # Another stream that was put in place meanwhile is left there.
    if sys.stdout is out and before[0]:
      sys.stdout = before[0]
    if sys.stderr is err and before[1]:
      sys.stderr = before[1]


def say(line: str) -> None:
  """Writes a line to descriptor 2, past Python's stream; errors are ignored."""
  with contextlib.suppress(OSError):
    os.write(2, f"{line}\n".encode())


def _lead_nowhere(number: int) -> None:
  null = os.open(os.devnull, os.O_RDWR)
  if null == number:
    os.set_inheritable(number, True)
  else:
    os.dup2(null, number)
    os.close(null)
