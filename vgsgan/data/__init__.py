"""Data sets by name, each a dict of splits with random access to records."""

import importlib
from typing import Any

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data.records import Dataset, Splits

# Modules of `builders` with a `DATASET`. Each is imported on first use, because
# all of them need TFDS, which is slow to import.
MODULES = {
  "stamps": "stamps.builder",
  "scenes": "scenes",
  "clevrgan": "clevrgan.builder",
  "clevrgan_folder": "clevrgan.folder_builder",
  "places": "places.builder",
  "sounding": "sounding",
  "clips": "clips.builder",
}


def dataset(name: str) -> Dataset:
  """The data set of a name in `MODULES`."""
  return importlib.import_module(f"{__name__}.builders.{MODULES[name]}").DATASET


def identity(data: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fields of `config.data` that must stay the same when a run resumes."""
  names = ["dataset", *dataset(data.dataset).identity]
  names += ["more"] if data.get("more") else []
  return {name: data[name] for name in names}


def check(data: ml_collections.ConfigDict) -> None:
  """Refuses an unknown data set, and fields that do not fit it.

  Raises:
    UserError: names the field.
  """
  check_one_of("data.dataset", data.dataset, tuple(MODULES))
  data_set = dataset(data.dataset)
  for name in (*data_set.identity, *data_set.others):
    if name not in data:
      raise UserError(
        f"config.data.dataset={data.dataset!r} needs config.data.{name}, which "
        "this config has not: use a config, or an argument of it, for that "
        "data set"
      )
  data_set.check(data)


def load(data: ml_collections.ConfigDict) -> Splits:
  """The splits `train`, `validation` and `test` of `config.data`.

  `clevrgan` and the sets of sounds have more splits, for tests alone. Prepares
  the data set first where that has not been done.

  Raises:
    UserError: if the data set is unknown or its source is missing or broken.
  """
  check(data)
  return dataset(data.dataset).load(data)
