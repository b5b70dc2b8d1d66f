"""Data sets by name, each a dict of splits with random access to records."""

from typing import Any

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data import clip_sets
from vgsgan.data.records import Dataset, Joined, Permuted, Records, Splits
from vgsgan.data.splits import SPLITS


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
  """Fields of `config.data` that must stay the same when a run resumes."""
  names = ["dataset", *DATASETS[data.dataset].identity]
  names += ["more"] if data.get("more") else []
  return {name: data[name] for name in names}


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
