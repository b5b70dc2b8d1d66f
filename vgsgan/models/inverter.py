"""Encodes an image as the latent from which a generator would draw it."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.discriminator import DownBlock


class Inverter(nn.Module):
  """Maps images to latents by the residual blocks of the discriminator.

  It has no normalisation, so that it is the same function in training and
  afterwards, and rows are independent. The map is not pooled, which keeps the
  positions of things.

  Attributes:
    latent_size: length of the generator's latents.
    channels: of each block's output; each block halves the side.
    dtype: of the computation; parameters and latents are float32.
  """

  latent_size: int
  channels: tuple[int, ...] = (32, 64, 96)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "b s s 3"]
  ) -> Float[Array, "b {self.latent_size}"]:
    """Maps images in [-1, 1] to latents.

    Raises:
      ValueError: the side is not a multiple of 2**len(channels).
    """
    side, factor = image.shape[1], 2 ** len(self.channels)
    if side % factor:
      raise ValueError(
        f"{len(self.channels)} blocks need a side that is a multiple of "
        f"{factor}, not {side}"
      )
    x = image.astype(self.dtype)
    for i, units in enumerate(self.channels, start=1):
      block = DownBlock(units, i > 1, True, False, self.dtype, name=f"down{i}")
      x = block(x, train=False)  # Without spectral norm `train` has no effect.
    x = nn.relu(x).reshape(len(x), -1).astype(jnp.float32)
    return nn.Dense(self.latent_size, name="latent")(x)
