"""Speech towers: stacks of 1-D convolutions over a log mel spectrogram.

`davenet`: Harwath et al., "Jointly Discovering Visual Objects and Spoken Words
from Raw Sensory Input", ECCV 2018. `small`, `large`: the two audio branches of
Surís et al., "Learning Words by Drawing Images", CVPR 2019.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgsgan.models.layers import (
  Conv1D,
  Norm,
  frame_mask,
  max_pool,
  num_outputs,
)


class SpeechTower(nn.Module):
  """Maps a spectrogram to a sequence of embeddings.

  A layer is a convolution, normalisation, ReLU and optionally a max pool of
  window 3 and stride 2. Frames past the end of a clip are zeroed after every
  layer and never enter a pool, so a clip's valid outputs do not depend on the
  length or the content of its padding.

  Attributes:
    widths: output channels of each layer; the last is the embedding.
    kernels: odd length of each kernel, in frames of its input.
    pools: whether a pool follows the layer.
    final_relu: whether the last layer has its ReLU, before its pool.
    input_norm: one scalar BatchNorm over all valid frames and bands.
    norm: 'none' (as published), 'batch' or 'group', before every ReLU.
    dtype: of the computation; parameters stay float32.
  """

  widths: tuple[int, ...]
  kernels: tuple[int, ...]
  pools: tuple[bool, ...]
  final_relu: bool = True
  input_norm: bool = True
  norm: str = "none"
  dtype: Any = jnp.float32

  @property
  def stride(self) -> int:
    """Input frames per output."""
    return 2 ** sum(self.pools)

  @nn.compact
  def __call__(
    self,
    features: Float[Array, "b t f"],
    num_frames: Int[Array, "b"],
    train: bool,
  ) -> tuple[Float[Array, "b u {self.widths[-1]}"], Int[Array, "b"]]:
    """Embeds a batch of clips.

    Args:
      features: [b, t, f] log mel spectrograms.
      num_frames: [b] valid frames of each clip, 1..t.
      train: whether BatchNorm uses, and stores, the batch's statistics.

    Returns:
      [b, u, d] embeddings, zero past the end, with u = ceil(t / stride), and
      int32 [b], the number of valid ones, ceil(num_frames / stride).

    Raises:
      ValueError: widths, kernels and pools differ in length, or a kernel is
        even.
    """
    self._check()
    valid = jnp.asarray(num_frames, jnp.int32)
    mask = frame_mask(valid, features.shape[1])[..., None]
    x = jnp.where(mask, features, 0.0)
    if self.input_norm:
      x = Norm("batch", name="input_norm")(x[..., None], train, mask[..., None])
      x = jnp.where(mask, x[..., 0], 0.0)
    x = x.astype(self.dtype)
    last = len(self.widths) - 1
    for i, pool in enumerate(self.pools):
      relu = i < last or self.final_relu
      x = self._convolve(x, i, mask, train, relu)
      if pool:
        # Padding enters a pool as -inf: zero could exceed every valid output.
        x = max_pool(jnp.where(mask, x, -jnp.inf), (3,), (2,), (1,))
        valid = num_outputs(valid, 2)
        mask = frame_mask(valid, x.shape[1])[..., None]
      x = jnp.where(mask, x, 0.0)
    return x, valid

  def _convolve(self, x, i: int, mask, train: bool, relu: bool):
    width, kernel = self.widths[i], self.kernels[i]
    x = Conv1D(width, kernel, self.dtype, name=f"conv{i + 1}")(x)
    x = Norm(self.norm, dtype=self.dtype, name=f"norm{i + 1}")(x, train, mask)
    return nn.relu(x) if relu else x

  def _check(self):
    if not len(self.widths) == len(self.kernels) == len(self.pools):
      raise ValueError(
        f"one width, kernel and pool a layer: got {len(self.widths)}, "
        f"{len(self.kernels)} and {len(self.pools)}"
      )
    if any(kernel % 2 == 0 for kernel in self.kernels):
      raise ValueError(f"kernels must be odd, not {self.kernels}")


def davenet(embed: int = 1024, width: float = 1.0, **fields) -> SpeechTower:
  """DAVEnet's audio branch: stride 16, a receptive field of 265 frames.

  Args:
    embed: channels of the last layer.
    width: multiplies the channels of all other layers.
    **fields: other attributes of `SpeechTower`.
  """
  return SpeechTower(
    widths=(*_scaled((128, 256, 512, 512), width), embed),
    kernels=(1, 11, 17, 17, 17),
    pools=(False, True, True, True, True),
    **fields,
  )


def small(embed: int = 512, width: float = 1.0, **fields) -> SpeechTower:
  """The small branch of Surís et al.: stride 8, no pool after the last."""
  return SpeechTower(
    widths=(*_scaled((128, 256, 512, 512), width), embed),
    kernels=(1, 11, 17, 17, 17),
    pools=(False, True, True, True, False),
    **fields,
  )


def large(embed: int = 512, width: float = 1.0, **fields) -> SpeechTower:
  """The default branch of Surís et al.: stride 64, field of 2153 frames."""
  return SpeechTower(
    widths=(*_scaled((128, 256, 512, 512, 512, 512, 512), width), embed),
    kernels=(1, 11, 17, 17, 17, 17, 17, 17),
    pools=(False, True, True, True, True, True, True, False),
    **fields,
  )


def receptive_field(kernels: tuple[int, ...], pools: tuple[bool, ...]) -> int:
  """Input frames that one output of a `SpeechTower` can depend on."""
  field, jump = 1, 1
  for kernel, pool in zip(kernels, pools, strict=True):
    field += (kernel - 1) * jump
    if pool:
      field += 2 * jump
      jump *= 2
  return field


def _scaled(widths: tuple[int, ...], width: float) -> tuple[int, ...]:
  return tuple(max(1, round(channels * width)) for channels in widths)
