"""BigGAN on the scenes: the generator that draws hard negatives.

Brock, Donahue and Simonyan (ICLR 2019): hinge loss, two time scales, spectral
norm, orthogonal regularisation, an average of the generator's weights. For
small budgets, the gradient penalty R1 (Mescheder et al., ICML 2018) and
differentiable shifts of all that the discriminator sees (Zhao et al., NeurIPS
2020) stand beside them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_at_least
from vgsgan.data import augment, pipeline
from vgsgan.data.examples import decode
from vgsgan.data.scenes import SceneExample
from vgsgan.evals import frechet, judging
from vgsgan.losses import adversarial
from vgsgan.models import pretrained
from vgsgan.models.discriminator import Discriminator
from vgsgan.models.generator import Generator
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Task
from vgsgan.worlds.attributes import WORDS

NETWORKS = ("generator", "discriminator")
NEEDS = (
  "gan",
  "optim.generator",
  "optim.discriminator",
  "data.image_size",
  "eval.samples",
  "eval.truncation",
  "eval.recogniser",
)
_FEWEST = 8  # Pictures: halves of the real ones are compared.


class Gan:
  """The two networks of a config and what is computed with them."""

  def __init__(self, config: ml_collections.ConfigDict):
    check(config)
    model = config.gan
    num_labels = len(WORDS) if model.labels else 0
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
    steps = config.train.steps
    self.tx = {name: optimizer(config.optim[name], steps) for name in NETWORKS}
    self.rates = {
      name: schedule(config.optim[name], steps) for name in NETWORKS
    }
    with building("config.gan"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state; `batch_stats.average` is the averaged generator."""
    key_generator, key_discriminator = jax.random.split(key)
    size = self.generator.image_size
    labels = jnp.zeros((1, len(WORDS))) if self.config.gan.labels else None
    made = {
      "generator": self.generator.init(
        key_generator,
        jnp.zeros((1, self.generator.latent_size)),
        labels,
        train=False,
      ),
      "discriminator": self.discriminator.init(
        key_discriminator, jnp.zeros((1, size, size, 3)), labels, train=False
      ),
    }
    params = {name: made[name]["params"] for name in NETWORKS}
    stats = {name: made[name].get("batch_stats", {}) for name in NETWORKS}
    stats["average"] = {
      # A copy: the same buffer cannot be donated twice.
      "params": jax.tree.map(jnp.copy, params["generator"]),
      "batch_stats": jax.tree.map(jnp.copy, stats["generator"]),
    }
    opt_state = {name: self.tx[name].init(params[name]) for name in NETWORKS}
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state)

  def draw(self, params, stats, latent, labels) -> tuple[Array, Any]:
    """Pictures, in training mode, and the new statistics."""
    network = forward.network(self.generator, params)
    return forward.run(self.config.train, network, stats, latent, labels)

  def judge(self, params, stats, images, labels, train=False):
    """Scores, and the new statistics."""
    network = forward.network(self.discriminator, params, train)
    return forward.run(self.config.train, network, stats, images, labels)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update of the discriminator and then one of the generator."""
    seed, step = self.config.seed, state.step
    moved = jax.random.split(keys.of(seed, "augment", step), 3)
    real = batch["image"].astype(jnp.float32) / 127.5 - 1
    labels = None
    if self.config.gan.labels:
      labels = adversarial.words_present(batch["attributes"])
    latents = jax.random.normal(
      keys.of(seed, "noise", step),
      (2, len(real), self.generator.latent_size),
    )
    params, stats = dict(state.params), dict(state.batch_stats)
    opt_state = dict(state.opt_state)

    drawn, _ = self.draw(
      params["generator"], stats["generator"], latents[0], labels
    )
    (loss_d, (metrics, stats["discriminator"])), grads_d = jax.value_and_grad(
      self.discriminator_loss, has_aux=True
    )(
      params["discriminator"],
      stats["discriminator"],
      self.shifted(moved[0], real),
      self.shifted(moved[1], drawn),
      labels,
    )
    self.update("discriminator", params, opt_state, grads_d)

    (loss_g, stats["generator"]), grads_g = jax.value_and_grad(
      self.generator_loss, has_aux=True
    )(params["generator"], params, stats, latents[1], labels, moved[2])
    self.update("generator", params, opt_state, grads_g)
    stats["average"] = self.averaged(
      state.step, params, stats["average"], latents[0], labels
    )
    metrics = metrics | {
      "loss": loss_d + loss_g,
      "loss_discriminator": loss_d,
      "loss_generator": loss_g,
      "grad_norm": optax.global_norm((grads_d, grads_g)),
      "grad_norm_discriminator": optax.global_norm(grads_d),
      "grad_norm_generator": optax.global_norm(grads_g),
      "learning_rate": self.rates["generator"](state.step),
    }
    return TrainState(state.step + 1, params, stats, opt_state), metrics

  def shifted(self, key, images):
    return augment.shift_and_flip(key, images, self.config.gan.shift, False)

  def discriminator_loss(self, params, stats, real, drawn, labels):
    """Hinge loss and R1; new statistics."""
    # In turns, so that each stays on its device.
    both = jnp.stack([real, drawn], 1).reshape(-1, *real.shape[1:])
    twice = None if labels is None else jnp.repeat(labels, 2, axis=0)
    scores, new = self.judge(params, stats, both, twice, train=True)
    on_real, on_drawn = scores[::2], scores[1::2]
    loss = adversarial.hinge(on_real, on_drawn)
    metrics = {
      "score_real": jnp.mean(on_real),
      "score_drawn": jnp.mean(on_drawn),
      "right": 0.5 * (jnp.mean(on_real > 0) + jnp.mean(on_drawn < 0)),
    }
    if self.config.gan.r1:
      # Every so many rows, so that each device has its share of them.
      few = slice(None, None, self.config.gan.r1_rows)
      some = None if labels is None else labels[few]
      r1 = adversarial.penalty_r1(
        lambda x: self.judge(params, stats, x, some)[0], real[few]
      )
      loss = loss + 0.5 * self.config.gan.r1 * r1
      metrics["r1"] = r1
    return loss, (metrics, new)

  def generator_loss(self, params, all_params, stats, latent, labels, key):
    """Drawn pictures are to score high; new statistics."""
    drawn, new = self.draw(params, stats["generator"], latent, labels)
    scores, _ = self.judge(
      all_params["discriminator"],
      stats["discriminator"],
      self.shifted(key, drawn),
      labels,
    )
    loss = -jnp.mean(scores)
    if self.config.gan.orthogonal:
      # Not on the embedding of the labels, which all blocks share.
      weights = {k: v for k, v in params.items() if k != "shared"}
      penalty = adversarial.orthogonality(weights)
      loss = loss + self.config.gan.orthogonal * penalty
    return loss, new

  def update(self, name: str, params, opt_state, grads) -> None:
    """Replaces one network's entries by what its optimiser makes of them."""
    updates, opt_state[name] = self.tx[name].update(
      grads, opt_state[name], params[name]
    )
    params[name] = optax.apply_updates(params[name], updates)

  def averaged(self, step: Int[Array, ""], params, average, latent, labels):
    """The averaged generator after a step, its own statistics noted."""
    # As short as the run so far, so that the start is soon forgotten.
    decay = jnp.minimum(self.config.gan.average, (1.0 + step) / (10.0 + step))
    weights = jax.tree.map(
      lambda a, b: decay * a + (1 - decay) * b,
      average["params"],
      params["generator"],
    )
    some = None if labels is None else labels[::2]
    _, stats = self.draw(weights, average["batch_stats"], latent[::2], some)
    return {"params": weights, "batch_stats": stats}

  def sample(self, state: TrainState, latent, labels=None) -> Array:
    """Pictures of the averaged generator, in [0, 1]."""
    images = self.generator.apply(
      state.batch_stats["average"], latent, labels, train=False
    )
    return 0.5 + 0.5 * images


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
  """Pictures [n, s, s, 3] in [0, 1] side by side, as one of uint8."""
  n, s = len(images) // columns, images.shape[1]
  pixels = np.clip(images * 255, 0, 255).astype(np.uint8)
  rows = pixels[: n * columns].reshape(n, columns, s, s, 3)
  return rows.transpose(0, 2, 1, 3, 4).reshape(n * s, columns * s, 3)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what the task cannot be made of."""
  for name in NETWORKS:
    check_optimizer(config.optim[name], f"optim.{name}")
  channels, size = tuple(config.gan.channels), config.data.image_size
  made = Generator(channels, config.gan.chunk).image_size
  if size != made:
    raise UserError(
      f"config.data.image_size={size}, but {len(channels)} entries in "
      f"config.gan.channels draw {made} pixels a side: make them agree"
    )
  check_at_least("eval.samples", config.eval.samples, _FEWEST)


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, pipeline.Records],
) -> Task:
  """The task on these splits."""
  model = Gan(config)
  for split in ("validation", "test"):
    check_at_least(f"data.num_{split}", len(splits[split]), _FEWEST)
  look = judging.looker(pretrained.load_recogniser(config.eval.recogniser))
  draw = jax.jit(model.sample, out_shardings=mesh_lib.replicated(mesh))

  def samples(state: TrainState, records, count: int) -> Iterator[np.ndarray]:
    """`count` drawn pictures; the same latents at every call."""
    rows = config.eval.batch
    for first in range(0, count, rows):
      key = keys.of(config.seed, "samples", first)
      latent = adversarial.truncated(
        key, (rows, model.generator.latent_size), config.eval.truncation
      )
      labels = None
      if config.gan.labels:
        chosen = [records[i % len(records)] for i in range(first, first + rows)]
        told = np.stack([r["attributes"] for r in chosen])
        labels = adversarial.words_present(
          jax.device_put(told.astype(np.int32))
        )
      drawn = jax.device_get(draw(state, latent, labels))
      yield drawn[: min(rows, count - first)]

  def evaluate(
    state: TrainState, split: str, poll: Callable[[], None]
  ) -> dict[str, Any]:
    drawn = []
    for images in samples(state, splits[split], config.eval.samples):
      poll()
      drawn.append(images)
    drawn = np.concatenate(drawn)
    real = np.stack([decode(r["image"]) for r in splits[split]]) / 255.0
    return judging.score(look, real.astype(np.float32), drawn) | {
      "frechet_pixels": frechet.frechet(coarse(real), coarse(drawn))
    }

  def pictures(state: TrainState) -> dict[str, np.ndarray]:
    # The batch may be larger, so that every device has as many.
    count = min(config.eval.batch, config.eval.samples)
    drawn = next(samples(state, splits["validation"], count))
    return {"samples": sheet(drawn, min(16, len(drawn)))}

  return Task(
    transform=SceneExample(),
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=lambda results: -results["frechet_distance"]["value"],
    selection="Frechet distance",
    pictures=pictures,
  )


def coarse(images: np.ndarray) -> np.ndarray:
  """Means over 8 x 8 places: features [n, 192] that nothing was trained for."""
  n, s = images.shape[:2]
  return images.reshape(n, 8, s // 8, 8, s // 8, 3).mean((2, 4)).reshape(n, -1)
