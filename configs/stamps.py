"""Images of the Tux Paint stamps with spoken descriptions.

    python -m vgsgan.main --config=configs/stamps.py --workdir=runs/stamps

Arguments, combined with commas (`configs/stamps.py:images,infonce`):
  cells, images   protocol; `cells` unless named
  infonce         InfoNCE over all pairs of the batch instead of triplets
  permuted        the control: training pairs shuffled
  davenet         DAVEnet as published (224 px, VGG16, 1024-d, SGD): for a GPU
  smoke           a handful of stamps, under a minute on 2 cores
"""

import ml_collections

from configs import common
from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("grounding")
  config.data = common.data("stamps", image_size=64)
  config.data.source = "/usr/share/tuxpaint/stamps"
  config.data.protocol = "cells"
  config.data.languages = "fr,ro,ru,ca,bg,es"
  config.data.symbols = False
  config.data.max_stamps = 0  # 0 for all stamps.
  config.data.max_bad_share = 0.01
  config.data.split_seed = 0
  config.data.permuted = False
  config.data.update(common.speech_features(1.6, mean_normalize=True))
  config.data.augment = common.speech_augment(
    shift=2,
    flip=True,
    tempo=0.2,
    vocal_tract=0.2,
    time_share=0.2,
    frequencies=8,
  )
  config.speech = common.small_speech()
  config.image = common.image()
  config.score = common.score("cosine")
  config.loss = common.contrastive("triplet", "sampled,semi_hard", margin=0.2)
  config.optim = common.adam(lr=3e-3)
  config.train = common.train(
    batch=64, steps=1200, eval_every=400, save_every=200
  )

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 64
  config.eval.block = 128
  config.eval.seconds = 5.12
  return config


def cells(config: ml_collections.ConfigDict) -> None:
  config.data.protocol = "cells"


def images(config: ml_collections.ConfigDict) -> None:
  config.data.protocol = "images"


def infonce(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "infonce"


def permuted(config: ml_collections.ConfigDict) -> None:
  config.data.permuted = True


def davenet(config: ml_collections.ConfigDict) -> None:
  config.data.image_size = 224
  config.data.seconds = 10.24
  config.data.mean_normalize = False
  config.data.augment = common.speech_augment()
  config.eval.seconds = 20.48
  config.speech = common.published_speech("davenet", embed=1024)
  config.image.update({"tower": "vgg", "embed": 1024, "norm": "none"})
  config.score.kind = "misa"
  config.loss.update({"negatives": "sampled", "margin": 1.0})
  config.optim = common.sgd(lr=1e-3, decay_steps=1260)  # 40 epochs.
  config.train.update({"batch": 96, "steps": 3150})


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.max_stamps = 24
  config.data.update({"image_size": 64, "seconds": 1.6})
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "widths": (8, 8, 16), "width": 0.0625})
  common.shorten(config)
  config.eval.seconds = 2.56
  config.optim.warmup_steps = 5


VARIANTS = {
  "cells": cells,
  "images": images,
  "infonce": infonce,
  "permuted": permuted,
  "davenet": davenet,
  "smoke": smoke,
}
