"""Names the words of images of places: the judge of generated ones.

    python -m vgsgan.main --config=configs/namer.py --workdir=runs/namer

Arguments:
  smoke           a few hundred images, seconds
"""

import ml_collections

from configs import common
from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("naming")
  config.data = common.place_images(common.splits(30000, 1000, 1000))
  config.data.places = 64
  config.data.augment = ml_collections.ConfigDict()
  config.data.augment.shift = 1
  config.data.augment.blur = 0.5
  config.data.augment.noise = 0.04
  config.data.augment.brightness = 0.1

  config.namer = ml_collections.ConfigDict({"widths": (32, 64, 96)})
  config.optim = common.adam(lr=3e-3)
  config.train = common.train(batch=64, steps=4000)
  config.eval = ml_collections.ConfigDict({"batch": 100})
  return config


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update(common.splits(250, 32, 32))
  config.namer.widths = (8, 16, 24)
  common.shorten(config)
  config.optim.warmup_steps = 5


VARIANTS = {"smoke": smoke}
