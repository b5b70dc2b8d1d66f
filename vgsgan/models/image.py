"""Image towers: map normalised pixels to embeddings [b, h, w, d]."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.layers import Conv2D, Norm, max_pool

_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Vgg(nn.Module):
  """VGG16 up to its last convolution, and a 3 x 3 convolution to `embed`.

  The features of Simonyan and Zisserman (ICLR 2015, configuration D) without
  the last max pool: the image branch of DAVEnet (Harwath et al., ECCV 2018,
  section 3.1; no ReLU at the end) and of "Learning Words by Drawing Images"
  (Surís et al., CVPR 2019; ReLU at the end). Stride 16: 64, 128 and 224 pixels
  give maps of 4, 8 and 14.

  Attributes:
    embed: channels of the map.
    width: multiplies the channels 64 to 512.
    final_relu: whether a ReLU follows the last convolution.
    norm: 'none' (as published), 'batch' or 'group', before every ReLU.
    dtype: of the computation; parameters stay float32.
  """

  embed: int = 1024
  width: float = 1.0
  final_relu: bool = False
  norm: str = "none"
  dtype: Any = jnp.float32

  @property
  def stride(self) -> int:
    """Pixels per cell of the map, along each side."""
    return 16

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w 3"], train: bool
  ) -> Float[Array, "b i j {self.embed}"]:
    """Embeds a batch of images.

    Args:
      image: [b, h, w, 3], normalised (`data.features.normalize_image`).
      train: whether BatchNorm uses, and stores, the batch's statistics.

    Returns:
      [b, h / 16, w / 16, embed].

    Raises:
      ValueError: a side is no multiple of 32.
    """
    _check_size(image)
    x = image.astype(self.dtype)
    for stage, (channels, depth) in enumerate(_VGG16, start=1):
      channels = max(1, round(channels * self.width))
      if stage > 1:
        x = max_pool(x, (2, 2), (2, 2))
      for layer in range(1, depth + 1):
        name = f"{stage}_{layer}"
        x = Conv2D(channels, dtype=self.dtype, name=f"conv{name}")(x)
        norm = Norm(self.norm, dtype=self.dtype, name=f"norm{name}")
        x = nn.relu(norm(x, train))
    x = Conv2D(self.embed, dtype=self.dtype, name="embed")(x)
    return nn.relu(x) if self.final_relu else x


class ResNet(nn.Module):
  """A small residual tower of basic blocks (He et al., CVPR 2016).

  The stem folds 2 x 2 pixels into channels before its 3 x 3 convolution, and a
  stage of stride 2 starts with an average pool: on a CPU both are faster than
  strided convolutions, and neither drops a pixel.

  Attributes:
    embed: channels of the map.
    widths: channels of each stage.
    blocks: basic blocks in each stage.
    strides: 1 or 2 for each stage, on top of the stem's 2. For 64 pixels
      (1, 2, 2, 2) gives a map of 4, (1, 2, 2, 1) one of 8.
    norm: 'batch' or 'group'.
    final_relu: whether a ReLU follows the 1 x 1 convolution to `embed`.
    dtype: of the computation; parameters stay float32.
  """

  embed: int = 512
  widths: tuple[int, ...] = (16, 32, 64, 128)
  blocks: tuple[int, ...] = (1, 1, 1, 1)
  strides: tuple[int, ...] = (1, 2, 2, 2)
  norm: str = "batch"
  final_relu: bool = False
  dtype: Any = jnp.float32

  @property
  def stride(self) -> int:
    """Pixels per cell of the map, along each side."""
    return 2 ** (1 + sum(step == 2 for step in self.strides))

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w 3"], train: bool
  ) -> Float[Array, "b i j {self.embed}"]:
    """Embeds a batch of images.

    Args:
      image: [b, h, w, 3], normalised (`data.features.normalize_image`).
      train: whether BatchNorm uses, and stores, the batch's statistics.

    Returns:
      [b, h / stride, w / stride, embed].

    Raises:
      ValueError: a side is no multiple of 32, or the fields
        do not describe a tower.
    """
    _check_size(image)
    self._check()
    x = space_to_depth(image.astype(self.dtype))
    x = self._conv_norm(x, self.widths[0], "stem", train)
    x = nn.relu(x)
    stages = zip(self.widths, self.blocks, self.strides, strict=True)
    for stage, (channels, depth, step) in enumerate(stages, start=1):
      if step == 2:
        x = nn.avg_pool(x, (2, 2), (2, 2))
      for block in range(1, depth + 1):
        x = self._block(x, channels, f"block{stage}_{block}", train)
    x = Conv2D(self.embed, 1, dtype=self.dtype, name="embed")(x)
    return nn.relu(x) if self.final_relu else x

  def _block(self, x, channels: int, name: str, train: bool):
    y = nn.relu(self._conv_norm(x, channels, f"{name}_a", train))
    # A block starts as the identity (Goyal et al., arXiv:1706.02677, 5.1).
    zeros = nn.initializers.zeros
    y = self._conv_norm(y, channels, f"{name}_b", train, scale_init=zeros)
    if x.shape[-1] != channels:
      x = self._conv_norm(x, channels, f"{name}_skip", train, kernel=1)
    return nn.relu(x + y)

  def _conv_norm(
    self,
    x,
    channels: int,
    name: str,
    train: bool,
    kernel: int = 3,
    scale_init=nn.initializers.ones,
  ):
    x = Conv2D(channels, kernel, False, self.dtype, name=f"{name}_conv")(x)
    return Norm(self.norm, scale_init, self.dtype, name=f"{name}_norm")(
      x, train
    )

  def _check(self):
    if not len(self.widths) == len(self.blocks) == len(self.strides):
      raise ValueError(
        f"one width, depth and stride a stage: got {self.widths}, "
        f"{self.blocks} and {self.strides}"
      )
    if not set(self.strides) <= {1, 2} or self.stride > 32:
      raise ValueError(
        f"strides must be 1 or 2 and at most 16 together, not {self.strides}"
      )
    if self.norm == "none":
      raise ValueError("a residual tower needs norm 'batch' or 'group'")


def space_to_depth(x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
  """Folds each 2 x 2 square of pixels into channels: d = 4 c."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // 2, w // 2, 4 * c)


def _check_size(image):
  height, width = image.shape[1:3]
  if height % 32 or width % 32 or not height or not width:
    raise ValueError(
      f"image sides must be multiples of 32 pixels, not {height} x {width}"
    )
