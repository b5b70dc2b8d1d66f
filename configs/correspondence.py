"""Audio-visual correspondence: do a picture and a sound belong together?

    python -m vgsgan.main --config=configs/correspondence.py:ave --workdir=DIR

on a world of 24 sounding objects: about four minutes to prepare it and four to
train, on one core of an AMD EPYC. After 1,000 steps (seeds 0 to 2, 2026-11-21)
the nDCG@30 from image to audio is 24.3 ± 4.4 (chance 9.5), and 75.5 ± 1.3 % of
pairs are told (50); the table of all systems is in docs/correspondence.md.

Arguments, combined with commas:
  l3          L3-Net ("Look, Listen and Learn", ICCV 2017), with its baselines
  ave         AVE-Net ("Objects that Sound", ECCV 2018); the default
  avol        AVOL-Net (likewise): what in the picture makes the sound
  shortcut    sounds that go with a picture start at a video frame, others
              anywhere: the mistake of "Objects that Sound", section 3.3
  judge       one object a picture, of 32 pixels: judges configs/generation.py
  clips       a folder of clips in AudioSet's layout: --config.data.source=DIR
  published   the published towers, front end and batch, for accelerators
  table       the three systems, and AVE-Net with the shortcut, three seeds
  smoke       a few steps on a handful of pictures, about a minute on 2 cores
"""

from typing import Any

import ml_collections

from vgsgan.common import options


def arm(system: str, shortcut: bool = False) -> dict[str, Any]:
  return {"model": {"system": system}, "data": {"shortcut": shortcut}}


ARMS = {
  "l3": arm("l3"),
  "ave": arm("ave"),
  "avol": arm("avol"),
  "ave_shortcut": arm("ave", shortcut=True),
}

# Name, arm, and which of its figures of retrieval.
ROWS = (
  ("L3-Net", "l3", "retrieval"),
  ("L3-Net with CCA", "l3", "cca"),
  ("recogniser", "l3", "trunk"),
  ("recogniser, L3-Net's audio, CCA", "l3", "trunk_cca"),
  ("AVE-Net", "ave", "retrieval"),
  ("AVOL-Net", "avol", ""),
  ("AVE-Net, shortcut", "ave_shortcut", "retrieval"),
)

DIRECTIONS = {
  "im-im": "image_to_image",
  "im-aud": "image_to_audio",
  "aud-im": "audio_to_image",
  "aud-aud": "audio_to_audio",
}
COLUMNS = {
  **{
    name: f"splits.test.{{part}}.{direction}.nDCG@30"
    for name, direction in DIRECTIONS.items()
  },
  "correspondence": "splits.test.correspondence",
  "pointing": "splits.test.localisation.own_sound",
  "pointing, wrong sound": "splits.test.localisation.wrong_sound",
  "at another object": "splits.test.localisation.wrong_sound_elsewhere",
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.task = "correspondence"
  config.seed = 0
  config.transfer_guard = "allow"
  config.compilation_cache = "~/.cache/vgsgan/jax"  # "": none.

  config.mesh = ml_collections.ConfigDict()
  config.mesh.model = 1  # Devices that share one copy of what is trained.

  config.data = ml_collections.ConfigDict()
  config.data.dataset = "sounding"
  config.data.data_dir = "~/.cache/vgsgan"
  config.data.soundfont = "/usr/share/sounds/sf2/TimGM6mb.sf2"
  config.data.image_size = 64
  config.data.sample_rate = 16000
  config.data.track = 2.0  # Seconds of sound that a record holds, and
  config.data.seconds = 1.0  # of it that the model hears.
  config.data.spectrogram = "log_mel"
  config.data.num_mels = 64
  config.data.frames = 96
  config.data.fewest = 1
  config.data.most = 3
  config.data.num_train = 4000
  config.data.num_validation = 400
  config.data.num_test = 500
  config.data.scene_seed = 0
  # Level of the ticks in all tracks: what the shortcut can tell the time by.
  config.data.tick = 0.03
  config.data.shortcut = False
  config.data.real = False  # Test on real pictures with real sounds as well.
  config.data.num_workers = 0
  config.data.num_threads = 2
  config.data.augment = ml_collections.ConfigDict()
  config.data.augment.shift = 4
  config.data.augment.flip = True
  config.data.augment.brightness = 0.1

  config.model = ml_collections.ConfigDict()
  config.model.system = "ave"
  config.model.widths = (16, 32, 64, 64)
  config.model.pools = (True, True, False, False)
  config.model.stride = 2
  config.model.embed = 128

  config.loss = ml_collections.ConfigDict()
  config.loss.negatives = "all"

  config.optim = ml_collections.ConfigDict()
  config.optim.name = "adam"
  config.optim.lr = 2e-3
  config.optim.schedule = "cosine"
  config.optim.decay_steps = 0
  config.optim.warmup_steps = 50
  config.optim.momentum = 0.9
  config.optim.b2 = 0.999
  config.optim.weight_decay = 1e-5
  config.optim.clip_norm = 1.0

  config.train = ml_collections.ConfigDict()
  config.train.batch = 32
  config.train.dtype = "float32"  # Or "bfloat16", for accelerators.
  config.train.accumulate = 1  # Parts in which a batch passes the networks.
  config.train.remat = False  # True: less memory, more work.
  config.train.steps = 1000
  config.train.log_every = 50
  config.train.eval_every = 500
  config.train.save_every = 500
  config.train.keep = 2

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 100
  config.eval.cca_records = 3000
  config.eval.threshold = 0.5
  return config


def system(name: str) -> options.Variant:
  def variant(config: ml_collections.ConfigDict) -> None:
    config.model.system = name

  return variant


def shortcut(config: ml_collections.ConfigDict) -> None:
  config.data.shortcut = True


def clips(config: ml_collections.ConfigDict) -> None:
  """What `data` has of the sounding world gives way to a folder."""
  made = ("soundfont", "track", "fewest", "most", "scene_seed", "tick")
  for name in (*made, "num_train", "num_validation", "num_test"):
    del config.data[name]
  config.data.dataset = "clips"
  config.data.source = ""
  config.data.under = "Musical instrument,Singing,Tools"
  config.data.split_seed = 0
  config.data.max_bad_share = 0.01


def published(config: ml_collections.ConfigDict) -> None:
  config.data.update({"image_size": 224, "sample_rate": 48000})
  config.data.update({"spectrogram": "log_linear", "frames": 200})
  config.model.widths = (64, 128, 256, 512)
  config.model.pools = (True, True, True, False)
  config.loss.negatives = "sampled"
  config.optim.update({"lr": 1e-4, "schedule": "constant", "clip_norm": 0.0})
  config.train.update({"batch": 2048, "steps": 100_000, "log_every": 100})
  config.train.update({"eval_every": 2000, "save_every": 1000})
  config.eval.batch = 512


def judge(config: ml_collections.ConfigDict) -> None:
  config.data.update({"image_size": 32, "most": 1, "tick": 0.0})
  config.data.num_test = 1000
  config.data.augment.update({"shift": 2, "flip": False})


def table(config: ml_collections.ConfigDict) -> None:
  config.compare = ml_collections.ConfigDict()
  config.compare.seeds = (0, 1, 2)
  config.compare.arms = ml_collections.ConfigDict(ARMS)
  config.compare.rows = ROWS
  config.compare.columns = tuple(COLUMNS.items())
  config.data.real = True


def smoke(config: ml_collections.ConfigDict) -> None:
  if config.data.dataset == "sounding":
    config.data.update({"num_train": 64, "num_validation": 32, "num_test": 32})
  config.data.image_size = 32
  config.model.widths = (4, 8, 8, 8)
  config.model.embed = 16
  config.train.update({"batch": 16, "steps": 4, "log_every": 1})
  config.train.update({"eval_every": 4, "save_every": 4})
  config.eval.update({"batch": 16, "cca_records": 64})
  config.optim.warmup_steps = 0


VARIANTS = {
  **{name: system(name) for name in ("l3", "ave", "avol")},
  "shortcut": shortcut,
  "judge": judge,
  "clips": clips,
  "published": published,
  "table": table,
  "smoke": smoke,
}
