"""Rendered scenes as a TFDS data set: images and where their objects are.

A record is one image of `vgsgan.worlds.scenes`. It depends on the seed, its
split and its number there alone (to the rounding of the device that renders).
"""

import dataclasses
import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least, check_one_of
from vgsgan.data import splits
from vgsgan.data.builders import preparing, reading, sources
from vgsgan.data.builders.configs import Config
from vgsgan.data.records import Dataset, Splits
from vgsgan.worlds import scenes
from vgsgan.worlds.attributes import ATTRIBUTES

_BATCH = 250  # Images rendered at a time.
# The fields of `ScenesConfig`, and their names in `config.data`.
SCENE_FIELDS = {
  "image_size": "image_size",
  "fewest": "fewest",
  "most": "most",
  "train": "num_train",
  "validation": "num_validation",
  "test": "num_test",
  "seed": "scene_seed",
}


@dataclasses.dataclass(kw_only=True, eq=False)
class ScenesConfig(Config):
  """Settings of the rendered scenes.

  Attributes:
    image_size: side of the square images, pixels.
    fewest: least number of objects in an image.
    most: largest number of objects in an image; the length of `masks`.
    train: number of training records.
    validation: number of validation records.
    test: number of test records.
    seed: seed of all scenes.
  """

  SMALLEST: ClassVar[int] = 8  # Pixels of a side.
  MOST: ClassVar[int] = scenes.MOST

  image_size: int = 32
  fewest: int = 1
  most: int = 2
  train: int = 20000
  validation: int = 1000
  test: int = 1000
  seed: int = 0

  def check(self) -> None:
    check_at_least("data.image_size", self.image_size, self.SMALLEST)
    check_at_least("data.fewest", self.fewest, 1)
    check_at_least("data.most", self.most, self.fewest)
    check_at_least("data.scene_seed", self.seed, 0)
    if self.most > self.MOST:
      raise UserError(
        f"config.data.most={self.most} must be at most {self.MOST}: "
        "more objects do not always fit on the floor"
      )
    for split in splits.SPLITS:
      check_at_least(f"data.num_{split}", getattr(self, split), 1)

  def parts(self) -> list[str]:
    return [f"{self.image_size}px", *self.scene_parts()]

  def scene_parts(self) -> list[str]:
    """The parts of the name for the choice of scenes."""
    counts = (f"{split}{getattr(self, split)}" for split in splits.SPLITS)
    return [f"{self.fewest}to{self.most}", *counts, f"seed{self.seed}"]

  @property
  def total(self) -> int:
    """Records of all splits."""
    return sum(getattr(self, split) for split in splits.SPLITS)

  def num_bytes(self, pairs: int) -> int:
    """Estimates from above: uncompressed images."""
    del pairs  # The counts of the config decide.
    return self.total * 4 * self.image_size**2


class Scenes(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  # Raise it whenever scenes.sample or scenes.render changes its result.
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    size, most = self.builder_config.image_size, self.builder_config.most
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Cubes, spheres and cylinders on a grey floor, after CLEVR (Johnson "
        "et al., CVPR 2017), drawn by vgsgan.worlds.scenes."
      ),
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "image": tfds.features.Image(
            shape=(size, size, 3), encoding_format="png"
          ),
          "masks": tfds.features.Tensor(
            shape=(most, size, size), dtype=np.uint8, encoding="zlib"
          ),
          "boxes": tfds.features.Tensor(shape=(most, 4), dtype=np.float32),
          "attributes": tfds.features.Tensor(
            shape=(most, len(ATTRIBUTES)), dtype=np.int32
          ),
        }
      ),
      supervised_keys=None,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    config = self.builder_config
    bar = tqdm(total=config.total, desc="scenes", unit="picture", disable=None)
    return {
      split: self._generate_examples(split, bar) for split in splits.SPLITS
    }

  def _generate_examples(self, split, bar):
    count = getattr(self.builder_config, split)
    for number, record in enumerate(rendered(self.builder_config, split)):
      bar.update()
      key = f"{split}{number:0{len(str(count))}d}"
      yield key, {"id": key, **record}


def rendered(config: ScenesConfig, split: str) -> Iterator[dict[str, Any]]:
  """Yields the records of a split in order, without their `id`."""
  draw = drawing(config)
  count = getattr(config, split)
  for start in range(0, count, _BATCH):
    # The last batch is rendered whole, to compile once.
    numbers = np.arange(start, start + _BATCH, dtype=np.int32)
    rows = jax.device_get(draw(splits.SPLITS.index(split), numbers))
    for i in range(min(_BATCH, count - start)):
      row = {name: values[i] for name, values in rows.items()}
      yield row | {"image": encode(row["image"])}


def drawing(config: ScenesConfig):
  """Compiles `(index of the split, numbers [b]) -> stacked records`."""

  def draw_record(split, number):
    root = jax.random.fold_in(jax.random.key(config.seed), split)
    key = jax.random.fold_in(root, number)
    scene = scenes.sample(key, config.fewest, config.most)
    picture = scenes.render(scene, config.image_size)
    names = jnp.stack([getattr(scene, kind) for kind in ATTRIBUTES], -1)
    return {
      "image": jnp.rint(picture.image * 255).astype(jnp.uint8),
      "masks": picture.masks.astype(jnp.uint8),
      "boxes": picture.boxes,
      "attributes": jnp.where(scene.present[:, None], names, -1),
    }

  return jax.jit(jax.vmap(draw_record, (None, 0)))


def encode(image: np.ndarray) -> bytes:
  """Encodes pixels uint8 [h, w, 3] as PNG."""
  png = io.BytesIO()
  Image.fromarray(image).save(png, "PNG")
  return png.getvalue()


def prepare(config: ScenesConfig, data_dir: str | pathlib.Path) -> Scenes:
  """Renders a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'scenes/NAME/VERSION' below it.

  Raises:
    UserError: the disk is full or cannot be written.
  """
  data_dir = sources.expanded(data_dir)
  return preparing.prepare_once(Scenes, config, data_dir)


def load(builder: Scenes, split: str) -> Sequence[dict]:
  """Random access to the records of a split.

  Args:
    builder: from `prepare`.
    split: 'train', 'validation' or 'test'.

  Returns:
    Records: `id` UTF-8 bytes, `image` PNG bytes, `masks` uint8 [n, s, s] of 0
    and 1, `boxes` float32 [n, 4] as `scenes.boxes` gives them, and
    `attributes` int32 [n, 4], indices in the order of ATTRIBUTES, -1 where
    there is no object.
  """
  return reading.open_split(builder, split)


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for: `rendered` here, or of `clevr`."""
  if data.scenes == "clevr":
    from vgsgan.data.builders import clevr  # Avoids an import cycle.

    return clevr.load(data.data_dir, data.image_size)
  config = ScenesConfig(**scene_fields(data))
  builder = prepare(config, data.data_dir)
  return {split: load(builder, split) for split in splits.SPLITS}


def scene_fields(data: ml_collections.ConfigDict) -> dict[str, int]:
  """The fields of a `ScenesConfig`, as `config.data` has them."""
  return {field: data[name] for field, name in SCENE_FIELDS.items()}


def check(data: ml_collections.ConfigDict) -> None:
  """Raises UserError for an unknown kind or an impossible number of objects."""
  check_one_of("data.scenes", data.scenes, ("rendered", "clevr"))
  check_objects(data)


def check_objects(data: ml_collections.ConfigDict) -> None:
  """Raises UserError if `most` is less than `fewest`."""
  if data.fewest > data.most:
    raise UserError(
      f"config.data.most={data.most} must be at least config.data.fewest="
      f"{data.fewest}"
    )


DATASET = Dataset(
  from_config,
  identity=("scenes", *SCENE_FIELDS.values()),
  check=check,
)
