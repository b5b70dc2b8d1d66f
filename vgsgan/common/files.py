"""Atomic replacement of files, locks, private folders, errors of writes."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator

from vgsgan.common.errors import UserError

# Errors of a file system without `flock`, such as some network mounts.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
# Links are not followed: someone else may have put them there.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(path: str | os.PathLike, data: bytes) -> None:
  """Replaces a file atomically: readers see the old or the whole new file.

  Two writers may run at once: each writes a temporary file with a random name
  in the same folder, and the last to finish wins.

  Args:
    path: path of the file. A link is replaced, not followed.
    data: the new contents.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  # The name is cut, so that any file system that takes `path`'s takes it too.
  temporary = path.with_name(f"{path.name[:40]}.{secrets.token_hex(8)}.tmp")
  with explain_os_errors(path):
    descriptor = os.open(temporary, _NEW, 0o666)
    try:
      with open(descriptor, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
          view = view[file.write(view) :]
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise


@contextlib.contextmanager
def locked(
  path: str | os.PathLike,
  held: str,
  seconds: float = 0.0,
  warn: Callable[[str], object] | None = None,
) -> Iterator[None]:
  """Holds the lock of a file, which is created if missing and not changed.

  The system frees the lock when the process that holds it ends in any way. On a
  file system without locks there is a warning, and the block runs without one.

  Args:
    path: path of the file.
    held: the message if another process holds the lock.
    seconds: time to wait for the lock.
    warn: called with a line of warning; None prints it to standard error.

  Raises:
    UserError: another process holds the lock, or the file cannot be opened.
  """
  path = pathlib.Path(path)
  with explain_os_errors(path):
    if path.is_symlink():
      raise UserError(f"{path} is a link, but must be a file: remove it")
    descriptor = os.open(path, _LOCK, 0o666)
  try:
    try:
      _take(descriptor, path, held, time.monotonic() + seconds)
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      line = (
        f"the file system of {path} has no locks ({error.strerror}): nothing "
        "keeps two processes from writing there at once"
      )
      (warn or _print_warning)(line)
    yield
  finally:
    os.close(descriptor)


def _take(
  descriptor: int, path: pathlib.Path, held: str, deadline: float
) -> None:
  with explain_os_errors(path, besides=_NO_LOCKS):
    while True:
      try:
        return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        if time.monotonic() >= deadline:
          raise UserError(held) from None
      time.sleep(0.2)


def _print_warning(line: str) -> None:
  print(f"warning: {line}", file=sys.stderr)


def private_folder(path: str | os.PathLike) -> pathlib.Path:
  """Makes a folder, and its missing parents, accessible only to their owner.

  Args:
    path: path of the folder; `~` is the user's home.

  Returns:
    The folder's path, with links resolved.

  Raises:
    OSError: the folder cannot be made, is someone else's, or others can write
      in it; `filename` and `strerror` tell where and why.
    RuntimeError: there is no such user or home.
  """
  path = pathlib.Path(path).expanduser().absolute()
  for folder in (*reversed(path.parents), path):
    if not folder.exists():
      folder.mkdir(0o700, exist_ok=True)
  path = path.resolve()
  require_own(path)
  for folder in path.parents:
    if folder.lstat().st_uid not in (0, os.geteuid()):
      raise PermissionError(errno.EPERM, "it is someone else's", str(folder))
    _require_unshared(folder)
  return path


def require_own(path: pathlib.Path) -> None:
  """Refuses a file or folder that others own or can write.

  Raises:
    OSError: as in `private_folder`.
  """
  if path.lstat().st_uid != os.geteuid():
    raise PermissionError(errno.EPERM, "it is someone else's", str(path))
  _require_unshared(path)


def _require_unshared(path: pathlib.Path) -> None:
  mode = path.lstat().st_mode
  # In a sticky folder, such as /tmp, nobody can rename another user's files.
  if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
    raise PermissionError(
      errno.EPERM, f"others can write there (chmod go-w {path})", str(path)
    )


@contextlib.contextmanager
def explain_os_errors(
  path: str | os.PathLike, besides: tuple[int, ...] = ()
) -> Iterator[None]:
  """Turns an OSError of the block into a one-line UserError.

  Args:
    path: the file or folder that the block writes, for the message.
    besides: error numbers that are raised unchanged.

  Raises:
    UserError: the file system refused a write.
  """
  try:
    yield
  except OSError as error:
    if error.errno in besides:
      raise
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    raise UserError(
      f"cannot write {path}: {error.strerror or error}; "
      f"{'free some space' if full else 'mend this'} and start again, "
      "a run goes on from its last checkpoint"
    ) from error
