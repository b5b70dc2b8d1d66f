"""Prepares a TFDS data set once, whole or not at all."""

import contextlib
import dataclasses
import errno
import fcntl
import io
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

import tensorflow_datasets as tfds
from absl import logging

from vgsgan.data.builders import examples
from vgsgan.errors import UserError
from vgsgan.integrity import one_line
from vgsgan.jsonfiles import refused
from vgsgan.processes import PREPARE_SECONDS


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


@dataclasses.dataclass(frozen=True)
class Split(Sequence):
  """Random access to the records of a prepared split.

  ArrayRecord checks what it reads; what does not agree is said in one line,
  with the advice.
  """

  source: Sequence  # Of bytes; a type that is looked at would read one.
  parse: examples.Parse
  name: str
  folder: str
  advice: str

  def __reduce__(self) -> tuple:
    # Worker processes open it themselves: of a builder that is sent to them
    # TFDS makes another, with a warning each time.
    return _reopened, (self.folder, self.name, self.advice)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict:
    if index >= len(self):
      raise IndexError(index)  # Where iterating ends.
    try:
      return self.parse(self.source[index])
    except (RuntimeError, ValueError, OSError) as error:
      raise UserError(
        f"record {index} of {self.name} in {self.folder} cannot be read "
        f"({one_line(error)}): {self.advice}"
      ) from error


def open_split(
  builder: tfds.core.DatasetBuilder,
  name: str,
  advice: str = "delete that folder, the next start prepares it anew",
) -> Split:
  """The records of a split, their pictures as they are stored.

  Its first record is read: what is missing or damaged from its start on shows
  before anything is trained.

  Args:
    builder: of a prepared data set.
    name: of the split.
    advice: what to do where its files are damaged.

  Raises:
    UserError: the first record cannot be read.
  """
  folder = str(builder.data_dir)
  source = builder.as_data_source(
    name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
  )
  parse = examples.parser(builder.info.features)
  split = Split(source, parse, name, folder, advice)
  if len(split):
    split[0]
  return split


def _reopened(folder: str, name: str, advice: str) -> Split:
  return open_split(tfds.builder_from_directory(folder), name, advice)


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
  except AssertionError as error:
    if "No examples were yielded" not in str(error):
      raise
    raise UserError(
      f"nothing could be read of a split of {final.parent.name} "
      f"({one_line(error)}): mend the source, or add to it"
    ) from error
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
    _wait_for(lock, folder)
    yield


def _wait_for(lock: TextIO, folder: pathlib.Path) -> None:
  """Takes the lock; it is free as soon as who holds it ends, however."""
  began = time.monotonic()
  while True:
    with contextlib.suppress(BlockingIOError):
      return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if time.monotonic() - began > PREPARE_SECONDS:
      raise UserError(
        f"waited {PREPARE_SECONDS / 3600:g} hours for another process to "
        f"prepare {folder}: end that one if it hangs (`fuser {folder}/.lock` "
        "names it), and start again"
      )
    time.sleep(0.2)
