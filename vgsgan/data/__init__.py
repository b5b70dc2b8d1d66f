"""Data sets by name, each a dict of splits with random access to records."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data import clip_sets
from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.pipeline import Record, Records
from vgsgan.data.splits import SPLITS, Labels, label_pairs

Splits = dict[str, Records]


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
    # Not the random numbers by which the same seed divides the splits.
    rng = np.random.default_rng([self.seed, 1])
    return rng.permutation(len(self.records))

  def __len__(self) -> int:
    return len(self.records)

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

  Each source has counted its pictures, recordings and concepts from 0. They are
  counted anew here: equal pictures, recordings and captions are one, whichever
  sources they are from.
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
        return records[row] | {name: of[index] for name, of in labels}
      row -= len(records)
    raise IndexError(f"{len(self)} records are joined")


def _digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def _stamps(data: ml_collections.ConfigDict) -> Splits:
  """Pictures of the Tux Paint stamps and people describing them."""
  # Slow to import; needed here only.
  from vgsgan.data.builders.stamps import builder as stamps

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
  builder = stamps.prepare(config, data.data_dir)
  splits = {split: stamps.load(builder, split) for split in SPLITS}
  if data.permuted:
    splits["train"] = Permuted(splits["train"], data.split_seed)
  return splits


def _scenes(data: ml_collections.ConfigDict) -> Splits:
  """Pictures of scenes: `rendered` here, or those of `clevr`."""
  from vgsgan.data.builders import clevr, scenes

  if data.scenes == "clevr":
    return clevr.load(data.data_dir, data.image_size)
  config = scenes.ScenesConfig(
    image_size=data.image_size,
    fewest=data.fewest,
    most=data.most,
    train=data.num_train,
    validation=data.num_validation,
    test=data.num_test,
    seed=data.scene_seed,
  )
  builder = scenes.prepare(config, data.data_dir)
  return {split: scenes.load(builder, split) for split in SPLITS}


def _clevrgan(data: ml_collections.ConfigDict) -> Splits:
  """Pictures of a GAN, described aloud; more splits for tests."""
  from vgsgan.data.builders.clevrgan import builder as clevrgan
  from vgsgan.data.builders.clevrgan.pictures import SPLITS as ALL_SPLITS

  config = clevrgan.ClevrganConfig(
    generator=data.generator,
    recogniser=data.recogniser,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    most=data.most,
    truncation=data.truncation,
    train=data.num_train,
    validation=data.num_validation,
    test=data.num_test,
    probe=data.num_probe,
    semantic=data.num_semantic,
    seed=data.scene_seed,
    workers=data.speech_workers,
  )
  builder = clevrgan.prepare(config, data.data_dir)
  splits = {split: clevrgan.load(builder, split) for split in ALL_SPLITS}
  return splits | {"train": _with_more(data, splits["train"])}


def _clevrgan_folder(data: ml_collections.ConfigDict) -> Splits:
  """The published Audio CLEVRGAN."""
  splits = _read_folder(data, "source", data.source, SPLITS)
  return splits | {"train": _with_more(data, splits["train"])}


def _with_more(data: ml_collections.ConfigDict, train: Records) -> Records:
  """And the training pairs of the folders in `data.more`; see `select`."""
  sources = [train]
  for folder in _folders(data):
    pairs = _read_folder(data, "more", folder, ("train",))["train"]
    size, needed = len(pairs[0]["z"]), len(train[0]["z"])
    if size != needed:
      raise UserError(
        f"config.data.more: the latents of {folder} have {size} numbers, those "
        f"of the other training pairs {needed}: one generator draws them all"
      )
    sources.append(pairs)
  if len(sources) == 1:
    return train
  joined = Joined(tuple(sources))
  joined[0]  # Labels them, once for all worker processes.
  return joined


def _read_folder(
  data: ml_collections.ConfigDict,
  field: str,
  folder: str,
  splits: tuple[str, ...],
) -> Splits:
  """Some splits of the folder that `data.FIELD` names, as errors say."""
  from vgsgan.data.builders.clevrgan import folder_builder as clevrgan_folder

  config = clevrgan_folder.ClevrganFolderConfig(
    source=folder,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    max_bad_share=data.get("max_bad_share", 0.0),
    splits=splits,
  )
  try:
    builder = clevrgan_folder.prepare(config, data.data_dir)
  except UserError as error:
    raise UserError(f"config.data.{field}: {error}") from error
  return {split: clevrgan_folder.load(builder, split) for split in splits}


def _folders(data: ml_collections.ConfigDict) -> list[str]:
  names = data.get("more", "").split(",")
  return [name.strip() for name in names if name.strip()]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set, to `config.data`.

  Attributes:
    load: reads its fields of `config.data`; prepares what is not yet.
    identity: those of them that decide which records are in which split, and
      what they hold.
    others: those that it needs besides.
  """

  load: Callable[[ml_collections.ConfigDict], Splits]
  identity: tuple[str, ...]
  others: tuple[str, ...] = ("data_dir",)


DATASETS = {
  "stamps": Dataset(
    _stamps,
    (
      "protocol",
      "languages",
      "symbols",
      "max_stamps",
      "split_seed",
      "permuted",
      "image_size",
      "sample_rate",
    ),
    ("data_dir", "source", "max_bad_share"),
  ),
  "scenes": Dataset(
    _scenes,
    (
      "scenes",
      "image_size",
      "fewest",
      "most",
      "num_train",
      "num_validation",
      "num_test",
      "scene_seed",
    ),
  ),
  "clevrgan": Dataset(
    _clevrgan,
    (
      "generator",
      "recogniser",
      "image_size",
      "sample_rate",
      "most",
      "truncation",
      "num_train",
      "num_validation",
      "num_test",
      "num_probe",
      "num_semantic",
      "scene_seed",
    ),
    ("data_dir", "speech_workers"),
  ),
  "clevrgan_folder": Dataset(
    _clevrgan_folder,
    ("image_size", "sample_rate", "max_bad_share"),
    ("data_dir", "source"),
  ),
  "sounding": Dataset(
    clip_sets.load_sounding,
    (
      "image_size",
      "sample_rate",
      "track",
      "fewest",
      "most",
      "num_train",
      "num_validation",
      "num_test",
      "scene_seed",
      "tick",
    ),
    ("data_dir", "soundfont"),
  ),
  "clips": Dataset(
    clip_sets.load_clips,
    (
      "under",
      "seconds",
      "image_size",
      "sample_rate",
      "split_seed",
    ),
    ("data_dir", "source", "max_bad_share"),
  ),
}


def identity(data: ml_collections.ConfigDict) -> dict[str, Any]:
  """What must not change between the starts of a run."""
  fields = ("dataset", *DATASETS[data.dataset].identity)
  found = {name: data[name] for name in fields}
  return found | ({"more": data.more} if data.get("more") else {})


def prepared(records: Records) -> list[str]:
  """NAME/VERSION of the prepared data sets that records are read from, if any.

  A name tells the content of a source, a version what is made of it. Where the
  source is does not matter: a run goes on after its folder has moved.
  """
  from vgsgan.data.builders import preparing, sources

  if isinstance(records, preparing.Split):
    *_, name, version = pathlib.Path(records.folder).parts
    return [f"{sources.without_place(name)}/{version}"]
  inside = getattr(records, "sources", (getattr(records, "records", None),))
  return [name for one in inside if one is not None for name in prepared(one)]


def check(data: ml_collections.ConfigDict) -> None:
  """Refuses a data set that there is not, or fields that it cannot be of.

  Raises:
    UserError: with the field.
  """
  check_one_of("data.dataset", data.dataset, tuple(DATASETS))
  dataset = DATASETS[data.dataset]
  for name in (*dataset.identity, *dataset.others):
    if name not in data:
      raise UserError(
        f"config.data.dataset={data.dataset!r} needs config.data.{name}, which "
        "this config has not: use a config, or an argument of it, for that "
        "data set"
      )
  if data.dataset == "scenes":
    check_one_of("data.scenes", data.scenes, ("rendered", "clevr"))
  if data.get("fewest", 1) > data.get("most", data.get("fewest", 1)):
    raise UserError(
      f"config.data.most={data.most} must be at least config.data.fewest="
      f"{data.fewest}"
    )


def load(data: ml_collections.ConfigDict) -> Splits:
  """The splits `train`, `validation` and `test` of `config.data`.

  And more, for tests alone, of `clevrgan` and of sets of sounds. Prepares the
  data set first where that has not been done.

  Raises:
    UserError: if the data set is unknown or its source is missing or broken.
  """
  check(data)
  return DATASETS[data.dataset].load(data)


def hierarchy(data: ml_collections.ConfigDict) -> Hierarchy:
  """What the labels of a data set of sounds are labels of."""
  return load(data)["train"].hierarchy
