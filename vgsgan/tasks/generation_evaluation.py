"""Generates from a split, and gives figures and images of the result."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data.examples import ImageExample
from vgsgan.data.records import First, Records
from vgsgan.evals import generated
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.tasks import judges
from vgsgan.train.predict import Predictor, joined
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Poll

FEWEST = 8  # Clips: the two halves of the real ones are compared.
COLUMNS = 12  # Clips in the images that a run writes.

# (state, batch) -> a tree of rows.
Predict = Callable[[TrainState, Batch], Any]


def judges_of(config: ml_collections.ConfigDict) -> judges.Judges | None:
  """Loads the judges that `config.judges` names, if it names any."""
  named = config.judges.classifier, config.judges.correspondence
  if any(named) and not all(named):
    raise UserError(
      "config.judges: name both workdirs, classifier and correspondence, or "
      "neither"
    )
  return judges.load(*named, config.data) if any(named) else None


class Rows:
  """Runs a model over records and latents on a mesh.

  Args:
    config: of the task.
    mesh: of the run.
    transform: makes an example from a record.
    predict: `(state, batch) -> a tree of rows`.
    decode: `(state, latents) -> a tree of rows`.
    encode: `(state, batch) -> latents`; new ones are drawn from their Gaussian.
  """

  def __init__(
    self, config, mesh, transform, predict: Predict, decode, encode: Predict
  ):
    self.config, self.mesh = config, mesh
    self._predict = Predictor(predict, transform, config, mesh)
    self._encode = Predictor(encode, transform, config, mesh)
    self._decode = jax.jit(decode, out_shardings=mesh_lib.replicated(mesh))

  def of(
    self, state: TrainState, records: Records, many: int, poll: Poll
  ) -> Any:
    """Runs `predict` over the first `many` records."""
    return self._predict(state, First(records, many), poll)

  def decoded(
    self, state: TrainState, latents: Float[np.ndarray, "n z"], poll: Poll
  ) -> Any:
    """Decodes latents."""
    size, parts = self.config.eval.batch, []
    for first in range(0, len(latents), size):
      poll()
      block = latents[first : first + size]
      filled = np.pad(block, ((0, size - len(block)), (0, 0)))
      placed = jax.device_put(filled, mesh_lib.replicated(self.mesh))
      rows = jax.device_get(self._decode(state, placed))
      count = len(block)
      parts.append(jax.tree.map(lambda x, count=count: x[:count], rows))
    return joined(parts)

  def latents(
    self,
    state: TrainState,
    many: int,
    train: Records | None,
    poll: Poll,
  ) -> Float[np.ndarray, "n z"]:
    """Draws latents, the same at every call.

    They are of N(0, I). If `train` is given, they have the mean and covariance
    of the latents of its first `config.eval.fitted` records.
    """
    size = self.config[self.config.task].latent
    rng = np.random.default_rng(self.config.seed)
    noise = rng.standard_normal((many, size), np.float32)
    if train is None:
      return noise
    first = First(train, self.config.eval.fitted)
    return as_distributed(noise, self._encode(state, first, poll))


class Evaluation:
  """Figures and images of the task `generation`.

  Args:
    model: `tasks.generation.Autoencoding` or `Adversarial`.
    mesh: of the run.
    splits: of the data set.
  """

  def __init__(self, model: Any, mesh: Mesh, splits):
    config = self.config = model.config
    for split in ("validation", "test"):
      check_at_least(f"data.num_{split}", len(splits[split]), FEWEST)
    self.splits, self.judges = splits, judges_of(config)
    self.encodes = config.generation.kind != "gan"
    # The records whose latents random ones imitate, by name; None for N(0, I).
    self.drawn = {"sampled": splits["train"] if self.encodes else None}
    if config.generation.kind == "vae":
      self.drawn["prior"] = None

    def encode(state, batch):
      return model.encode(state, model.inputs(batch))

    def predict(state, batch):
      rows = {"real": model.inputs(batch)}
      if self.encodes:
        latent = encode(state, batch)
        rows["reconstructed"] = model.decode(state, latent)
      return rows

    self.rows = Rows(
      config, mesh, ImageExample(), predict, model.decode, encode
    )

  def generate(self, state: TrainState, records, many: int, poll: Poll):
    """Real images, and a dict of reconstructed and new ones."""
    images = self.rows.of(state, records, many, poll)
    real = images.pop("real")
    for name, like in self.drawn.items():
      latents = self.rows.latents(state, len(real), like, poll)
      images[name] = self.rows.decoded(state, latents, poll)
    return real, images

  def evaluate(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    """Squared error of reconstructions, and likeness of all generated images.

    Likeness is in the features of `generated.coarse`, and in the judge's.
    """
    records = self.splits[split]
    real, images = self.generate(state, records, len(records), poll)
    results = {"pictures": len(real)}
    if self.encodes:
      results["squared_error"] = generated.squared_error(
        real, images["reconstructed"]
      )
    extractors = {"coarse": generated.coarse}
    if self.judges:
      extractors["judged"] = lambda x: self.judges.image(0.5 + 0.5 * x)[0]
    for name, features in extractors.items():
      results[name] = generated.likeness(
        features(real),
        features(generated.flat(real)),
        {kind: features(x) for kind, x in images.items()},
      )
    return results

  def images(self, state: TrainState) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """A sheet with rows of real, reconstructed and new images."""
    real, images = self.generate(
      state, self.splits["validation"], COLUMNS, lambda: None
    )
    return {"samples": sheet([real, *images.values()])}


def sheet(
  rows: Sequence[Float[np.ndarray, "n h w c"]],
) -> UInt8[np.ndarray, "height width 3"]:
  """Arranges rows of images in [-1, 1], with 1 or 3 channels, as one image."""
  page = np.concatenate([np.concatenate(row, axis=1) for row in rows])
  page = np.broadcast_to(page, (*page.shape[:2], 3))
  return np.uint8(np.rint(np.clip(127.5 + 127.5 * page, 0, 255)))


def nearest(results: dict[str, Any]) -> float:
  return -results["squared_error"]["value"]


def likest(results: dict[str, Any]) -> float:
  # The judge, whose figures are reported, must not choose the checkpoint.
  return -results["coarse"]["frechet"]["sampled"]["value"]


def as_distributed(
  noise: Float[np.ndarray, "n z"], like: Float[np.ndarray, "m z"]
) -> Float[np.ndarray, "n z"]:
  """Moves standard normal rows to the mean and the covariance of others."""
  values, vectors = np.linalg.eigh(
    np.atleast_2d(np.cov(np.float64(like), rowvar=False))
  )
  scaled = noise * np.sqrt(np.maximum(values, 0.0))
  return np.float32(like.mean(0) + scaled @ vectors.T)
