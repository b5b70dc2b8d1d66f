"""Which objects a picture of a scene shows: the judge of generated pictures.

    python -m vgsgan.main --config=configs/recogniser.py --workdir=runs/judge

Nine minutes on one core of an AMD EPYC that other work shared, after one
minute of rendering. On 1494 objects of the test split (seed 0, 21 November
2026): size 99.9 % (chance 50.9), colour 99.9 % (13.3), material 100 % (50.2),
shape 98.6 % (35.1). Finding the objects itself it counts them right in 99.4 %
of pictures (50.6) and is sure of 98.5 % of their words, 99.97 % of them right.

Arguments:
  smoke           a few hundred pictures of 16 pixels, seconds
"""

import ml_collections

from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.task = "recognition"
  config.seed = 0
  config.transfer_guard = "allow"
  config.compilation_cache = "~/.cache/vgsgan/jax"  # "": none.

  config.mesh = ml_collections.ConfigDict()
  config.mesh.model = 1  # Devices that share one copy of what is trained.

  config.data = ml_collections.ConfigDict()
  config.data.dataset = "scenes"
  config.data.scenes = "rendered"
  config.data.data_dir = "~/.cache/vgsgan"
  config.data.image_size = 32
  config.data.fewest = 1
  config.data.most = 2
  config.data.num_train = 20000
  config.data.num_validation = 1000
  config.data.num_test = 1000
  config.data.scene_seed = 0
  config.data.num_workers = 0
  config.data.num_threads = 1
  config.data.augment = ml_collections.ConfigDict()
  config.data.augment.shift = 1
  config.data.augment.flip = True
  config.data.augment.blur = 0.5
  config.data.augment.noise = 0.04
  config.data.augment.brightness = 0.1

  config.recogniser = ml_collections.ConfigDict()
  config.recogniser.widths = (32, 64, 128)
  config.recogniser.norm = "batch"

  config.optim = ml_collections.ConfigDict()
  config.optim.name = "adam"
  config.optim.lr = 3e-3
  config.optim.schedule = "cosine"
  config.optim.decay_steps = 0
  config.optim.warmup_steps = 50
  config.optim.momentum = 0.9
  config.optim.b2 = 0.999
  config.optim.weight_decay = 0.0
  config.optim.clip_norm = 1.0

  config.train = ml_collections.ConfigDict()
  config.train.batch = 64
  config.train.dtype = "float32"  # Or "bfloat16", for accelerators.
  config.train.accumulate = 1  # Parts in which a batch passes the networks.
  config.train.remat = False  # True: less memory, more work.
  config.train.steps = 2500
  config.train.log_every = 20
  config.train.eval_every = 500
  config.train.save_every = 500
  config.train.keep = 2

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 64
  return config


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update({"num_train": 250, "num_validation": 32, "num_test": 32})
  config.data.image_size = 16
  config.recogniser.widths = (8, 16, 32)
  config.train.update(
    {"batch": 16, "steps": 20, "log_every": 5, "eval_every": 10}
  )
  config.train.save_every = 10
  config.eval.batch = 16
  config.optim.warmup_steps = 5


VARIANTS = {"smoke": smoke}
