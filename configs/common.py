"""Sections that several configs share, with the meaning of each field.

A config calls these functions and gives its own numbers:

    config.train = common.train(batch=64, steps=1200, log_every=10)

`**own` takes any other field of the section, which replaces its default.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from vgsgan.common import options


def base(task: str) -> ml_collections.ConfigDict:
  """A config with the fields that every task has, and the section mesh."""
  return ml_collections.ConfigDict(
    {
      "task": task,
      "seed": 0,
      # Tests set "disallow": implicit copies between host and device then fail.
      "transfer_guard": "allow",
      "compilation_cache": "~/.cache/vgsgan/jax",  # "" for none.
      "mesh": {"model": 1},  # Devices that share one copy of the parameters.
    }
  )


def splits(train: int, validation: int, test: int) -> dict[str, int]:
  """Numbers of records in the splits of a synthetic data set."""
  return {"num_train": train, "num_validation": validation, "num_test": test}


def data(dataset: str, **fields: Any) -> ml_collections.ConfigDict:
  """A data set, its folder, its readers and its own fields."""
  every = {
    "data_dir": "~/.cache/vgsgan",
    "num_workers": 0,  # Processes that read records; 0 for this one.
    "num_threads": 2,
  }
  return ml_collections.ConfigDict({"dataset": dataset, **every, **fields})


def speech_features(seconds: float, mean_normalize: bool) -> dict[str, Any]:
  """Recordings, cut or padded to `seconds`, as log-mel spectrograms."""
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
  """Scenes that a generator draws, with spoken captions."""
  return data(
    "clevrgan",
    generator="",  # "" for the packaged one, which draws 32 pixels a side.
    recogniser="",  # "" for the packaged one.
    more="",  # Folders of `vgsgan.tools.select` with more training pairs.
    image_size=image_size,
    most=3,  # Objects in a scene.
    truncation=0.0,  # Largest number in a latent; 0 for no limit.
    **size,
    num_probe=num_probe,
    num_semantic=num_semantic,
    scene_seed=0,
    speech_workers=2,
    # Without the mean, a word that is spoken alone loses most of its sound.
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


def places(size: Mapping[str, int], **own: Any) -> ml_collections.ConfigDict:
  """One thing at one of many places, described aloud."""
  section = data(
    "places",
    image_size=32,
    things=16,
    places=16,
    skies=16,
    loudness=1.0,  # Contrast of the places; 0 makes them all the same grey.
    said="all",  # Or "attributes", "nouns", or "nothing": images alone.
    wrong=False,  # True for captions with one attribute wrong.
    **size,
    num_pairs=600,
    scene_seed=0,
    speech_workers=2,
    **speech_features(2.72, mean_normalize=False),
  )
  return _with(section, own)


def place_images(size: Mapping[str, int]) -> ml_collections.ConfigDict:
  """Images of things at places, without speech."""
  return places(size, said="nothing")


def sounding(size: Mapping[str, int], **own: Any) -> ml_collections.ConfigDict:
  """Images of instruments with their sounds, one instrument in each."""
  section = data(
    "sounding",
    soundfont="/usr/share/sounds/sf2/TimGM6mb.sf2",
    image_size=32,
    sample_rate=16000,
    track=2.0,  # Seconds of sound in a record.
    seconds=1.0,  # Seconds of it that the model gets.
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
  """Augmentation of images and recordings; none by default."""
  fields = {
    "shift": 0,  # Pixels.
    "flip": False,
    "tempo": 0.0,  # Largest change, as a share.
    "vocal_tract": 0.0,  # Largest change, as a share.
    "time_share": 0.0,  # Longest masked stretch, as a share.
    "frequencies": 0,  # Widest masked band, in mel bands.
  }
  return _with(fields, own)


def small_speech(**own: Any) -> ml_collections.ConfigDict:
  """The small speech tower, with a quarter of the published width."""
  fields = {
    "tower": "small",
    "embed": 128,
    "width": 0.25,
    # The published kernels of 11 and 17 overfit a small data set.
    "max_kernel": 5,  # 0 for the published kernels.
    "norm": "batch",
    "final_relu": True,
  }
  return _with(fields, own)


def published_speech(tower: str, embed: int) -> ml_collections.ConfigDict:
  """A published speech tower."""
  own = {"tower": tower, "embed": embed, "width": 1.0, "max_kernel": 0}
  return small_speech(**own, norm="none")


def image(**own: Any) -> ml_collections.ConfigDict:
  """A residual image tower, with a stage for each of `widths`."""
  fields = {
    "tower": "resnet",
    "embed": 128,
    "width": 1.0,  # For the VGG; the ResNet has the next three fields.
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
      "exchange": "gather",  # Or "ring"; see vgsgan/losses/exchange.py.
    }
  )


def contrastive(
  name: str, negatives: str, margin: float
) -> ml_collections.ConfigDict:
  """A contrastive loss."""
  return ml_collections.ConfigDict(
    {
      "name": name,
      "negatives": negatives,
      "margin": margin,  # For triplets.
      "temperature": 0.07,  # Initial temperature of InfoNCE.
    }
  )


def edits(refresh_every: int, **own: Any) -> ml_collections.ConfigDict:
  """Edits of drawn images, with the published strengths and concepts."""
  fields = {
    "curriculum": "regular@0",
    "layers": "up1",
    # From the weakest edit to the strongest: the number of units switched off,
    # the distance the latent moves, the least change in the region, and the
    # share of the peak that bounds the region.
    "counts": (),
    "strengths": tuple(0.1 * rung for rung in range(1, 11)),
    "changes": (),
    "shares": (),
    # If counts is empty: the number of published counts, changes and shares,
    # and the first count.
    "rungs": 10,
    "first_count": 140,
    "train_generator": False,
    "inverter": "",  # Encoder for latents; "" uses those of the records.
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
    "decay_steps": 0,  # For the schedule "step" alone.
    "warmup_steps": 50,
    "momentum": 0.9,
    "b2": 0.999,
    "weight_decay": 0.0,
    "clip_norm": 1.0,  # 0.0 for no clipping.
  }
  return _with(fields, own)


def constant_adam(lr: float, momentum: float) -> ml_collections.ConfigDict:
  """Adam for adversarial networks: a constant rate and shorter averages."""
  own = {"schedule": "constant", "warmup_steps": 0, "clip_norm": 0.0}
  return adam(lr, momentum=momentum, b2=0.99, **own)


def sgd(lr: float, decay_steps: int) -> ml_collections.ConfigDict:
  """The published SGD; the rate falls to a tenth every `decay_steps`."""
  own = {"warmup_steps": 0, "weight_decay": 5e-7, "clip_norm": 0.0}
  return adam(lr, name="sgd", schedule="step", decay_steps=decay_steps, **own)


def train(batch: int, steps: int, **own: Any) -> ml_collections.ConfigDict:
  """The length of training in updates, its precision, and its checkpoints."""
  fields = {
    "batch": batch,
    "dtype": "float32",  # Or "bfloat16", for accelerators.
    "accumulate": 1,  # Parts in which a batch passes the networks.
    "remat": False,  # True for less memory and more computation.
    "steps": steps,
    "log_every": 20,
    "eval_every": 500,
    "save_every": 500,
    "keep": 2,  # Number of checkpoints.
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
  """Shortens a run to a few steps, for the variant `smoke`."""
  config.train.update(batch=batch, steps=steps, log_every=log_every)
  config.train.update(eval_every=every, save_every=every)
  config.eval.batch = batch


def _with(
  fields: Mapping[str, Any], own: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """The fields with a config's own values; TypeError for unknown fields."""
  for name in own:
    if name not in fields:
      near = options.nearest(name, list(fields))
      raise TypeError(f"there is no field {name!r}; {near}")
  section = ml_collections.ConfigDict(fields)
  section.update(own)
  return section
