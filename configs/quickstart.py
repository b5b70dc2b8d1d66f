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

ARMS = {"control": "other", "edited": "attribute"}
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
  config.edits.drawn = True
  config.optim.lr = 4e-3
  config.train.update({"steps": 600, "eval_every": 600, "save_every": 300})
  config.compare.seeds = (0,)
  config.compare.arms = ml_collections.ConfigDict(
    {
      name: {"edits": {"curriculum": f"{kind}@0"}}
      for name, kind in ARMS.items()
    }
  )
  config.compare.columns = tuple((k, places.COLUMNS[k]) for k in COLUMNS)
  config.compare.bars = ("size", "color", "material", "word alone")
  return config


VARIANTS = {"smoke": places.smoke}
