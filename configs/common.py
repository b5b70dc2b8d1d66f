"""Sections that several configs share: each field, and what it means, once.

A config calls these and states the numbers that are its own:

    config.train = common.train(batch=64, steps=1200, log_every=10)

`**own` takes any other field of the section, in place of the default here.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from vgsgan.common import options


def base(task: str) -> ml_collections.ConfigDict:
  """A config with the fields that every task has, and no sections but mesh."""
  return ml_collections.ConfigDict(
    {
      "task": task,
      "seed": 0,
      # "disallow" in tests: a hidden copy between host and device is an error.
      "transfer_guard": "allow",
      "compilation_cache": "~/.cache/vgsgan/jax",  # "": none.
      "mesh": {"model": 1},  # Devices that share one copy of what is trained.
    }
  )


def splits(train: int, validation: int, test: int) -> dict[str, int]:
  """Sizes of a made data set: records of each split."""
  return {"num_train": train, "num_validation": validation, "num_test": test}


def data(dataset: str, **fields: Any) -> ml_collections.ConfigDict:
  """A data set, where it is kept and how it is read; with its own fields."""
  every = {
    "data_dir": "~/.cache/vgsgan",
    "num_workers": 0,  # Processes that read records; 0: this one.
    "num_threads": 2,
  }
  return ml_collections.ConfigDict({"dataset": dataset, **every, **fields})


def speech_features(seconds: float, mean_normalize: bool) -> dict[str, Any]:
  """Recordings, cut or padded to so many seconds, as log-mel spectrograms."""
  return {
    "sample_rate": 16000,
    "seconds": seconds,
    "num_mels": 40,
    "preemphasis": 0.97,
    "mean_normalize": mean_normalize,
  }


def spoken_scenes(
  size: Mapping[str, int],
  *,
  image_size: int,
  seconds: float,
  num_probe: int,
  num_semantic: int,
) -> ml_collections.ConfigDict:
  """Scenes that a generator draws, and their captions, spoken."""
  return data(
    "clevrgan",
    generator="",  # The packaged one, which draws 32 pixels.
    recogniser="",  # The packaged one.
    more="",  # Folders with more training pairs: `vgsgan.tools.select`.
    image_size=image_size,
    most=3,  # Objects in a scene.
    truncation=0.0,  # Largest number in a latent; 0: no limit.
    **size,
    num_probe=num_probe,
    num_semantic=num_semantic,
    scene_seed=0,
    speech_workers=2,
    # The mean of a word said alone is most of what it sounds like.
    **speech_features(seconds, mean_normalize=False),
  )


def scenes(size: Mapping[str, int]) -> ml_collections.ConfigDict:
  """Rendered scenes of one or two objects, 32 pixels a side."""
  return data(
    "scenes",
    scenes="rendered",  # Or "clevr", once TFDS has prepared it.
    image_size=32,
    fewest=1,
    most=2,
    **size,
    scene_seed=0,
  )


def sounding(size: Mapping[str, int], **own: Any) -> ml_collections.ConfigDict:
  """Pictures of instruments with what they sound like: one in each."""
  section = data(
    "sounding",
    soundfont="/usr/share/sounds/sf2/TimGM6mb.sf2",
    image_size=32,
    sample_rate=16000,
    track=2.0,  # Seconds of sound that a record holds, and
    seconds=1.0,  # of it that the model hears.
    spectrogram="log_mel",
    num_mels=64,
    frames=96,
    fewest=1,
    most=1,
    tick=0.0,  # Level of the ticks of a clock in all tracks.
    **size,
    scene_seed=0,
  )
  return _with(section, own)


def speech_augment(**own: Any) -> ml_collections.ConfigDict:
  """Changes of pictures and recordings in training: none."""
  fields = {
    "shift": 0,  # Pixels.
    "flip": False,
    "tempo": 0.0,  # Largest change, as a share.
    "vocal_tract": 0.0,  # Largest change, as a share.
    "time_share": 0.0,  # Longest stretch that is hidden, as a share.
    "frequencies": 0,  # Widest band that is hidden, in mel bands.
  }
  return _with(fields, own)


def small_speech(**own: Any) -> ml_collections.ConfigDict:
  """The small tower of recordings, a quarter of the published width."""
  fields = {
    "tower": "small",
    "embed": 128,
    "width": 0.25,
    # The published kernels of 11 and 17 learn a small set by heart.
    "max_kernel": 5,  # 0: as published.
    "norm": "batch",
    "final_relu": True,
  }
  return _with(fields, own)


def published_speech(tower: str, embed: int) -> ml_collections.ConfigDict:
  """A tower of recordings as published."""
  own = {"tower": tower, "embed": embed, "width": 1.0, "max_kernel": 0}
  return small_speech(**own, norm="none")


def image(**own: Any) -> ml_collections.ConfigDict:
  """A residual tower of pictures, with a stage for each of `widths`."""
  fields = {
    "tower": "resnet",
    "embed": 128,
    "width": 1.0,  # The VGG's; the ResNet has the next three.
    "widths": (16, 32, 64),
    "blocks": (1, 1, 1),
    "strides": (2, 2, 2),
    "norm": "batch",
    "final_relu": False,
  }
  return _with(fields, own)


def score(kind: str, normalize: bool = False) -> ml_collections.ConfigDict:
  """Scores of all pairs of a batch."""
  return ml_collections.ConfigDict(
    {
      "kind": kind,
      "normalize": normalize,
      "exchange": "gather",  # Or "ring": see vgsgan/losses/exchange.py.
    }
  )


def contrastive(
  name: str, negatives: str, margin: float
) -> ml_collections.ConfigDict:
  """A loss of the scores."""
  return ml_collections.ConfigDict(
    {
      "name": name,
      "negatives": negatives,
      "margin": margin,  # Of triplets.
      "temperature": 0.07,  # Of InfoNCE, at first.
    }
  )


def edits(refresh_every: int, **own: Any) -> ml_collections.ConfigDict:
  """Edits of drawn pictures: strengths and concepts as published."""
  fields = {
    "curriculum": "regular@0",
    "layers": "up1",
    # From the weakest edit to the strongest: units that are switched off, how
    # far the latent moves, how much has to change in the region, and how much
    # of the peak still belongs to it.
    "counts": (),
    "strengths": tuple(0.1 * rung for rung in range(1, 11)),
    "changes": (),
    "shares": (),
    # Where counts is empty, the published counts, changes and shares: so many,
    # the first of so many units.
    "rungs": 10,
    "first_count": 140,
    "train_generator": False,
    "inverter": "",  # Finds latents of pictures; else the records'.
    "inversion_steps": 4,
    "inversion_limit": 0.5,
    "directions": 16,
    "concepts": 250,
    "concept_pairs": 4000,
    "quantile": 0.99,
    "least": 4,
    "refresh_every": refresh_every,  # Updates.
  }
  return _with(fields, own)


def adam(lr: float, **own: Any) -> ml_collections.ConfigDict:
  """Adam, with a warm-up and a cosine down to zero."""
  fields = {
    "name": "adam",
    "lr": lr,
    "schedule": "cosine",
    "decay_steps": 0,  # Of the schedule "step" alone.
    "warmup_steps": 50,
    "momentum": 0.9,
    "b2": 0.999,
    "weight_decay": 0.0,
    "clip_norm": 1.0,  # 0.0: none.
  }
  return _with(fields, own)


def constant_adam(lr: float, momentum: float) -> ml_collections.ConfigDict:
  """Adam for networks that play a game: one rate, and a shorter memory."""
  own = {"schedule": "constant", "warmup_steps": 0, "clip_norm": 0.0}
  return adam(lr, momentum=momentum, b2=0.99, **own)


def sgd(lr: float, decay_steps: int) -> ml_collections.ConfigDict:
  """SGD as published: the rate falls to a tenth every `decay_steps`."""
  own = {"warmup_steps": 0, "weight_decay": 5e-7, "clip_norm": 0.0}
  return adam(lr, name="sgd", schedule="step", decay_steps=decay_steps, **own)


def train(batch: int, steps: int, **own: Any) -> ml_collections.ConfigDict:
  """How long training lasts, in updates, and in what precision."""
  fields = {
    "batch": batch,
    "dtype": "float32",  # Or "bfloat16", for accelerators.
    "accumulate": 1,  # Parts in which a batch passes the networks.
    "remat": False,  # True: less memory, more work.
    "steps": steps,
    "log_every": 20,
    "eval_every": 500,
    "save_every": 500,
    "keep": 2,  # Checkpoints.
  }
  return _with(fields, own)


def shorten(
  config: ml_collections.ConfigDict,
  *,
  batch: int = 16,
  steps: int = 20,
  every: int = 10,
  log_every: int = 5,
) -> None:
  """Makes a run a few steps long, as the variant `smoke` does."""
  config.train.update(batch=batch, steps=steps, log_every=log_every)
  config.train.update(eval_every=every, save_every=every)
  config.eval.batch = batch


def _with(
  fields: Mapping[str, Any], own: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """The fields with a config's own values; refuses a field that is not one."""
  for name in own:
    if name not in fields:
      near = options.nearest(name, list(fields))
      raise TypeError(f"there is no field {name!r}; {near}")
  section = ml_collections.ConfigDict(fields)
  section.update(own)
  return section
