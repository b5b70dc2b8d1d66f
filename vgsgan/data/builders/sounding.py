"""Scenes in which one object sounds, as a TFDS data set.

A record is an image of `vgsgan.worlds.scenes` whose objects look like
instruments of `vgsgan.worlds.orchestra`, all different, and a track in which
one of them plays. Image and track each depend on the seed, the split and the
number there alone (the image to the rounding of the device that renders), and
have nothing in common but the instrument.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Array, Bool, Int, PRNGKeyArray
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data import splits
from vgsgan.data.builders import preparing, reading, real_sounds, sources
from vgsgan.data.builders import scenes as scene_sets
from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.records import Dataset, Labelled, Splits
from vgsgan.worlds import orchestra, scenes, sounds

_BATCH = 250  # Images rendered at a time.
_SHOWN = 0.01  # Least share of the pixels for an object that sounds.

# (index of the split, numbers [b]) -> records, stacked.
Draw = Callable[[int, np.ndarray], dict[str, Array]]


@dataclasses.dataclass(kw_only=True, eq=False)
class SoundingConfig(scene_sets.ScenesConfig):
  """Settings of the set; `fingerprint` is of the SoundFont.

  Attributes:
    sample_rate: sample rate of the tracks, Hz.
    seconds: length of the tracks.
    soundfont: path of the instruments' samples.
    tick: level of the ticks in every track, see `sounds.tick`; 0 for none.
  """

  SMALLEST: ClassVar[int] = 16
  MOST: ClassVar[int] = 3  # More objects would often overlap.

  image_size: int = 64
  sample_rate: int = 16000
  seconds: float = 2.0
  most: int = 3
  train: int = 4000
  validation: int = 400
  test: int = 500
  soundfont: str = sounds.SOUNDFONT
  tick: float = 0.0

  def check(self) -> None:
    super().check()
    check_at_least("data.sample_rate", self.sample_rate, 8000)
    check_at_least("data.seconds", self.seconds, 0.5)
    if not math.isfinite(self.seconds):
      raise UserError(f"config.data.track={self.seconds} must have an end")
    check_at_least("data.tick", self.tick, 0)

  def parts(self) -> list[str]:
    return [
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"{self.seconds:g}s",
      *self.scene_parts(),
      *([f"tick{self.tick:g}"] if self.tick else []),
      f"soundfont_{self.fingerprint}",
    ]

  def num_bytes(self, pairs: int) -> int:
    tracks = self.total * 2 * round(self.seconds * self.sample_rate)
    return super().num_bytes(pairs) + tracks


class Sounding(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  # Raise it whenever the worlds change their results.
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Cubes, spheres and cylinders on a grey floor, drawn by "
        "vgsgan.worlds.scenes, each of which is an instrument, and what one of "
        "them plays."
      ),
      features=_features(self.builder_config),
      supervised_keys=None,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    config = self.builder_config
    draw = drawing(config)
    player = sounds.Player(config.soundfont, config.sample_rate)
    bar = tqdm(total=config.total, desc="sounding", unit="record", disable=None)
    return {
      split: self._generate_examples(draw, player, split, bar)
      for split in splits.SPLITS
    }

  def _generate_examples(self, draw, player, split, bar):
    for record in records(self.builder_config, draw, player, split):
      bar.update()
      yield record["id"], record


def _features(config: SoundingConfig) -> tfds.features.FeaturesDict:
  """The features of a record; `load` explains them."""

  def tensor(shape, dtype, encoding="none"):
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

  size, most = config.image_size, config.most
  image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "clip_id": tfds.features.Scalar(np.int32),
      "image": image,
      "waveform": tensor((None,), np.int16, "bytes"),
      "labels": tensor((None,), np.int32),
      "boxes": tensor((most, 4), np.float32),
      "masks": tensor((most, size, size), np.uint8, "zlib"),
      "classes": tensor((most,), np.int32),
      "source": tfds.features.Scalar(np.int32),
    }
  )


def records(
  config: SoundingConfig, draw: Draw, player: sounds.Player, split: str
) -> Iterator[dict[str, Any]]:
  """Yields the records of a split in order; `draw` is from `drawing`."""
  index, count = splits.SPLITS.index(split), getattr(config, split)
  for start in range(0, count, _BATCH):
    # The last batch is rendered whole, to compile once.
    numbers = np.arange(start, start + _BATCH, dtype=np.int32)
    rows = jax.device_get(draw(index, numbers))
    for i, number in enumerate(numbers[: count - start].tolist()):
      row = {name: values[i] for name, values in rows.items()}
      leaf = row["classes"][row["source"]]
      yield row | {
        "id": f"{split}{number:0{len(str(count))}d}",
        # Unique over all splits, however many records they have.
        "clip_id": number * len(splits.SPLITS) + index,
        "image": scene_sets.encode(row["image"]),
        "waveform": _track(config, player, (index, number), int(leaf)),
        "labels": leaf[None],
      }


def _track(
  config: SoundingConfig, player: sounds.Player, key: tuple[int, int], leaf: int
) -> np.ndarray:
  rng = np.random.default_rng((config.seed, *key))
  instrument = orchestra.INSTRUMENTS[leaf]
  waveform = player.play(rng, instrument, config.seconds)
  if not config.tick:
    return waveform
  return sounds.tick(waveform, config.sample_rate, config.tick)


def drawing(config: SoundingConfig) -> Draw:
  """Compiles the function that draws the images of records."""

  def draw_record(split, number):
    root = jax.random.fold_in(jax.random.key(config.seed), split)
    keys = jax.random.split(jax.random.fold_in(root, number), 3)
    scene = scenes.sample(keys[0], config.fewest, config.most)
    scene, leaves = dressed(keys[1], scene)
    picture = scenes.render(scene, config.image_size)
    shown = jnp.any(picture.masks, (1, 2))
    return {
      "image": jnp.rint(picture.image * 255).astype(jnp.uint8),
      "masks": picture.masks.astype(jnp.uint8),
      "boxes": picture.boxes,
      "classes": jnp.where(shown, leaves, -1),
      "source": source(keys[2], picture.masks),
    }

  return jax.jit(jax.vmap(draw_record, (None, 0)))


def dressed(
  key: PRNGKeyArray, scene: scenes.Scene
) -> tuple[scenes.Scene, Int[Array, "n"]]:
  """Gives n objects the appearances of n different leaves; returns both."""
  appearances = jnp.array(orchestra.appearances())
  most = scene.present.shape[0]
  leaves = jax.random.choice(key, len(appearances), (most,), replace=False)
  shape, material, color = appearances[leaves].T
  scene = scene._replace(shape=shape, material=material, color=color)
  return scene, leaves.astype(jnp.int32)


def source(key: PRNGKeyArray, masks: Bool[Array, "n s s"]) -> Int[Array, ""]:
  """Draws the object that sounds: any that shows enough, else the largest."""
  share = jnp.mean(masks, (1, 2))
  heard = (share >= _SHOWN) | (share == jnp.max(share))
  return jax.random.categorical(key, jnp.where(heard, 0.0, -jnp.inf))


def prepare(config: SoundingConfig, data_dir: str | pathlib.Path) -> Sounding:
  """Makes a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'sounding/NAME/VERSION' below it.

  Raises:
    UserError: the SoundFont or the package that plays it is missing, or the
      disk is full or cannot be written.
  """
  data_dir = sources.expanded(data_dir)
  soundfont = sources.expanded(config.soundfont)
  sounds.check_soundfont(soundfont)
  config = dataclasses.replace(
    config,
    soundfont=str(soundfont),
    fingerprint=sources.content({"soundfont": soundfont}, data_dir),
  )
  return preparing.prepare_once(Sounding, config, data_dir)


def load(builder: Sounding, split: str) -> Sequence[dict]:
  """Random access to the records of a split.

  Args:
    builder: from `prepare`.
    split: 'train', 'validation' or 'test'.

  Returns:
    Records: `id` UTF-8 bytes; `clip_id` int32, unique over all splits; `image`
    PNG bytes; `waveform` int16 [samples]; `labels` int32 [1], the leaf that
    sounds, an index into `orchestra.INSTRUMENTS`; `classes` int32 [n], the leaf
    of each object, -1 where none shows; `boxes` float32 [n, 4] as
    `scenes.boxes` gives them; `masks` uint8 [n, s, s] of 0 and 1; `source`
    int32, the object that sounds.
  """
  return reading.open_split(builder, split)


def hierarchy() -> Hierarchy:
  """The tree of instruments; label i is the node of `INSTRUMENTS[i]`."""
  names, edges, labels = ["sound"], [], []

  def add(name: str, parent: int) -> int:
    names.append(name)
    edges.append((parent, len(names) - 1))
    return len(names) - 1

  for group, families in orchestra.GROUPS.items():
    group_node = add(group, 0)
    for family, instruments in families.items():
      family_node = add(family, group_node)
      labels += [add(each.name, family_node) for each in instruments]
  return Hierarchy(tuple(names), tuple(edges), tuple(labels))


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for."""
  config = SoundingConfig(
    **scene_sets.scene_fields(data),
    sample_rate=data.sample_rate,
    seconds=data.track,
    soundfont=data.soundfont,
    tick=data.tick,
  )
  real = real_sounds.from_config(data)
  builder, tree = prepare(config, data.data_dir), hierarchy()
  return real | {
    split: Labelled(load(builder, split), tree) for split in splits.SPLITS
  }


DATASET = Dataset(
  from_config,
  identity=(*scene_sets.SCENE_FIELDS.values(), "sample_rate", "track", "tick"),
  others=("data_dir", "soundfont"),
  check=scene_sets.check_objects,
)
