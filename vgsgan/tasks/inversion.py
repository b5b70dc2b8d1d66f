"""An encoder from pictures to the latents of a generator.

It learns from pictures that the generator draws inside the step, of latents
that are therefore known; no data are needed but to see how it does on pictures
that were not drawn. See `vgsgan.negatives.inversion`.
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
from vgsgan.data.examples import PictureExample
from vgsgan.data.records import Records
from vgsgan.models import pretrained
from vgsgan.models.inverter import Inverter
from vgsgan.negatives import inversion
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train import forward, keys
from vgsgan.train.predict import Predictor, joined
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Poll, Task

# Latents of each are apart from those of the others.
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
  """The encoder of a config, and the generator that it is to invert."""

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
    """A fresh state; the generator is kept with it, and never trained."""
    size = self.config.data.image_size
    made = self.model.init(key, jnp.zeros((1, size, size, 3)))
    return TrainState.create(
      {"inverter": made["params"]},
      {"generator": jax.tree.map(jnp.asarray, self.drawn_with)},
      self.tx,
    )

  def latents(self, split: int | Array, number: Array, rows: int) -> Array:
    """Batch `number` of a split, split over the devices."""
    key = keys.of(self.config.seed, "latents", split, number)
    shape = rows, self.generator.latent_size
    z = jax.random.normal(key, shape)
    # Or every device would draw them all.
    return jax.lax.with_sharding_constraint(
      z, mesh_lib.batch_sharding(self.mesh)
    )

  def draw(self, state: TrainState, z: Array) -> Array:
    """Pictures in [-1, 1]."""
    return self.generator.apply(state.batch_stats["generator"], z, train=False)

  def stored(self, state: TrainState, z: Array) -> Array:
    """The same, rounded as a stored picture is."""
    return 2 * features.quantize(0.5 + 0.5 * self.draw(state, z)) - 1

  def encode(self, params: Any, pictures: Array) -> Array:
    return self.model.apply({"params": params["inverter"]}, pictures)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update; of the batch only its size is used."""
    z = self.latents(SPLITS["train"], state.step, len(batch["image"]))
    pictures = self.stored(state, z)

    def loss(params):
      def network(stats, pictures):
        found = self.encode(params, pictures)
        return (found, self.draw(state, found)), stats

      (found, again), _ = forward.apply(
        self.config.train, network, {}, pictures
      )
      parts = {
        "latent_error": jnp.mean(jnp.square(found - z)),
        "picture_error": jnp.mean(inversion.misfit(again, pictures)),
      }
      return sum(parts.values()), (parts, state.batch_stats)

    return state.minimise(loss, self.tx, self.rate)

  def look(self, state: TrainState, pictures: Array) -> dict[str, Array]:
    """What is found in pictures in [-1, 1], with and without the steps."""

    def draw(z):
      return self.draw(state, z)

    def encode(pictures):
      return self.encode(state.params, pictures)

    guess = inversion.invert(draw, encode, pictures, 0)
    found = inversion.invert(
      draw, lambda _: guess.latent, pictures, self.config.inversion.steps
    )
    return {"picture": pictures, "guess": guess.error, **found._asdict()}

  def look_at_drawn(self, state: TrainState, split: Array, number: Array):
    """The same of pictures drawn here, and their latents."""
    z = self.latents(split, number, self.config.eval.batch)
    return self.look(state, self.stored(state, z)) | {"true": z}

  def look_at_stored(self, state: TrainState, batch: Batch):
    """The same of a batch of records."""
    pictures = batch["image"].astype(jnp.float32) / 127.5 - 1
    return self.look(state, pictures)


def figures(
  rows: dict[str, np.ndarray], control: np.ndarray, limit: float
) -> dict[str, Any]:
  """Errors and shares, each with what another picture's latent gives.

  Args:
    rows: `guess` and `error` of each picture and, where they are known, `true`
      latents besides those found, `latent`.
    control: errors of what is drawn from the next picture's latent.
    limit: of the gate.
  """

  def both(figure, value, chance):
    return {"value": float(figure(value)), "chance": float(figure(chance))}

  found = {
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
      found[f"latent_{name}"] = both(
        lambda z, figure=figure: figure(rows["true"], z), *latents
      )
  return found


def r2(
  true: Float[np.ndarray, "n z"], found: Float[np.ndarray, "n z"]
) -> float:
  """The share of the variance of all numbers that is explained."""
  left = np.sum((true - found) ** 2)
  return float(1 - left / np.sum((true - true.mean(0)) ** 2))


def correlation(
  true: Float[np.ndarray, "n z"], found: Float[np.ndarray, "n z"]
) -> float:
  """Pearson's, of each number of the latent, and the mean of them."""
  true, found = true - true.mean(0), found - found.mean(0)
  lengths = np.sqrt((true**2).sum(0) * (found**2).sum(0))
  return float(np.mean((true * found).sum(0) / np.maximum(lengths, 1e-12)))


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what the task cannot be made of."""
  check_optimizer(config.optim, "optim")


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """The task on these splits."""
  model = Inversion(config, mesh)
  everywhere = mesh_lib.replicated(mesh)
  look_at_drawn = jax.jit(model.look_at_drawn, out_shardings=everywhere)
  stored = Predictor(model.look_at_stored, PictureExample(), config, mesh)
  compare = jax.jit(inversion.relative_error)
  size = config.eval.batch

  def drawn(state: TrainState, split: str, poll: Poll) -> Rows:
    parts = []
    for first in range(0, config.eval.samples, size):
      poll()
      chosen = np.int32(SPLITS[split]), np.int32(first // size)
      rows = look_at_drawn(state, *jax.device_put(chosen, everywhere))
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
    transform=PictureExample(),
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=lambda results: -results["stored"]["error"]["value"],
    selection="least median error on stored pictures",
  )
