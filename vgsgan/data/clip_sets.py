"""The sets of pictures with sounds, for the table of data sets."""

import dataclasses
from collections.abc import Callable

import ml_collections

from vgsgan.data.pipeline import Record, Records
from vgsgan.data.splits import SPLITS
from vgsgan.errors import UserError
from vgsgan.evals.hierarchy import Hierarchy

# Of the real pairs that stand beside the own test split; for tests alone.
REAL = "real"


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Records whose `labels` are those of a hierarchy."""

  records: Records
  hierarchy: Hierarchy

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Record:
    return self.records[index]


def load_sounding(data: ml_collections.ConfigDict) -> dict[str, Records]:
  """Scenes of which one object sounds; made here."""
  from vgsgan.data.builders import sounding
  from vgsgan.worlds import orchestra

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
  builder = sounding.prepare(config, data.data_dir)
  tree = orchestra.hierarchy()
  return _splits(
    lambda split: Labelled(sounding.load(builder, split), tree), data
  )


def load_clips(data: ml_collections.ConfigDict) -> dict[str, Records]:
  """A folder of clips in AudioSet's layout."""
  from vgsgan.data.builders import clip_records, clips

  config = clips.ClipsConfig(
    source=data.source,
    under=tuple(name.strip() for name in data.under.split(",")),
    seconds=data.seconds,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    split_seed=data.split_seed,
    max_bad_share=data.max_bad_share,
  )
  builder = clips.prepare(config, data.data_dir)
  tree = clip_records.hierarchy(builder)
  return _splits(lambda split: Labelled(clips.load(builder, split), tree), data)


def _splits(
  load: Callable[[str], Records], data: ml_collections.ConfigDict
) -> dict[str, Records]:
  found = {split: load(split) for split in SPLITS}
  return found | ({REAL: _real(data)} if data.get("real") else {})


def _real(data: ml_collections.ConfigDict) -> Records:
  """Real pictures with real sounds; too few to train on."""
  from vgsgan.data.builders import clip_records, real_sounds

  config = real_sounds.RealSoundsConfig(
    image_size=data.image_size, sample_rate=data.sample_rate
  )
  try:
    builder = real_sounds.prepare(config, data.data_dir)
  except UserError as error:
    raise UserError(f"config.data.real: {error}") from error
  tree = clip_records.hierarchy(builder)
  return Labelled(real_sounds.load(builder), tree)
