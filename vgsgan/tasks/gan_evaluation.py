"""Images that a GAN draws, compared with those of a split."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from vgsgan.common.options import check_at_least
from vgsgan.data.examples import decode
from vgsgan.data.records import Records
from vgsgan.evals import frechet
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.tasks.gan_worlds import Places
from vgsgan.train import keys
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll

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
    self.judge = model.world.load(self.config.eval.recogniser)
    self.draw = jax.jit(model.sample, out_shardings=mesh_lib.replicated(mesh))

  def __call__(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    """Compares as many drawn images as `eval.samples` with the split's."""
    count, world = self.config.eval.samples, self.model.world
    real = np.stack([decode(r["image"]) for r in self.splits[split]]) / 255.0
    attributes = self.attributes(split, count)
    drawn = self.drawn(state, attributes, poll)
    results = world.score(
      self.judge, real.astype(np.float32), drawn, attributes
    )
    results["frechet_pixels"] = frechet.frechet(coarse(real), coarse(drawn))
    if self.config.gan.labels and world is Places:
      key = keys.of(self.config.seed, "asked")
      asked, changed = Places.asked(key, attributes, self.config.data)
      edited = self.drawn(state, asked, poll)
      results |= Places.edits(
        self.judge, drawn, edited, attributes, asked, changed
      )
    return results

  def drawn(self, state, attributes, poll: Poll) -> np.ndarray:
    """Images of these attributes."""
    parts = []
    for images in self.samples(state, attributes):
      poll()
      parts.append(images)
    return np.concatenate(parts)

  def samples(
    self, state: TrainState, attributes: Int[np.ndarray, "n ..."]
  ) -> Iterator[np.ndarray]:
    """Yields n drawn images, in batches; all calls use equal latents."""
    config, rows = self.config, self.config.eval.batch
    size = self.model.generator.latent_size
    for first in range(0, len(attributes), rows):
      key = keys.of(config.seed, "samples", first)
      latent = jax.random.normal(key, (rows, size))
      labels, count = None, min(rows, len(attributes) - first)
      if config.gan.labels:
        # The last batch is drawn whole, to compile once.
        chosen = np.resize(
          attributes[first : first + count], (rows, *attributes.shape[1:])
        )
        labels = self.model.world.labels(jax.device_put(chosen))
      yield jax.device_get(self.draw(state, latent, labels))[:count]

  def attributes(self, split: str, count: int) -> Int[np.ndarray, "n ..."]:
    """Attributes of the first records, over and over."""
    records = self.splits[split]
    chosen = [records[i % len(records)] for i in range(count)]
    return np.stack([np.asarray(r["attributes"], np.int32) for r in chosen])

  def sheet(self, state: TrainState) -> dict[str, np.ndarray]:
    """A sheet of images of the validation split's labels."""
    # The batch may be larger, because it is rounded up to full devices.
    count = min(self.config.eval.batch, self.config.eval.samples)
    attributes = self.attributes("validation", count)
    drawn = next(self.samples(state, attributes))
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
