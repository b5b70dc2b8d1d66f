"""The Tux Paint stamps as a TFDS data set: images and spoken descriptions.

TFDS writes ArrayRecord files and reads them back without TensorFlow. A record
is one recording with its image; `Stamps._info` lists its features.

The three labels are counted over all splits, so they agree between them:
`image_id` is the image; records of equal `speech_id` say the same thing in
the same language; records of equal `concept` are never impostors of each
other. In ranking, image i is right for speech s iff some record of the
gallery has (speech_id == s, image_id == i).
"""

import dataclasses
import glob
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data import decoding, splits
from vgsgan.data.builders import preparing, reading, sources
from vgsgan.data.builders.configs import FolderConfig
from vgsgan.data.builders.stamps import folder, index
from vgsgan.data.records import Dataset, Permuted, Splits

SOURCE = "/usr/share/tuxpaint/stamps"


@dataclasses.dataclass(kw_only=True, eq=False)
class StampsConfig(FolderConfig):
  """Settings for data prepared from the stamps.

  Attributes:
    source: the folder of the stamps, or the one that has them in `stamps/`.
    protocol: 'cells' holds out recordings of images that train sees with other
      recordings, 'images' holds out images.
    languages: languages of the recordings, in any order.
    symbols: takes `symbols/` (letters, coins, chess) too.
    split_seed: chooses the held-out records, and the stamps of `max_stamps`.
    max_stamps: largest number of stamps; None for all.
  """

  SECONDS: ClassVar[int] = 2

  source: str = SOURCE
  protocol: str = "cells"
  languages: tuple[str, ...] = ("fr", "ro", "ru", "ca", "bg", "es")
  symbols: bool = False
  image_size: int = 64
  split_seed: int = 0
  max_stamps: int | None = None

  def check(self) -> None:
    super().check()
    if self.protocol not in ("cells", "images"):
      raise UserError(
        f"unknown --config.data.protocol '{self.protocol}': "
        "it can be cells or images"
      )
    if self.max_stamps is not None:
      check_at_least("data.max_stamps", self.max_stamps, 1)

  def parts(self) -> list[str]:
    languages = sorted(set(self.languages))
    if len(languages) > 20:  # A file name has at most 255 bytes.
      digest = hashlib.sha256(" ".join(languages).encode()).hexdigest()[:8]
      languages = [f"{len(languages)}languages_{digest}"]
    symbols = ["symbols"] if self.symbols else []
    return [self.protocol, *languages, *symbols, *super().parts()]

  def choices(self) -> list[str]:
    return [
      f"seed{self.split_seed}",
      f"test{index.TEST_SHARE:g}",
      f"validation{index.VALIDATION_SHARE:g}",
      *([f"first{self.max_stamps}"] if self.max_stamps is not None else []),
    ]


class Stamps(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # TFDS 4.9.10 needs the package importlib_resources to find this, and only
  # installs it for Python below 3.9.
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.image_size
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Pictures of Tux Paint's stamps, each described aloud in several "
        "languages by volunteers who read its caption: about one speaker for "
        "each language. Debian package tuxpaint-stamps-default 2022.06.04-1."
      ),
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "image": tfds.features.Image(
            shape=(size, size, 3), encoding_format="png"
          ),
          # Bytes, because a list of integers parses many times slower.
          "waveform": tfds.features.Tensor(
            shape=(None,), dtype=np.int16, encoding="bytes"
          ),
          "language": tfds.features.Text(),
          "caption": tfds.features.Text(),
          "image_id": tfds.features.Scalar(np.int32),
          "speech_id": tfds.features.Scalar(np.int32),
          "concept": tfds.features.Scalar(np.int32),
        }
      ),
      supervised_keys=None,
      homepage="https://tuxpaint.org/stamps/",
      citation=(
        "@misc{tuxpaintstamps, title={Tux Paint Stamps}, "
        "author={{Tux Paint Development Team}}, year={2022}}"
      ),
      license="GPL-2.0",
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # A package brings the source.
    config = self.builder_config
    stamps = index.index(
      _scan(config),
      config.protocol,
      config.split_seed,
      config.max_stamps,
    )
    self.info.metadata.update(
      pairs=len(stamps.pairs),
      strays=[[str(path), reason] for path, reason in stamps.strays],
      bad=[],
    )
    bar = tqdm(
      total=len(stamps.pairs), desc="stamps", unit="pair", disable=None
    )
    images: dict[pathlib.Path, bytes] = {}
    return {
      name: self._generate_examples(stamps, name, images, bar)
      for name in splits.SPLITS
    }

  def _generate_examples(self, stamps, split, images, bar):
    config = self.builder_config
    for row in np.flatnonzero(stamps.split == split):
      pair = stamps.pairs[row]
      key = f"{pair.name}:{pair.language}"
      bar.update()
      try:
        if pair.image_path not in images:
          images[pair.image_path] = folder.read_image(
            pair.image_path, config.image_size
          )
        waveform = decoding.read_audio(pair.audio_path, config.sample_rate)
      except ValueError as error:
        self.info.metadata["bad"].append([key, str(error)])
        config.check_bad(self.info.metadata)
        continue
      yield (
        key,
        {
          "id": key,
          "image": images[pair.image_path],
          "waveform": waveform,
          "language": pair.language,
          "caption": pair.caption,
          "image_id": stamps.image_id[row],
          "speech_id": stamps.speech_id[row],
          "concept": stamps.concept[row],
        },
      )


def prepare(config: StampsConfig, data_dir: str | pathlib.Path) -> Stamps:
  """Prepares a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'stamps/NAME/1.0.0' below it.

  Returns:
    The builder. `builder.info.metadata` (`metadata.json` on disk) lists the
    recordings that were left out: 'strays' and 'bad'.

  Raises:
    UserError: no usable source, an unknown language, an empty split, too
      many undecodable pairs, or a full disk.
  """
  data_dir = sources.expanded(data_dir)

  def identify():
    scan = _scan(config)
    return sources.identity(
      [folder.stamps_root(config.source)],
      folder.read_files(config.source, scan.pairs),
      data_dir,
    )

  fingerprint = ""
  if _is_default(config.source) and not os.path.exists(SOURCE):
    fingerprint = _prepared_fingerprint(config, data_dir)
  return preparing.prepare_folder(
    Stamps, config, data_dir, identify, fingerprint
  )


def load(builder: Stamps, split: str) -> Sequence[dict]:
  """Random access to the records of a split.

  Args:
    builder: from `prepare`.
    split: 'train', 'validation' or 'test'.

  Returns:
    Records: `image` PNG bytes, `waveform` int16 [samples], `image_id`,
    `speech_id`, `concept` int, and `id`, `language`, `caption` as UTF-8 bytes.
  """
  return reading.open_split(builder, split)


def _scan(config: StampsConfig) -> folder.Scan:
  return folder.scan(config.source, config.languages, config.symbols)


def _is_default(source: str) -> bool:
  return os.path.normpath(sources.expanded(source)) == SOURCE


def _prepared_fingerprint(config: StampsConfig, data_dir: pathlib.Path) -> str:
  """Finds the fingerprint of prepared stamps on a machine without the package.

  Training does not need the package.

  Raises:
    UserError: there are no prepared stamps, or those of several versions.
  """
  name = dataclasses.replace(config, fingerprint="").name
  pattern = f"{glob.escape(name)}*-at_{sources.place([SOURCE])}"
  prepared = sorted((data_dir / "stamps").glob(f"{pattern}/{Stamps.VERSION}"))
  if not prepared:
    raise UserError(f"no folder {SOURCE}: {folder.PACKAGE}")
  if len(prepared) > 1:
    raise UserError(
      f"no folder {SOURCE}, and {len(prepared)} data sets that were prepared "
      f"from it: delete all but one of {', '.join(map(str, prepared))}"
    )
  sources.warn(f"no folder {SOURCE}: reading {prepared[0]}, prepared from it")
  return prepared[0].parent.name.removeprefix(name)


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for."""
  config = StampsConfig(
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
  builder = prepare(config, data.data_dir)
  records = {split: load(builder, split) for split in splits.SPLITS}
  if data.permuted:
    records["train"] = Permuted(records["train"], data.split_seed)
  return records


DATASET = Dataset(
  from_config,
  identity=(
    "protocol",
    "languages",
    "symbols",
    "max_stamps",
    "split_seed",
    "permuted",
    "image_size",
    "sample_rate",
  ),
  others=("data_dir", "source", "max_bad_share"),
)
