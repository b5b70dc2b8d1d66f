"""Trains an encoder from images to the latents of a generator.

Inside the step the generator draws images of random latents, which the encoder
learns to predict. Data are used only to evaluate it on images that were not
drawn. See `vgsgan.negatives.inversion`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vgsgan.common.options import building
from vgsgan.data import features
from vgsgan.data.examples import ImageExample
from vgsgan.data.records import Records
from vgsgan.models import pretrained
from vgsgan.models.inverter import Inverter
from vgsgan.negatives import inversion
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train import forward, keys
from vgsgan.train.predict import Predictor, joined
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Poll, Task

# Numbers of the splits in the random keys of their latents.
SPLITS = {"train": 0, "validation": 1, "test": 2}
NEEDS = (
  "inversion",
  "inverter",
  "optim",
  "data.generator",
  "data.image_size",
  "eval.samples",
)


Rows = dict[str, np.ndarray]


class Inversion:
  """The encoder of a config, and the generator that it inverts."""

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
    check(config)
    self.config, self.mesh = config, mesh
    network = pretrained.unlabelled_generator(
      config.data.generator, config.data.image_size
    )
    self.generator, self.drawn_with = network.module, network.variables
    self.model = Inverter(
      self.generator.latent_size,
      tuple(config.inverter.channels),
      forward.dtype(config.train),
    )
    self.tx = optimizer(config.optim, config.train.steps)
    self.rate = schedule(config.optim, config.train.steps)
    with building("config.inverter.channels"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state; the frozen generator is in `batch_stats`."""
    size = self.config.data.image_size
    variables = self.model.init(key, jnp.zeros((1, size, size, 3)))
    return TrainState.create(
      {"inverter": variables["params"]},
      {"generator": jax.tree.map(jnp.asarray, self.drawn_with)},
      self.tx,
    )

  def latents(self, split: int | Array, number: Array, rows: int) -> Array:
    """Latents [rows, z] of a split's batch `number`, sharded by rows."""
    key = keys.of(self.config.seed, "latents", split, number)
    shape = rows, self.generator.latent_size
    z = jax.random.normal(key, shape)
    # Without this every device draws all of them.
    return jax.lax.with_sharding_constraint(
      z, mesh_lib.batch_sharding(self.mesh)
    )

  def draw(self, state: TrainState, z: Array) -> Array:
    """Images in [-1, 1]."""
    return self.generator.apply(state.batch_stats["generator"], z, train=False)

  def stored(self, state: TrainState, z: Array) -> Array:
    """Images in [-1, 1], rounded as if stored."""
    return 2 * features.quantize(0.5 + 0.5 * self.draw(state, z)) - 1

  def encode(self, params: Any, images: Array) -> Array:
    return self.model.apply({"params": params["inverter"]}, images)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes one update; uses only the size of the batch."""
    z = self.latents(SPLITS["train"], state.step, len(batch["image"]))
    images = self.stored(state, z)

    def loss(params):
      def network(stats, images):
        latent = self.encode(params, images)
        return (latent, self.draw(state, latent)), stats

      (latent, redrawn), _ = forward.apply(
        self.config.train, network, {}, images
      )
      parts = {
        "latent_error": jnp.mean(jnp.square(latent - z)),
        "picture_error": jnp.mean(inversion.misfit(redrawn, images)),
      }
      return sum(parts.values()), (parts, state.batch_stats)

    return state.minimise(loss, self.tx, self.rate)

  def predict(self, state: TrainState, images: Array) -> dict[str, Array]:
    """Inverts images in [-1, 1], with and without `inversion.steps`."""

    def draw(z):
      return self.draw(state, z)

    def encode(images):
      return self.encode(state.params, images)

    guess = inversion.invert(draw, encode, images, 0)
    inverted = inversion.invert(
      draw, lambda _: guess.latent, images, self.config.inversion.steps
    )
    return {"picture": images, "guess": guess.error, **inverted._asdict()}

  def predict_drawn(self, state: TrainState, split: Array, number: Array):
    """Inverts images drawn here; `true` are their latents."""
    z = self.latents(split, number, self.config.eval.batch)
    return self.predict(state, self.stored(state, z)) | {"true": z}

  def predict_stored(self, state: TrainState, batch: Batch):
    """Inverts the images of a batch of records."""
    return self.predict(state, batch["image"].astype(jnp.float32) / 127.5 - 1)


def figures(
  rows: dict[str, np.ndarray], control: np.ndarray, limit: float
) -> dict[str, Any]:
  """Errors and shares; their chance is the value for another image's latent.

  Args:
    rows: `guess` and `error` [n], the errors without and with steps; if the
      `true` latents [n, z] are known, also these and the inferred `latent`.
    control: errors [n] with the next image's latent.
    limit: the error up to which an image passes the gate.
  """

  def both(figure, value, chance):
    return {"value": float(figure(value)), "chance": float(figure(chance))}

  results = {
    "error": both(np.median, rows["error"], control),
    "encoder_error": both(np.median, rows["guess"], control),
    "let_through": both(
      lambda error: np.mean(error <= limit), rows["error"], control
    ),
    "pictures": len(control),
  }
  if "true" in rows:
    latents = rows["latent"], np.roll(rows["latent"], 1, axis=0)
    for name, figure in (("r2", r2), ("correlation", correlation)):
      results[f"latent_{name}"] = both(
        lambda z, figure=figure: figure(rows["true"], z), *latents
      )
  return results


def r2(
  true: Float[np.ndarray, "n z"], latent: Float[np.ndarray, "n z"]
) -> float:
  """The explained share of the variance of all numbers."""
  left = np.sum((true - latent) ** 2)
  return float(1 - left / np.sum((true - true.mean(0)) ** 2))


def correlation(
  true: Float[np.ndarray, "n z"], latent: Float[np.ndarray, "n z"]
) -> float:
  """Pearson's correlation, averaged over the numbers of the latent."""
  true, latent = true - true.mean(0), latent - latent.mean(0)
  lengths = np.sqrt((true**2).sum(0) * (latent**2).sum(0))
  return float(np.mean((true * latent).sum(0) / np.maximum(lengths, 1e-12)))


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_optimizer(config.optim, "optim")


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Inversion(config, mesh)
  replicated = mesh_lib.replicated(mesh)
  predict_drawn = jax.jit(model.predict_drawn, out_shardings=replicated)
  stored = Predictor(model.predict_stored, ImageExample(), config, mesh)
  compare = jax.jit(inversion.relative_error)
  size = config.eval.batch

  def drawn(state: TrainState, split: str, poll: Poll) -> Rows:
    parts = []
    for first in range(0, config.eval.samples, size):
      poll()
      chosen = np.int32(SPLITS[split]), np.int32(first // size)
      rows = predict_drawn(state, *jax.device_put(chosen, replicated))
      count = min(size, config.eval.samples - first)
      parts.append({k: x[:count] for k, x in jax.device_get(rows).items()})
    return joined(parts)

  def judged(rows: Rows) -> dict[str, Any]:
    others = np.roll(rows["drawn"], 1, axis=0), rows["picture"]
    control = jax.device_get(compare(*jax.device_put(others)))
    return figures(rows, control, config.inversion.limit)

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    return {
      "drawn": judged(drawn(state, split, poll)),
      "stored": judged(stored(state, splits[split], poll)),
    }

  return Task(
    transform=ImageExample(),
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=lambda results: -results["stored"]["error"]["value"],
    selection="least median error on stored pictures",
  )
