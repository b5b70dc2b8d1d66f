"""Audio-visual correspondence: do an image and a sound belong together?

    python -m vgsgan.main --config=configs/correspondence.py:ave --workdir=DIR

trains on a world of 24 sounding objects: four minutes to prepare it and four to
train, on one core of an AMD EPYC. After 1,000 steps (seeds 0 to 2, 2026-11-21)
the nDCG@30 from image to audio is 24.3 ± 4.4 (chance 9.5), and the accuracy on
pairs is 75.5 ± 1.3 % (50); docs/correspondence.md has the table of all systems.

Arguments, combined with commas:
  l3          L3-Net ("Look, Listen and Learn", ICCV 2017), with its baselines
  ave         AVE-Net ("Objects that Sound", ECCV 2018); the default
  avol        AVOL-Net (the same paper): localises the sound in the image
  shortcut    sounds of matching pairs start at a video frame, others anywhere:
              the mistake of "Objects that Sound", section 3.3
  judge       one object an image, of 32 pixels: judges configs/generation.py
  clips       a folder of clips in AudioSet's layout: --config.data.source=DIR
  published   the published towers, front end and batch, for accelerators
  table       the three systems, and AVE-Net with the shortcut, three seeds
  smoke       a few steps on a handful of images, about a minute on 2 cores
"""

from typing import Any

import ml_collections

from configs import common
from vgsgan.common import options


def arm(system: str, shortcut: bool = False) -> dict[str, Any]:
  return {"model": {"system": system}, "data": {"shortcut": shortcut}}


ARMS = {
  "l3": arm("l3"),
  "ave": arm("ave"),
  "avol": arm("avol"),
  "ave_shortcut": arm("ave", shortcut=True),
}

# Name of a row, its arm, and the part of the arm's retrieval figures.
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
  config = common.base("correspondence")
  # The ticks let a model tell the time, which the shortcut needs.
  config.data = common.sounding(
    common.splits(4000, 400, 500), image_size=64, most=3, tick=0.03
  )
  config.data.shortcut = False
  config.data.real = False  # True tests on real images and sounds as well.
  config.data.augment = ml_collections.ConfigDict()
  config.data.augment.shift = 4
  config.data.augment.flip = True
  config.data.augment.brightness = 0.1

  config.model = ml_collections.ConfigDict()
  config.model.system = "ave"
  config.model.widths = (16, 32, 64, 64)
  config.model.pools = (True, True, False, False)
  config.model.embed = 128

  config.loss = ml_collections.ConfigDict({"negatives": "all"})
  config.optim = common.adam(lr=2e-3, weight_decay=1e-5)
  config.train = common.train(batch=32, steps=1000, log_every=50)

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 100
  config.eval.cca_records = 3000
  return config


def system(name: str) -> options.Variant:
  def variant(config: ml_collections.ConfigDict) -> None:
    config.model.system = name

  return variant


def shortcut(config: ml_collections.ConfigDict) -> None:
  config.data.shortcut = True


def clips(config: ml_collections.ConfigDict) -> None:
  """Replaces the sounding world in `data` with a folder of clips."""
  synthetic = ("soundfont", "track", "fewest", "most", "scene_seed", "tick")
  for name in (*synthetic, "num_train", "num_validation", "num_test"):
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
    config.data.update(common.splits(64, 32, 32))
  config.data.image_size = 32
  config.model.widths = (4, 8, 8, 8)
  config.model.embed = 16
  common.shorten(config, steps=4, log_every=1, every=4)
  config.eval.cca_records = 64
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
