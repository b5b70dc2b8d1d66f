"""Drawn negatives against plain ones: two runs and a table in minutes.

    python -m vgsgan.main --config=configs/quickstart.py --workdir=runs/quick

trains `regular` and `edited` on the same data with the same number of steps.
Arguments, with commas (`configs/quickstart.py:table,smoke`):
  table      the arms of TABLE with three seeds and 500 steps; or
  ARM        one arm alone: see ARMS below
  smoke      a few steps on a handful of pictures, about a minute on 2 cores
"""

from typing import Any

import ml_collections

from vgsgan.common import options
from vgsgan.common.errors import UserError


def arm(loss: str, *phases: str) -> dict[str, Any]:
  """Fields of an arm: its loss, and its edits from some step on."""
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
  # InfoNCE over all pairs of the batch, an edit being one more impostor.
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
  config = ml_collections.ConfigDict()
  config.task = "drawing"
  config.seed = 0
  config.transfer_guard = "allow"
  config.compilation_cache = "~/.cache/vgsgan/jax"  # "": none.

  config.mesh = ml_collections.ConfigDict()
  config.mesh.model = 1  # Devices that share one copy of what is trained.

  config.data = ml_collections.ConfigDict()
  config.data.dataset = "clevrgan"
  config.data.data_dir = "~/.cache/vgsgan"
  config.data.generator = ""  # The packaged one.
  config.data.recogniser = ""
  config.data.more = (
    ""  # Folders with more training pairs: `vgsgan.tools.select`.
  )
  config.data.image_size = 32
  config.data.most = 3
  config.data.truncation = 0.0
  config.data.num_train = 4000
  config.data.num_validation = 400
  config.data.num_test = 500
  config.data.num_probe = 2000
  config.data.num_semantic = 300
  config.data.scene_seed = 0
  config.data.speech_workers = 2
  config.data.sample_rate = 16000
  config.data.seconds = 1.6
  config.data.num_mels = 40
  config.data.preemphasis = 0.97
  # The mean of a word said alone is most of what it sounds like.
  config.data.mean_normalize = False
  config.data.num_workers = 0
  config.data.num_threads = 2
  config.data.augment = ml_collections.ConfigDict()
  # The edits know where things are in the picture as it was drawn.
  config.data.augment.shift = 0
  config.data.augment.flip = False
  config.data.augment.tempo = 0.1
  config.data.augment.vocal_tract = 0.1
  config.data.augment.time_share = 0.0
  config.data.augment.frequencies = 0
  config.data.augment.shortest = 0.4  # Seconds of a recording, at least.

  config.speech = ml_collections.ConfigDict()
  config.speech.tower = "small"
  config.speech.embed = 128
  config.speech.width = 0.25
  config.speech.max_kernel = 5
  config.speech.norm = "batch"
  config.speech.final_relu = False

  config.image = ml_collections.ConfigDict()
  config.image.tower = "resnet"
  config.image.embed = 128
  config.image.width = 1.0
  config.image.widths = (32, 64)
  config.image.blocks = (1, 1)
  config.image.strides = (1, 2)
  config.image.norm = "group"  # Edits and originals are met in equal terms.
  config.image.final_relu = False

  config.score = ml_collections.ConfigDict()
  config.score.kind = "misa"
  config.score.normalize = True
  config.score.exchange = "gather"  # Or "ring": see vgsgan/losses/exchange.py.

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "infonce"
  config.loss.negatives = "sampled"
  config.loss.margin = 0.2
  config.loss.temperature = 0.07

  config.edits = ml_collections.ConfigDict()
  config.edits.curriculum = "regular@0"
  config.edits.layers = "up1"
  # From the weakest edit to the strongest: units that are switched off, how far
  # the latent moves, what has to change at least in the region, and how much of
  # the peak still belongs to it.
  config.edits.counts = (8, 30)
  config.edits.strengths = (0.5, 1.0)
  config.edits.changes = (0.2, 0.2)
  config.edits.shares = (0.7, 0.7)
  config.edits.rungs = 2  # Of the published ladder, used if counts is empty.
  config.edits.first_count = 30
  config.edits.train_generator = False
  config.edits.inverter = ""  # Finds latents of pictures; else the records'.
  config.edits.inversion_steps = 4
  config.edits.inversion_limit = 0.5
  config.edits.directions = 16
  config.edits.concepts = 40
  config.edits.concept_pairs = 1000
  config.edits.quantile = 0.95
  config.edits.least = 2
  config.edits.refresh_every = 200

  config.optim = ml_collections.ConfigDict()
  config.optim.name = "adam"
  config.optim.lr = 2e-3
  config.optim.schedule = "cosine"
  config.optim.decay_steps = 0
  config.optim.warmup_steps = 50
  config.optim.momentum = 0.9
  config.optim.b2 = 0.999
  config.optim.weight_decay = 0.0
  config.optim.clip_norm = 1.0

  config.train = ml_collections.ConfigDict()
  config.train.batch = 32
  config.train.dtype = "float32"  # Or "bfloat16", for accelerators.
  config.train.accumulate = 1  # Parts in which a batch passes the networks.
  config.train.remat = False  # True: less memory, more work.
  config.train.steps = 400
  config.train.log_every = 20
  config.train.eval_every = 400
  config.train.save_every = 200
  config.train.keep = 2

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
  """One arm, as a run of its own."""

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
  config.data.update({"num_train": 64, "num_validation": 32, "num_test": 32})
  config.data.update({"num_probe": 64, "num_semantic": 16})
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "widths": (8, 16)})
  config.edits.update({"concepts": 8, "concept_pairs": 64, "refresh_every": 1})
  arms = config.compare.arms.values() if "compare" in config else [config]
  for one in arms:
    one.edits.curriculum = one.edits.curriculum.replace("00", "")
  config.train.update(
    {"batch": 16, "steps": 4, "log_every": 1, "eval_every": 4}
  )
  config.train.save_every = 4
  config.eval.update({"batch": 16, "block": 32})
  config.optim.warmup_steps = 5


VARIANTS = {
  **{name: alone(name) for name in ARMS},
  "table": table,
  "smoke": smoke,
}
