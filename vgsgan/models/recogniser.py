"""A U-Net that predicts object attributes for every pixel."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.image import space_to_depth
from vgsgan.models.layers import Conv2D, Norm
from vgsgan.worlds.attributes import WORDS

CHANNELS = 1 + len(WORDS)


class Recogniser(nn.Module):
  """Logits of an object, and of each of the fifteen words, for each pixel.

  A small U-Net (Ronneberger et al., MICCAI 2015): a size depends on the whole
  object, its outline on single pixels. The finest convolutions see squares of
  2 x 2 pixels folded into channels, which on a CPU is several times faster
  than a layer of full resolution.

  Attributes:
    widths: channels at 1/2, 1/4 and 1/8 of the resolution.
    norm: 'batch' or 'group'.
    dtype: of the computation; parameters, logits and features are float32.
  """

  widths: tuple[int, int, int] = (32, 64, 128)
  norm: str = "batch"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "b s t 3"], train: bool
  ) -> tuple[Float[Array, "b s t 16"], Float[Array, "b d"]]:
    """Recognises a batch of images.

    Args:
      image: RGB in [0, 1]; sides are multiples of 8.
      train: whether BatchNorm uses, and stores, the batch's statistics.

    Returns:
      Logits: the first of an object, the others of WORDS, to be normalised per
      kind; and features, the mean over the image of the last layer's inputs
      (d = 2 * widths[0]).

    Raises:
      ValueError: a side is not a multiple of 8.
    """
    if image.shape[1] % 8 or image.shape[2] % 8:
      raise ValueError(f"sides must be multiples of 8, not {image.shape[1:3]}")
    fine, middle, coarse = self.widths
    x = space_to_depth(4.0 * (image - 0.5)).astype(self.dtype)
    x = halves = self._layer(x, fine, "down1", train)
    x = _pool(x)
    x = quarters = self._layer(x, middle, "down2", train)
    x = self._layer(_pool(x), coarse, "bottom1", train)
    x = self._layer(x, coarse, "bottom2", train)
    x = self._join(x, quarters, middle, "up2", train)
    x = self._join(x, halves, 2 * fine, "up1", train)
    x = x.astype(jnp.float32)
    logits = Conv2D(4 * CHANNELS, 1, name="logits")(x)
    return depth_to_space(logits), jnp.mean(x, (1, 2))

  def _layer(self, x, channels: int, name: str, train: bool):
    x = Conv2D(channels, use_bias=False, dtype=self.dtype, name=f"{name}_conv")(
      x
    )
    norm = Norm(self.norm, dtype=self.dtype, name=f"{name}_norm")
    return nn.relu(norm(x, train))

  def _join(self, x, skip, channels: int, name: str, train: bool):
    """Doubles the resolution and joins the skip connection."""
    x = Conv2D(skip.shape[-1], 1, dtype=self.dtype, name=f"{name}_in")(x)
    x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    return self._layer(jnp.concatenate([x, skip], -1), channels, name, train)


def _pool(x):
  return nn.avg_pool(x, (2, 2), (2, 2))


def depth_to_space(x: Float[Array, "b h w d"]) -> Float[Array, "b i j c"]:
  """Unfolds channels into squares of 2 x 2 pixels: c = d / 4."""
  b, h, w, d = x.shape
  x = x.reshape(b, h, w, 2, 2, d // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, 2 * h, 2 * w, d // 4)


def features(
  model: Recogniser, variables: Any, images: Float[Array, "n s t 3"]
) -> Float[Array, "n d"]:
  """Features by which `evals.frechet` compares two sets of images.

  Args:
    model: the network.
    variables: its `params` and `batch_stats`.
    images: RGB in [0, 1].
  """
  return model.apply(variables, images, train=False)[1]
