"""BigGAN on a rendered world: the generator that draws hard negatives.

Brock, Donahue and Simonyan (ICLR 2019): hinge loss, two time scales, spectral
norm, orthogonal regularisation, an average of the generator's weights. For
small budgets there are the gradient penalty R1 (Mescheder et al., ICML 2018)
and differentiable shifts of the discriminator's inputs (Zhao et al., NeurIPS
2020).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_at_least, check_one_of
from vgsgan.data import augment
from vgsgan.data.records import Records
from vgsgan.losses import generative
from vgsgan.models.discriminator import Discriminator
from vgsgan.models.generator import Generator
from vgsgan.tasks.alternating import Alternating
from vgsgan.tasks.gan_evaluation import FEWEST, Evaluation
from vgsgan.tasks.gan_worlds import WORLDS, Scenes
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState, check_optimizer
from vgsgan.train.task import Batch, Task

NETWORKS = ("discriminator", "generator")
NEEDS = (
  "gan",
  "optim.generator",
  "optim.discriminator",
  "data.image_size",
  "eval.samples",
  "eval.recogniser",
)


class StepNoise(NamedTuple):
  """The random draws of one training step.

  Attributes:
    first: latents of the discriminator's drawn images.
    second: latents of the generator's loss.
    shifts: keys for shifting real images, and the images of both latents.
  """

  first: Float[Array, "b z"]
  second: Float[Array, "b z"]
  shifts: Key[Array, "n"]


class Gan(Alternating):
  """The two networks of a config and their losses."""

  def __init__(self, config: ml_collections.ConfigDict):
    check(config)
    model = config.gan
    self.world = WORLDS[config.data.dataset]
    num_labels = self.world.num_labels if model.labels else 0
    dtype = forward.dtype(config.train)
    self.config = config
    self.generator = Generator(
      tuple(model.channels),
      model.chunk,
      model.attention,
      num_labels,
      model.spectral,
      dtype,
    )
    self.discriminator = Discriminator(
      tuple(model.discriminator_channels),
      model.discriminator_attention,
      num_labels,
      model.discriminator_spectral,
      dtype,
    )
    self.modules = {
      "discriminator": self.discriminator,
      "generator": self.generator,
    }
    self.prepare(model.average)
    with building("config.gan"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state; `batch_stats.average` is the averaged generator."""
    key_generator, key_discriminator = jax.random.split(key)
    size = self.generator.image_size
    labels = None
    if self.config.gan.labels:
      labels = jnp.zeros((1, self.world.num_labels))
    latent = jnp.zeros((1, self.generator.latent_size))
    image = jnp.zeros((1, size, size, 3))
    return self.start(
      {
        "discriminator": self.discriminator.init(
          key_discriminator, image, labels, train=False
        ),
        "generator": self.generator.init(
          key_generator, latent, labels, train=False
        ),
      }
    )

  def inputs(self, batch: Batch) -> tuple[Array, Array | None]:
    """Real images in [-1, 1], and their words if the networks have labels."""
    real = batch["image"].astype(jnp.float32) / 127.5 - 1
    if not self.config.gan.labels:
      return real, None
    return real, self.world.labels(batch["attributes"])

  def noise(self, step: Array, rows: int) -> StepNoise:
    """Draws the latents and the shifts of a step."""
    seed, size = self.config.seed, (2, rows, self.generator.latent_size)
    latents = jax.random.normal(keys.of(seed, "noise", step), size)
    shifts = jax.random.split(keys.of(seed, "augment", step), 3)
    return StepNoise(*latents, shifts)

  def generate(self, params, stats, inputs, noise) -> tuple[Array, Any]:
    """Images of the first latents, and the new statistics."""
    return self.draw(params, stats, noise.first, inputs[1])

  def draw(self, params, stats, latent, labels) -> tuple[Array, Any]:
    """Images in training mode, and the new statistics."""
    network = forward.bind(self.generator, params)
    return forward.apply(self.config.train, network, stats, latent, labels)

  def judge(self, params, stats, images, labels, train=False):
    """Scores, and the new statistics."""
    network = forward.bind(self.discriminator, params, train)
    return forward.apply(self.config.train, network, stats, images, labels)

  def shifted(self, key, images):
    return augment.shift_and_flip(key, images, self.config.gan.shift, False)

  def discriminator_loss(self, own, params, stats, inputs, noise):
    """The hinge loss and R1; (metrics, new statistics)."""
    (real, labels), use = inputs, self.config.gan
    drawn, _ = self.generate(
      params["generator"], stats["generator"], inputs, noise
    )
    real = self.shifted(noise.shifts[0], real)
    drawn = self.shifted(noise.shifts[1], drawn)
    # Real and drawn alternate, so that each row stays on its device.
    both = jnp.stack([real, drawn], 1).reshape(-1, *real.shape[1:])
    twice = None if labels is None else jnp.repeat(labels, 2, axis=0)
    scores, new = self.judge(
      own, stats["discriminator"], both, twice, train=True
    )
    on_real, on_drawn = scores[::2], scores[1::2]
    loss = generative.hinge(on_real, on_drawn)
    metrics = {
      "score_real": jnp.mean(on_real),
      "score_drawn": jnp.mean(on_drawn),
      "right": 0.5 * (jnp.mean(on_real > 0) + jnp.mean(on_drawn < 0)),
    }
    if use.r1:
      # Rows at equal distances, so that each device has its share.
      rows = slice(None, None, use.r1_rows)
      their_labels = None if labels is None else labels[rows]
      metrics["r1"] = generative.penalty_r1(
        lambda x: self.judge(own, stats["discriminator"], x, their_labels)[0],
        real[rows],
      )
      loss = loss + 0.5 * use.r1 * metrics["r1"]
    return loss, (metrics, new)

  def generator_loss(self, own, params, stats, inputs, noise):
    """The loss that makes drawn images score high; (metrics, statistics)."""
    _, labels = inputs
    drawn, new = self.draw(own, stats["generator"], noise.second, labels)
    scores, _ = self.judge(
      params["discriminator"],
      stats["discriminator"],
      self.shifted(noise.shifts[2], drawn),
      labels,
    )
    loss = -jnp.mean(scores)
    if self.config.gan.orthogonal:
      # The embedding of the labels, which all blocks share, is exempt.
      weights = {k: v for k, v in own.items() if k != "shared"}
      penalty = generative.orthogonality(weights)
      loss = loss + self.config.gan.orthogonal * penalty
    return loss, ({}, new)

  def sample(self, state: TrainState, latent, labels=None) -> Array:
    """Images of the averaged generator, in [0, 1]."""
    images = self.generator.apply(
      state.batch_stats["average"], latent, labels, train=False
    )
    return 0.5 + 0.5 * images


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_one_of("data.dataset", config.data.dataset, tuple(WORLDS))
  for name in NETWORKS:
    check_optimizer(config.optim[name], f"optim.{name}")
  channels, size = tuple(config.gan.channels), config.data.image_size
  drawn_size = Generator(channels, config.gan.chunk).image_size
  if size != drawn_size:
    raise UserError(
      f"config.data.image_size={size}, but {len(channels)} entries in "
      f"config.gan.channels draw {drawn_size} pixels a side: make them agree"
    )
  check_at_least("eval.samples", config.eval.samples, FEWEST)


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Gan(config)
  evaluation = Evaluation(model, mesh, splits)
  return Task(
    transform=model.world.transform,
    init=model.init,
    step=model.step,
    evaluate=evaluation,
    select=model.world.select,
    selection=model.world.selection if config.gan.labels else Scenes.selection,
    images=evaluation.sheet,
  )
