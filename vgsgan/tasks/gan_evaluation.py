"""Images that a GAN draws, compared with those of a split."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vgsgan.common.options import check_at_least
from vgsgan.data.examples import decode
from vgsgan.data.records import Records
from vgsgan.evals import frechet, judging
from vgsgan.models import pretrained
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train import keys
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll
from vgsgan.worlds.attributes import ATTRIBUTES

FEWEST = 8  # Images: halves of the real ones are compared.


class Evaluation:
  """`Task.evaluate` and `Task.images` of a GAN.

  Args:
    model: `tasks.gan.Gan`.
    mesh: of the run.
    splits: of the data set.
  """

  def __init__(self, model: Any, mesh: Mesh, splits: Mapping[str, Records]):
    self.model, self.config, self.splits = model, model.config, splits
    for split in ("validation", "test"):
      check_at_least(f"data.num_{split}", len(splits[split]), FEWEST)
    self.judge = judging.predictor(
      pretrained.load_recogniser(self.config.eval.recogniser)
    )
    self.draw = jax.jit(model.sample, out_shardings=mesh_lib.replicated(mesh))

  def __call__(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    """Compares as many drawn images as `eval.samples` with the split's."""
    drawn = []
    for images in self.samples(state, split, self.config.eval.samples):
      poll()
      drawn.append(images)
    drawn = np.concatenate(drawn)
    real = np.stack([decode(r["image"]) for r in self.splits[split]]) / 255.0
    return judging.score(self.judge, real.astype(np.float32), drawn) | {
      "frechet_pixels": frechet.frechet(coarse(real), coarse(drawn))
    }

  def samples(
    self, state: TrainState, split: str, count: int
  ) -> Iterator[np.ndarray]:
    """Yields `count` drawn images, in batches; all calls use equal latents."""
    config, rows = self.config, self.config.eval.batch
    size = self.model.generator.latent_size
    for first in range(0, count, rows):
      key = keys.of(config.seed, "samples", first)
      latent = jax.random.normal(key, (rows, size))
      labels = self.labels(split, first, rows) if config.gan.labels else None
      drawn = jax.device_get(self.draw(state, latent, labels))
      yield drawn[: min(rows, count - first)]

  def labels(self, split: str, first: int, rows: int) -> jax.Array:
    """Labels of the records from `first` on, over and over."""
    records = self.splits[split]
    chosen = [records[i % len(records)] for i in range(first, first + rows)]
    attributes = np.stack([record["attributes"] for record in chosen])
    return words_present(jax.device_put(attributes.astype(np.int32)))

  def sheet(self, state: TrainState) -> dict[str, np.ndarray]:
    """A sheet of images of the validation split's labels."""
    # The batch may be larger, because it is rounded up to full devices.
    count = min(self.config.eval.batch, self.config.eval.samples)
    drawn = next(self.samples(state, "validation", count))
    return {"samples": sheet(drawn, min(16, len(drawn)))}


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
  """Arranges images [n, s, s, 3] in [0, 1] in a grid, as one uint8 image."""
  n, s = len(images) // columns, images.shape[1]
  pixels = np.clip(images * 255, 0, 255).astype(np.uint8)
  rows = pixels[: n * columns].reshape(n, columns, s, s, 3)
  return rows.transpose(0, 2, 1, 3, 4).reshape(n * s, columns * s, 3)


def coarse(images: np.ndarray) -> np.ndarray:
  """Means over 8 x 8 places, untrained features [n, 192]."""
  n, s = images.shape[:2]
  return images.reshape(n, 8, s // 8, 8, s // 8, 3).mean((2, 4)).reshape(n, -1)


def words_present(attributes: Int[Array, "b n 4"]) -> Float[Array, "b 15"]:
  """Labels of scenes: 1 for each of WORDS that is true of some object."""
  parts = [
    jnp.any(attributes[..., i, None] == jnp.arange(len(words)), axis=1)
    for i, words in enumerate(ATTRIBUTES.values())
  ]
  return jnp.concatenate(parts, axis=-1).astype(jnp.float32)
