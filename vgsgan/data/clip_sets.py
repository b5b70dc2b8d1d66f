"""The sets of pictures with sounds, for the table of data sets."""

import pathlib

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.data.records import REAL, Labelled, Records
from vgsgan.data.splits import SPLITS


def load_sounding(data: ml_collections.ConfigDict) -> dict[str, Records]:
  """Scenes of which one object sounds; made here."""
  from vgsgan.data.builders import sounding

  config = sounding.SoundingConfig(
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    seconds=data.track,
    fewest=data.fewest,
    most=data.most,
    train=data.num_train,
    validation=data.num_validation,
    test=data.num_test,
    seed=data.scene_seed,
    soundfont=data.soundfont,
    tick=data.tick,
  )
  real = _real(data)
  builder = sounding.prepare(config, data.data_dir)
  tree = sounding.hierarchy()
  return real | {
    split: Labelled(sounding.load(builder, split), tree) for split in SPLITS
  }


def load_clips(data: ml_collections.ConfigDict) -> dict[str, Records]:
  """A folder of clips in AudioSet's layout."""
  from vgsgan.data.builders import clip_records
  from vgsgan.data.builders.clips import builder as clips

  config = clips.ClipsConfig(
    source=data.source,
    under=tuple(name.strip() for name in data.under.split(",")),
    seconds=data.seconds,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    split_seed=data.split_seed,
    max_bad_share=data.max_bad_share,
  )
  real = _real(data)
  builder = clips.prepare(config, data.data_dir)
  tree = clip_records.hierarchy(builder)
  return real | {
    split: Labelled(clips.load(builder, split), tree) for split in SPLITS
  }


def _real(data: ml_collections.ConfigDict) -> dict[str, Records]:
  """Real pictures with real sounds, if asked for; too few to train on."""
  if not data.get("real"):
    return {}
  from vgsgan.data.builders import clip_records, real_sounds
  from vgsgan.data.builders.stamps import builder as stamps

  if not pathlib.Path(stamps.SOURCE).is_dir():
    raise UserError(
      f"config.data.real needs {stamps.SOURCE}: install the Debian package "
      "tuxpaint-stamps-default with `apt-get install tuxpaint-stamps-default`"
    )
  config = real_sounds.RealSoundsConfig(
    image_size=data.image_size, sample_rate=data.sample_rate
  )
  try:
    builder = real_sounds.prepare(config, data.data_dir)
  except UserError as error:
    raise UserError(f"config.data.real: {error}") from error
  tree = clip_records.hierarchy(builder)
  return {REAL: Labelled(real_sounds.load(builder), tree)}
