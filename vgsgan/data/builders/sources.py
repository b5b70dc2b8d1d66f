"""Finds, reads and identifies the folders and files that users name.

The content of the files identifies a source. Names and sizes are not enough,
because a file may be replaced by another of equal length. Nor are times,
because copies keep them and another machine, on which the run may go on, has
others. So a source is read once as a whole. The digest is kept beside the
prepared data, under the sizes, times and inodes of the files; later starts look
at these alone.
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
# A file this young may change once more without a new time: the clock of the
# coarsest file system, FAT, moves every two seconds.
_YOUNG_NS = 3 * 10**9


def expanded(path: str | pathlib.Path) -> pathlib.Path:
  """Replaces the `~` of a path by the user's home.

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
  """Checks the folder that a user names.

  Args:
    source: its path.
    expected: advice on its contents or its origin.

  Raises:
    UserError: it is missing, no folder, or cannot be read.
  """
  path = expanded(source)
  try:
    if not str(source):  # pathlib would take the current folder.
      raise FileNotFoundError(errno.ENOENT, "nothing is named")
    with os.scandir(path):
      return path
  except OSError as error:
    raise UserError(
      f"no folder {str(source)!r} ({error.strerror}): {expected}"
    ) from error


@contextlib.contextmanager
def readable(root: pathlib.Path) -> Iterator[None]:
  """Turns a read error of the file system into one line."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"cannot read {error.filename or root}: {error.strerror or error}; "
      "make it readable, or name another source"
    ) from error


def walk(root: pathlib.Path) -> Iterator[tuple[str, list[str], list[str]]]:
  """Walks like `os.walk`, but raises for unreadable folders.

  Raises:
    OSError: a folder cannot be read.
  """

  def refuse(error: OSError) -> None:
    raise error

  return os.walk(root, onerror=refuse)


def named(
  root: pathlib.Path, paths: Iterable[pathlib.Path]
) -> dict[str, pathlib.Path]:
  """Maps names relative to a folder to the paths."""
  top = os.path.join(root, "")  # Many times faster than `relative_to`.
  return {os.fspath(path).removeprefix(top): path for path in paths}


def warn(line: str) -> None:
  """Prints a warning, once for all processes."""
  if processes.first():
    tqdm.write(f"warning: {line}", file=sys.stderr)


def identity(
  roots: Sequence[str | pathlib.Path],
  files: Mapping[str, pathlib.Path],
  data_dir: pathlib.Path,
) -> str:
  """Identifies a source as CONTENT-at_PLACE, by its files and its folders.

  Two folders never share prepared data, even if they are equal. A run compares
  only the content, and goes on with a folder that has moved.

  Args:
    roots: the folders.
    files: the files to read by name, missing ones included.
    data_dir: folder of the prepared data.
  """
  return f"{content(files, data_dir)}{_AT}{place(roots)}"


def without_place(name: str) -> str:
  """Removes the place of the source from the name of a prepared data set."""
  return re.sub(f"{_AT}[0-9a-f]{{8}}$", "", name)


def place(roots: Sequence[str | pathlib.Path]) -> str:
  """Hashes the real paths of folders to eight hex digits."""
  paths = [os.path.realpath(os.path.expanduser(root)) for root in roots]
  text = "\0".join(paths).encode("utf8", "surrogateescape")
  return hashlib.sha256(text).hexdigest()[:8]


def content(files: Mapping[str, pathlib.Path], data_dir: pathlib.Path) -> str:
  """Hashes the names and the contents of files to sixteen hex digits.

  Args:
    files: the files by name; an unreadable one adds its error.
    data_dir: folder of the prepared data.
  """
  began = time.time_ns()
  status, newest = _status(files)
  if newest >= began - _YOUNG_NS:
    return _digest(files)
  kept = data_dir / "digests" / status
  if digest := _read_digest(kept):
    return digest
  with contextlib.ExitStack() as stack:
    # If nothing can be written, each process reads the source each time.
    with contextlib.suppress(OSError, UserError):
      kept.parent.mkdir(parents=True, exist_ok=True)
      stack.enter_context(_reading_alone(kept))
    if digest := _read_digest(kept):  # Another process has read the source.
      return digest
    digest = _digest(files)
    with contextlib.suppress(OSError, UserError):
      replace(kept, digest.encode())
    return digest


def _read_digest(path: pathlib.Path) -> str | None:
  """Reads a digest from a file; None if there is none."""
  with contextlib.suppress(OSError, UnicodeDecodeError):
    if re.fullmatch("[0-9a-f]{16}", digest := path.read_text()):
      return digest
  return None


def _reading_alone(kept: pathlib.Path) -> contextlib.AbstractContextManager:
  """Waits for another process that reads the same source."""
  return locked(
    kept.with_name(f"{kept.name}.lock"),
    f"another process still reads the source of {kept}",
    processes.PREPARE_SECONDS,
    lambda _: None,  # Without locks the source is only read twice.
  )


def _status(files: Mapping[str, pathlib.Path]) -> tuple[str, int]:
  """Hashes the metadata of files; also returns their newest time, ns."""
  digest, newest = hashlib.sha256(), 0
  for name in sorted(files):
    try:
      status = files[name].stat()  # Follows links.
    except OSError as error:
      _add(digest, name, error.errno)
      continue
    times = (status.st_mtime_ns, status.st_ctime_ns)
    newest = max(newest, *times)
    _add(digest, name, status.st_dev, status.st_ino, status.st_size, *times)
  return digest.hexdigest()[:32], newest


def _digest(files: Mapping[str, pathlib.Path]) -> str:
  digest = hashlib.sha256()
  # The bar appears after two seconds.
  bar = tqdm(
    sorted(files), "reading the source", unit="file", delay=2, disable=None
  )
  for name in bar:
    try:
      if not files[name].is_file():  # Reading a pipe or device may never end.
        _add(digest, name, "no file")
        continue
      with open(files[name], "rb") as file:
        _add(digest, name, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
      _add(digest, name, error.errno)
  return digest.hexdigest()[:16]


def _add(digest: "hashlib._Hash", *entry: str | int | None) -> None:
  digest.update(repr(entry).encode("utf8", "surrogateescape"))
