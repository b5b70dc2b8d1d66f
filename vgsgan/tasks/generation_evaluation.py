"""What a state generates from a split: figures of it, and pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data.examples import PictureExample
from vgsgan.data.records import First, Records
from vgsgan.evals import generated
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.tasks import judges
from vgsgan.train.predict import Predictor, joined
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Poll

FEWEST = 8  # Clips: halves of the real ones are compared.
COLUMNS = 12  # Of the pictures that are kept.

# (state, batch) -> a tree of rows.
Look = Callable[[TrainState, Batch], Any]


def judges_of(config: ml_collections.ConfigDict) -> judges.Judges | None:
  """Those that `config.judges` names, if it names any."""
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
    transform: makes an example of a record.
    look: what is to be found in a batch.
    decode: `(state, latents) -> a tree of rows`.
    encode: what new latents may be like.
  """

  def __init__(self, config, mesh, transform, look: Look, decode, encode: Look):
    self.config, self.mesh = config, mesh
    self._look = Predictor(look, transform, config, mesh)
    self._encode = Predictor(encode, transform, config, mesh)
    self._decode = jax.jit(decode, out_shardings=mesh_lib.replicated(mesh))

  def of(
    self, state: TrainState, records: Records, many: int, poll: Poll
  ) -> Any:
    """Runs `look` over the first records, `many` at most."""
    return self._look(state, First(records, many), poll)

  def decoded(
    self, state: TrainState, latents: Float[np.ndarray, "n z"], poll: Poll
  ) -> Any:
    """What latents are decoded to."""
    size, parts = self.config.eval.batch, []
    for first in range(0, len(latents), size):
      poll()
      block = latents[first : first + size]
      filled = np.pad(block, ((0, size - len(block)), (0, 0)))
      there = jax.device_put(filled, mesh_lib.replicated(self.mesh))
      found = jax.device_get(self._decode(state, there))
      many = len(block)
      parts.append(jax.tree.map(lambda x, many=many: x[:many], found))
    return joined(parts)

  def latents(
    self,
    state: TrainState,
    many: int,
    train: Records | None,
    poll: Poll,
  ) -> Float[np.ndarray, "n z"]:
    """Latents to make new things of, the same at every call.

    Of N(0, I), or with the mean and covariance of the latents of the first
    `config.eval.fitted` training records, if they are given.
    """
    size = self.config[self.config.task].latent
    rng = np.random.default_rng(self.config.seed)
    noise = rng.standard_normal((many, size), np.float32)
    if train is None:
      return noise
    first = First(train, self.config.eval.fitted)
    return as_distributed(noise, self._encode(state, first, poll))


class Looks:
  """Figures and pictures of the task `generation`.

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
    # What random latents are like.
    self.drawn = {"sampled": splits["train"] if self.encodes else None}
    if config.generation.kind == "vae":
      self.drawn["prior"] = None

    def encode(state, batch):
      return model.encode(state, model.inputs(batch))

    def look(state, batch):
      found = {"picture": model.inputs(batch)}
      if self.encodes:
        latent = encode(state, batch)
        found["reconstructed"] = model.decode(state, latent)
      return found

    self.rows = Rows(config, mesh, PictureExample(), look, model.decode, encode)

  def made(self, state: TrainState, records, many: int, poll: Poll):
    """Real pictures, and what is made of and beside them, by name."""
    found = self.rows.of(state, records, many, poll)
    real = found.pop("picture")
    for name, like in self.drawn.items():
      latents = self.rows.latents(state, len(real), like, poll)
      found[name] = self.rows.decoded(state, latents, poll)
    return real, found

  def evaluate(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    """Squared error of what is reconstructed; likeness of all that is made.

    In the features of `generated.coarse`, and in those of the judge.
    """
    records = self.splits[split]
    real, made = self.made(state, records, len(records), poll)
    results = {"pictures": len(real)}
    if self.encodes:
      results["squared_error"] = generated.squared_error(
        real, made["reconstructed"]
      )
    looks = {"coarse": generated.coarse}
    if self.judges:
      looks["judged"] = lambda x: self.judges.image(0.5 + 0.5 * x)[0]
    for name, look in looks.items():
      results[name] = generated.likeness(
        look(real),
        look(generated.flat(real)),
        {what: look(x) for what, x in made.items()},
      )
    return results

  def pictures(
    self, state: TrainState
  ) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Rows: the real, what is decoded of them, and new ones."""
    real, made = self.made(
      state, self.splits["validation"], COLUMNS, lambda: None
    )
    return {"samples": sheet([real, *made.values()])}


def sheet(
  rows: Sequence[Float[np.ndarray, "n h w c"]],
) -> UInt8[np.ndarray, "height width 3"]:
  """Pictures in [-1, 1], one row of them below the other; 1 or 3 channels."""
  page = np.concatenate([np.concatenate(row, axis=1) for row in rows])
  page = np.broadcast_to(page, (*page.shape[:2], 3))
  return np.uint8(np.rint(np.clip(127.5 + 127.5 * page, 0, 255)))


def nearest(results: dict[str, Any]) -> float:
  return -results["squared_error"]["value"]


def likest(results: dict[str, Any]) -> float:
  # Who judges what is reported must not choose it too.
  return -results["coarse"]["frechet"]["sampled"]["value"]


def as_distributed(
  noise: Float[np.ndarray, "n z"], like: Float[np.ndarray, "m z"]
) -> Float[np.ndarray, "n z"]:
  """Standard normal rows, moved to the mean and the covariance of others."""
  values, vectors = np.linalg.eigh(
    np.atleast_2d(np.cov(np.float64(like), rowvar=False))
  )
  scaled = noise * np.sqrt(np.maximum(values, 0.0))
  return np.float32(like.mean(0) + scaled @ vectors.T)
