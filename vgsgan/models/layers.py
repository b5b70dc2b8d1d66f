"""Layers that the towers share, in forms that are also fast on a CPU.

Masks are [b, t] with t the frames; a frame is valid if it lies inside its
clip. Images and frames keep channels last.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vgsgan.models.convolve import conv2d

NORMS = ("none", "batch", "group")


def frame_mask(num_frames: Int[Array, "b"], t: int) -> Bool[Array, "b {t}"]:
  """True where a frame lies inside its clip: [b, t] from lengths [b]."""
  return jnp.arange(t) < num_frames[:, None]


def num_outputs(num_frames: Int[Array, "b"], stride: int) -> Int[Array, "b"]:
  """Valid outputs of a tower of this stride: ceil(num_frames / stride).

  A pool of window 3, stride 2 and padding 1 gives ceil(n / 2) of n frames, and
  k such pools in a row give ceil(n / 2**k).
  """
  return -(-num_frames // stride)


def max_pool(
  x: Float[Array, "b *space c"],
  window: Sequence[int],
  strides: Sequence[int],
  padding: Sequence[int] | None = None,
) -> Float[Array, "b *out c"]:
  """Max pooling by strided slices, one spatial axis after the other.

  The values equal those of `nn.max_pool`, whose backward pass (select and
  scatter) is 20 to 30 times slower on a CPU. A tie shares its gradient, where
  `nn.max_pool` gives it to the first; after a ReLU both are the same.

  Args:
    x: [b, *space, c].
    window: length of the window along each spatial axis.
    strides: step along each spatial axis.
    padding: -inf to add at both ends of each spatial axis; None adds none.

  Returns:
    [b, *out, c], where out = (space + 2 padding - window) // stride + 1.

  Raises:
    ValueError: window, strides or padding do not match the axes of x, or a
      window is longer than its padded axis.
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


class Conv1D(nn.Module):
  """Convolution of stride 1 over frames, zero padded to the same length.

  The parameters are those of `nn.Conv`, or for a kernel of 1 of `nn.Dense` with
  one more axis. On a CPU XLA leaves its fast path where the sequence is shorter
  than the kernel (5 to 15 times slower), as in the last layers of a deep tower.
  There a product over patches is used instead, without the ends of the kernel,
  which only meet padding.

  Attributes:
    features: output channels.
    kernel: odd length of the kernel.
    dtype: of the computation; parameters stay float32.
  """

  features: int
  kernel: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b t c"]
  ) -> Float[Array, "b t {self.features}"]:
    k, t, c = self.kernel, x.shape[1], x.shape[2]
    init = nn.initializers.he_normal()
    kernel = self.param("kernel", init, (k, c, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
    if k > t or k == 1:
      reach = min(k // 2, t - 1)
      kernel = kernel[k // 2 - reach : k // 2 + reach + 1]
      x = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
      taps = [x[:, i : i + t] for i in range(2 * reach + 1)]
      y = jnp.concatenate(taps, -1) @ kernel.reshape(-1, self.features)
    else:
      y = lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
      )
    return y + bias.astype(self.dtype)


class Conv2D(nn.Module):
  """k x k convolution of stride 1, zero padded to the same size, with bias.

  The parameters are those of `nn.Conv`; see `convolve.conv2d`.

  Attributes:
    features: output channels.
    kernel: odd side k of the kernel.
    use_bias: False where a normalisation follows.
    dtype: of the computation; parameters stay float32.
    kernel_init: initialiser of the kernel.
  """

  features: int
  kernel: int = 3
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.he_normal()

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"]
  ) -> Float[Array, "b h w {self.features}"]:
    k, c = self.kernel, x.shape[-1]
    kernel = self.param("kernel", self.kernel_init, (k, k, c, self.features))
    # Loaded weights may be NumPy arrays.
    kernel, x = jnp.asarray(kernel, self.dtype), jnp.asarray(x, self.dtype)
    y = conv2d(x, kernel)
    if self.use_bias:
      zeros = nn.initializers.zeros
      y = y + self.param("bias", zeros, (self.features,)).astype(self.dtype)
    return y


class DoubledConv2D(nn.Module):
  """3 x 3 convolution of a map whose sides are doubled by nearest neighbours.

  Equals `Conv2D` after such a doubling but for rounding, with as many products.
  It runs on the small map, with one kernel for each of the four places that a
  point becomes. This is faster where the large map has few channels.

  Attributes:
    features: output channels.
    use_bias: False where a normalisation follows.
    kernel_init: initialiser of the kernel.
    dtype: of the computation; parameters stay float32.
  """

  features: int
  use_bias: bool = True
  kernel_init: Callable = nn.initializers.he_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"]
  ) -> Float[Array, "b 2*h 2*w {self.features}"]:
    b, h, w, c = x.shape
    kernel = self.param("kernel", self.kernel_init, (3, 3, c, self.features))
    # place, tap -> neighbour of the small map that the tap falls on.
    falls = (np.arange(2)[:, None] + np.arange(3) - 1) // 2 + 1
    on = np.float32(falls[..., None] == np.arange(3))
    kernel = jnp.einsum("pat,qbu,abcf->tucpqf", on, on, kernel)
    kernel = kernel.reshape(3, 3, c, 4 * self.features)
    y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype))
    y = y.reshape(b, h, w, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(b, 2 * h, 2 * w, self.features)
    if self.use_bias:
      zeros = nn.initializers.zeros
      y = y + self.param("bias", zeros, (self.features,)).astype(self.dtype)
    return y


class Norm(nn.Module):
  """Normalisation by name, over valid positions only.

  Attributes:
    kind: 'none', 'batch' (statistics of the global batch, stored in the
      collection `batch_stats`) or 'group' (statistics of each example).
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
      # Flax reshapes the mask into groups like x, so it needs the shape of x.
      mask = None if mask is None else jnp.broadcast_to(mask, x.shape)
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
