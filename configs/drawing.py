"""Learning words by drawing images, at the published size: for accelerators.

    python -m vgsgan.main --config=configs/drawing.py \\
      --config.data.generator=GENERATOR.npz --workdir=runs/drawing

The towers, score, loss, optimiser and edits of Surís et al. (CVPR 2019), on
pictures of a 128 px generator that `configs/scenes_gan.py:published` trains and
`python -m vgsgan.tools.export` takes out of its run. The published generator is
a progressive GAN, this one a BigGAN; its 8 x 8 layer, `up1`, stands for
`layer4`.
Not trained yet; no results are known.

Arguments, combined with commas (`configs/drawing.py:random`):
  regular, hard    losses without edits
  random           edits of random units only
  edited           without the hardest impostors of the batch
  folder           the published data, or others of their layout, without edits:
                   --config.data.source=DIR
  smoke            the packaged 32 px generator and narrow towers, for CPU

The published pictures are of a progressive GAN that is not here, so nothing can
be drawn of their latents. A folder of another generator's pictures brings its
latents as `z.npy`; it takes edits with --config.task=drawing,
--config.loss.name=both and --config.data.generator=GENERATOR.npz.
"""

import ml_collections

from vgsgan.common import options

_EPOCH = 500  # Updates: 4,000 pairs in batches of 8.


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
  config.data.source = ""  # A folder; of `folder` alone.
  config.data.max_bad_share = 0.01  # Likewise.
  config.data.more = (
    ""  # Folders with more training pairs: `vgsgan.tools.select`.
  )
  config.data.generator = ""  # To be set: the packaged one draws 32 px.
  config.data.recogniser = ""
  config.data.image_size = 128
  config.data.most = 3
  config.data.truncation = 0.0
  config.data.num_train = 4000
  config.data.num_validation = 500
  config.data.num_test = 500
  config.data.num_probe = 4000
  config.data.num_semantic = 500
  config.data.scene_seed = 0
  config.data.speech_workers = 2
  config.data.sample_rate = 16000
  config.data.seconds = 10.24
  config.data.num_mels = 40
  config.data.preemphasis = 0.97
  config.data.mean_normalize = False
  config.data.num_workers = 0
  config.data.num_threads = 2
  config.data.augment = ml_collections.ConfigDict(
    {
      "shift": 0,
      "flip": False,
      "tempo": 0.0,
      "vocal_tract": 0.0,
      "time_share": 0.0,
      "frequencies": 0,
      "shortest": 0.0,
    }
  )

  config.speech = ml_collections.ConfigDict()
  config.speech.tower = "large"
  config.speech.embed = 512
  config.speech.width = 1.0
  config.speech.max_kernel = 0
  config.speech.norm = "none"
  config.speech.final_relu = True

  config.image = ml_collections.ConfigDict()
  config.image.tower = "vgg"
  config.image.embed = 512
  config.image.width = 1.0
  config.image.widths = ()  # Of the residual tower, likewise.
  config.image.blocks = ()
  config.image.strides = ()
  config.image.norm = "none"
  config.image.final_relu = True

  config.score = ml_collections.ConfigDict()
  config.score.kind = "misa"
  config.score.normalize = False
  config.score.exchange = "gather"  # Or "ring": see vgsgan/losses/exchange.py.

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "both"
  config.loss.negatives = "sampled"
  config.loss.margin = 1.0
  config.loss.temperature = 0.07

  config.edits = ml_collections.ConfigDict()
  config.edits.curriculum = (
    f"regular@0,random@{60 * _EPOCH},cluster@{90 * _EPOCH}"
  )
  config.edits.layers = "up1"
  config.edits.counts = ()  # The published ladder.
  config.edits.changes = ()
  config.edits.shares = ()
  config.edits.rungs = 10
  config.edits.first_count = 140
  config.edits.strengths = tuple(0.1 * rung for rung in range(1, 11))
  config.edits.train_generator = False
  config.edits.inverter = ""  # Finds latents of pictures; else the records'.
  config.edits.inversion_steps = 4
  config.edits.inversion_limit = 0.5
  config.edits.directions = 16
  config.edits.concepts = 250
  config.edits.concept_pairs = 4000
  config.edits.quantile = 0.99
  config.edits.least = 4
  config.edits.refresh_every = 10 * _EPOCH

  config.optim = ml_collections.ConfigDict()
  config.optim.name = "sgd"
  config.optim.lr = 1e-3
  config.optim.schedule = "step"
  config.optim.decay_steps = 30 * _EPOCH
  config.optim.warmup_steps = 0
  config.optim.momentum = 0.9
  config.optim.b2 = 0.999
  config.optim.weight_decay = 5e-7
  config.optim.clip_norm = 0.0

  config.train = ml_collections.ConfigDict()
  config.train.batch = 8
  config.train.dtype = "float32"  # Or "bfloat16", for accelerators.
  config.train.accumulate = 1  # Parts in which a batch passes the networks.
  config.train.remat = False  # True: less memory, more work.
  config.train.steps = 180 * _EPOCH
  config.train.log_every = 50
  config.train.eval_every = 10 * _EPOCH
  config.train.save_every = 2 * _EPOCH
  config.train.keep = 2

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 40
  config.eval.block = 100
  config.eval.seconds = 20.48
  return config


def regular(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "regular"
  config.edits.curriculum = "regular@0"


def hard(config: ml_collections.ConfigDict) -> None:
  regular(config)
  config.loss.name = "hard"


def edited(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "edited"


def random(config: ml_collections.ConfigDict) -> None:
  config.edits.curriculum = f"regular@0,random@{60 * _EPOCH}"


def folder(config: ml_collections.ConfigDict) -> None:
  config.task = "grounding"
  config.data.dataset = "clevrgan_folder"
  if config.loss.name != "regular":
    config.loss.name = "hard"


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update({"image_size": 32, "seconds": 2.56})
  config.data.update({"num_train": 64, "num_validation": 32, "num_test": 32})
  config.data.update({"num_probe": 64, "num_semantic": 16})
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "width": 0.0625})
  config.edits.update({"concepts": 8, "concept_pairs": 64, "refresh_every": 1})
  config.edits.update({"rungs": 2, "first_count": 20, "strengths": (0.5, 1.0)})
  phases = [phase.split("@")[0] for phase in config.edits.curriculum.split(",")]
  config.edits.curriculum = ",".join(f"{p}@{i}" for i, p in enumerate(phases))
  config.train.update(
    {"batch": 8, "steps": 4, "log_every": 1, "eval_every": 4, "save_every": 4}
  )
  config.eval.update({"batch": 16, "block": 32, "seconds": 2.56})


VARIANTS = {
  "regular": regular,
  "hard": hard,
  "random": random,
  "edited": edited,
  "folder": folder,
  "smoke": smoke,
}
