"""The towers of `vgsgan.models` in PyTorch.

The functions take a Flax module and its parameters as tensors in PyTorch's
layout. Speech is [b, d, t] and images are [b, d, h, w] here. Batch
normalisation is in training mode; its running variances are unbiased, as usual
in PyTorch.
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
MOMENTUM = 0.1  # Share of the new statistics; Flax names that of the old.


def tensors(params: Mapping[str, Any], device: str) -> Tree:
  """Converts Flax parameters to leaves with gradients, in PyTorch's layout.

  A kernel [..., input, output] becomes [output, input, ...]. Those for images
  have channels last in memory, which is faster.
  """

  def leaf(name: str, value: Any) -> torch.Tensor:
    x = torch.from_numpy(np.array(value, np.float32))
    if name == "kernel":
      x = x.permute(-1, -2, *range(x.ndim - 2)).contiguous()
    if x.ndim == 4:
      x = x.contiguous(memory_format=torch.channels_last)
    return x.to(device).requires_grad_()

  return {
    name: tensors(value, device)
    if isinstance(value, Mapping)
    else leaf(name, value)
    for name, value in params.items()
  }


def image_map(tower: Any, params: Tree, stats: Tree, x: torch.Tensor):
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
    # One statistic for all bands: they are pixels of an image of one channel.
    y = _masked_norm(x[:, None], mask[:, None], params, stats, "input_norm")
    x = torch.where(mask, y[:, 0], 0.0)
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
  """A mask [b, 1, t] of the frames inside their clips."""
  frames = torch.arange(x.shape[-1], device=x.device)
  return (frames < num_frames[:, None])[:, None]


def _conv2d(x: torch.Tensor, params: Tree) -> torch.Tensor:
  kernel = params["kernel"]
  pad = kernel.shape[-1] // 2
  return F.conv2d(x, kernel, params.get("bias"), padding=pad)


def _space_to_depth(x: torch.Tensor) -> torch.Tensor:
  """`image.space_to_depth`; channels have places before colours."""
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
  # One pass over all frames, from which the zeros are then removed.
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
