"""Records of a split, and wrappers that change or join them."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import ml_collections
import numpy as np

from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.splits import Labels, label_pairs

Record = dict[str, Any]
Example = dict[str, Any]  # Arrays and numpy scalars.
# Makes the example of a record; the generator is the example's own.
Transform = Callable[[Record, np.random.Generator], Example]
# Name of the split of real pairs that some data sets have, for tests alone.
REAL = "real"


@runtime_checkable
class Records(Protocol):
  """Random access to the records of a split."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


Splits = dict[str, Records]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set, and the fields of `config.data` that it reads.

  Attributes:
    load: returns the splits; prepares the data set first if necessary.
    identity: the fields that decide the contents of the splits.
    others: further fields that it needs.
    check: raises UserError if the fields do not fit each other.
  """

  load: Callable[[ml_collections.ConfigDict], Splits]
  identity: tuple[str, ...]
  others: tuple[str, ...] = ("data_dir",)
  check: Callable[[ml_collections.ConfigDict], None] = lambda data: None


@runtime_checkable
class Prepared(Protocol):
  """Records that are read from prepared data sets."""

  def prepared_names(self) -> list[str]:
    """NAME/VERSION of each prepared data set.

    The name identifies the content of the source, the version the form of the
    records. Neither depends on the path of the source, so that a run goes on
    after its folder has moved.
    """


def prepared_names(records: Records) -> list[str]:
  """NAME/VERSION of the prepared data sets of records; none if in memory."""
  return records.prepared_names() if isinstance(records, Prepared) else []


@dataclasses.dataclass(frozen=True)
class Wrapped:
  """Wraps records; subclasses change them or add to them."""

  records: Records

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Record:
    return self.records[index]

  def prepared_names(self) -> list[str]:
    return prepared_names(self.records)


@dataclasses.dataclass(frozen=True)
class First(Wrapped):
  """The first `count` records of a split, or all if there are fewer."""

  count: int

  def __len__(self) -> int:
    return min(self.count, len(self.records))


@dataclasses.dataclass(frozen=True)
class Labelled(Wrapped):
  """Records whose `labels` index the labels of a hierarchy."""

  hierarchy: Hierarchy


@dataclasses.dataclass(frozen=True)
class Permuted(Wrapped):
  """The control: images and recordings paired at random, fixed by a seed.

  Record i keeps its recording and takes the image of a record drawn without
  replacement, so that only the pairing is lost. By chance about one record in
  as many as there are images keeps its own.
  """

  seed: int

  @functools.cached_property
  def _order(self) -> np.ndarray:
    # The extra 1 keeps these numbers apart from those that divide the splits.
    rng = np.random.default_rng([self.seed, 1])
    return rng.permutation(len(self.records))

  def __getitem__(self, index: int) -> Record:
    other = self.records[int(self._order[index])]
    return self.records[index] | {
      "image": other["image"],
      "image_id": other["image_id"],
      "image_concept": other["concept"],
    }


@dataclasses.dataclass(frozen=True)
class Joined:
  """The records of several sources, one after another.

  Each source numbers its images, recordings and concepts from 0. They are
  renumbered here, so that equal images, recordings and captions have equal
  labels across sources.
  """

  sources: tuple[Records, ...]

  @functools.cached_property
  def _labels(self) -> Labels:
    images, speech = [], []
    for source, records in enumerate(self.sources):
      for record in records:
        sound = np.asarray(record["waveform"]).tobytes()
        images.append([(source, record["image_id"]), _digest(record["image"])])
        speech.append([(source, record["speech_id"]), _digest(sound)])
        if record["caption"]:
          speech[-1].append(record["caption"])
    return label_pairs(images, speech)

  def __len__(self) -> int:
    return sum(map(len, self.sources))

  def __getitem__(self, index: int) -> Record:
    row = index
    for records in self.sources:
      if row < len(records):
        labels = self._labels._asdict().items()
        return records[row] | {name: column[index] for name, column in labels}
      row -= len(records)
    raise IndexError(f"{len(self)} records are joined")

  def prepared_names(self) -> list[str]:
    names = map(prepared_names, self.sources)
    return list(itertools.chain.from_iterable(names))


def _digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()
