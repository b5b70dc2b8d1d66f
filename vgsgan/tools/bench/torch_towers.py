"""The towers of `vgsgan.models` in PyTorch, of parameters laid out for it.

Functions of a tree of tensors and of the Flax module that they are the equal
of. Speech is [b, d, t] and pictures are [b, d, h, w] here. Batch normalisation
is that of training; running statistics are kept, and unbiased as PyTorch has
them.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vgsgan.common.errors import UserError
from vgsgan.models import audio, image

Tree = dict[str, Any]
EPSILON = 1e-5
MOMENTUM = 0.1  # Of the new statistics; Flax names the share of the old.


def tensors(params: Mapping[str, Any], device: str) -> Tree:
  """Flax parameters as leaves that want gradients; kernels lie as here.

  A kernel of n axes, input, output becomes output, input, n axes, and those of
  pictures have channels last in memory, which is the faster.
  """

  def leaf(name: str, value: Any) -> torch.Tensor:
    found = torch.from_numpy(np.array(value, np.float32))
    if name == "kernel":
      found = found.permute(-1, -2, *range(found.ndim - 2)).contiguous()
    if found.ndim == 4:
      found = found.contiguous(memory_format=torch.channels_last)
    return found.to(device).requires_grad_()

  return {
    name: tensors(value, device)
    if isinstance(value, Mapping)
    else leaf(name, value)
    for name, value in params.items()
  }


def picture_map(tower: Any, params: Tree, stats: Tree, x: torch.Tensor):
  """`image.Vgg` and `image.ResNet`: [b, 3, h, w] to [b, d, i, j]."""
  forward = vgg if isinstance(tower, image.Vgg) else resnet
  y = forward(tower, params, stats, x)
  return F.relu(y) if tower.final_relu else y


def vgg(tower: image.Vgg, params: Tree, stats: Tree, x: torch.Tensor):
  """`image.Vgg` without its last ReLU."""
  for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
    x = F.max_pool2d(x, 2) if stage > 1 else x
    for layer in range(1, depth + 1):
      name = f"{stage}_{layer}"
      x = _conv2d(x, params[f"conv{name}"])
      x = F.relu(_norm(tower.norm, x, params, stats, f"norm{name}"))
  return _conv2d(x, params["embed"])


def resnet(tower: image.ResNet, params: Tree, stats: Tree, x: torch.Tensor):
  """`image.ResNet` without its last ReLU."""

  def conv_norm(x, name):
    x = _conv2d(x, params[f"{name}_conv"])
    return _norm(tower.norm, x, params, stats, f"{name}_norm")

  x = F.relu(conv_norm(_space_to_depth(x), "stem"))
  for stage, (depth, step) in enumerate(
    zip(tower.blocks, tower.strides, strict=True), start=1
  ):
    x = F.avg_pool2d(x, 2) if step == 2 else x
    for block in range(1, depth + 1):
      name = f"block{stage}_{block}"
      y = conv_norm(F.relu(conv_norm(x, f"{name}_a")), f"{name}_b")
      x = conv_norm(x, f"{name}_skip") if f"{name}_skip_conv" in params else x
      x = F.relu(x + y)
  return _conv2d(x, params["embed"])


def speech_map(
  tower: audio.SpeechTower,
  params: Tree,
  stats: Tree,
  x: torch.Tensor,
  num_frames: torch.Tensor,
):
  """`audio.SpeechTower`: [b, f, t] to [b, d, u], and the valid frames [b]."""
  mask = _mask(num_frames, x)
  x = torch.where(mask, x, 0.0)
  if tower.input_norm:
    # One statistic for all bands, as of a picture of one channel.
    one = _masked_norm(x[:, None], mask[:, None], params, stats, "input_norm")
    x = torch.where(mask, one[:, 0], 0.0)
  last = len(tower.widths) - 1
  for i, pool in enumerate(tower.pools):
    kernel = params[f"conv{i + 1}"]["kernel"]
    bias = params[f"conv{i + 1}"]["bias"]
    x = F.conv1d(x, kernel, bias, padding=kernel.shape[-1] // 2)
    if tower.norm == "batch":
      x = torch.where(mask, x, 0.0)
      x = _masked_norm(x, mask, params, stats, f"norm{i + 1}")
    elif tower.norm != "none":
      raise UserError(
        f"config.speech.norm={tower.norm!r}: --torch has 'batch' and 'none'"
      )
    x = F.relu(x) if i < last or tower.final_relu else x
    if pool:
      x = F.max_pool1d(torch.where(mask, x, -math.inf), 3, 2, 1)
      num_frames = (num_frames + 1) // 2
      mask = _mask(num_frames, x)
    x = torch.where(mask, x, 0.0)
  return x, num_frames


def _mask(num_frames: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
  """[b, 1, t]: whether a frame lies inside its clip."""
  frames = torch.arange(x.shape[-1], device=x.device)
  return (frames < num_frames[:, None])[:, None]


def _conv2d(x: torch.Tensor, params: Tree) -> torch.Tensor:
  kernel = params["kernel"]
  pad = kernel.shape[-1] // 2
  return F.conv2d(x, kernel, params.get("bias"), padding=pad)


def _space_to_depth(x: torch.Tensor) -> torch.Tensor:
  """As `image.space_to_depth`: places before colours, in the channels."""
  b, c, h, w = x.shape
  x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
  x = x.reshape(b, 4 * c, h // 2, w // 2)
  return x.contiguous(memory_format=torch.channels_last)


def _norm(kind: str, x: torch.Tensor, params: Tree, stats: Tree, name: str):
  if kind == "none":
    return x
  scale, bias = params[name][kind]["scale"], params[name][kind]["bias"]
  if kind == "group":
    groups = math.gcd(8, x.shape[1])
    return F.group_norm(x, groups, scale, bias, EPSILON)
  mean, var = stats[name]["batch"]["mean"], stats[name]["batch"]["var"]
  return F.batch_norm(x, mean, var, scale, bias, True, MOMENTUM, EPSILON)


def _masked_norm(x, mask, params: Tree, stats: Tree, name: str):
  """Batch normalisation over valid frames; x is 0 in the others."""
  scale, bias = params[name]["batch"]["scale"], params[name]["batch"]["bias"]
  axes = [0, *range(2, x.ndim)]
  wide = [1, -1] + [1] * (x.ndim - 2)
  # One pass over all frames, of which the zeros are then taken out.
  var, mean = torch.var_mean(x, axes, correction=0)
  share = mask.float().mean()
  squares = (var + mean.square()) / share
  mean = mean / share
  var = squares - mean.square()
  with torch.no_grad():
    stats[name]["batch"]["mean"].lerp_(mean, MOMENTUM)
    stats[name]["batch"]["var"].lerp_(var, MOMENTUM)
  scale = scale * torch.rsqrt(var + EPSILON)
  shift = bias - mean * scale
  return torch.addcmul(shift.view(wide), x, scale.view(wide))
