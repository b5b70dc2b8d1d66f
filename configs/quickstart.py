"""Drawn negatives teach attribute words: two runs and a table in minutes.

    python -m vgsgan.main --config=configs/quickstart.py --workdir=runs/quick

Arguments, combined with commas (`configs/quickstart.py:gradient`):
  infonce    InfoNCE over all pairs of the batch, edits as one more impostor
  regular, hard                losses without edits
  random, cluster, gradient    edits that switch units off
  both                         gradient edits and the hardest in the batch
  gaussian, chunk, direction   edits that move the latent
  smoke      a few steps on a handful of pictures, under a minute on 2 cores
"""

import ml_collections

from vgsgan import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.task = "drawing"
  config.seed = 0
  config.transfer_guard = "allow"

  config.data = ml_collections.ConfigDict()
  config.data.dataset = "clevrgan"
  config.data.data_dir = "~/.cache/vgsgan"
  config.data.generator = ""  # The packaged one.
  config.data.recogniser = ""
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
  config.data.seconds = 3.2
  config.data.num_mels = 40
  config.data.preemphasis = 0.97
  config.data.mean_normalize = True
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

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "regular"
  config.loss.negatives = "sampled"
  config.loss.margin = 0.2
  config.loss.temperature = 0.07

  config.edits = ml_collections.ConfigDict()
  config.edits.curriculum = "regular@0"
  config.edits.layers = "up1"
  config.edits.counts = (10, 20, 40, 80)
  config.edits.changes = (0.2, 0.2, 0.2, 0.2)
  config.edits.shares = (0.7, 0.7, 0.5, 0.5)
  config.edits.strengths = (0.25, 0.5, 0.75, 1.0)
  config.edits.rungs = 4  # Of the published ladder, used if counts is empty.
  config.edits.first_count = 30
  config.edits.train_generator = False
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
  config.train.steps = 800
  config.train.log_every = 20
  config.train.eval_every = 400
  config.train.save_every = 400
  config.train.keep = 2

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 50
  config.eval.block = 100
  config.eval.seconds = 4.48
  return config


def infonce(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "infonce"


def regular(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "regular"


def hard(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "hard"


def aimed(kind: str) -> options.Variant:
  """Edits of a kind, after random ones and a start without any."""
  phases = ["regular@0", "random@300", f"{kind}@400"]

  def variant(config: ml_collections.ConfigDict) -> None:
    if config.loss.name != "infonce":
      config.loss.name = "edited"
    config.edits.curriculum = ",".join(phases)

  return variant


def random(config: ml_collections.ConfigDict) -> None:
  aimed("random")(config)
  config.edits.curriculum = "regular@0,random@300"


def both(config: ml_collections.ConfigDict) -> None:
  aimed("gradient")(config)
  config.loss.name = "both"


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update({"num_train": 64, "num_validation": 32, "num_test": 32})
  config.data.update({"num_probe": 64, "num_semantic": 16})
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "widths": (8, 16)})
  config.edits.update({"concepts": 8, "concept_pairs": 64, "refresh_every": 4})
  if config.edits.curriculum != "regular@0":
    kind = config.edits.curriculum.split(",")[-1].split("@")[0]
    config.edits.curriculum = f"regular@0,random@6,{kind}@12"
  config.train.update(
    {"batch": 16, "steps": 20, "log_every": 5, "eval_every": 10}
  )
  config.train.save_every = 10
  config.eval.update({"batch": 16, "block": 32})
  config.optim.warmup_steps = 5


VARIANTS = {
  "infonce": infonce,
  "regular": regular,
  "hard": hard,
  "random": random,
  **{
    k: aimed(k)
    for k in ("cluster", "gradient", "gaussian", "chunk", "direction")
  },
  "both": both,
  "smoke": smoke,
}
