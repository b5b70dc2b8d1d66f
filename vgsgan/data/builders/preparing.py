"""Prepares a TFDS data set once, whole or not at all."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from vgsgan.common import files
from vgsgan.common.errors import UserError, one_line
from vgsgan.data.builders import parsing, sources
from vgsgan.parallel.processes import PREPARE_SECONDS

# What ArrayRecord's errors are known by: they have no number.
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
_SAID = (
  *_FULL,
  *map(os.strerror, (errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)),
)
ADVICE = "delete that folder, the next start prepares it anew"


def prepare_once(
  builder_class: type[tfds.core.GeneratorBasedBuilder],
  config: tfds.core.BuilderConfig,
  data_dir: pathlib.Path,
  megabytes: Callable[[tfds.core.DatasetBuilder], int],
  identify: Callable[[], str] | None = None,
  **arguments: Any,
) -> tfds.core.DatasetBuilder:
  """Prepares what a builder describes, unless that is done already.

  TFDS writes into a folder of another name and renames it when it is whole,
  so an interrupted preparation is never taken for a data set. One process
  prepares and the others on the machine wait for it.

  Args:
    builder_class: of the data set.
    config: what to prepare.
    data_dir: where TFDS keeps data sets.
    megabytes: about how much the builder writes, to say when a disk is full.
    identify: gives the source's `config.fingerprint`, to see whether it has
      changed while it was read.
    **arguments: more of the builder's.

  Returns:
    A builder of the prepared data set.

  Raises:
    UserError: what is prepared is damaged, it cannot be written, or its source
      has changed meanwhile.
  """
  folder = data_dir / builder_class.name / config.name
  folder /= str(builder_class.VERSION)

  def make():
    return _quietly(
      lambda: builder_class(
        config=config,
        data_dir=data_dir,
        file_format="array_record",
        **arguments,
      )
    )

  if not _is_there(folder):
    with _alone(folder.parent):
      # Another process may have finished it meanwhile.
      if not _is_there(folder):
        builder = make()
        if identify:
          _check_source_last(builder, identify)
        _write(builder, megabytes)
  with whole(folder):
    builder = make()
    _check_files(builder)
  return builder


@contextlib.contextmanager
def whole(folder: pathlib.Path, advice: str = ADVICE) -> Iterator[None]:
  """Turns whatever opening a damaged data set raises into one line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # TFDS and its parsers raise anything.
    reason = one_line(error, named=True)
    if isinstance(error, OSError) and error.filename:
      reason = f"{pathlib.Path(error.filename).name}: {error.strerror}"
    raise UserError(
      f"the prepared data set {folder} is damaged ({reason}): {advice}"
    ) from error


@dataclasses.dataclass(frozen=True)
class Split(Sequence):
  """Random access to the records of a prepared split.

  ArrayRecord checks what it reads; what does not agree is said in one line,
  with the advice.
  """

  source: Sequence  # Of bytes; a type that is looked at would read one.
  parse: parsing.Parse
  name: str
  folder: str
  advice: str

  def __reduce__(self) -> tuple:
    # Worker processes open it themselves: of a builder that is sent to them
    # TFDS makes another, with a warning each time.
    return _reopened, (self.folder, self.name, self.advice)

  def __len__(self) -> int:
    return len(self.source)

  def prepared_names(self) -> list[str]:
    *_, name, version = pathlib.Path(self.folder).parts
    return [f"{sources.without_place(name)}/{version}"]

  def __getitem__(self, index: int) -> dict:
    if index >= len(self):
      raise IndexError(index)  # Where iterating ends.
    try:
      return self.parse(self.source[index])
    except (RuntimeError, ValueError, OSError) as error:
      raise UserError(
        f"record {index} of {self.name} in {self.folder} cannot be read "
        f"({one_line(error, named=True)}): {self.advice}"
      ) from error


def open_split(
  builder: tfds.core.DatasetBuilder, name: str, advice: str = ADVICE
) -> Split:
  """The records of a split, their pictures as they are stored.

  The first and the last record of each file are read: what is missing or cut
  off shows before anything is trained.

  Args:
    builder: of a prepared data set.
    name: of the split.
    advice: what to do where its files are damaged.

  Raises:
    UserError: one of these records cannot be read.
  """
  split = _open(builder, name, advice)
  ends = np.cumsum(
    [f.take for f in builder.info.splits[name].file_instructions]
  )
  for index in sorted({0, *ends[:-1], *(ends - 1)}):
    split[int(index)]
  return split


def _open(builder: tfds.core.DatasetBuilder, name: str, advice: str) -> Split:
  folder = pathlib.Path(builder.data_dir)
  with whole(folder, advice):
    source = builder.as_data_source(
      name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    parse = parsing.parser(builder.info.features)
  return Split(source, parse, name, str(folder), advice)


def _reopened(folder: str, name: str, advice: str) -> Split:
  with whole(pathlib.Path(folder), advice):
    builder = tfds.builder_from_directory(folder)
  return _open(builder, name, advice)


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
      f"be used, more than the limit of {limit:.2%}; the first is "
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


def _is_there(folder: pathlib.Path) -> bool:
  """Tells whether a data set was prepared: TFDS renames a whole folder."""
  with files.explain_os_errors(folder):
    return folder.exists()


def _check_files(builder: tfds.core.DatasetBuilder) -> None:
  """Raises unless the files beside the records can be read.

  TFDS takes a folder without `dataset_info.json` or `metadata.json` for a data
  set about which nothing is known, and reads `features.json` only in other
  processes, which open the folder by its name.
  """
  folder = pathlib.Path(builder.data_dir)
  json.loads((folder / "dataset_info.json").read_bytes())
  tfds.features.FeaturesDict.from_config(str(folder))
  if builder._info().metadata is not None:
    json.loads((folder / "metadata.json").read_bytes())["pairs"]


def _check_source_last(
  builder: tfds.core.DatasetBuilder, identify: Callable[[], str]
) -> None:
  """Has the source identified again when all is read, before the renaming.

  A folder that is there is thus never of a source that changed meanwhile, and
  other processes, which do not wait for the lock then, may open it.
  """
  prepare = builder._download_and_prepare

  def checked(*args: Any, **kwargs: Any) -> None:
    prepare(*args, **kwargs)
    if identify() != builder.builder_config.fingerprint:
      raise UserError(
        f"the source of {builder.builder_config.name} has changed while it "
        "was read: start again once nothing writes to it"
      )

  builder._download_and_prepare = checked


def _write(
  builder: tfds.core.DatasetBuilder,
  megabytes: Callable[[tfds.core.DatasetBuilder], int],
) -> None:
  final = pathlib.Path(builder.data_dir)
  tfds.disable_progress_bar()  # Builders show one of their own.
  try:
    # What TFDS prints is of downloads, of which there are none.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format="array_record")
  except FileExistsError:
    # Where there are no locks, another process may have been first.
    if not final.exists():
      raise
  except AssertionError as error:
    if "No examples were yielded" not in str(error):
      raise
    raise UserError(
      f"nothing could be read of a split of {final.parent.name} "
      f"({one_line(error, named=True)}): mend the source, or add to it"
    ) from error
  except Exception as error:
    reason = _refusal(error)
    if reason is None:
      raise
    if reason in _FULL:
      raise UserError(
        f"no space left to prepare {final} (about {megabytes(builder)} MB are "
        "needed, nothing half-written is kept): free some or choose another "
        "folder for the data"
      ) from error
    raise UserError(
      f"cannot prepare {final}: {reason}; nothing half-written is kept: mend "
      "this or choose another folder for the data"
    ) from error


def _refusal(error: BaseException | None) -> str | None:
  """Finds the file system's message behind an error; None if there is none.

  TFDS and ArrayRecord wrap it, the latter as text.
  """
  while error is not None:
    if isinstance(error, UserError):
      return None
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    for said in _SAID:
      if said in str(error):
        return said
    error = error.__cause__ or error.__context__
  return None


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder, in which nothing is half-written."""
  with files.explain_os_errors(folder):
    folder.mkdir(parents=True, exist_ok=True)
  lock = folder / ".lock"
  held = (
    f"waited {PREPARE_SECONDS / 3600:g} hours for another process to prepare "
    f"{folder}: end that one if it hangs (`fuser {lock}` names it), and start "
    "again"
  )
  unlocked: list[str] = []
  with files.locked(lock, held, PREPARE_SECONDS, unlocked.append):
    for line in unlocked:
      sources.warn(line)
    if not unlocked:  # Else it may be another's, who is still at it.
      with files.explain_os_errors(folder):
        for left in folder.glob("incomplete.*"):  # Of a killed process.
          left.unlink() if left.is_symlink() else shutil.rmtree(left)
    yield
