"""BigGAN on the world of places: the generator that draws its edits.

    python -m vgsgan.main --config=configs/places_gan.py --workdir=runs/painter

The networks are given the words of every image: the discriminator by their
projection (Miyato and Koyama, ICLR 2018). An edit is the same latent with one
word changed.

Arguments, combined with commas:
  unlabelled   as published: no words; edits move latents or switch units off
  smoke        a few steps of small networks, under a minute on 2 cores
"""

import ml_collections

from configs import common, scenes_gan
from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = scenes_gan.default()
  config.data = common.place_images(common.splits(40000, 2000, 2000))
  config.gan.labels = True
  return config


def unlabelled(config: ml_collections.ConfigDict) -> None:
  config.gan.labels = False


VARIANTS = {"unlabelled": unlabelled, "smoke": scenes_gan.smoke}
