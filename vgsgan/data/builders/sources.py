"""Folders and files that users name: found, read, and told apart.

A source is known by the content of the files that are read of it. Names and
sizes would not do, files are replaced by others of equal length; nor would
times, which copies keep and which the next machine, where a run is to go on,
does not have. So a source is read once as a whole. The digest is kept beside
the prepared data, under the sizes, times and inodes of the files: later starts
look at these alone.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.files import locked, replace
from vgsgan.parallel import processes

_AT = "-at_"
# A file this young may change once more without another time: the clock of the
# coarsest file system, FAT, moves every two seconds.
_YOUNG_NS = 3 * 10**9


def expanded(path: str | pathlib.Path) -> pathlib.Path:
  """A path with a user's home for its `~`.

  Raises:
    UserError: there is no such user.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise UserError(
      f"the path {str(path)!r} is in the home of nobody: write it out"
    ) from error


def folder(source: str | pathlib.Path, expected: str) -> pathlib.Path:
  """The folder that a user names.

  Args:
    source: its path.
    expected: what it should hold, or where to have it from.

  Raises:
    UserError: it is missing, no folder, or cannot be read.
  """
  path = expanded(source)
  try:
    if not str(source):  # Not the current folder, as pathlib has it.
      raise FileNotFoundError(errno.ENOENT, "nothing is named")
    with os.scandir(path):
      return path
  except OSError as error:
    raise UserError(
      f"no folder {str(source)!r} ({error.strerror}): {expected}"
    ) from error


@contextlib.contextmanager
def readable(root: pathlib.Path) -> Iterator[None]:
  """Turns what the file system refuses to read into one line."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"cannot read {error.filename or root}: {error.strerror or error}; "
      "make it readable, or name another source"
    ) from error


def walk(root: pathlib.Path) -> Iterator[tuple[str, list[str], list[str]]]:
  """`os.walk` that passes over no folder in silence.

  Raises:
    OSError: a folder cannot be read.
  """

  def refuse(error: OSError) -> None:
    raise error

  return os.walk(root, onerror=refuse)


def named(
  root: pathlib.Path, paths: Iterable[pathlib.Path]
) -> dict[str, pathlib.Path]:
  """Paths in a folder, by their names there."""
  top = os.path.join(root, "")  # Many times faster than `relative_to`.
  return {os.fspath(path).removeprefix(top): path for path in paths}


def warn(line: str) -> None:
  """Says a line, once for all processes."""
  if processes.first():
    tqdm.write(f"warning: {line}", file=sys.stderr)


def identity(
  roots: Sequence[str | pathlib.Path],
  files: Mapping[str, pathlib.Path],
  data_dir: pathlib.Path,
) -> str:
  """CONTENT-at_PLACE: of what is read, and of the folders it is in.

  Two folders never share what is prepared, even if they are equal; a run only
  minds the content, and goes on with a folder that has moved.

  Args:
    roots: the folders.
    files: those that are read, by name; also those that are missing.
    data_dir: where prepared data are kept.
  """
  return f"{content(files, data_dir)}{_AT}{place(roots)}"


def without_place(name: str) -> str:
  """The name of a prepared data set, without the place of its source."""
  return re.sub(f"{_AT}[0-9a-f]{{8}}$", "", name)


def place(roots: Sequence[str | pathlib.Path]) -> str:
  """Eight hex digits of where folders are, links followed."""
  paths = [os.path.realpath(os.path.expanduser(root)) for root in roots]
  text = "\0".join(paths).encode("utf8", "surrogateescape")
  return hashlib.sha256(text).hexdigest()[:8]


def content(files: Mapping[str, pathlib.Path], data_dir: pathlib.Path) -> str:
  """Sixteen hex digits of the names of files and of all that is in them.

  Args:
    files: by name; one that cannot be read counts as that.
    data_dir: where prepared data are kept.
  """
  began = time.time_ns()
  looks, newest = _looks(files)
  if newest >= began - _YOUNG_NS:
    return _digest(files)
  kept = data_dir / "digests" / looks
  if found := _kept(kept):
    return found
  with contextlib.ExitStack() as stack:
    # Where nothing can be written, each process reads the source each time.
    with contextlib.suppress(OSError, UserError):
      kept.parent.mkdir(parents=True, exist_ok=True)
      stack.enter_context(_reading_alone(kept))
    if found := _kept(kept):  # Another process has read it meanwhile.
      return found
    found = _digest(files)
    with contextlib.suppress(OSError, UserError):
      replace(kept, found.encode())
    return found


def _kept(path: pathlib.Path) -> str | None:
  """Reads a digest that was kept; None if there is none."""
  with contextlib.suppress(OSError, UnicodeDecodeError):
    if re.fullmatch("[0-9a-f]{16}", found := path.read_text()):
      return found
  return None


def _reading_alone(kept: pathlib.Path) -> contextlib.AbstractContextManager:
  """Waits for the process that reads the same source, if there is one."""
  return locked(
    kept.with_name(f"{kept.name}.lock"),
    f"another process still reads the source of {kept}",
    processes.PREPARE_SECONDS,
    lambda _: None,  # Without locks the source is read twice, no more.
  )


def _looks(files: Mapping[str, pathlib.Path]) -> tuple[str, int]:
  """A digest of what changes whenever files do, and their newest time, ns."""
  digest, newest = hashlib.sha256(), 0
  for name in sorted(files):
    try:
      found = files[name].stat()  # Of what a link leads to.
    except OSError as error:
      _add(digest, name, error.errno)
      continue
    times = (found.st_mtime_ns, found.st_ctime_ns)
    newest = max(newest, *times)
    _add(digest, name, found.st_dev, found.st_ino, found.st_size, *times)
  return digest.hexdigest()[:32], newest


def _digest(files: Mapping[str, pathlib.Path]) -> str:
  digest = hashlib.sha256()
  # Shown where it takes a while.
  bar = tqdm(
    sorted(files), "reading the source", unit="file", delay=2, disable=None
  )
  for name in bar:
    try:
      if not files[name].is_file():  # Whatever else there is may never end.
        _add(digest, name, "no file")
        continue
      with open(files[name], "rb") as file:
        _add(digest, name, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
      _add(digest, name, error.errno)
  return digest.hexdigest()[:16]


def _add(digest: "hashlib._Hash", *entry: str | int | None) -> None:
  digest.update(repr(entry).encode("utf8", "surrogateescape"))
