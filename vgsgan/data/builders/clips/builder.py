"""Clips of video, a frame and its sound, as a TFDS data set.

After AudioSet-Instruments ("Objects that Sound", ECCV 2018, section 4): the
clips of AudioSet with a label under Musical instrument, Singing or Tools, 110
classes; a tenth of the training clips is for validation. `files`
describes the folder.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import ml_collections
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data import decoding, splits
from vgsgan.data.builders import (
  clip_records,
  preparing,
  reading,
  real_sounds,
  sources,
)
from vgsgan.data.builders.clips import files as clips_files
from vgsgan.data.builders.configs import FolderConfig
from vgsgan.data.records import Dataset, Labelled, Splits

# Seconds of extra sound on either side of a frame's section. Training may
# misalign frame and sound by as much.
MARGIN = 1.0
VALIDATION_SHARE = 0.1  # Share of the videos of train.csv.


@dataclasses.dataclass(kw_only=True, eq=False)
class ClipsConfig(FolderConfig):
  """Settings for data prepared from a folder of clips.

  Attributes:
    under: names or IDs of classes of the ontology. Only these classes and those
      below them are labels; clips without such a label are left out.
    seconds: seconds of sound that belong to a frame.
    split_seed: chooses the frames, and the videos for validation.
  """

  SECONDS: ClassVar[int] = 10
  PIXEL_BYTES: ClassVar[int] = 1  # JPEG, at its largest.

  under: tuple[str, ...] = ("Musical instrument", "Singing", "Tools")
  seconds: float = 1.0
  image_size: int = 256
  split_seed: int = 0

  def check(self) -> None:
    super().check()
    check_at_least("data.seconds", self.seconds, 0.01)
    if not math.isfinite(self.seconds):
      raise UserError(f"config.data.seconds={self.seconds} must have an end")

  def choices(self) -> list[str]:
    # A digest, because names have blanks and IDs have slashes.
    under = repr(sorted(set(self.under))).encode()
    return [
      f"{self.seconds:g}s",
      f"seed{self.split_seed}",
      f"validation{VALIDATION_SHARE:g}",
      f"under_{hashlib.sha256(under).hexdigest()[:8]}",
    ]


class Clips(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "1.1.0": "Clips of one video have one `clip_id`.",
    "1.0.0": "First release.",
  }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Clips of video with labels of AudioSet (Gemmeke et al., ICASSP "
        "2017): a frame of each, and the sound around it."
      ),
      features=clip_records.features(self.builder_config.image_size, "jpeg"),
      supervised_keys=None,
      homepage="https://research.google.com/audioset/",
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # The user brings the folder.
    config = self.builder_config
    root = clips_files.root_of(config.source)
    labels, hierarchy = clips_files.classes(root, config.under)
    clips = _scan(config, root, labels)
    self.info.metadata.update(
      pairs=len(clips), bad=[], hierarchy=clip_records.stored(hierarchy)
    )
    files = clips_files.files(root, clips)
    bar = tqdm(total=len(clips), desc="clips", unit="clip", disable=None)
    return {
      split: self._generate_examples(split, clips, files, bar)
      for split in splits.SPLITS
    }

  def _generate_examples(self, split, clips, files, bar):
    # Clips of one video share an ID and are not each other's negatives.
    videos = {clip.video: number for number, clip in enumerate(clips)}
    for clip in clips:
      if clip.split != split:
        continue
      bar.update()
      try:
        image, waveform = self._read(clip, files)
      except ValueError as error:
        metadata = self.info.metadata
        metadata["bad"].append([f"{split}:{clip.id}", str(error)])
        self.builder_config.check_bad(metadata)
        continue
      yield (
        clip.id,
        {
          "id": clip.id,
          "clip_id": videos[clip.video],
          "image": image,
          "waveform": waveform,
          "labels": clip.labels,
        },
      )

  def _read(self, clip, files):
    config = self.builder_config
    if clip.id not in files.sounds:
      raise ValueError(f"no sound audio/{clip.id}.wav, .flac or .ogg")
    if clip.id not in files.frames:
      raise ValueError(f"no frame frames/{clip.id}.jpg, nor a folder of them")
    frame, time = clips_files.choose_frame(
      files.frames[clip.id], f"{config.split_seed}:{clip.id}"
    )
    image = clips_files.read_frame(frame, config.image_size)
    section = functools.partial(
      clips_files.around,
      time=time,
      seconds=config.seconds,
      # Evaluation uses aligned sounds.
      margin=MARGIN if clip.split == "train" else 0.0,
      rate=config.sample_rate,
    )
    sound = files.sounds[clip.id]
    return image, decoding.read_audible(sound, config.sample_rate, section)


def prepare(config: ClipsConfig, data_dir: str | pathlib.Path) -> Clips:
  """Prepares a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'clips/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` lists what was left out: 'bad';
    `clip_records.hierarchy` reads the classes from it.

  Raises:
    UserError: the source is not laid out as expected, too many of its clips
      are missing or undecodable, or the disk is full.
  """
  data_dir = sources.expanded(data_dir)

  def identify():
    root = clips_files.root_of(config.source)
    labels, _ = clips_files.classes(root, config.under)
    clips = _scan(config, root, labels)
    files = clips_files.read_files(root, clips, config.split_seed)
    return sources.identity([root], files, data_dir)

  return preparing.prepare_folder(Clips, config, data_dir, identify)


def _scan(
  config: ClipsConfig, root: pathlib.Path, labels: Sequence[str]
) -> list[clips_files.Clip]:
  return clips_files.scan(root, labels, VALIDATION_SHARE, config.split_seed)


def load(builder: Clips, split: str) -> Sequence[dict]:
  """Random access to the records of a split; see `clip_records`.

  `waveform` is the sound around the frame: `config.seconds` of it, in 'train'
  up to `MARGIN` more on either side; the whole clip if the time of the frame
  is not known.

  Args:
    builder: from `prepare`.
    split: 'train', 'validation' or 'test'.
  """
  return reading.open_split(builder, split)


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for, of a folder of clips."""
  config = ClipsConfig(
    source=data.source,
    under=tuple(name.strip() for name in data.under.split(",")),
    seconds=data.seconds,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    split_seed=data.split_seed,
    max_bad_share=data.max_bad_share,
  )
  real = real_sounds.from_config(data)
  builder = prepare(config, data.data_dir)
  tree = clip_records.hierarchy(builder)
  return real | {
    split: Labelled(load(builder, split), tree) for split in splits.SPLITS
  }


DATASET = Dataset(
  from_config,
  identity=("under", "seconds", "image_size", "sample_rate", "split_seed"),
  others=("data_dir", "source", "max_bad_share"),
)
