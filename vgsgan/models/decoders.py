"""Encoders to latents, decoders from them, and what tells real from generated.

For pictures alone, and for pairs of picture and sound that pass through one
representation. DCGAN: Radford, Metz and Chintala, "Unsupervised Representation
Learning with Deep Convolutional Generative Adversarial Networks" (ICLR 2016).
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from vgsgan.models.correspondence import Tower, global_max
from vgsgan.models.image import space_to_depth
from vgsgan.models.layers import DoubledConv2D, Norm

Pair = tuple[Float[Array, "b s s 3"], Float[Array, "b t f 1"]]


class Normal(NamedTuple):
  """Independent normal numbers: mean and logarithm of the variance, [b, z]."""

  mean: Float[Array, "b z"]
  log_variance: Float[Array, "b z"]


class Encoder(nn.Module):
  """A tower, and one linear layer on its whole map.

  Nothing is pooled over the map: a decoder has to know where things are.

  Attributes:
    outputs: numbers of each row.
    widths: of the tower.
    pools: how many of its first stages are followed by a pool of 2 x 2.
  """

  outputs: int
  widths: tuple[int, ...]
  pools: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b {self.outputs}"]:
    x = tower(self.widths, self.pools)(x, train)
    return nn.Dense(self.outputs, name="head")(x.reshape(len(x), -1))


def tower(widths: tuple[int, ...], pools: int) -> Tower:
  """With pools after the first few stages."""
  return Tower(widths, tuple(i < pools for i in range(len(widths))))


class Decoder(nn.Module):
  """Latents to pictures, or to spectrograms, in [-1, 1].

  A linear layer to a small map, whose sides are doubled by nearest neighbours
  before each convolution: on a CPU that is faster than transposed ones.
  Channels folded into the last doubling (Shi et al., CVPR 2016) would leave
  checkerboards that a discriminator does not mend.

  Attributes:
    bottom: height and width of the small map.
    widths: channels of the small map, and of each that is twice as large.
    channels: of the result, whose sides are 2**len(widths) times the bottom's.
    kernel_init: of all kernels but the last.
    last_init: of the last convolution.
  """

  bottom: tuple[int, int]
  widths: tuple[int, ...]
  channels: int
  kernel_init: Callable = nn.initializers.he_normal()
  last_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(
    self, latent: Float[Array, "b z"], train: bool
  ) -> Float[Array, "b h w {self.channels}"]:
    h, w = self.bottom
    first = self.widths[0]
    linear = nn.Dense(
      h * w * first, use_bias=False, kernel_init=self.kernel_init, name="bottom"
    )
    x = linear(latent).reshape(-1, h, w, first)
    x = nn.relu(Norm(name="norm")(x, train))
    for i, units in enumerate(self.widths[1:], start=1):
      conv = DoubledConv2D(
        units, use_bias=False, kernel_init=self.kernel_init, name=f"up{i}"
      )
      x = nn.relu(Norm(name=f"norm{i}")(conv(x), train))
    last = DoubledConv2D(self.channels, kernel_init=self.last_init, name="last")
    return jnp.tanh(last(x))


class Autoencoder(nn.Module):
  """Pictures to latents and back.

  Attributes:
    latent: numbers of each latent.
    widths: of the encoder's tower.
    pools: as in `Encoder`.
    decoder: widths of the decoder.
    side: of the pictures.
  """

  latent: int
  widths: tuple[int, ...]
  pools: int
  decoder: tuple[int, ...]
  side: int

  def setup(self):
    self.encoder = Encoder(2 * self.latent, self.widths, self.pools)
    bottom = self.side // 2 ** len(self.decoder)
    self.decoder_ = Decoder((bottom, bottom), self.decoder, 3)

  def encode(self, picture: Float[Array, "b s s 3"], train: bool) -> Normal:
    return Normal(*jnp.split(self.encoder(picture, train), 2, axis=-1))

  def decode(
    self, latent: Float[Array, "b {self.latent}"], train: bool
  ) -> Float[Array, "b s s 3"]:
    return self.decoder_(latent, train)

  def __call__(self, picture, noise: Array | None, train: bool):
    """The picture drawn again from a latent, and that latent's distribution."""
    known = self.encode(picture, train)
    return self.decode(draw(known, noise), train), known


def draw(known: Normal, noise: Float[Array, "b z"] | None) -> Array:
  """mean + deviation * noise, through which gradients pass; the mean if None.

  The reparametrisation of Kingma and Welling (ICLR 2014, section 2.4).
  """
  if noise is None:
    return known.mean
  return known.mean + jnp.exp(0.5 * known.log_variance) * noise


class DcganDiscriminator(nn.Module):
  """Strided 5 x 5 convolutions and leaky ReLUs, as DCGAN has them.

  Batch normalisation follows each but the first; one linear layer takes the
  whole map. All kernels start as normal numbers of deviation 0.02.

  Attributes:
    widths: channels of each convolution, which halves the side.
  """

  widths: tuple[int, ...]

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b 1"]:
    init = nn.initializers.normal(0.02)
    for i, units in enumerate(self.widths, start=1):
      kernel = self.param(f"conv{i}", init, (5, 5, x.shape[-1], units))
      x = lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      if i > 1:
        x = Norm(name=f"norm{i}")(x, train)
      x = nn.leaky_relu(x, 0.2)
    return nn.Dense(1, kernel_init=init, name="head")(x.reshape(len(x), -1))


class Mixture(nn.Module):
  """Pictures and sounds into one representation, and out of it again.

  Each has an encoder and a decoder of its own; two layers mix what the
  encoders say. A modality that is not there is replaced by a learned vector.
  Spectrograms are folded into channels first, which is a quarter of the work.

  Attributes:
    latent: numbers of the representation.
    features: numbers that each encoder says.
    widths: of the encoders' towers.
    pools: as in `Encoder`.
    decoders: widths of the picture's decoder and the sound's.
    shapes: (height, width) of pictures and of spectrograms.
  """

  latent: int
  features: int
  widths: tuple[int, ...]
  pools: int
  decoders: tuple[tuple[int, ...], tuple[int, ...]]
  shapes: tuple[tuple[int, int], tuple[int, int]]

  def setup(self):
    self.encode_picture, self.encode_sound = (
      Encoder(self.features, self.widths, self.pools) for _ in range(2)
    )
    self.absent = self.param(
      "absent", nn.initializers.normal(0.1), (2, self.features)
    )
    self.mix = nn.Dense(2 * self.features)
    self.to_normal = nn.Dense(2 * self.latent)
    self.decode_picture, self.decode_sound = (
      Decoder(tuple(n // 2 ** len(widths) for n in shape), widths, channels)
      for shape, widths, channels in zip(
        self.shapes, self.decoders, (3, 1), strict=True
      )
    )

  def encode(self, pair: Pair, keep: Bool[Array, "b 2"], train: bool) -> Normal:
    """What is known of a pair from those of the two that are kept."""
    picture = self.encode_picture(pair[0], train)
    sound = self.encode_sound(space_to_depth(pair[1]), train)
    both = jnp.stack([picture, sound], axis=1)
    known = jnp.where(keep[..., None], both, self.absent)
    mixed = nn.relu(self.mix(nn.relu(known.reshape(len(known), -1))))
    return Normal(*jnp.split(self.to_normal(mixed), 2, axis=-1))

  def decode(
    self, latent: Float[Array, "b {self.latent}"], train: bool
  ) -> Pair:
    """Picture and sound of each latent, in [-1, 1]."""
    return self.decode_picture(latent, train), self.decode_sound(latent, train)

  def __call__(
    self, pair: Pair, keep: Bool[Array, "b 2"], noise: Array | None, train: bool
  ) -> tuple[Pair, Normal]:
    """The pair made again from a latent, and that latent's distribution."""
    known = self.encode(pair, keep, train)
    return self.decode(draw(known, noise), train), known


class Told(NamedTuple):
  """Logits of pairs: real is what is over 0.

  Attributes:
    matched: of real pictures with their own sounds.
    drawn: of generated pairs.
    mismatched: of each real picture with the sounds of all other rows.
  """

  matched: Float[Array, "b"]
  drawn: Float[Array, "b"]
  mismatched: Float[Array, "b b-1"]


class PairDiscriminator(nn.Module):
  """L3-Net: whether a picture and a sound belong together, and are real.

  Two towers, their maps' maxima side by side, a layer of 128 with ReLU, and
  one logit (Arandjelovic and Zisserman, ICCV 2017, section 2).

  Attributes:
    widths: of the towers.
    pools: as in `Encoder`.
    hidden: units of the layer before the logit.
  """

  widths: tuple[int, ...]
  pools: int
  hidden: int = 128

  def setup(self):
    self.picture = tower(self.widths, self.pools)
    self.sound = tower(self.widths, self.pools)
    self.fc1, self.fc2 = nn.Dense(self.hidden), nn.Dense(1)

  def look(self, pair: Pair, train: bool) -> tuple[Array, Array]:
    """Features [b, d] of pictures and of sounds."""
    return (
      global_max(self.picture(pair[0], train)),
      global_max(self.sound(space_to_depth(pair[1]), train)),
    )

  def score(
    self, picture: Float[Array, "*b d"], sound: Float[Array, "*b d"]
  ) -> Float[Array, "*b"]:
    """A logit of each pair of features."""
    both = jnp.concatenate([picture, sound], axis=-1)
    return self.fc2(nn.relu(self.fc1(both)))[..., 0]

  def __call__(self, real: Pair, drawn: Pair, train: bool) -> Told:
    """Logits of three kinds of pairs.

    Normalisation sees the real and the drawn together, so that one function
    judges both.
    """
    both = tuple(
      jnp.concatenate(halves) for halves in zip(real, drawn, strict=True)
    )
    pictures, sounds = (jnp.split(x, 2) for x in self.look(both, train))
    b = len(real[0])
    row, other = np.nonzero(~np.eye(b, dtype=bool))
    mismatched = self.score(pictures[0][row], sounds[0][other])
    return Told(
      matched=self.score(pictures[0], sounds[0]),
      drawn=self.score(pictures[1], sounds[1]),
      mismatched=mismatched.reshape(b, b - 1),
    )
