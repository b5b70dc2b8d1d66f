"""Real pictures with real sounds: a small set to test on, and to test on only.

`real_sounds_files` says where they are from. Folders are the classes: the
label of a record is the folder that its picture is in.
"""

import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from vgsgan.data import decoding, splits
from vgsgan.data.builders import (
  clip_records,
  preparing,
  sources,
  stamps_folder,
)
from vgsgan.data.builders import real_sounds_files as files
from vgsgan.errors import UserError
from vgsgan.options import check_at_least


@dataclasses.dataclass(kw_only=True, eq=False)
class RealSoundsConfig(tfds.core.BuilderConfig):
  """What to prepare. `name` follows from the rest: one folder for each.

  Attributes:
    name: derived; what is passed is not used.
    stamps: the folder of the stamps, or the one that has them in `stamps/`.
    gcompris: the folder of the `.rcc` files of GCompris.
    image_size: side of the square pictures, pixels.
    sample_rate: of the waveforms, Hz.
    max_bad_share: share of the pairs that may be undecodable.
    fingerprint: of the sources; `prepare` fills it in.
  """

  name: str = ""
  stamps: str = files.STAMPS
  gcompris: str = files.GCOMPRIS
  image_size: int = 128
  sample_rate: int = 16000
  max_bad_share: float = 0.01
  fingerprint: str = ""

  def __post_init__(self):
    check_at_least("data.image_size", self.image_size, 1)
    check_at_least("data.sample_rate", self.sample_rate, 1)
    check_at_least("data.max_bad_share", self.max_bad_share, 0)
    parts = (
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"source_{self.fingerprint}",
    )
    self.name = "-".join(parts)


class RealSounds(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; `prepare` is the way in."""

  # See builders/stamps.py.
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Pictures with the sound of what they show: sound effects of Tux "
        "Paint's stamps, instruments, farm animals and music of GCompris. "
        "Debian packages tuxpaint-stamps-default and gcompris-qt-data."
      ),
      features=clip_records.features(self.builder_config.image_size, "png"),
      supervised_keys=None,
      homepage="https://tuxpaint.org/stamps/",
      license=(
        "GPL-2.0 (Tux Paint); GPL-3.0, CC-BY-SA-4.0, CC-BY, CC0, public "
        "domain, one sound CC Sampling Plus 1.0 (GCompris)"
      ),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download: packages bring the sources.
    return {"test": self._generate_examples()}

  def _generate_examples(self):
    config, metadata = self.builder_config, self.info.metadata
    with tempfile.TemporaryDirectory() as folder:
      files.unpack(config.gcompris, pathlib.Path(folder))
      folders = {
        "tuxpaint": stamps_folder.stamps_root(config.stamps),
        "gcompris": pathlib.Path(folder),
      }
      pairs, strays = files.scan(folders)
      metadata.update(pairs=len(pairs), strays=strays, bad=[])
      found = list(self._decoded(pairs))
    folders = sorted({pair.folder for pair, _ in found})
    metadata["hierarchy"] = clip_records.stored(files.tree(folders))
    ids = splits.components(len(found), [_same(record) for _, record in found])
    for (pair, record), clip_id in zip(found, ids, strict=True):
      labels = [folders.index(pair.folder)]
      yield (
        pair.id,
        {"id": pair.id, "clip_id": clip_id, "labels": labels} | record,
      )

  def _decoded(
    self, pairs: Sequence[files.Pair]
  ) -> Iterator[tuple[files.Pair, dict[str, Any]]]:
    config, metadata = self.builder_config, self.info.metadata
    for pair in tqdm(pairs, desc="real sounds", unit="pair", disable=None):
      try:
        image = stamps_folder.read_picture(pair.image, config.image_size)
        sound = decoding.read_audio(pair.sound, config.sample_rate)
      except ValueError as error:
        metadata["bad"].append([pair.id, str(error)])
        preparing.check_bad(metadata, config.max_bad_share)
        continue
      if sound.any():
        yield pair, {"image": image, "waveform": sound}
      else:  # The package has four: no fault of the source.
        metadata["strays"].append([pair.id, "silent"])


def _same(record: dict[str, Any]) -> list[bytes]:
  """Keys of which clips that are one have one in common.

  Of what is decoded: equal sounds are there in files that are not equal.
  """
  parts = (record["image"], record["waveform"].tobytes())
  return [hashlib.sha256(part).digest() for part in parts]


def prepare(
  config: RealSoundsConfig, data_dir: str | pathlib.Path
) -> RealSounds:
  """Prepares the data set, unless it is already prepared, and returns it.

  Args:
    config: what to prepare.
    data_dir: where TFDS keeps data sets; 'real_sounds/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` names what was left out, 'strays' and
    'bad'; `clip_records.hierarchy` reads the classes from it.

  Raises:
    UserError: a source is missing or broken, too many of its pairs are
      undecodable, or the disk is full.
  """
  data_dir = sources.expanded(data_dir)

  def identify():
    found = files.read_files(config.stamps, config.gcompris)
    roots = [stamps_folder.stamps_root(config.stamps), config.gcompris]
    return sources.identity(roots, found, data_dir)

  config = dataclasses.replace(config, fingerprint=identify())
  builder = preparing.prepare_once(
    RealSounds, config, data_dir, _megabytes, identify
  )
  metadata = builder.info.metadata
  preparing.check_bad(metadata, config.max_bad_share)
  counts = (len(metadata["bad"]), metadata["pairs"])
  logging.info("%s: %d of %d pairs left out", builder.data_dir, *counts)
  return builder


def load(builder: RealSounds, split: str = "test") -> Sequence[dict]:
  """Random access to the records; see `clip_records`.

  There is one split, 'test': the set is too small to train or choose on.
  Clips with one sound or one picture have one `clip_id`.

  Raises:
    UserError: another split is asked for.
  """
  if split != "test":
    raise UserError(
      f"real_sounds has no split {split!r}: it is for tests alone, train on "
      "another data set"
    )
  return preparing.open_split(builder, split)


def _megabytes(builder: RealSounds) -> int:
  """A guess: five seconds of sound and an uncompressed picture each."""
  config = builder.builder_config
  size = 5 * 2 * config.sample_rate + 3 * config.image_size**2
  return 1 + round(builder.info.metadata.get("pairs", 0) * size / 1e6)
