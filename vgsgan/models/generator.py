"""The generator of BigGAN, which draws images from hierarchical latents.

Brock, Donahue and Simonyan, "Large Scale GAN Training for High Fidelity
Natural Image Synthesis" (ICLR 2019, section 3 and appendix B). The latent is
split into chunks: the first is projected to the lowest layer, and each other
conditions the normalisation of a block.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.attention import SelfAttention
from vgsgan.models.spectral import conv2d, dense

Keep = Mapping[str, Array]
_BOTTOM = 4


class Generator(nn.Module):
  """Draws images from latents.

  The layers that can be edited are named 'bottom' (4 x 4) and 'up1', 'up2',
  ...: the outputs of the blocks, each twice as wide as the previous one.

  Attributes:
    channels: of the bottom, and of each block's output; k blocks give images of
      4 * 2**k pixels.
    chunk: length of each of the k + 1 chunks of the latent.
    attention: the block whose output goes through self-attention; 0 for none.
    num_labels: length of the label vectors; 0 draws without labels.
    spectral: whether weights are divided by their spectral norm.
    dtype: of the computation; parameters and images are float32.
  """

  channels: tuple[int, ...] = (128, 96, 64, 32)
  chunk: int = 16
  attention: int = 0
  num_labels: int = 0
  spectral: bool = True
  dtype: Any = jnp.float32

  @property
  def latent_size(self) -> int:
    return self.chunk * len(self.channels)

  @property
  def image_size(self) -> int:
    return _BOTTOM * 2 ** (len(self.channels) - 1)

  @property
  def layers(self) -> dict[str, tuple[int, int, int]]:
    """(height, width, units) of each layer that can be edited."""
    names = ["bottom", *(f"up{i}" for i in range(1, len(self.channels)))]
    return {
      name: (_BOTTOM * 2**i, _BOTTOM * 2**i, units)
      for i, (name, units) in enumerate(zip(names, self.channels, strict=True))
    }

  def latent_matrix(self, params) -> Float[Array, "out {self.latent_size}"]:
    """Stacks the weights of all layers that read the latent."""
    kernels = [[params["bottom"]["kernel"]]]
    for i in range(1, len(self.channels)):
      norms = (params[f"up{i}"][name] for name in ("norm1", "norm2"))
      kernels.append(
        [n[name]["kernel"] for n in norms for name in ("gain", "bias")]
      )
    rows = []
    for i, chunk_kernels in enumerate(kernels):
      weight = jnp.concatenate([k[: self.chunk].T for k in chunk_kernels])
      around = (i * self.chunk, self.latent_size - (i + 1) * self.chunk)
      rows.append(jnp.pad(weight, ((0, 0), around)))
    return jnp.concatenate(rows)

  @nn.compact
  def __call__(
    self,
    latent: Float[Array, "b {self.latent_size}"],
    labels: Float[Array, "b {self.num_labels}"] | None = None,
    *,
    train: bool,
    keep: Keep | None = None,
  ) -> Float[Array, "b s s 3"]:
    """Draws a batch.

    Args:
      latent: standard normal numbers.
      labels: label vectors of the images, if `num_labels` is not 0.
      train: whether BatchNorm uses, and stores, the batch's statistics.
      keep: multipliers [b, h, w, c] of the outputs of some layers: 1 keeps a
        unit, 0 switches it off at that place.

    Returns:
      Images in [-1, 1].
    """
    keep = keep or {}
    chunks = jnp.split(latent, len(self.channels), axis=-1)
    shared = []
    if self.num_labels:
      # Without spectral norm, which cripples it (BigGAN, appendix B).
      shared = [nn.Dense(4 * self.chunk, use_bias=False, name="shared")(labels)]
    conditions = [jnp.concatenate([c, *shared], -1) for c in chunks]
    first = self.channels[0]
    linear = dense(_BOTTOM * _BOTTOM * first, "bottom", self.spectral, train)
    x = linear(chunks[0]).astype(self.dtype)
    x = x.reshape(-1, _BOTTOM, _BOTTOM, first)
    x = self._kept("bottom", x, keep)
    for i, units in enumerate(self.channels[1:], start=1):
      block = UpBlock(units, self.spectral, self.dtype, name=f"up{i}")
      x = block(x, conditions[i], train)
      if i == self.attention:
        attend = SelfAttention(self.spectral, self.dtype, name="attention")
        x = attend(x, train)
      x = self._kept(f"up{i}", x, keep)
    x = nn.relu(batch_norm(train, "norm", dtype=self.dtype)(x))
    image = conv2d(3, 3, "image", self.spectral, train, self.dtype)(x)
    return jnp.tanh(image.astype(jnp.float32))

  def _kept(self, name: str, x: Array, keep: Keep) -> Array:
    x = x * keep[name].astype(x.dtype) if name in keep else x
    # Stored only if the caller makes the collection 'layers' mutable.
    self.sow("layers", f"{name}_output", x)
    return x


class UpBlock(nn.Module):
  """Residual block that doubles the side.

  Attributes:
    features: channels of the output.
    spectral: as in `Generator`.
    dtype: as in `Generator`.
  """

  features: int
  spectral: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], condition: Float[Array, "b k"], train
  ) -> Float[Array, "b 2*h 2*w {self.features}"]:
    def conv(size: int, name: str):
      return conv2d(self.features, size, name, self.spectral, train, self.dtype)

    def norm(x, name):
      module = ConditionalNorm(self.spectral, self.dtype, name=name)
      return nn.relu(module(x, condition, train))

    # The 1 x 1 convolution comes first: it commutes with the doubling.
    skip = double(conv(1, "skip")(x))
    y = conv(3, "conv1")(double(norm(x, "norm1")))
    y = conv(3, "conv2")(norm(y, "norm2"))
    return skip + y


class ConditionalNorm(nn.Module):
  """Batch normalisation with gain and bias computed from a condition."""

  spectral: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, condition: Float[Array, "b k"], train: bool):
    def linear(name: str):
      return dense(x.shape[-1], name, self.spectral, train, use_bias=False)

    x = batch_norm(train, "batch", affine=False, dtype=self.dtype)(x)
    gain = (1.0 + linear("gain")(condition)).astype(self.dtype)
    bias = linear("bias")(condition).astype(self.dtype)
    return x * gain[:, None, None] + bias[:, None, None]


def batch_norm(
  train: bool, name: str, affine: bool = True, dtype: Any = jnp.float32
) -> nn.Module:
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.98,
    epsilon=1e-5,
    use_scale=affine,
    use_bias=affine,
    dtype=dtype,
    name=name,
  )


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
  """Doubles both sides by nearest neighbours."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)
