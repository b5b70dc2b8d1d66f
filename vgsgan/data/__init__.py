"""Data sets by name, each a dict of splits with random access to records."""

import dataclasses
import functools
import os
from typing import Any

import ml_collections
import numpy as np

from vgsgan.data.pipeline import Record, Records
from vgsgan.errors import UserError
from vgsgan.options import check_at_least, check_one_of

DATASETS = ("stamps",)


@dataclasses.dataclass(frozen=True)
class Permuted:
  """The control: pictures and recordings paired at random, fixed by a seed.

  Record i keeps its recording and takes the picture of a record drawn without
  replacement, so that only what the pairing carries is lost. By chance about
  one record in as many as there are pictures keeps its own.
  """

  records: Records
  seed: int

  @functools.cached_property
  def _order(self) -> np.ndarray:
    return np.random.default_rng(self.seed).permutation(len(self.records))

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Record:
    other = self.records[int(self._order[index])]
    return self.records[index] | {
      "image": other["image"],
      "image_id": other["image_id"],
      "image_concept": other["concept"],
    }


# What decides which records are in which split, and what they hold.
IDENTITY = (
  "dataset",
  "protocol",
  "languages",
  "symbols",
  "max_stamps",
  "split_seed",
  "permuted",
  "image_size",
  "sample_rate",
)


def identity(data: ml_collections.ConfigDict) -> dict[str, Any]:
  """What must not change between the starts of a run."""
  return {name: data[name] for name in IDENTITY}


def load(data: ml_collections.ConfigDict) -> dict[str, Records]:
  """The splits `train`, `validation` and `test` of `config.data`.

  Prepares the data set first where that has not been done.

  Raises:
    UserError: if the data set is unknown or its source is missing or broken.
  """
  check_one_of("data.dataset", data.dataset, DATASETS)
  check_at_least("data.split_seed", data.split_seed, 0)
  check_at_least("data.num_workers", data.num_workers, 0)
  check_at_least("data.num_threads", data.num_threads, 1)
  from vgsgan.data.builders import stamps  # Slow to import; needed here only.

  config = stamps.StampsConfig(
    source=data.source,
    protocol=data.protocol,
    languages=tuple(name.strip() for name in data.languages.split(",")),
    symbols=data.symbols,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    split_seed=data.split_seed,
    max_bad_share=data.max_bad_share,
    max_stamps=data.max_stamps or None,
  )
  builder = stamps.prepare(config, os.path.expanduser(data.data_dir))
  splits = {
    split: stamps.load(builder, split)
    for split in ("train", "validation", "test")
  }
  for split, records in splits.items():
    if not len(records):
      raise UserError(
        f"nothing could be read of the split {split!r} of {builder.data_dir}: "
        "use more stamps, or mend the source"
      )
  if data.permuted:
    splits["train"] = Permuted(splits["train"], data.split_seed)
  return splits
