"""Standard output and error that outlive whoever reads them."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# A write that failed for one of these may succeed later.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR)


class Lasting:
  """A text stream that takes writes for ever and drops what has no reader.

  The reader of a pipe may go away and a terminal may be closed. From then on
  the stream's descriptor leads to the null device, so that neither native code
  nor Python's flush at exit fails.

  Args:
    stream: a text file, whose other methods and attributes this one has too.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes if anything can still be written."""
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
    """Flushes what can be flushed."""
    with self._dropping():
      self._stream.flush()

  def end(self) -> None:
    """Flushes a last time: what cannot be written now is dropped."""
    with self._dropping(passing=()):
      self._stream.flush()

  def isatty(self) -> bool:
    """Tells whether a terminal reads; False of a closed stream."""
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
      pass  # Closed in Python: there is nothing to write to.
    except OSError as error:
      if error.errno not in passing:
        # Without a descriptor there is nothing that could fail again.
        with contextlib.suppress(OSError, ValueError):
          _lead_nowhere(self._stream.fileno())


@contextlib.contextmanager
def lasting() -> Iterator[None]:
  """Keeps a program's exit status independent of who reads what it says.

  Closed standard streams lead to the null device. The next file to be opened
  would take their number otherwise, and native code would write into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      _lead_nowhere(number)
  before = sys.stdout, sys.stderr
  # None where the stream was closed before Python began.
  sys.stdout = out = Lasting(before[0] or open(1, "w", closefd=False))
  sys.stderr = err = Lasting(before[1] or open(2, "w", closefd=False))
  try:
    yield
  finally:
    out.end()
    err.end()
    # Unless someone else has put another stream in the place.
    if sys.stdout is out and before[0]:
      sys.stdout = before[0]
    if sys.stderr is err and before[1]:
      sys.stderr = before[1]


def say(line: str) -> None:
  """Writes a line to descriptor 2, past Python's stream, if anyone reads it."""
  with contextlib.suppress(OSError):
    os.write(2, f"{line}\n".encode())


def _lead_nowhere(number: int) -> None:
  null = os.open(os.devnull, os.O_RDWR)
  if null == number:
    os.set_inheritable(number, True)
  else:
    os.dup2(null, number)
    os.close(null)
