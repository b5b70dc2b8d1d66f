"""From a picture back to the latent that a generator would draw it from."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.discriminator import DownBlock


class Inverter(nn.Module):
  """Pictures to latents, by the residual blocks of the discriminator.

  Without normalisation, so that it does the same in training and afterwards,
  and each row by itself. Where things are is kept: nothing is pooled over the
  whole picture.

  Attributes:
    latent_size: of the generator.
    channels: of each block's output; each block halves the side.
    dtype: of the computation; parameters and latents are float32.
  """

  latent_size: int
  channels: tuple[int, ...] = (32, 64, 96)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, picture: Float[Array, "b s s 3"]
  ) -> Float[Array, "b {self.latent_size}"]:
    """Latents of pictures in [-1, 1].

    Raises:
      ValueError: the side cannot be halved so often.
    """
    side, halved = picture.shape[1], 2 ** len(self.channels)
    if side % halved:
      raise ValueError(
        f"{len(self.channels)} blocks need a side that is a multiple of "
        f"{halved}, not {side}"
      )
    x = picture.astype(self.dtype)
    for i, units in enumerate(self.channels, start=1):
      block = DownBlock(units, i > 1, True, False, self.dtype, name=f"down{i}")
      x = block(x, train=False)  # Makes no difference: nothing is spectral.
    x = nn.relu(x).reshape(len(x), -1).astype(jnp.float32)
    return nn.Dense(self.latent_size, name="latent")(x)
