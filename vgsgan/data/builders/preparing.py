"""Prepares a TFDS data set once, whole or not at all."""

import contextlib
import errno
import fcntl
import io
import pathlib
import shutil
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds
from absl import logging

from vgsgan.errors import UserError
from vgsgan.jsonfiles import refused


def prepare_once(
  make: Callable[[], tfds.core.DatasetBuilder],
  megabytes: Callable[[tfds.core.DatasetBuilder], int],
) -> tfds.core.DatasetBuilder:
  """Prepares what a builder describes, unless that is done already.

  TFDS writes into a folder of another name and renames it when it is whole,
  so an interrupted preparation is never taken for a data set. One process
  prepares and the others on the machine wait for it.

  Args:
    make: makes the builder, set to write ArrayRecord.
    megabytes: about how much the builder writes, to say when a disk is full.

  Returns:
    A builder of the prepared data set.

  Raises:
    UserError: the disk is full.
  """
  builder = _quietly(make)
  if not _is_prepared(builder):
    with _alone(pathlib.Path(builder.data_dir).parent):
      # Another process may have finished it meanwhile.
      builder = _quietly(make)
      if not _is_prepared(builder):
        _write(builder, megabytes)
  return builder


def check_bad(metadata: dict, limit: float) -> None:
  """UserError if of a builder's `pairs` more than a share are in `bad`.

  Args:
    metadata: `pairs`, a count, and `bad`, a list of [name, reason].
    limit: of the share.
  """
  bad, total = metadata["bad"], metadata["pairs"]
  if len(bad) > limit * total:
    raise UserError(
      f"at least {len(bad)} of {total} pairs ({len(bad) / total:.2%}) cannot "
      f"be decoded, more than the limit of {limit:.2%}; the first is "
      f"{bad[0][0]} ({bad[0][1]}): mend the source or raise "
      "--config.data.max_bad_share"
    )


def _quietly(
  make: Callable[[], tfds.core.DatasetBuilder],
) -> tfds.core.DatasetBuilder:
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # TFDS warns of every custom config.
  try:
    return make()
  finally:
    logging.set_verbosity(verbosity)


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
  # TFDS writes this file last, before it renames the folder.
  return (pathlib.Path(builder.data_dir) / "dataset_info.json").exists()


def _write(
  builder: tfds.core.DatasetBuilder,
  megabytes: Callable[[tfds.core.DatasetBuilder], int],
) -> None:
  final = pathlib.Path(builder.data_dir)
  for left in final.parent.glob("incomplete.*"):  # Of a killed process.
    shutil.rmtree(left)
  tfds.disable_progress_bar()  # Builders show one of their own.
  try:
    # What TFDS prints is of downloads, of which there are none.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format="array_record")
  except Exception as error:
    if not _is_full(error):
      raise
    raise UserError(
      f"no space left to prepare {final} (about {megabytes(builder)} MB are "
      "needed, nothing half-written is kept): free some or choose another "
      "folder for the data"
    ) from error


def _is_full(error: BaseException | None) -> bool:
  """Whether a full disk is behind an error; TFDS and ArrayRecord wrap it."""
  while error is not None:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    if "No space left on device" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder."""
  with refused(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "w")
  with lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
