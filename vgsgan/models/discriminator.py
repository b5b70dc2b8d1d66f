"""The discriminator of BigGAN (Brock et al., ICLR 2019, appendix B)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.attention import SelfAttention
from vgsgan.models.spectral import conv2d, dense


class Discriminator(nn.Module):
  """Scores images: high for real ones, low for generated ones.

  Attributes:
    channels: of each block's output; every block but the last halves the side.
    attention: the block whose output goes through self-attention; 0 for none.
    num_labels: length of the label vectors, whose projection is added to the
      score (Miyato and Koyama, ICLR 2018); 0 for none.
    spectral: whether weights are divided by their spectral norm.
    dtype: of the computation; parameters and scores are float32.
  """

  channels: tuple[int, ...] = (32, 64, 96, 128)
  attention: int = 0
  num_labels: int = 0
  spectral: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: Float[Array, "b s s 3"],
    labels: Float[Array, "b {self.num_labels}"] | None = None,
    *,
    train: bool,
  ) -> Float[Array, "b"]:
    """Scores a batch of images in [-1, 1]."""
    x = image.astype(self.dtype)
    last = len(self.channels)
    for i, units in enumerate(self.channels, start=1):
      block = DownBlock(
        units, i > 1, i < last, self.spectral, self.dtype, name=f"down{i}"
      )
      x = block(x, train)
      if i == self.attention:
        attend = SelfAttention(self.spectral, self.dtype, name="attention")
        x = attend(x, train)
    pooled = jnp.sum(nn.relu(x), axis=(1, 2), dtype=jnp.float32)
    score = dense(1, "score", self.spectral, train)(pooled)[:, 0]
    if self.num_labels:
      embed = dense(x.shape[-1], "labels", self.spectral, train, use_bias=False)
      score = score + jnp.sum(embed(labels) * pooled, axis=-1)
    return score


class DownBlock(nn.Module):
  """Residual block, with or without halving the side.

  Attributes:
    features: channels of the output.
    preactivate: whether a ReLU comes first; False for pixels.
    halve: whether the side is halved, by averages of 2 x 2.
    spectral: as in `Discriminator`.
    dtype: as in `Discriminator`.
  """

  features: int
  preactivate: bool
  halve: bool
  spectral: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool):
    def conv(size: int, name: str):
      return conv2d(self.features, size, name, self.spectral, train, self.dtype)

    y = conv(3, "conv1")(nn.relu(x) if self.preactivate else x)
    y = conv(3, "conv2")(nn.relu(y))
    # The average comes first: it commutes with the 1 x 1 convolution.
    skip = halve(x) if self.halve else x
    same = not self.halve and x.shape[-1] == self.features
    skip = skip if same else conv(1, "skip")(skip)
    return (halve(y) if self.halve else y) + skip


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Averages of 2 x 2 places."""
  b, h, w, c = x.shape
  return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
