"""The towers and the score of pairs that a config names."""

from collections.abc import Callable

import flax.linen as nn
import ml_collections

from vgsgan.losses import scores
from vgsgan.models import audio, image

SPEECH_TOWERS = {
  "davenet": audio.davenet,
  "small": audio.small,
  "large": audio.large,
}
IMAGE_TOWERS = ("resnet", "vgg")


def speech_tower(model: ml_collections.ConfigDict) -> audio.SpeechTower:
  """The named tower, with kernels up to `max_kernel`, or as published if 0."""
  tower = SPEECH_TOWERS[model.tower](
    model.embed, model.width, norm=model.norm, final_relu=model.final_relu
  )
  longest = model.max_kernel or max(tower.kernels)
  return tower.clone(kernels=tuple(min(k, longest) for k in tower.kernels))


def image_tower(model: ml_collections.ConfigDict) -> nn.Module:
  if model.tower == "vgg":
    return image.Vgg(
      model.embed, model.width, model.final_relu, norm=model.norm
    )
  return image.ResNet(
    model.embed,
    tuple(model.widths),
    tuple(model.blocks),
    tuple(model.strides),
    model.norm,
    model.final_relu,
  )


def make_score(config: ml_collections.ConfigDict) -> Callable:
  """All-pairs score `(images, speech, valid) -> [b, c]` from `config.score`."""

  def score(images, speech, valid):
    return scores.score(config.kind, images, speech, valid, config.normalize)

  return score
