"""Pictures of the Tux Paint stamps and people describing them.

    python -m vgsgan.main --config=configs/stamps.py --workdir=runs/stamps

Arguments, combined with commas (`configs/stamps.py:images,infonce`):
  cells, images   protocol; `cells` unless named
  infonce         InfoNCE over all pairs of the batch instead of triplets
  permuted        the control: training pairs shuffled
  davenet         DAVEnet as published (224 px, VGG16, 1024-d, SGD): for a GPU
  smoke           a handful of stamps, under a minute on 2 cores
"""

import ml_collections

from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.task = "grounding"
  config.seed = 0
  # 'disallow' in tests: a hidden copy between host and device is an error.
  config.transfer_guard = "allow"
  config.compilation_cache = "~/.cache/vgsgan/jax"  # "": none.

  config.mesh = ml_collections.ConfigDict()
  config.mesh.model = 1  # Devices that share one copy of what is trained.

  config.data = ml_collections.ConfigDict()
  config.data.dataset = "stamps"
  config.data.source = "/usr/share/tuxpaint/stamps"
  config.data.data_dir = "~/.cache/vgsgan"
  config.data.protocol = "cells"
  config.data.languages = "fr,ro,ru,ca,bg,es"
  config.data.symbols = False
  config.data.max_stamps = 0  # 0 for all of them.
  config.data.max_bad_share = 0.01
  config.data.split_seed = 0
  config.data.permuted = False
  config.data.image_size = 64
  config.data.sample_rate = 16000
  config.data.seconds = 1.6
  config.data.num_mels = 40
  config.data.preemphasis = 0.97
  config.data.mean_normalize = True
  config.data.num_workers = 0
  config.data.num_threads = 2
  config.data.augment = ml_collections.ConfigDict()
  config.data.augment.shift = 2
  config.data.augment.flip = True
  config.data.augment.tempo = 0.2
  config.data.augment.vocal_tract = 0.2
  config.data.augment.time_share = 0.2
  config.data.augment.frequencies = 8

  config.speech = ml_collections.ConfigDict()
  config.speech.tower = "small"
  config.speech.embed = 128
  config.speech.width = 0.25
  # The published kernels of 11 and 17 learn the clips by heart here.
  config.speech.max_kernel = 5  # 0: as published.
  config.speech.norm = "batch"
  config.speech.final_relu = True

  config.image = ml_collections.ConfigDict()
  config.image.tower = "resnet"
  config.image.embed = 128
  config.image.width = 1.0  # Of the VGG.
  config.image.widths = (16, 32, 64)
  config.image.blocks = (1, 1, 1)
  config.image.strides = (2, 2, 2)
  config.image.norm = "batch"
  config.image.final_relu = False

  config.score = ml_collections.ConfigDict()
  config.score.kind = "cosine"
  config.score.normalize = False
  config.score.exchange = "gather"  # Or "ring": see vgsgan/losses/exchange.py.

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "triplet"
  config.loss.negatives = "sampled,semi_hard"
  config.loss.margin = 0.2
  config.loss.temperature = 0.07

  config.optim = ml_collections.ConfigDict()
  config.optim.name = "adam"
  config.optim.lr = 3e-3
  config.optim.schedule = "cosine"
  config.optim.decay_steps = 0
  config.optim.warmup_steps = 50
  config.optim.momentum = 0.9
  config.optim.b2 = 0.999
  config.optim.weight_decay = 0.0
  config.optim.clip_norm = 1.0

  config.train = ml_collections.ConfigDict()
  config.train.batch = 64
  config.train.dtype = "float32"  # Or "bfloat16", for accelerators.
  config.train.accumulate = 1  # Parts in which a batch passes the networks.
  config.train.remat = False  # True: less memory, more work.
  config.train.steps = 1200
  config.train.log_every = 20
  config.train.eval_every = 400
  config.train.save_every = 200
  config.train.keep = 2

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
  config.data.augment.update({"shift": 0, "flip": False})
  config.data.augment.update({"tempo": 0.0, "vocal_tract": 0.0})
  config.data.augment.update({"time_share": 0.0, "frequencies": 0})
  config.eval.seconds = 20.48
  config.speech.update(
    {
      "tower": "davenet",
      "embed": 1024,
      "width": 1.0,
      "norm": "none",
      "max_kernel": 0,
    }
  )
  config.image.update({"tower": "vgg", "embed": 1024, "norm": "none"})
  config.score.kind = "misa"
  config.loss.update({"negatives": "sampled", "margin": 1.0})
  config.optim.update(
    {
      "name": "sgd",
      "lr": 1e-3,
      "schedule": "step",
      "decay_steps": 1260,  # 40 epochs.
      "warmup_steps": 0,
      "clip_norm": 0.0,
      "weight_decay": 5e-7,
    }
  )
  config.train.update({"batch": 96, "steps": 3150})


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.max_stamps = 24
  config.data.update({"image_size": 64, "seconds": 1.6})
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "widths": (8, 8, 16), "width": 0.0625})
  config.train.update(
    {"batch": 16, "steps": 20, "log_every": 5, "eval_every": 10}
  )
  config.train.save_every = 10
  config.eval.update({"batch": 16, "seconds": 2.56})
  config.optim.warmup_steps = 5


VARIANTS = {
  "cells": cells,
  "images": images,
  "infonce": infonce,
  "permuted": permuted,
  "davenet": davenet,
  "smoke": smoke,
}
