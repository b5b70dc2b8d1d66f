"""Drawn negatives among coloured solids, where every impostor teaches words.

    python -m vgsgan.main --config=configs/solids.py --workdir=runs/solids

trains `regular` and `edited` on the same data with the same number of steps.
Arguments, with commas (`configs/solids.py:table,smoke`):
  table      the arms of TABLE with three seeds and 500 steps; or
  ARM        one arm alone: see ARMS below
  smoke      a few steps on a handful of images, about a minute on 2 cores
"""

from typing import Any

import ml_collections

from configs import common
from vgsgan.common import options
from vgsgan.common.errors import UserError


def arm(loss: str, *phases: str) -> dict[str, Any]:
  """Fields of an arm: its loss, and its phases of edits."""
  curriculum = ",".join(["regular@0", *phases])
  return {"loss": {"name": loss}, "edits": {"curriculum": curriculum}}


ARMS = {
  # The published losses, with edits that switch units off.
  "regular": arm("regular"),
  "hard": arm("hard"),
  "random": arm("edited", "random@100"),
  "cluster": arm("edited", "random@100", "cluster@200"),
  "gradient": arm("edited", "random@100", "gradient@200"),
  "both": arm("both", "random@100", "gradient@200"),
  # With edits that move the latent.
  "gaussian": arm("edited", "gaussian@100"),
  "chunk": arm("edited", "chunk@100"),
  "direction": arm("edited", "direction@100"),
  # InfoNCE over all pairs of the batch; an edit is one more impostor.
  "infonce": arm("infonce"),
  "infonce_gradient": arm("infonce", "random@100", "gradient@200"),
  "infonce_chunk": arm("infonce", "chunk@100"),
}

TABLE = (
  "regular",
  "hard",
  "random",
  "cluster",
  "gradient",
  "both",
  "chunk",
  "infonce",
  "infonce_chunk",
)

_SEEN = "splits.test.attributes.training_voices"
COLUMNS = {
  **{
    kind: f"{_SEEN}.{kind}" for kind in ("color", "material", "size", "shape")
  },
  "mean": f"{_SEEN}.mean",
  "mean, new voice": "splits.test.attributes.held_out_voice.mean",
  "semantic R@1": "splits.test.semantic.R@1",
  "retrieval R@10": "splits.test.by_group.training_voices.speech_to_image.R@10",
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("drawing")
  config.data = common.spoken_scenes(
    common.splits(4000, 400, 500),
    image_size=32,
    seconds=1.6,
    num_probe=2000,
    num_semantic=300,
  )
  # No shift or flip: edits use the places of objects in the drawn image.
  config.data.augment = common.speech_augment(tempo=0.1, vocal_tract=0.1)
  config.data.augment.shortest = 0.4  # Seconds of a recording, at least.

  config.speech = common.small_speech(final_relu=False)
  # Group normalisation treats edits and originals alike.
  config.image = common.image(
    widths=(32, 64), blocks=(1, 1), strides=(1, 2), norm="group"
  )
  config.score = common.score("misa", normalize=True)
  config.loss = common.contrastive("infonce", "sampled", margin=0.2)
  config.edits = common.edits(
    counts=(8, 30),
    strengths=(0.5, 1.0),
    changes=(0.2, 0.2),
    shares=(0.7, 0.7),
    rungs=2,
    first_count=30,
    concepts=40,
    concept_pairs=1000,
    quantile=0.95,
    least=2,
    refresh_every=200,
  )
  config.optim = common.adam(lr=2e-3)
  config.train = common.train(
    batch=32, steps=400, eval_every=400, save_every=200
  )

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 50
  config.eval.block = 100
  config.eval.seconds = 4.48

  config.compare = ml_collections.ConfigDict()
  config.compare.seeds = (0,)
  config.compare.arms = ml_collections.ConfigDict(
    {"regular": ARMS["regular"], "edited": ARMS["chunk"]}
  )
  config.compare.columns = tuple(COLUMNS.items())
  config.compare.bars = ("color", "material", "size", "shape", "mean")
  return config


def alone(name: str) -> options.Variant:
  """A variant with one arm, as a run of its own."""

  def variant(config: ml_collections.ConfigDict) -> None:
    if "compare" not in config:
      raise UserError(f"config argument {name!r}: name one arm alone")
    config.update(ARMS[name])
    del config.compare

  return variant


def table(config: ml_collections.ConfigDict) -> None:
  if "compare" not in config:
    raise UserError("config argument 'table': it has all arms, name none")
  config.train.update({"steps": 500, "eval_every": 500})
  config.compare.seeds = (0, 1, 2)
  config.compare.arms = ml_collections.ConfigDict(
    {name: ARMS[name] for name in TABLE}
  )


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update(common.splits(64, 32, 32), num_probe=64, num_semantic=16)
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "widths": (8, 16)})
  config.edits.update({"concepts": 8, "concept_pairs": 64, "refresh_every": 1})
  arms = config.compare.arms.values() if "compare" in config else [config]
  for fields in arms:
    fields.edits.curriculum = fields.edits.curriculum.replace("00", "")
  common.shorten(config, steps=4, log_every=1, every=4)
  config.eval.block = 32
  config.optim.warmup_steps = 5


VARIANTS = {
  **{name: alone(name) for name in ARMS},
  "table": table,
  "smoke": smoke,
}
