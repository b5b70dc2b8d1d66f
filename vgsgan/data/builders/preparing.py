"""Prepares a TFDS data set once, either completely or not at all."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from vgsgan.common import files
from vgsgan.common.errors import UserError, one_line
from vgsgan.data.builders import reading, sources
from vgsgan.data.builders.configs import Config, FolderConfig
from vgsgan.parallel.processes import PREPARE_SECONDS

# Texts that identify ArrayRecord's errors, which have no number.
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
_REASONS = (
  *_FULL,
  *map(os.strerror, (errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)),
)


def prepare_folder(
  builder_class: type[tfds.core.GeneratorBasedBuilder],
  config: FolderConfig,
  data_dir: pathlib.Path,
  identify: Callable[[], str],
  fingerprint: str = "",
) -> tfds.core.DatasetBuilder:
  """Prepares a data set from a folder, unless it is already prepared.

  Args:
    builder_class: builder of the data set.
    config: what to prepare.
    data_dir: where TFDS keeps data sets.
    identify: computes the fingerprint of the folder.
    fingerprint: fingerprint of a folder that can no longer be read.

  Raises:
    UserError: `prepare_once` raises it, or too many pairs cannot be used.
  """
  config = dataclasses.replace(config, fingerprint=fingerprint or identify())
  builder = prepare_once(builder_class, config, data_dir, identify)
  metadata = builder.info.metadata
  config.check_bad(metadata)
  logging.info(
    "%s: %d of %d pairs left out; see metadata.json",
    builder.data_dir,
    len(metadata["bad"]),
    metadata["pairs"],
  )
  return builder


def prepare_once(
  builder_class: type[tfds.core.GeneratorBasedBuilder],
  config: Config,
  data_dir: pathlib.Path,
  identify: Callable[[], str] | None = None,
  **arguments: Any,
) -> tfds.core.DatasetBuilder:
  """Prepares a data set, unless it is already prepared.

  TFDS writes into a folder of another name and renames it when it is whole,
  so an interrupted preparation is never taken for a data set. One process
  prepares and the others on the machine wait for it.

  Args:
    builder_class: builder of the data set.
    config: what to prepare.
    data_dir: where TFDS keeps data sets.
    identify: computes the `config.fingerprint` of the source again, to notice
      changes while it was read.
    **arguments: more arguments of the builder.

  Returns:
    A builder of the prepared data set.

  Raises:
    UserError: the prepared data set is damaged or cannot be written, or its
      source has changed meanwhile.
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
        _write(builder)
  with reading.whole(folder):
    builder = make()
    _check_files(builder)
  return builder


def _quietly(
  make: Callable[[], tfds.core.DatasetBuilder],
) -> tfds.core.DatasetBuilder:
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # TFDS warns about every custom config.
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

  TFDS accepts a folder without `dataset_info.json` or `metadata.json` as a data
  set without information. It reads `features.json` only in other processes,
  which open the folder by its name.
  """
  folder = pathlib.Path(builder.data_dir)
  json.loads((folder / "dataset_info.json").read_bytes())
  tfds.features.FeaturesDict.from_config(str(folder))
  if builder._info().metadata is not None:
    json.loads((folder / "metadata.json").read_bytes())["pairs"]


def _check_source_last(
  builder: tfds.core.DatasetBuilder, identify: Callable[[], str]
) -> None:
  """Makes the builder identify the source again before it renames the folder.

  So a folder under its final name is never of a source that changed meanwhile.
  Other processes may open it without waiting for the lock.
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


def _write(builder: tfds.core.DatasetBuilder) -> None:
  final = pathlib.Path(builder.data_dir)
  tfds.disable_progress_bar()  # Builders show one of their own.
  try:
    # TFDS prints about downloads, but nothing is downloaded.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format="array_record")
  except FileExistsError:
    # Without locks, another process may have been first.
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
        f"no space left to prepare {final} (about {_megabytes(builder)} MB are "
        "needed, nothing half-written is kept): free some or choose another "
        "folder for the data"
      ) from error
    raise UserError(
      f"cannot prepare {final}: {reason}; nothing half-written is kept: mend "
      "this or choose another folder for the data"
    ) from error


def _megabytes(builder: tfds.core.DatasetBuilder) -> int:
  pairs = (builder.info.metadata or {}).get("pairs", 0)
  return 1 + round(builder.builder_config.num_bytes(pairs) / 1e6)


def _refusal(error: BaseException | None) -> str | None:
  """Finds the file system's message behind an error; None if there is none.

  TFDS and ArrayRecord wrap it; ArrayRecord keeps only the text.
  """
  while error is not None:
    if isinstance(error, UserError):
      return None
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    for reason in _REASONS:
      if reason in str(error):
        return reason
    error = error.__cause__ or error.__context__
  return None


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder, after removing half-written data sets."""
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
    if not unlocked:  # Without a lock, another process may still write them.
      with files.explain_os_errors(folder):
        for path in folder.glob("incomplete.*"):  # Killed processes leave them.
          path.unlink() if path.is_symlink() else shutil.rmtree(path)
    yield
