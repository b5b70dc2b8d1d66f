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
  """Independent normal distributions: mean and log variance, [b, z]."""

  mean: Float[Array, "b z"]
  log_variance: Float[Array, "b z"]


class Encoder(nn.Module):
  """A tower, and a linear layer on its whole map.

  The map is not pooled, since a decoder needs the positions of things.

  Attributes:
    outputs: numbers per row.
    widths: channels of the tower's stages.
    pools: number of first stages that a 2 x 2 pool follows.
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
  """A tower with pools after its first `pools` stages."""
  pooled = tuple(i < pools for i in range(len(widths)))
  return Tower(widths, pooled, dtype=dtype)


class Decoder(nn.Module):
  """Decodes latents to images, or to spectrograms, in [-1, 1].

  A linear layer to a small map, then convolutions of maps doubled by nearest
  neighbours, both in one (`DoubledConv2D`), which is faster on a CPU than
  transposed convolutions. Sub-pixel convolutions (Shi et al., CVPR 2016) leave
  checkerboards here.

  Attributes:
    bottom: height and width of the small map.
    widths: channels of the small map, and after each doubling but the last.
    channels: channels of the result; its sides are 2**len(widths) times the
      bottom's.
    kernel_init: initialiser of all kernels but the last.
    last_init: initialiser of the last kernel.
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
  """Encodes images to latents and decodes them.

  Attributes:
    latent: numbers per latent.
    widths: channels of the encoder's stages.
    pools: as in `Encoder`.
    decoder: widths of the decoder.
    side: side of the images, pixels.
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

  def encode(self, image: Float[Array, "b s s 3"], train: bool) -> Normal:
    return Normal(*jnp.split(self.encoder(image, train), 2, axis=-1))

  def decode(
    self, latent: Float[Array, "b {self.latent}"], train: bool
  ) -> Float[Array, "b s s 3"]:
    return self.decoder_(latent, train)

  def __call__(self, image, noise: Array | None, train: bool):
    """Reconstructs an image; returns its latent's distribution as well."""
    posterior = self.encode(image, train)
    return self.decode(draw(posterior, noise), train), posterior


def draw(normal: Normal, noise: Float[Array, "b z"] | None) -> Array:
  """mean + deviation * noise, through which gradients pass; the mean if None.

  The reparametrisation of Kingma and Welling (ICLR 2014, section 2.4).
  """
  if noise is None:
    return normal.mean
  return normal.mean + jnp.exp(0.5 * normal.log_variance) * noise


class DcganDiscriminator(nn.Module):
  """The discriminator of DCGAN: strided 5 x 5 convolutions and leaky ReLUs.

  Batch normalisation follows every convolution but the first; a linear layer
  takes the whole map. Kernels start as normal numbers of deviation 0.02.

  Attributes:
    widths: channels of each convolution; each halves the side.
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
