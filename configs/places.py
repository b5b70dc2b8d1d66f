"""Drawn negatives where nouns suffice: one thing at one of many places.

    python -m vgsgan.main --config=configs/places.py --workdir=runs/places

Nouns are easy and tell a pair from its impostors, so a model that only
discriminates learns them and stops. All arms have the same pairs and the same
number of steps; they differ in one more impostor that each pair meets.
Results: docs/places.md.

Arguments, with commas (`configs/places.py:triplet,smoke`):
  triplet    the triplet loss instead of InfoNCE
  muted      captions without nouns, about the same images
  ARM        one arm alone: see ARMS below
  smoke      a few steps on a handful of images, about a minute on 2 cores
"""

from typing import Any

import ml_collections

from configs import common
from vgsgan.common import options
from vgsgan.common.errors import UserError

# The impostor that each pair meets besides the others of its batch.
ARMS = {
  "none": "",
  "other": "other",  # Another image: the control of equal cost.
  "same_noun": "same_noun",  # Another image of the same thing and place.
  "caption": "caption",  # The caption with one stated attribute wrong.
  "attribute": "attribute",  # The image with one stated attribute changed.
  # The same with images and impostors that the generator draws.
  **{
    f"drawn_{kind}": kind
    for kind in ("other", "attribute", "size", "color", "material")
  },
}
_EDITS_FROM = 100  # Updates.

_PAIRS = "splits.test.pairs"
_WORDS = "splits.test.words"
COLUMNS = {
  **{
    kind: f"{_PAIRS}.speech_to_image.{kind}"
    for kind in ("size", "color", "material", "attributes")
  },
  "attributes, back": f"{_PAIRS}.image_to_speech.attributes",
  "nouns": f"{_PAIRS}.speech_to_image.nouns",
  "word alone": f"{_WORDS}.training_voices.attributes",
  "new voices": f"{_WORDS}.held_out_voices.attributes",
  "noun alone": f"{_WORDS}.training_voices.nouns",
  "retrieval R@10": "splits.test.by_group.training_voices.speech_to_image.R@10",
  "validation": "splits.validation.pairs.speech_to_image.attributes",
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("places")
  config.data = common.places(common.splits(4000, 400, 500))
  config.data.augment = common.speech_augment(tempo=0.1, vocal_tract=0.1)
  config.data.augment.shortest = 0.0

  config.speech = common.small_speech(final_relu=False)
  config.image = common.image(
    widths=(32, 64), blocks=(1, 1), strides=(1, 2), norm="group"
  )
  config.score = common.score("misa", normalize=True)
  config.loss = common.contrastive("infonce", "sampled", margin=0.2)
  config.edits = ml_collections.ConfigDict(
    {
      "curriculum": "regular@0",
      "drawn": False,  # True: a generator draws images and impostors.
      "generator": "",  # "" for the packaged one.
      "astray": 0.0,  # Share of edits that leave the caption true.
    }
  )
  config.optim = common.adam(lr=2e-3)
  config.train = common.train(
    batch=32, steps=1000, eval_every=1000, save_every=500
  )
  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 50
  config.eval.block = 100
  config.eval.seconds = 3.2

  config.compare = ml_collections.ConfigDict()
  config.compare.seeds = (0, 1, 2)
  config.compare.arms = ml_collections.ConfigDict(
    {name: fields_of(name) for name in ARMS}
  )
  config.compare.columns = tuple(COLUMNS.items())
  return config


def fields_of(arm: str) -> dict[str, Any]:
  """The fields of an arm."""
  kind = ARMS[arm]
  phases = f"regular@0,{kind}@{_EDITS_FROM}" if kind else "regular@0"
  return {
    "edits": {"curriculum": phases, "drawn": arm.startswith("drawn_")},
    "data": {"wrong": kind == "caption"},
  }


def alone(name: str) -> options.Variant:
  """A variant with one arm, as a run of its own."""

  def variant(config: ml_collections.ConfigDict) -> None:
    if "compare" not in config:
      raise UserError(f"config argument {name!r}: name one arm alone")
    config.update(config.compare.arms[name].to_dict())
    del config.compare

  return variant


def triplet(config: ml_collections.ConfigDict) -> None:
  if "compare" not in config:
    raise UserError("config argument 'triplet': put it before the arm")
  config.loss.update({"name": "regular", "margin": 0.1})
  for name, fields in config.compare.arms.items():
    fields.loss = {"name": "edited" if ARMS[name] else "regular"}


def muted(config: ml_collections.ConfigDict) -> None:
  config.data.said = "attributes"
  columns = {k: v for k, v in COLUMNS.items() if "noun" not in k}
  config.compare.columns = tuple(columns.items())


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update(common.splits(64, 32, 32), num_pairs=20, places=4, skies=2)
  config.data.things = 4
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "widths": (8, 16)})
  arms = config.compare.arms.values() if "compare" in config else [config]
  for fields in arms:
    fields.edits.curriculum = fields.edits.curriculum.replace("100", "1")
  if "compare" in config:
    config.compare.seeds = (0,)
  common.shorten(config, steps=4, log_every=1, every=4)
  config.eval.block = 32
  config.optim.warmup_steps = 5


VARIANTS = {
  "triplet": triplet,
  "muted": muted,
  **{name: alone(name) for name in ARMS},
  "smoke": smoke,
}
