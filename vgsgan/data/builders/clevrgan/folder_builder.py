"""The published Audio CLEVRGAN as a TFDS data set.

`files` describes its folder. Records have the form of `clevrgan.builder`,
without recognised objects. `z` is for the published generator, a progressive
GAN, unless the folder brings its own latents.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.data import decoding, splits
from vgsgan.data.builders import preparing, reading, sources
from vgsgan.data.builders.clevrgan import files as clevrgan_files
from vgsgan.data.builders.clevrgan import pictures
from vgsgan.data.builders.clevrgan.records import (
  IdCounter,
  Item,
  features,
  record,
)
from vgsgan.data.builders.configs import FolderConfig
from vgsgan.data.builders.stamps.index import digest
from vgsgan.data.records import Dataset, Joined, Records, Splits
from vgsgan.worlds import speech


@dataclasses.dataclass(kw_only=True, eq=False)
class ClevrganFolderConfig(FolderConfig):
  """Settings for a prepared folder; `splits` names the lists to read."""

  SECONDS: ClassVar[int] = 10

  image_size: int = 128
  splits: tuple[str, ...] = tuple(clevrgan_files.LISTS)


class ClevrganFolder(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "1.1.0": (
      "Records of one caption, one recording or one picture have one "
      "`concept`, and equal recordings one `speech_id`."
    ),
    "1.0.0": "First release.",
  }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Audio CLEVRGAN: samples of a GAN trained on pictures like CLEVR's, "
        "described aloud (Surís et al., CVPR 2019)."
      ),
      features=features(self.builder_config.image_size, 1),
      supervised_keys=None,
      homepage="https://github.com/surisdi/learning-by-drawing",
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # The user brings the folder.
    config = self.builder_config
    by_split = clevrgan_files.scan(config.source, config.splits)
    total = sum(map(len, by_split.values()))
    self.info.metadata.update(pairs=total, bad=[])
    rows = np.unique([p.row for pairs in by_split.values() for p in pairs])
    z = clevrgan_files.latents(config.source, rows)
    latents = dict(zip(rows.tolist(), z, strict=True))
    bar = tqdm(total=total, desc="clevrgan", unit="pair", disable=None)
    labels = _labels([p for pairs in by_split.values() for p in pairs])
    return {
      split: self._generate_examples(split, pairs, latents, labels, bar)
      for split, pairs in by_split.items()
    }

  def _generate_examples(self, split, pairs, latents, labels, bar):
    config = self.builder_config
    nothing = pictures.labels([], 1, config.image_size)
    for pair in pairs:
      key = f"{split}:{pair.id}"
      bar.update()
      try:
        waveform = decoding.read_audible(pair.audio, config.sample_rate)
        image = clevrgan_files.read_image(pair.image, config.image_size)
      except ValueError as error:
        self.info.metadata["bad"].append([key, str(error)])
        config.check_bad(self.info.metadata)
        continue
      picture = pictures.Picture(latents[pair.row], image, *nothing)
      item = Item(key, picture, pair.id, pair.caption)
      fields = record(item, speech.Spoken(waveform, ()), IdCounter())
      yield key, fields | labels[pair.id]


def _labels(
  pairs: Sequence[clevrgan_files.Pair],
) -> dict[str, dict[str, int]]:
  """Labels each pair, by its ID; equal files and equal texts share a label."""
  labels = splits.label_pairs(
    [[("id", p.id), digest(p.image)] for p in pairs],
    [
      [
        ("id", p.id),
        digest(p.audio),
        *([("text", p.caption)] * bool(p.caption)),
      ]
      for p in pairs
    ],
  )
  rows = zip(*(column.tolist() for column in labels), strict=True)
  return {
    pair.id: dict(zip(labels._fields, row, strict=True))
    for pair, row in zip(pairs, rows, strict=True)
  }


def prepare(
  config: ClevrganFolderConfig, data_dir: str | pathlib.Path
) -> ClevrganFolder:
  """Prepares a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'clevrgan_folder/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` lists what was left out: 'bad'.

  Raises:
    UserError: the source is not laid out as expected, too many of its pairs
      are missing or undecodable, or the disk is full.
  """
  data_dir = sources.expanded(data_dir)

  def identify():
    files = clevrgan_files.read_files(config.source, config.splits)
    return sources.identity([config.source], files, data_dir)

  return preparing.prepare_folder(ClevrganFolder, config, data_dir, identify)


def load(builder: ClevrganFolder, split: str) -> Sequence[dict]:
  """Opens 'train', 'validation' or 'test'; see `builder.load`."""
  return reading.open_split(builder, split)


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for, of the published Audio CLEVRGAN."""
  records = _read(data, "source", data.source, splits.SPLITS)
  return records | {"train": with_more(data, records["train"])}


def with_more(data: ml_collections.ConfigDict, train: Records) -> Records:
  """Adds the training pairs of the folders in `data.more`; see `select`."""
  parts = [train]
  for folder in filter(None, map(str.strip, data.get("more", "").split(","))):
    pairs = _read(data, "more", folder, ("train",))["train"]
    size, needed = len(pairs[0]["z"]), len(train[0]["z"])
    if size != needed:
      raise UserError(
        f"config.data.more: the latents of {folder} have {size} numbers, those "
        f"of the other training pairs {needed}: one generator draws them all"
      )
    parts.append(pairs)
  if len(parts) == 1:
    return train
  joined = Joined(tuple(parts))
  joined[0]  # Computes the labels once for all worker processes.
  return joined


def _read(
  data: ml_collections.ConfigDict,
  field: str,
  folder: str,
  names: tuple[str, ...],
) -> Splits:
  """Reads splits of a folder; errors name the config field `data.FIELD`."""
  config = ClevrganFolderConfig(
    source=folder,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    max_bad_share=data.get("max_bad_share", 0.0),
    splits=names,
  )
  try:
    builder = prepare(config, data.data_dir)
  except UserError as error:
    raise UserError(f"config.data.{field}: {error}") from error
  return {split: load(builder, split) for split in names}


DATASET = Dataset(
  from_config,
  identity=("image_size", "sample_rate", "max_bad_share"),
  others=("data_dir", "source"),
)
