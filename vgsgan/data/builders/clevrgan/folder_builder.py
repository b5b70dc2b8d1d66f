"""The published Audio CLEVRGAN as a TFDS data set.

`files` says what is in its folder. Records are those of
`clevrgan.builder`, with nothing recognised, and `z` of the published
generator, a progressive GAN, unless the folder brings its own.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from vgsgan.common.options import check_at_least
from vgsgan.data import decoding, splits
from vgsgan.data.builders import preparing, sources
from vgsgan.data.builders.clevrgan import files as clevrgan_files
from vgsgan.data.builders.clevrgan import pictures
from vgsgan.data.builders.clevrgan.records import (
  Item,
  Numbers,
  features,
  record,
)
from vgsgan.data.builders.stamps.index import digest
from vgsgan.worlds import speech


@dataclasses.dataclass(kw_only=True, eq=False)
class ClevrganFolderConfig(tfds.core.BuilderConfig):
  """What to prepare. `name` follows from the rest: one folder for each.

  Attributes:
    name: derived; what is passed is not used.
    source: the folder.
    image_size: side of the square pictures, pixels.
    sample_rate: of the waveforms, Hz.
    max_bad_share: share of the pairs that may be missing or undecodable.
    splits: whose lists are read.
    fingerprint: of the source; `prepare` fills it in.
  """

  name: str = ""
  source: str = ""
  image_size: int = 128
  sample_rate: int = 16000
  max_bad_share: float = 0.01
  splits: tuple[str, ...] = tuple(clevrgan_files.LISTS)
  fingerprint: str = ""

  def __post_init__(self):
    check_at_least("data.image_size", self.image_size, 1)
    check_at_least("data.sample_rate", self.sample_rate, 1000)  # Hz, not kHz.
    check_at_least("data.max_bad_share", self.max_bad_share, 0)
    parts = (
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"source_{self.fingerprint}",
    )
    self.name = "-".join(parts)


class ClevrganFolder(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; `prepare` is the way in."""

  # See builders/stamps/builder.py.
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
    del dl_manager  # Nothing to download: the folder is there.
    config = self.builder_config
    found = clevrgan_files.scan(config.source, config.splits)
    total = sum(map(len, found.values()))
    self.info.metadata.update(pairs=total, bad=[])
    rows = np.unique([p.row for pairs in found.values() for p in pairs])
    z = clevrgan_files.latents(config.source, rows)
    latents = dict(zip(rows.tolist(), z, strict=True))
    bar = tqdm(total=total, desc="clevrgan", unit="pair", disable=None)
    labels = _labels([p for pairs in found.values() for p in pairs])
    return {
      split: self._generate_examples(split, pairs, latents, labels, bar)
      for split, pairs in found.items()
    }

  def _generate_examples(self, split, pairs, latents, labels, bar):
    config = self.builder_config
    nothing = pictures.labels([], 1, config.image_size)
    for pair in pairs:
      key = f"{split}:{pair.id}"
      bar.update()
      try:
        waveform = decoding.read_audible(pair.audio, config.sample_rate)
        image = clevrgan_files.read_picture(pair.image, config.image_size)
      except ValueError as error:
        self.info.metadata["bad"].append([key, str(error)])
        preparing.check_bad(self.info.metadata, config.max_bad_share)
        continue
      picture = pictures.Picture(latents[pair.row], image, *nothing)
      item = Item(key, picture, pair.id, pair.caption)
      made = record(item, speech.Spoken(waveform, ()), Numbers())
      yield key, made | labels[pair.id]


def _labels(
  pairs: Sequence[clevrgan_files.Pair],
) -> dict[str, dict[str, int]]:
  """Labels of each pair by its ID; equal files and equal texts are one."""
  found = splits.label_pairs(
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
  rows = zip(*(labels.tolist() for labels in found), strict=True)
  return {
    pair.id: dict(zip(found._fields, row, strict=True))
    for pair, row in zip(pairs, rows, strict=True)
  }


def prepare(
  config: ClevrganFolderConfig, data_dir: str | pathlib.Path
) -> ClevrganFolder:
  """Prepares a data set, unless it is already prepared, and returns it.

  Args:
    config: what to prepare.
    data_dir: where TFDS keeps data sets; 'clevrgan_folder/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` names what was left out: 'bad'.

  Raises:
    UserError: the source is not laid out as expected, too many of its pairs
      are missing or undecodable, or the disk is full.
  """
  data_dir = sources.expanded(data_dir)

  def identify():
    files = clevrgan_files.read_files(config.source, config.splits)
    return sources.identity([config.source], files, data_dir)

  config = dataclasses.replace(config, fingerprint=identify())
  builder = preparing.prepare_once(
    ClevrganFolder, config, data_dir, _megabytes, identify
  )
  metadata = builder.info.metadata
  preparing.check_bad(metadata, config.max_bad_share)
  counts = (len(metadata["bad"]), metadata["pairs"])
  logging.info("%s: %d of %d pairs left out", builder.data_dir, *counts)
  return builder


def load(builder: ClevrganFolder, split: str) -> Sequence[dict]:
  """The records of 'train', 'validation' or 'test'; see `clevrgan.load`."""
  return preparing.open_split(builder, split)


def _megabytes(builder: ClevrganFolder) -> int:
  """A guess: ten seconds of speech and an uncompressed picture each."""
  config = builder.builder_config
  size = 10 * 2 * config.sample_rate + 3 * config.image_size**2
  return 1 + round(builder.info.metadata.get("pairs", 0) * size / 1e6)
