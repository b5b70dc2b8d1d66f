"""Generates images and sounds from one representation of both.

Images and their sounds are encoded separately, mixed into one latent, and
decoded separately. In training a share of the rows lacks the image, and an
equal share the sound, so that each is generated from the other. The loss
depends on `config.idea.kind`:

  ae        squared errors e of both:    weight * (e_picture + e_sound)
  vae       the errors, and:             + kl_weight * KL(q(z) | N(0, I))
  gan       the errors, and:             - log D(generated)
  vae-gan   all three

D is an audio-visual correspondence network (L3-Net) that trains along. Its real
pairs are real images with their own sounds. Its false pairs are real images
with sounds of other clips of the batch, and generated pairs. If a row lacks the
image or the sound, the generated one meets the real other one; else both are
generated. So a generated pair has to look and sound real, and to belong
together.

An error is a mean over n numbers. Weight w and kl_weight k then give an
evidence lower bound for normal numbers of variance k n / 2w around the decoded
ones. New pairs are decoded from normal latents with the mean and covariance of
the training clips' latents (Ghosh et al., ICLR 2020, section 4), and for vae
and vae-gan also from N(0, I).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_at_least, check_one_of
from vgsgan.data import features
from vgsgan.data.examples import ClipExample
from vgsgan.data.records import Records
from vgsgan.losses import generative
from vgsgan.models.mixture import Mixture, Pair, PairDiscriminator
from vgsgan.tasks import idea_evaluation as figures
from vgsgan.tasks.alternating import Alternating
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState, check_optimizer
from vgsgan.train.task import Batch, Task

KINDS = ("ae", "vae", "gan", "vae-gan")
NEEDS = (
  "idea",
  "judges",
  "optim.generator",
  "optim.discriminator",
  "train.average",
  "eval.fitted",
  *features.FIELDS,
)


class Inputs(NamedTuple):
  """The losses' view of a batch.

  Attributes:
    pair: images and spectrograms; see `Idea.pair`.
    clip: ids of the clips; rows with equal ids are not mismatched.
  """

  pair: Pair
  clip: Int[Array, "b"]


class StepNoise(NamedTuple):
  """The random draws of one training step.

  Attributes:
    keep: whether each row keeps its (image, sound).
    latent: noise of the latents; None if they are not random.
  """

  keep: Bool[Array, "b 2"]
  latent: Float[Array, "b z"] | None


class Idea(Alternating):
  """The networks of a config and their losses."""

  def __init__(self, config: ml_collections.ConfigDict):
    check(config)
    self.config = config
    self.variational = config.idea.kind.startswith("vae")
    self.adversarial = adversarial(config)
    with building("config.idea or config.data"):
      self.modules = self.networks()
      self.prepare(config.train.average)
      jax.eval_shape(self.init, jax.random.key(0))

  def networks(self):
    """The discriminator, if there is one, and the generator."""
    use = self.config.idea
    shapes = tuple(x.shape[1:3] for x in self.nothing())
    decoders = tuple(use.picture_decoder), tuple(use.sound_decoder)
    for shape, widths in zip(shapes, decoders, strict=True):
      halved = 2 ** len(widths)
      if any(n % halved for n in shape):
        raise ValueError(
          f"{len(widths)} widths of a decoder need sides that are multiples of "
          f"{halved}, not {shape}"
        )
    towers = tuple(use.widths), use.pools
    dtype = forward.dtype(self.config.train)
    modules = {"discriminator": PairDiscriminator(*towers, dtype=dtype)}
    modules = modules if self.adversarial else {}
    return modules | {
      "generator": Mixture(
        use.latent, use.features, *towers, decoders, shapes, dtype
      )
    }

  def nothing(self) -> Pair:
    """Two rows of zeros with the shapes of `pair`."""
    data = self.config.data
    examples = {
      "image": ((data.image_size, data.image_size, 3), jnp.uint8),
      "waveform": ((example(data).samples,), jnp.int16),
      "num_samples": ((), jnp.int32),
    }
    shapes = jax.eval_shape(
      self.pair,
      {
        name: jax.ShapeDtypeStruct((2, *shape), dtype)
        for name, (shape, dtype) in examples.items()
      },
    )
    return tuple(jnp.zeros(x.shape, x.dtype) for x in shapes)

  def inputs(self, batch: Batch) -> Inputs:
    return Inputs(self.pair(batch), batch["clip_id"])

  def pair(self, batch: Batch) -> Pair:
    """Images, and spectrograms with one channel, in [-1, 1]."""
    sounds = features.spectrogram_of(
      self.config.data, batch["waveform"], batch["num_samples"]
    )
    return batch["image"].astype(jnp.float32) / 127.5 - 1, sounds[..., None]

  def init(self, key: Array) -> TrainState:
    """A fresh state."""
    pair = self.nothing()
    inputs = {
      "discriminator": (pair, pair, jnp.arange(2)),
      "generator": (pair, jnp.ones((2, 2), bool), None),
    }
    return self.start(
      {
        name: module.init(
          jax.random.fold_in(key, i), *inputs[name], train=False
        )
        for i, (name, module) in enumerate(self.modules.items())
      }
    )

  def noise(self, step: Array, rows: int) -> StepNoise:
    """Draws the modalities that rows keep, and the noise of their latents."""
    use, latent = self.config.idea, None
    key_keep, key_latent = jax.random.split(
      keys.of(self.config.seed, "noise", step)
    )
    if self.variational:
      latent = jax.random.normal(key_latent, (rows, use.latent))
    return StepNoise(drop_one(key_keep, rows, use.drop), latent)

  def generate(self, params, stats, inputs, noise):
    """The decoded pair and its latent's distribution; new statistics."""
    return self.apply("generator", params, stats, inputs.pair, *noise)

  def completed(
    self, real: Pair, decoded: Pair, keep: Bool[Array, "b 2"]
  ) -> Pair:
    """Decoded pairs, with the real modality where a row keeps one alone."""
    alone = (keep & ~keep[:, ::-1]).T[..., None, None, None]
    return tuple(map(jnp.where, alone, real, decoded))

  def discriminator_loss(self, own, params, stats, inputs, noise):
    """Discriminator loss: real pairs against generated and mismatched ones."""
    (decoded, _), _ = self.generate(
      params["generator"], stats["generator"], inputs, noise
    )
    logits, new = self.apply(
      "discriminator",
      own,
      stats["discriminator"],
      inputs.pair,
      self.completed(inputs.pair, decoded, noise.keep),
      inputs.clip,
    )
    metrics = {
      "right_matched": jnp.mean(logits.matched > 0),
      "right_drawn": jnp.mean(logits.drawn <= 0),
      "right_mismatched": share_where(logits.mismatched <= 0, logits.impostors),
    }
    loss = generative.discriminator(*logits[:3], impostors=logits.impostors)
    return jnp.mean(loss), (metrics, new)

  def generator_loss(self, own, params, stats, inputs, noise):
    """The loss in the module's docstring."""
    use = self.config.idea
    (decoded, latent), new = self.generate(
      own, stats["generator"], inputs, noise
    )
    metrics = {
      f"error_{name}": jnp.mean(generative.squared_error(*both))
      for name, *both in zip(
        ("picture", "sound"), decoded, inputs.pair, strict=True
      )
    }
    loss = use.weight * sum(metrics.values())
    if self.variational:
      metrics["kl"] = jnp.mean(generative.kl_divergence(*latent))
      loss = loss + use.kl_weight * metrics["kl"]
    if self.adversarial:
      logits, _ = self.apply(
        "discriminator",
        params["discriminator"],
        stats["discriminator"],
        inputs.pair,
        self.completed(inputs.pair, decoded, noise.keep),
        inputs.clip,
      )
      metrics["surprise"] = jnp.mean(generative.non_saturating(logits.drawn))
      loss = loss + metrics["surprise"]
    return loss, (metrics, new)

  def encode(
    self, state: TrainState, inputs: Pair, keep: Bool[Array, "b 2"]
  ) -> Array:
    """The means of the latents' distributions, given the kept modalities."""
    latent = self.modules["generator"].apply(
      state.batch_stats["average"], inputs, keep, train=False, method="encode"
    )
    return latent.mean

  def decode(self, state: TrainState, latent: Array) -> Pair:
    """Images and spectrograms with one channel, in [-1, 1]."""
    return self.modules["generator"].apply(
      state.batch_stats["average"], latent, train=False, method="decode"
    )


def share_where(
  true: Bool[Array, "b n"], counts: Bool[Array, "b n"]
) -> Float[Array, ""]:
  """The share of `true` among the entries that count; 0 if none do."""
  return jnp.sum(true & counts) / jnp.maximum(jnp.sum(counts), 1)


def example(data: ml_collections.ConfigDict) -> ClipExample:
  """Makes examples from records, in training and in evaluation."""
  return ClipExample(int(data.seconds * data.sample_rate))


def adversarial(config: ml_collections.ConfigDict) -> bool:
  """Tells whether a discriminator is among the networks."""
  return config.idea.kind.endswith("gan")


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_one_of("idea.kind", config.idea.kind, KINDS)
  check_one_of(
    "data.spectrogram", config.data.spectrogram, features.SPECTROGRAMS
  )
  for name in ("generator", "discriminator"):
    check_optimizer(config.optim[name], f"optim.{name}")
  if adversarial(config):
    # A single pair has no mismatched ones.
    batch, parts = config.train.batch, config.train.accumulate
    check_at_least("train.batch", batch, 2)
    if batch < 2 * parts:
      raise UserError(
        f"config.train.accumulate={parts} makes parts of one pair, in which "
        f"nothing is mismatched: lower it to {batch // 2} at most"
      )


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Idea(config)
  evaluation = figures.Evaluation(model, mesh, splits, example(config.data))
  return Task(
    transform=example(config.data),
    init=model.init,
    step=model.step,
    evaluate=evaluation.evaluate,
    select=figures.likest,
    selection="least Frechet distance of pairs, in coarse features",
    images=evaluation.images,
  )


def drop_one(
  key: Key[Array, ""], rows: int, share: float
) -> Bool[Array, "{rows} 2"]:
  """Draws the modalities that each row keeps: at least one of the two.

  Each modality is dropped in `share` of the rows.
  """
  place = jax.random.uniform(key, (rows,))
  dropped = jnp.stack([place < share, place >= 1 - share], axis=-1)
  return ~dropped
