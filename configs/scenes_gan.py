"""BigGAN on rendered scenes: the generator that `configs/drawing.py` uses.

    python -m vgsgan.main --config=configs/scenes_gan.py --workdir=runs/gan

Arguments, combined with commas (`configs/scenes_gan.py:labels`):
  labels     a projection discriminator, conditioned on the true words
  published  128 px and the published widths: for accelerators
  smoke      a few steps of small networks, under a minute on 2 cores
"""

import ml_collections

from configs import common
from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("gan")
  config.data = common.scenes(common.splits(40000, 2000, 2000))

  config.gan = ml_collections.ConfigDict()
  config.gan.channels = (96, 96, 48, 16)
  config.gan.chunk = 16
  config.gan.attention = 0
  config.gan.spectral = False
  config.gan.discriminator_channels = (16, 48, 96, 96)
  config.gan.discriminator_attention = 0
  config.gan.discriminator_spectral = False
  config.gan.labels = False
  config.gan.r1 = 0.5
  config.gan.r1_rows = 4  # Every fourth image of the batch.
  config.gan.orthogonal = 0.0
  config.gan.shift = 4
  config.gan.average = 0.999

  config.optim = ml_collections.ConfigDict()
  config.optim.generator = common.constant_adam(lr=1e-3, momentum=0.0)
  config.optim.discriminator = common.constant_adam(lr=1e-3, momentum=0.0)

  every = {"log_every": 50, "eval_every": 1000, "save_every": 1000}
  config.train = common.train(batch=32, steps=12000, **every)

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 100
  config.eval.samples = 2000
  config.eval.recogniser = ""  # "" for the packaged one.
  return config


def labels(config: ml_collections.ConfigDict) -> None:
  config.gan.labels = True


def published(config: ml_collections.ConfigDict) -> None:
  config.data.image_size = 128
  config.gan.update(
    {
      "channels": (1536, 1536, 768, 384, 192, 96),
      "chunk": 20,
      "attention": 4,
      "spectral": True,
      "discriminator_channels": (96, 192, 384, 768, 1536, 1536),
      "discriminator_attention": 1,
      "discriminator_spectral": True,
      "r1": 0.0,
      "orthogonal": 1e-4,
      "shift": 0,
      "average": 0.9999,
    }
  )
  config.optim.generator.update({"lr": 5e-5, "b2": 0.999})
  config.optim.discriminator.update({"lr": 2e-4, "b2": 0.999})
  config.train.update({"batch": 256, "steps": 100000})


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update(common.splits(64, 32, 32), image_size=32)
  config.gan.update({"channels": (16, 16, 8, 8), "attention": 0})
  config.gan.update({"discriminator_channels": (8, 8, 16, 16)})
  config.gan.discriminator_attention = 0
  common.shorten(config)
  config.eval.samples = 32


VARIANTS = {"labels": labels, "published": published, "smoke": smoke}
