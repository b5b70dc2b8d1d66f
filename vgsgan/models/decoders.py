"""Encoders to latents, and decoders from them.

DCGAN: Radford, Metz and Chintala, "Unsupervised Representation
Learning with Deep Convolutional Generative Adversarial Networks" (ICLR 2016).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vgsgan.models.correspondence import Tower
from vgsgan.models.layers import DoubledConv2D, Norm


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
    dtype: of the tower; parameters and outputs are float32.
  """

  outputs: int
  widths: tuple[int, ...]
  pools: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b {self.outputs}"]:
    x = tower(self.widths, self.pools, self.dtype)(x, train)
    return nn.Dense(self.outputs, name="head")(x.reshape(len(x), -1))


def tower(
  widths: tuple[int, ...], pools: int, dtype: Any = jnp.float32
) -> Tower:
  """With pools after the first few stages."""
  after = tuple(i < pools for i in range(len(widths)))
  return Tower(widths, after, dtype=dtype)


class Decoder(nn.Module):
  """Latents to pictures, or to spectrograms, in [-1, 1].

  A linear layer to a small map, then convolutions of maps that are doubled by
  nearest neighbours, each the two in one (`DoubledConv2D`): on a CPU faster
  than transposed convolutions. Other channels for each place of a doubling (Shi
  et al., CVPR 2016) leave checkerboards that no discriminator mends here.

  Attributes:
    bottom: height and width of the small map.
    widths: channels of the small map, and of each that is twice as large.
    channels: of the result, whose sides are 2**len(widths) times the bottom's.
    kernel_init: of all kernels but the last.
    last_init: of the last convolution.
    dtype: of the computation; parameters and results are float32.
  """

  bottom: tuple[int, int]
  widths: tuple[int, ...]
  channels: int
  kernel_init: Callable = nn.initializers.he_normal()
  last_init: Callable = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

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
    x = nn.relu(Norm(dtype=self.dtype, name="norm")(x, train))
    for i, units in enumerate(self.widths[1:], start=1):
      conv = DoubledConv2D(
        units, False, self.kernel_init, self.dtype, name=f"up{i}"
      )
      norm = Norm(dtype=self.dtype, name=f"norm{i}")
      x = nn.relu(norm(conv(x), train))
    last = DoubledConv2D(
      self.channels, True, self.last_init, self.dtype, name="last"
    )
    return jnp.tanh(last(x).astype(jnp.float32))


class Autoencoder(nn.Module):
  """Pictures to latents and back.

  Attributes:
    latent: numbers of each latent.
    widths: of the encoder's tower.
    pools: as in `Encoder`.
    decoder: widths of the decoder.
    side: of the pictures.
    dtype: as in `Encoder` and `Decoder`.
  """

  latent: int
  widths: tuple[int, ...]
  pools: int
  decoder: tuple[int, ...]
  side: int
  dtype: Any = jnp.float32

  def setup(self):
    self.encoder = Encoder(2 * self.latent, self.widths, self.pools, self.dtype)
    bottom = self.side // 2 ** len(self.decoder)
    self.decoder_ = Decoder((bottom, bottom), self.decoder, 3, dtype=self.dtype)

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
    dtype: of the convolutions; parameters and logits are float32.
  """

  widths: tuple[int, ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b 1"]:
    init = nn.initializers.normal(0.02)
    for i, units in enumerate(self.widths, start=1):
      kernel = self.param(f"conv{i}", init, (5, 5, x.shape[-1], units))
      x = lax.conv_general_dilated(
        x.astype(self.dtype),
        kernel.astype(self.dtype),
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      if i > 1:
        x = Norm(dtype=self.dtype, name=f"norm{i}")(x, train)
      x = nn.leaky_relu(x, 0.2)
    return nn.Dense(1, kernel_init=init, name="head")(x.reshape(len(x), -1))
