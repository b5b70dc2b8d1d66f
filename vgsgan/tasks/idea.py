"""Generation from audio-visual correspondence: one representation of both.

Pictures and their sounds are encoded apart, mixed into one latent, and decoded
apart. In training a share of the rows lacks the picture, and as many the sound,
so that either is generated from the other. By `config.idea.kind`:

  ae        squared errors e of both:           weight * (e_picture + e_sound)
  vae       and what the latent says, in nats:  + kl_weight * KL(q(z) | N(0, I))
  gan       the errors, and a game of two:      - log D(generated)
  vae-gan   all three

D is an audio-visual correspondence network (L3-Net) that learns on the way:
real pictures with their own sounds are real, real pictures with the sounds of
other clips of the batch are not, and what is generated is not. Where one of the
two was missing, what is generated for it stands beside the real other; where
both were there, both are generated. So what is drawn has to look and sound
right, and to belong together.

An error is a mean over n numbers, so that weight w and kl_weight k make an
evidence lower bound of normal numbers of variance k n / 2w around what is
decoded, one for pictures and one for sounds. New pairs come of latents that are
normal with the mean and covariance of those of the training clips, the
likeliest of each (Ghosh et al., ICLR 2020, section 4), and, where latents are
trained towards N(0, I), of that as well.
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
  """A batch as the losses see it.

  Attributes:
    pair: pictures and spectrograms, see `Idea.pair`.
    clip: which clip each is; of equal ones nothing is mismatched.
  """

  pair: Pair
  clip: Int[Array, "b"]


class StepNoise(NamedTuple):
  """The random draws of one training step.

  Attributes:
    keep: which of (picture, sound) each row keeps.
    latent: noise of the latents; None if they are not drawn.
  """

  keep: Bool[Array, "b 2"]
  latent: Float[Array, "b z"] | None


class Idea(Alternating):
  """The networks of a config and how they are trained."""

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
    """Two rows of zeros, shaped as `pair` is."""
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
    """Pictures, and spectrograms of one channel, in [-1, 1]."""
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
    """Draws what each row keeps, and the noise of its latent."""
    use, latent = self.config.idea, None
    key_keep, key_latent = jax.random.split(
      keys.of(self.config.seed, "noise", step)
    )
    if self.variational:
      latent = jax.random.normal(key_latent, (rows, use.latent))
    return StepNoise(drop_one(key_keep, rows, use.drop), latent)

  def generate(self, params, stats, inputs, noise):
    """The pair made again and its latent's distribution; new statistics."""
    return self.apply("generator", params, stats, inputs.pair, *noise)

  def shown(self, real: Pair, made: Pair, keep: Bool[Array, "b 2"]) -> Pair:
    """The generated pair of each row, beside what was kept alone, if it was."""
    alone = (keep & ~keep[:, ::-1]).T[..., None, None, None]
    return tuple(jnp.where(*row) for row in zip(alone, real, made, strict=True))

  def discriminator_loss(self, own, params, stats, inputs, noise):
    """Of telling real pairs from generated and from mismatched ones."""
    (made, _), _ = self.generate(
      params["generator"], stats["generator"], inputs, noise
    )
    told, new = self.apply(
      "discriminator",
      own,
      stats["discriminator"],
      inputs.pair,
      self.shown(inputs.pair, made, noise.keep),
      inputs.clip,
    )
    metrics = {
      "right_matched": jnp.mean(told.matched > 0),
      "right_drawn": jnp.mean(told.drawn <= 0),
      "right_mismatched": share_where(told.mismatched <= 0, told.impostors),
    }
    loss = generative.discriminator(*told[:3], impostors=told.impostors)
    return jnp.mean(loss), (metrics, new)

  def generator_loss(self, own, params, stats, inputs, noise):
    """The sum that the module's docstring gives."""
    use = self.config.idea
    (made, known), new = self.generate(own, stats["generator"], inputs, noise)
    metrics = {
      f"error_{name}": jnp.mean(generative.squared_error(*both))
      for name, *both in zip(
        ("picture", "sound"), made, inputs.pair, strict=True
      )
    }
    loss = use.weight * sum(metrics.values())
    if self.variational:
      metrics["kl"] = jnp.mean(generative.kl_divergence(*known))
      loss = loss + use.kl_weight * metrics["kl"]
    if self.adversarial:
      told, _ = self.apply(
        "discriminator",
        params["discriminator"],
        stats["discriminator"],
        inputs.pair,
        self.shown(inputs.pair, made, noise.keep),
        inputs.clip,
      )
      metrics["surprise"] = jnp.mean(generative.non_saturating(told.drawn))
      loss = loss + metrics["surprise"]
    return loss, (metrics, new)

  def encode(
    self, state: TrainState, inputs: Pair, keep: Bool[Array, "b 2"]
  ) -> Array:
    """Latents of what is kept, those that are likeliest."""
    known = self.modules["generator"].apply(
      state.batch_stats["average"], inputs, keep, train=False, method="encode"
    )
    return known.mean

  def decode(self, state: TrainState, latent: Array) -> Pair:
    """Pictures and spectrograms of one channel, in [-1, 1]."""
    return self.modules["generator"].apply(
      state.batch_stats["average"], latent, train=False, method="decode"
    )


def share_where(
  true: Bool[Array, "b n"], counts: Bool[Array, "b n"]
) -> Float[Array, ""]:
  """The share that is true of what counts; 0 of nothing."""
  return jnp.sum(true & counts) / jnp.maximum(jnp.sum(counts), 1)


def example(data: ml_collections.ConfigDict) -> ClipExample:
  """What a record is made into, in training and in evaluation."""
  return ClipExample(int(data.seconds * data.sample_rate))


def adversarial(config: ml_collections.ConfigDict) -> bool:
  """Tells whether a discriminator is among the networks."""
  return config.idea.kind.endswith("gan")


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what the task cannot be made of."""
  check_one_of("idea.kind", config.idea.kind, KINDS)
  check_one_of(
    "data.spectrogram", config.data.spectrogram, features.SPECTROGRAMS
  )
  for name in ("generator", "discriminator"):
    check_optimizer(config.optim[name], f"optim.{name}")
  if adversarial(config):
    # Of one pair alone nothing is mismatched.
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
  """The task on these splits."""
  model = Idea(config)
  looks = figures.Looks(model, mesh, splits, example(config.data))
  return Task(
    transform=example(config.data),
    init=model.init,
    step=model.step,
    evaluate=looks.evaluate,
    select=figures.likest,
    selection="least Frechet distance of pairs, in coarse features",
    images=looks.pictures,
  )


def drop_one(
  key: Key[Array, ""], rows: int, share: float
) -> Bool[Array, "{rows} 2"]:
  """Draws the modalities that each row keeps, never neither of the two.

  Each is dropped in `share` of the rows.
  """
  place = jax.random.uniform(key, (rows,))
  dropped = jnp.stack([place < share, place >= 1 - share], axis=-1)
  return ~dropped
