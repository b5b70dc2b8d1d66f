"""Reads the records of prepared data sets."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from vgsgan.common.errors import UserError, one_line
from vgsgan.data.builders import parsing, sources

ADVICE = "delete that folder, the next start prepares it anew"


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

  ArrayRecord checks what it reads. A mismatch becomes a one-line error with the
  advice.
  """

  source: Sequence  # Holds bytes. A runtime check of that type would read one.
  parse: parsing.Parse
  name: str
  folder: str
  advice: str

  def __reduce__(self) -> tuple:
    # Worker processes open the split themselves: TFDS would rebuild a pickled
    # builder with a warning each time.
    return _reopen, (self.folder, self.name, self.advice)

  def __len__(self) -> int:
    return len(self.source)

  def prepared_names(self) -> list[str]:
    *_, name, version = pathlib.Path(self.folder).parts
    return [f"{sources.without_place(name)}/{version}"]

  def __getitem__(self, index: int) -> dict:
    if index >= len(self):
      raise IndexError(index)  # Ends an iteration.
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
  """Opens the records of a split; their images stay encoded.

  Reads the first and the last record of each file, so that missing or truncated
  files show before anything is trained.

  Args:
    builder: builder of a prepared data set.
    name: name of the split.
    advice: advice to the user in case its files are damaged.

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


def _reopen(folder: str, name: str, advice: str) -> Split:
  with whole(pathlib.Path(folder), advice):
    builder = tfds.builder_from_directory(folder)
  return _open(builder, name, advice)
