"""Real images with real sounds: a small data set for tests alone.

The one source is the stamps of Tux Paint that have a sound effect: `NAME.ogg`
or `NAME.wav` beside `NAME.png` or `NAME.svg`. `symbols/` is left out: its
sounds are spoken letters and digits. Folders are the classes: the label of a
record is the folder of its image.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import ml_collections
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.data import decoding, splits
from vgsgan.data.builders import clip_records, preparing, reading, sources
from vgsgan.data.builders.configs import FolderConfig
from vgsgan.data.builders.stamps import builder as stamps
from vgsgan.data.builders.stamps import folder as stamps_folder
from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.records import REAL, Labelled, Splits


@dataclasses.dataclass(kw_only=True, eq=False)
class RealSoundsConfig(FolderConfig):
  """Settings; `source` is the folder of the stamps, or the one above."""

  SECONDS: ClassVar[int] = 5
  MEND: ClassVar[str] = (
    "install the package tuxpaint-stamps-default anew, or do without real "
    "pairs with --config.data.real=False"
  )

  source: str = stamps.SOURCE
  image_size: int = 128


@dataclasses.dataclass(frozen=True)
class Pair:
  """An image and its sound; `folder` is the class, as "animals/birds"."""

  id: str
  folder: str
  image: pathlib.Path
  sound: pathlib.Path


def scan(root: pathlib.Path) -> tuple[list[Pair], list[list[str]]]:
  """Lists the pairs of the folder of the stamps.

  Returns:
    The pairs by folder and name, and the sounds without an image beside them
    as [path in the folder, reason].
  """
  pairs, strays = {}, []
  with sources.readable(root):
    sounds = list(_sounds(root))
  for sound in sounds:
    place = sound.relative_to(root)
    images = map(sound.with_suffix, stamps_folder.IMAGE_SUFFIXES)
    image = next((path for path in images if path.exists()), None)
    if image is None:
      strays.append([place.as_posix(), "no picture beside it"])
      continue
    name = place.with_suffix("").as_posix()
    folder = name.rpartition("/")[0]
    pairs.setdefault(name, Pair(name, folder, image, sound))
  return [pairs[name] for name in sorted(pairs)], sorted(strays)


def _sounds(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the sound effects below a folder; within one, Ogg before WAV."""
  for folder, inside, names in sources.walk(root):
    here = pathlib.Path(folder)
    if here == root:
      inside[:] = [name for name in inside if name != "symbols"]
    for name in sorted(names):
      sound = here / name
      if sound.suffix in stamps_folder.SOUND_SUFFIXES and "_desc" not in name:
        yield sound


def tree(folders: Sequence[str]) -> Hierarchy:
  """Builds the tree of folders, such as "animals/birds", that are labels."""
  above = {
    "/".join(folder.split("/")[:depth])
    for folder in folders
    for depth in range(folder.count("/") + 2)
  }
  nodes = sorted(above | {""})
  index = {name: i for i, name in enumerate(nodes)}
  return Hierarchy(
    names=("root", *nodes[1:]),
    edges=tuple((index[n.rpartition("/")[0]], index[n]) for n in nodes[1:]),
    labels=tuple(index[folder] for folder in folders),
  )


class RealSounds(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "2.0.0": "The stamps are the only source.",
    "1.0.0": "First release.",
  }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Pictures of Tux Paint's stamps with the sound of what they show. "
        "Debian package tuxpaint-stamps-default."
      ),
      features=clip_records.features(self.builder_config.image_size, "png"),
      supervised_keys=None,
      homepage="https://tuxpaint.org/stamps/",
      license="GPL-2.0",
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # A package brings the source.
    return {"test": self._generate_examples()}

  def _generate_examples(self):
    metadata = self.info.metadata
    root = stamps_folder.stamps_root(self.builder_config.source)
    pairs, strays = scan(root)
    metadata.update(pairs=len(pairs), strays=strays, bad=[])
    decoded = list(self._decoded(pairs))
    folders = sorted({pair.folder for pair, _ in decoded})
    metadata["hierarchy"] = clip_records.stored(tree(folders))
    contents = [_contents(record) for _, record in decoded]
    ids = splits.components(len(decoded), contents)
    for (pair, record), clip_id in zip(decoded, ids, strict=True):
      labels = [folders.index(pair.folder)]
      yield (
        pair.id,
        {"id": pair.id, "clip_id": clip_id, "labels": labels} | record,
      )

  def _decoded(
    self, pairs: Sequence[Pair]
  ) -> Iterator[tuple[Pair, dict[str, Any]]]:
    config, metadata = self.builder_config, self.info.metadata
    for pair in tqdm(pairs, desc="real sounds", unit="pair", disable=None):
      try:
        image = stamps_folder.read_image(pair.image, config.image_size)
        sound = decoding.read_audio(pair.sound, config.sample_rate)
      except ValueError as error:
        metadata["bad"].append([pair.id, str(error)])
        config.check_bad(metadata)
        continue
      if sound.any():
        yield pair, {"image": image, "waveform": sound}
      else:  # The package has four such sounds; they are no fault.
        metadata["strays"].append([pair.id, "silent"])


def _contents(record: dict[str, Any]) -> list[bytes]:
  """Digests of the image and the sound; equal clips share one of them.

  Digests are of decoded contents, because unequal files may hold equal sounds.
  """
  parts = (record["image"], record["waveform"].tobytes())
  return [hashlib.sha256(part).digest() for part in parts]


def prepare(
  config: RealSoundsConfig, data_dir: str | pathlib.Path
) -> RealSounds:
  """Prepares the data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'real_sounds/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` lists what was left out, 'strays' and
    'bad'; `clip_records.hierarchy` reads the classes from it.

  Raises:
    UserError: the source is missing or broken, too many of its pairs are
      undecodable, or the disk is full.
  """
  data_dir = sources.expanded(data_dir)

  def identify():
    root = stamps_folder.stamps_root(config.source)
    pairs, _ = scan(root)
    paths = [path for pair in pairs for path in (pair.image, pair.sound)]
    return sources.identity([root], sources.named(root, paths), data_dir)

  return preparing.prepare_folder(RealSounds, config, data_dir, identify)


def load(builder: RealSounds) -> Sequence[dict]:
  """Random access to the records; see `clip_records`.

  There is one split, 'test': the set is too small to train or choose on.
  Clips that share a sound or an image share a `clip_id`.
  """
  return reading.open_split(builder, "test")


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """Loads the split of real images with sounds if `config.data.real`, or none.

  Raises:
    UserError: the package is missing or broken.
  """
  if not data.get("real"):
    return {}
  if not pathlib.Path(stamps.SOURCE).is_dir():
    raise UserError(
      f"config.data.real needs {stamps.SOURCE}: install the Debian package "
      "tuxpaint-stamps-default with `apt-get install tuxpaint-stamps-default`"
    )
  config = RealSoundsConfig(
    image_size=data.image_size, sample_rate=data.sample_rate
  )
  try:
    builder = prepare(config, data.data_dir)
  except UserError as error:
    raise UserError(f"config.data.real: {error}") from error
  return {REAL: Labelled(load(builder), clip_records.hierarchy(builder))}
