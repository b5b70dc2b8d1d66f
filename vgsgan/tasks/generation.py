"""Generates images alone, by `config.generation.kind`:

  ae    squared error of an image decoded from its own latent
  vae   squared error + kl_weight * KL(q(z | x) | N(0, I)), z drawn from q
        (Kingma and Welling, ICLR 2014)
  gan   min over G, max over D of E log D(x) + E log(1 - D(G(z))), z ~ N(0, I)
        (Goodfellow et al., NIPS 2014)

The error is a mean over n numbers. With kl_weight k the loss then is, up to a
constant, k times the negative evidence lower bound of normal pixels of variance
k n / 2. New images of an autoencoder are decoded from normal latents with the
mean and covariance of the training images' latents (Ghosh et al., ICLR 2020,
section 4). A variational one also decodes latents of N(0, I).

`generation.loss` is the loss of G: 'minimax' minimises log(1 - D(G(z))),
'non_saturating' maximises log D(G(z)). `generation.network` 'dcgan' has the
discriminator and the initial kernels of Radford, Metz and Chintala (ICLR 2016);
nearest-neighbour upsampling replaces transposed convolutions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_one_of
from vgsgan.data.examples import ImageExample
from vgsgan.data.records import Records
from vgsgan.losses import generative
from vgsgan.models.decoders import (
  Autoencoder,
  DcganDiscriminator,
  Decoder,
  Encoder,
)
from vgsgan.tasks import generation_evaluation as figures
from vgsgan.tasks.alternating import Alternating
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState, check_optimizer
from vgsgan.train.task import Batch, Task

KINDS = ("ae", "vae", "gan")
NETWORKS = ("plain", "dcgan")
NEEDS = (
  "generation",
  "judges",
  "optim.generator",
  "optim.discriminator",
  "train.average",
  "eval.fitted",
  "data.image_size",
)


class ImageModel(Alternating):
  """Base of all kinds; their generator is a decoder, or has one."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config
    self.modules = self.networks()
    self.prepare(config.train.average)
    with building("config.generation"):
      jax.eval_shape(self.init, jax.random.key(0))

  def inputs(self, batch: Batch) -> Array:
    """Images in [-1, 1]."""
    return batch["image"].astype(jnp.float32) / 127.5 - 1

  def noise(self, step: Array, rows: int) -> Array:
    """Standard normal numbers [rows, latent]."""
    key = keys.of(self.config.seed, "noise", step)
    return jax.random.normal(key, (rows, self.config.generation.latent))

  def blank(self) -> Array:
    """A batch of one grey image, for initialisation."""
    side = self.config.data.image_size
    return jnp.zeros((1, side, side, 3))


class Autoencoding(ImageModel):
  """The kinds ae and vae."""

  def networks(self) -> dict[str, nn.Module]:
    use = self.config.generation
    return {
      "generator": Autoencoder(
        use.latent,
        tuple(use.widths),
        use.pools,
        tuple(use.decoder),
        self.config.data.image_size,
        forward.dtype(self.config.train),
      )
    }

  def init(self, key: Array) -> TrainState:
    variables = self.modules["generator"].init(
      key, self.blank(), None, train=False
    )
    return self.start({"generator": variables})

  def generate(self, params, stats, inputs, noise):
    noise = noise if self.config.generation.kind == "vae" else None
    return self.apply("generator", params, stats, inputs, noise)

  def generator_loss(self, own, params, stats, inputs, noise):
    del params
    (decoded, latent), new = self.generate(
      own, stats["generator"], inputs, noise
    )
    error = jnp.mean(generative.squared_error(decoded, inputs))
    kl = jnp.mean(generative.kl_divergence(*latent))
    loss, metrics = error, {"error": error}
    if self.config.generation.kind == "vae":
      loss = error + self.config.generation.kl_weight * kl
      metrics["kl"] = kl
    return loss, (metrics, new)

  def encode(self, state: TrainState, inputs: Array) -> Array:
    """The means of the latents' distributions."""
    latent = self.modules["generator"].apply(
      state.batch_stats["average"], inputs, train=False, method="encode"
    )
    return latent.mean

  def decode(self, state: TrainState, latent: Array) -> Array:
    """Images in [-1, 1]."""
    return self.modules["generator"].apply(
      state.batch_stats["average"], latent, train=False, method="decode"
    )


class Adversarial(ImageModel):
  """The kind gan: images of random latents, against a discriminator."""

  def networks(self) -> dict[str, nn.Module]:
    use, side = self.config.generation, self.config.data.image_size
    bottom = side // 2 ** len(use.decoder)
    shape = (bottom, bottom), tuple(use.decoder), 3
    widths, dtype = tuple(use.widths), forward.dtype(self.config.train)
    if use.network == "dcgan":
      init = nn.initializers.normal(0.02)
      discriminator = DcganDiscriminator(widths, dtype)
      generator = Decoder(*shape, init, init, dtype)
    else:
      discriminator = Encoder(1, widths, use.pools, dtype)
      generator = Decoder(*shape, dtype=dtype)
    return {"discriminator": discriminator, "generator": generator}

  def init(self, key: Array) -> TrainState:
    inputs = {
      "discriminator": self.blank(),
      "generator": jnp.zeros((1, self.config.generation.latent)),
    }
    return self.start(
      {
        name: self.modules[name].init(
          jax.random.fold_in(key, i), x, train=False
        )
        for i, (name, x) in enumerate(inputs.items())
      }
    )

  def generate(self, params, stats, inputs, noise):
    del inputs
    return self.apply("generator", params, stats, noise)

  def judge(self, params, stats, real: Array, drawn: Array):
    """Logits of real and of drawn images, and new statistics.

    Both pass together, so that normalisation is the same for both.
    """
    network = forward.bind(self.modules["discriminator"], params)

    def judge_both(stats, real, drawn):
      # Real and drawn alternate, so that each row stays on its device.
      both = jnp.stack([real, drawn], 1).reshape(-1, *real.shape[1:])
      logits, new = network(stats, both)
      return (logits[::2, 0], logits[1::2, 0]), new

    return forward.apply(self.config.train, judge_both, stats, real, drawn)

  def discriminator_loss(self, own, params, stats, inputs, noise):
    drawn, _ = self.generate(
      params["generator"], stats["generator"], inputs, noise
    )
    (real, drawn), new = self.judge(own, stats["discriminator"], inputs, drawn)
    metrics = {
      "right_real": jnp.mean(real > 0),
      "right_drawn": jnp.mean(drawn < 0),
    }
    return jnp.mean(generative.discriminator(real, drawn)), (metrics, new)

  def generator_loss(self, own, params, stats, inputs, noise):
    drawn, new = self.generate(own, stats["generator"], inputs, noise)
    (_, logits), _ = self.judge(
      params["discriminator"], stats["discriminator"], inputs, drawn
    )
    loss = generative.GENERATOR_LOSSES[self.config.generation.loss]
    return jnp.mean(loss(logits)), ({}, new)

  def decode(self, state: TrainState, latent: Array) -> Array:
    """Images in [-1, 1]."""
    return self.modules["generator"].apply(
      state.batch_stats["average"], latent, train=False
    )


def model_of(config: ml_collections.ConfigDict) -> Autoencoding | Adversarial:
  """The networks of `config.generation.kind`."""
  check(config)
  gan = config.generation.kind == "gan"
  return Adversarial(config) if gan else Autoencoding(config)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  use, side = config.generation, config.data.image_size
  check_one_of("generation.kind", use.kind, KINDS)
  check_one_of("generation.network", use.network, NETWORKS)
  check_one_of("generation.loss", use.loss, tuple(generative.GENERATOR_LOSSES))
  for name in ("generator", "discriminator"):
    check_optimizer(config.optim[name], f"optim.{name}")
  halved = 2 ** len(use.decoder)
  if side % halved:
    raise UserError(
      f"config.generation.decoder: {len(use.decoder)} widths need "
      f"config.data.image_size to be a multiple of {halved}, not {side}"
    )


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = model_of(config)
  gan = config.generation.kind == "gan"
  evaluation = figures.Evaluation(model, mesh, splits)
  return Task(
    transform=ImageExample(),
    init=model.init,
    step=model.step,
    evaluate=evaluation.evaluate,
    select=figures.likest if gan else figures.nearest,
    selection="least Frechet distance" if gan else "least squared error",
    images=evaluation.images,
  )
