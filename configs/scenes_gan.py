"""BigGAN on rendered scenes: the generator that `configs/drawing.py` uses.

    python -m vgsgan.main --config=configs/scenes_gan.py --workdir=runs/gan

Arguments, combined with commas (`configs/scenes_gan.py:labels`):
  labels     a projection discriminator, told which words are true
  published  128 px and the published widths: for accelerators
  smoke      a few steps of small networks, under a minute on 2 cores
"""

import ml_collections

from vgsgan.common import options


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def optim(lr: float) -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = "adam"
  config.lr = lr
  config.schedule = "constant"
  config.decay_steps = 0
  config.warmup_steps = 0
  config.momentum = 0.0
  config.b2 = 0.99
  config.weight_decay = 0.0
  config.clip_norm = 0.0
  return config


def default() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.task = "gan"
  config.seed = 0
  config.transfer_guard = "allow"
  config.compilation_cache = "~/.cache/vgsgan/jax"  # "": none.

  config.mesh = ml_collections.ConfigDict()
  config.mesh.model = 1  # Devices that share one copy of what is trained.

  config.data = ml_collections.ConfigDict()
  config.data.dataset = "scenes"
  config.data.scenes = "rendered"  # Or clevr, once TFDS has prepared it.
  config.data.data_dir = "~/.cache/vgsgan"
  config.data.image_size = 32
  config.data.fewest = 1
  config.data.most = 2
  config.data.num_train = 40000
  config.data.num_validation = 2000
  config.data.num_test = 2000
  config.data.scene_seed = 0
  config.data.num_workers = 0
  config.data.num_threads = 2

  config.gan = ml_collections.ConfigDict()
  config.gan.channels = (96, 96, 48, 16)
  config.gan.chunk = 16
  config.gan.attention = 0
  config.gan.spectral = False
  config.gan.discriminator_channels = (16, 48, 96, 96)
  config.gan.discriminator_attention = 0
  config.gan.discriminator_spectral = False
  config.gan.labels = False
  config.gan.r1 = 0.5
  config.gan.r1_rows = 4  # Of the batch, every fourth picture.
  config.gan.orthogonal = 0.0
  config.gan.shift = 4
  config.gan.average = 0.999

  config.optim = ml_collections.ConfigDict()
  config.optim.generator = optim(1e-3)
  config.optim.discriminator = optim(1e-3)

  config.train = ml_collections.ConfigDict()
  config.train.batch = 32
  config.train.dtype = "float32"  # Or "bfloat16", for accelerators.
  config.train.accumulate = 1  # Parts in which a batch passes the networks.
  config.train.remat = False  # True: less memory, more work.
  config.train.steps = 12000
  config.train.log_every = 50
  config.train.eval_every = 1000
  config.train.save_every = 1000
  config.train.keep = 2

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 100
  config.eval.samples = 2000
  config.eval.recogniser = ""  # The packaged one.
  config.eval.truncation = 0.0  # Largest number in a latent; 0: no limit.
  return config


def labels(config: ml_collections.ConfigDict) -> None:
  config.gan.labels = True


def published(config: ml_collections.ConfigDict) -> None:
  config.data.image_size = 128
  config.gan.update(
    {
      "channels": (1536, 1536, 768, 384, 192, 96),
      "chunk": 20,
      "attention": 4,
      "spectral": True,
      "discriminator_channels": (96, 192, 384, 768, 1536, 1536),
      "discriminator_attention": 1,
      "discriminator_spectral": True,
      "r1": 0.0,
      "orthogonal": 1e-4,
      "shift": 0,
      "average": 0.9999,
    }
  )
  config.optim.generator.update(
    {"lr": 5e-5, "b2": 0.999, "schedule": "constant"}
  )
  config.optim.discriminator.update(
    {"lr": 2e-4, "b2": 0.999, "schedule": "constant"}
  )
  config.train.update({"batch": 256, "steps": 100000})


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update({"image_size": 32, "num_train": 64})
  config.data.update({"num_validation": 32, "num_test": 32})
  config.gan.update({"channels": (16, 16, 8, 8), "attention": 0})
  config.gan.update({"discriminator_channels": (8, 8, 16, 16)})
  config.gan.discriminator_attention = 0
  config.train.update(
    {"batch": 16, "steps": 20, "log_every": 5, "eval_every": 10}
  )
  config.train.save_every = 10
  config.eval.update({"batch": 16, "samples": 32})


VARIANTS = {"labels": labels, "published": published, "smoke": smoke}
