"""Towers and heads of audio-visual correspondence.

L3-Net: Arandjelovic and Zisserman, "Look, Listen and Learn" (ICCV 2017).
AVE-Net, AVOL-Net: the same authors, "Objects that Sound" (ECCV 2018).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vgsgan.losses.scores import l2_normalize
from vgsgan.models.layers import Conv2D, Norm, max_pool


class Tower(nn.Module):
  """The convolutions of L3-Net, for images and spectrograms.

  A stage has two 3 x 3 convolutions, each with batch normalisation and ReLU,
  and optionally a max pool. In "Objects that Sound" (section 3) the first
  convolution has a stride of 2: 224 pixels give a map of 14.

  Attributes:
    widths: channels of each stage.
    pools: whether a pool of 2 x 2 follows the stage.
    dtype: of the computation; parameters stay float32.
  """

  widths: tuple[int, ...] = (64, 128, 256, 512)
  pools: tuple[bool, ...] = (True, True, True, False)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b i j {self.widths[-1]}"]:
    """Maps a batch.

    Args:
      x: images (`data.features.normalize_image`), or spectrograms with one
        channel (`data.features.spectrogram`).
      train: whether BatchNorm uses, and stores, the batch's statistics.

    Raises:
      ValueError: widths and pools differ in length.
    """
    if len(self.widths) != len(self.pools):
      raise ValueError(
        f"one width and one pool a stage, not {self.widths} and {self.pools}"
      )
    x = x.astype(self.dtype)
    for stage, units in enumerate(self.widths, start=1):
      for layer in (1, 2):
        name = f"{stage}_{layer}"
        if stage == layer == 1:
          x = StridedConv(units, dtype=self.dtype, name=f"conv{name}")(x)
        else:
          x = Conv2D(units, 3, False, self.dtype, name=f"conv{name}")(x)
        x = Norm("batch", dtype=self.dtype, name=f"norm{name}")(x, train)
        x = nn.relu(x)
      if self.pools[stage - 1]:
        x = max_pool(x, (2, 2), (2, 2))
    return x


class StridedConv(nn.Module):
  """3 x 3 convolution of stride 2, without bias."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    return lax.conv_general_dilated(
      x,
      kernel.astype(self.dtype),
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Projection(nn.Module):
  """Two layers on each place, as in AVE-Net and AVOL-Net: fc1, ReLU, fc2.

  On a pooled map these are AVE-Net's fully connected layers, on a whole map the
  1 x 1 convolutions of AVOL-Net's image branch.

  Attributes:
    embed: channels of both layers.
    normalize: whether every output has length 1.
  """

  embed: int = 128
  normalize: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, "*b d"]
  ) -> Float[Array, "*b {self.embed}"]:
    x = nn.relu(nn.Dense(self.embed, name="fc1")(x))
    x = nn.Dense(self.embed, name="fc2")(x)
    return l2_normalize(x) if self.normalize else x


def global_max(x: Float[Array, "b h w d"]) -> Float[Array, "b d"]:
  """The largest value of each channel; the gradient goes to its first place.

  `jnp.max` divides the gradient by the number of places whose value equals the
  largest. Where a compiler computes the map anew in the backward pass, and
  rounds in another way, that is 0 of 0.
  """
  flat = x.reshape(len(x), -1, x.shape[-1])
  best = jnp.argmax(lax.stop_gradient(flat), axis=1)
  there = jnp.arange(flat.shape[1])[:, None] == best[:, None]
  return jnp.sum(jnp.where(there, flat, 0.0), axis=1)
