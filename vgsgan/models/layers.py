"""Layers the towers share, in the forms that are fast on a CPU as well.

Masks are [b, t] with t the frames; a frame is valid if it lies inside its
clip. Images and frames keep channels last.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NORMS = ("none", "batch", "group")

# From this many input channels on a k x k convolution beats its im2col form
# (measured forward and backward on two cores).
_IM2COL_BELOW = 5


def frame_mask(num_frames: Int[Array, "b"], t: int) -> Bool[Array, "b {t}"]:
  """True where a frame lies inside its clip: [b, t] from lengths [b]."""
  return jnp.arange(t) < num_frames[:, None]


def num_outputs(num_frames: Int[Array, "b"], stride: int) -> Int[Array, "b"]:
  """Valid outputs of a tower of this stride: ceil(num_frames / stride).

  A pool of window 3, stride 2 and padding 1 makes ceil(n / 2) of n frames, and
  k of them in a row ceil(n / 2**k).
  """
  return -(-num_frames // stride)


def max_pool(
  x: Float[Array, "b *space c"],
  window: Sequence[int],
  strides: Sequence[int],
  padding: Sequence[int] | None = None,
) -> Float[Array, "b *out c"]:
  """Max pooling by strided slices, one spatial axis after the other.

  The same values as `nn.max_pool`, whose backward pass (select and scatter) is
  20 to 30 times slower on a CPU. The gradient of a tie is shared rather than
  given to the first, which makes no difference after a ReLU.

  Args:
    x: [b, *space, c].
    window: length of the window along each spatial axis.
    strides: step along each spatial axis.
    padding: -inf to add at both ends of each spatial axis; None adds none.

  Returns:
    [b, *out, c], where out = (space + 2 padding - window) // stride + 1.

  Raises:
    ValueError: the three do not name as many axes as x has, or a window is
      longer than its padded axis.
  """
  padding = (0,) * len(window) if padding is None else padding
  if not x.ndim - 2 == len(window) == len(strides) == len(padding):
    raise ValueError(
      f"pooling of {x.ndim - 2} axes got window {tuple(window)}, "
      f"strides {tuple(strides)}, padding {tuple(padding)}"
    )
  for axis, (size, step, pad) in enumerate(
    zip(window, strides, padding, strict=True), start=1
  ):
    x = _max_pool_axis(x, axis, size, step, pad)
  return x


def _max_pool_axis(x, axis: int, size: int, step: int, pad: int):
  if pad:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (pad, pad)
    x = jnp.pad(x, widths, constant_values=-jnp.inf)
  count = (x.shape[axis] - size) // step + 1
  if count < 1:
    raise ValueError(f"window {size} exceeds axis {axis} of {x.shape}")
  stop = (count - 1) * step + 1
  slices = (
    lax.slice_in_dim(x, first, first + stop, step, axis)
    for first in range(size)
  )
  return functools.reduce(jnp.maximum, slices)


class Conv2D(nn.Module):
  """k x k convolution of stride 1, zero padded to the same size, with bias.

  The parameters are those of `nn.Conv`. A 1 x 1 convolution is a matrix
  product, and so is one of few input channels (im2col): 3.7 and 3 times
  faster on a CPU, forward and backward.

  Attributes:
    features: output channels.
    kernel: odd side k of the kernel.
    use_bias: False where a normalisation follows.
    dtype: of the computation; parameters stay float32.
  """

  features: int
  kernel: int = 3
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"]
  ) -> Float[Array, "b h w {self.features}"]:
    k, c = self.kernel, x.shape[-1]
    init = nn.initializers.he_normal()
    kernel = self.param("kernel", init, (k, k, c, self.features))
    kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
    if k == 1 or c < _IM2COL_BELOW:
      y = _patches(x, k) @ kernel.reshape(k * k * c, self.features)
    else:
      y = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
    if self.use_bias:
      zeros = nn.initializers.zeros
      y = y + self.param("bias", zeros, (self.features,)).astype(self.dtype)
    return y


def _patches(x, k: int):
  """The k x k neighbourhood of each pixel: [b, h, w, c] to [b, h, w, kkc]."""
  if k == 1:
    return x
  h, w, half = x.shape[1], x.shape[2], k // 2
  x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
  return jnp.concatenate(
    [x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], -1
  )


class Norm(nn.Module):
  """Normalisation by name, over the valid positions alone.

  Attributes:
    kind: 'none', 'batch' (statistics of the global batch, kept in the
      collection `batch_stats`) or 'group' (of each example).
    scale_init: initial scale of each channel.
    dtype: of the result; statistics are float32.
  """

  kind: str = "batch"
  scale_init: Callable = nn.initializers.ones
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b *space c"],
    train: bool,
    mask: Bool[Array, "b *#space 1"] | None = None,
  ) -> Float[Array, "b *space c"]:
    if self.kind not in NORMS:
      raise ValueError(f"norm must be one of {NORMS}, not {self.kind!r}")
    if self.kind == "none":
      return x
    if self.kind == "group":
      groups = math.gcd(8, x.shape[-1])
      return nn.GroupNorm(
        groups,
        epsilon=1e-5,
        scale_init=self.scale_init,
        dtype=self.dtype,
        name="group",
      )(x, mask=mask)
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      scale_init=self.scale_init,
      dtype=self.dtype,
      name="batch",
    )(x, mask=mask)
