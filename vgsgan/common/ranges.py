"""The range of every field of a config, in one table.

Fields of a user's own config that are not in the table are not checked. Further
conditions of a data set on its fields are with its builder.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.common.range_types import Each, Flag, Range, Real, Text, Whole

# NumPy and JAX take seeds of 32 bits; a larger one would repeat a smaller one.
SEED = Whole(0, 2**32 - 1)
_CHANNELS = Whole(1, 2**16, "channels")
_EVERY = Whole(0, unit="updates; 0 is never")
_PIXELS = Whole(0, 1024, "pixels")
_RECORDS = Whole(1, unit="records")
_SECONDS = Real(0.1, 3600, "seconds")
_SHARE = Real(0, 1, "share")
_WEIGHT = Real(0, 1e6)
_WIDTH = Real(0.001, 100, "factor of the channels")
_WORKERS = Whole(0, 1024)

_OPTIMISER: Mapping[str, Range] = {
  "name": Text(),
  "lr": Real(0, 1000),
  "schedule": Text(),
  "decay_steps": Whole(0, unit="updates"),
  "warmup_steps": Whole(0, unit="updates"),
  "momentum": Real(0, 1, open=True),
  "b2": Real(0, 1, open=True),
  "weight_decay": Real(0, 1000),
  "clip_norm": Real(0, 1e6, "0 is none"),
}

# Ranges by section, dotted as in a config.
_SECTIONS: Mapping[str, Mapping[str, Range]] = {
  "": {
    "task": Text(),
    "seed": SEED,
    "transfer_guard": Text(),
    "compilation_cache": Text(),
  },
  "mesh": {"model": Whole(1, 2**20, "devices")},
  "data": {
    "dataset": Text(),
    "data_dir": Text(),
    "source": Text(),
    "soundfont": Text(),
    "generator": Text(),
    "recogniser": Text(),
    "more": Text(),
    "under": Text(),
    "languages": Text(),
    "protocol": Text(),
    "scenes": Text(),
    "spectrogram": Text(),
    "symbols": Flag(),
    "permuted": Flag(),
    "real": Flag(),
    "shortcut": Flag(),
    "mean_normalize": Flag(),
    "image_size": Whole(1, 8192, "pixels a side"),
    "sample_rate": Whole(1000, 384_000, "hertz"),
    "seconds": _SECONDS,
    "track": _SECONDS,
    "frames": Whole(1, 2**20, "frames"),
    "num_mels": Whole(1, 1024, "bands"),
    "preemphasis": _SHARE,
    "fewest": Whole(1, 100, "objects"),
    "most": Whole(1, 100, "objects"),
    "tick": _SHARE,
    "num_train": _RECORDS,
    "num_validation": _RECORDS,
    "num_test": _RECORDS,
    "num_probe": _RECORDS,
    "num_semantic": _RECORDS,
    "num_pairs": Whole(1, unit="pairs"),
    "things": Whole(1, 16, "things"),
    "places": Whole(1, 64, "places"),
    "skies": Whole(1, 16, "skies"),
    "loudness": _SHARE,
    "said": Text(),
    "wrong": Flag(),
    "scene_seed": SEED,
    "split_seed": SEED,
    "truncation": Real(0, 100, "standard deviations; 0 is none"),
    "max_bad_share": _SHARE,
    "max_stamps": Whole(0, unit="stamps; 0 is all"),
    "num_workers": _WORKERS,
    "num_threads": Whole(1, 1024),
    "speech_workers": _WORKERS,
  },
  "data.augment": {
    "shift": _PIXELS,
    "flip": Flag(),
    "blur": _SHARE,
    "brightness": _SHARE,
    "noise": _SHARE,
    "tempo": Real(0, 1, "share", open=True),
    "vocal_tract": Real(0, 1, "share", open=True),
    "time_share": _SHARE,
    "frequencies": Whole(0, 1024, "bands"),
    "shortest": Real(0, 3600, "seconds; 0 is all"),
  },
  "speech": {
    "tower": Text(),
    "embed": _CHANNELS,
    "width": _WIDTH,
    "max_kernel": Whole(0, 2**16, "frames; 0 is any"),
    "norm": Text(),
    "final_relu": Flag(),
  },
  "image": {
    "tower": Text(),
    "embed": _CHANNELS,
    "width": _WIDTH,
    "widths": Each(_CHANNELS, some=False),
    "blocks": Each(Whole(1, 1000, "blocks"), some=False),
    "strides": Each(Whole(1, 2), some=False),
    "norm": Text(),
    "final_relu": Flag(),
  },
  "score": {"kind": Text(), "normalize": Flag(), "exchange": Text()},
  "loss": {
    "name": Text(),
    "negatives": Text(),
    "margin": _WEIGHT,
    # Training never goes below it: see `tasks.grounding.bounded`.
    "temperature": Real(0.01, 100),
  },
  "edits": {
    "curriculum": Text(),
    "layers": Text(),
    "inverter": Text(),
    "astray": _SHARE,
    "drawn": Flag(),
    "generator": Text(),
    "counts": Each(Whole(1, 2**16, "units"), some=False),
    "changes": Each(_SHARE, some=False),
    "shares": Each(_SHARE, some=False),
    "strengths": Each(_WEIGHT),
    "rungs": Whole(1, 10),
    "first_count": Whole(1, 2**16, "units"),
    "concepts": Whole(1, 2**16),
    "concept_pairs": _RECORDS,
    "refresh_every": Whole(1, unit="updates"),
    "quantile": _SHARE,
    "least": Whole(1, 2**16, "dimensions"),
    "directions": Whole(1, 2**16),
    "train_generator": Flag(),
    "inversion_steps": Whole(0, 1000),
    "inversion_limit": _WEIGHT,
  },
  "model": {
    "system": Text(),
    "widths": Each(_CHANNELS),
    "pools": Each(Flag()),
    "embed": _CHANNELS,
  },
  "recogniser": {"widths": Each(_CHANNELS), "norm": Text()},
  "namer": {"widths": Each(_CHANNELS)},
  "gan": {
    "channels": Each(_CHANNELS),
    "chunk": Whole(1, 2**16, "numbers a layer"),
    "attention": Whole(0, 100, "block; 0 is none"),
    "labels": Flag(),
    "spectral": Flag(),
    "discriminator_channels": Each(_CHANNELS),
    "discriminator_attention": Whole(0, 100, "block; 0 is none"),
    "discriminator_spectral": Flag(),
    "average": _SHARE,
    "orthogonal": _WEIGHT,
    "r1": _WEIGHT,
    "r1_rows": Whole(1),
    "shift": _PIXELS,
  },
  "inversion": {
    "steps": Whole(0, 1000),
    "limit": _WEIGHT,
  },
  "inverter": {"channels": Each(_CHANNELS)},
  "generation": {
    "kind": Text(),
    "network": Text(),
    "loss": Text(),
    "latent": _CHANNELS,
    "widths": Each(_CHANNELS),
    "pools": Whole(0, 100, "stages"),
    "decoder": Each(_CHANNELS),
    "kl_weight": _WEIGHT,
  },
  "idea": {
    "kind": Text(),
    "latent": _CHANNELS,
    "features": _CHANNELS,
    "widths": Each(_CHANNELS),
    "pools": Whole(0, 100, "stages"),
    "picture_decoder": Each(_CHANNELS),
    "sound_decoder": Each(_CHANNELS),
    # Share of rows without an image, and without a sound; never both.
    "drop": Real(0, 0.5, "share"),
    "kl_weight": _WEIGHT,
    "weight": _WEIGHT,
  },
  "judges": {"classifier": Text(), "correspondence": Text()},
  "optim": _OPTIMISER,
  "optim.generator": _OPTIMISER,
  "optim.discriminator": _OPTIMISER,
  "train": {
    "batch": Whole(1, unit="examples"),
    "dtype": Text(),
    "accumulate": Whole(1, unit="parts"),
    "remat": Flag(),
    "steps": Whole(1, unit="updates"),
    "log_every": _EVERY,
    "eval_every": _EVERY,
    "save_every": _EVERY,
    "keep": Whole(1, unit="checkpoints"),
    "average": _SHARE,
  },
  "eval": {
    "batch": Whole(1, unit="examples"),
    "block": Whole(1, unit="recordings"),
    "seconds": _SECONDS,
    "cca_records": Whole(0, unit="records; 0 is none"),
    "fitted": Whole(2, unit="records"),
    "samples": Whole(1, unit="pictures"),
    "recogniser": Text(),
  },
}

FIELDS: Mapping[str, Range] = {
  f"{section}.{name}".lstrip("."): allowed
  for section, fields in _SECTIONS.items()
  for name, allowed in fields.items()
}

# Fields that a config with their section may lack; tasks that need them name
# them.
OPTIONAL = (
  "data.augment.shortest",
  "edits.astray",
  "edits.drawn",
  "edits.generator",
  "train.average",
)


def leaves(
  config: ml_collections.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Each dotted field of a config with its value, without `compare`."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      if prefix or name != "compare":
        yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a value that is out of its range, or of another type.

  Raises:
    UserError: the message names the field, the value and the range.
  """
  for name, value in leaves(config):
    allowed = FIELDS.get(name)
    if allowed and not allowed.holds(value):
      raise UserError(f"config.{name}={value!r} must be {allowed}")


def require(
  config: ml_collections.ConfigDict, needed: Sequence[str], by: str
) -> None:
  """Refuses a config that lacks a field.

  Args:
    config: config of a run.
    needed: dotted fields, or sections, which stand for all their fields.
    by: the message, with `{field}` in the place of the missing field.

  Raises:
    UserError: a field is missing; the message names the first.
  """
  for field in fields_of(needed):
    if missing := _missing(config, field):
      raise UserError(by.format(field=f"config.{missing}"))


def fields_of(needed: Sequence[str]) -> list[str]:
  """Dotted fields; a section stands for all its fields but the optional."""
  fields = []
  for name in needed:
    section = [f"{name}.{field}" for field in _SECTIONS.get(name, ())]
    fields += [x for x in section if x not in OPTIONAL] or [name]
  return fields


def _missing(config: Any, field: str) -> str:
  """The first missing part of a dotted field, or ''."""
  parts = field.split(".")
  for depth, name in enumerate(parts):
    section = isinstance(config, ml_collections.ConfigDict)
    if not section or name not in config:
      # A value in the place of a section counts as a missing section.
      return ".".join(parts[: depth + 1] if section else parts[:depth])
    config = config[name]
  return ""
