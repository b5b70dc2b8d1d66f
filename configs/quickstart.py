"""Drawn hard negatives against other images: two runs and a table in minutes.

    python -m vgsgan.main --config=configs/quickstart.py --workdir=runs/quick

trains two arms of configs/places.py on the same images and captions with the
same number of steps. For each pair `edited` draws its image again with one
attribute changed, `control` any other image; so both cost the same.

Arguments:
  smoke      a few steps on a handful of images, about a minute on 2 cores
"""

import ml_collections

from configs import common, places
from vgsgan.common import options

ARMS = {"control": "drawn_other", "edited": "drawn_attribute"}
COLUMNS = (
  "size",
  "color",
  "material",
  "attributes",
  "word alone",
  "nouns",
  "retrieval R@10",
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = places.default()
  config.data.update(common.splits(2000, 200, 200), num_pairs=240)
  config.train.update({"steps": 400, "eval_every": 400, "save_every": 200})
  config.compare.seeds = (0,)
  config.compare.arms = ml_collections.ConfigDict(
    {name: places.fields_of(arm) for name, arm in ARMS.items()}
  )
  config.compare.columns = tuple((k, places.COLUMNS[k]) for k in COLUMNS)
  config.compare.bars = ("size", "color", "material", "word alone")
  return config


VARIANTS = {"smoke": places.smoke}
