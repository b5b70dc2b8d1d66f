"""Clips of video, a frame and its sound, as a TFDS data set.

After AudioSet-Instruments ("Objects that Sound", ECCV 2018, section 4): the
clips of AudioSet with a label under Musical instrument, Singing or Tools, 110
classes; a tenth of the training clips is for validation. `files` says
what is in the folder.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data import decoding, splits
from vgsgan.data.builders import clip_records, preparing, sources
from vgsgan.data.builders.clips import files as clips_files

# Of sound on either side of what belongs to a frame, seconds: by so much may
# training misalign them.
MARGIN = 1.0
VALIDATION_SHARE = 0.1  # Of the videos of train.csv.


@dataclasses.dataclass(kw_only=True, eq=False)
class ClipsConfig(tfds.core.BuilderConfig):
  """What to prepare. `name` follows from the rest: one folder for each.

  Attributes:
    name: derived; what is passed is not used.
    source: the folder.
    under: names or IDs of classes of the ontology; clips with a label that is
      one of them or below one are taken, and others of their labels are not.
    seconds: of sound that belong to a frame.
    image_size: side of the square pictures, pixels.
    sample_rate: of the waveforms, Hz.
    split_seed: chooses the frames, and the videos for validation.
    max_bad_share: share of the clips that may be missing or undecodable.
    fingerprint: of the source; `prepare` fills it in.
  """

  name: str = ""
  source: str = ""
  under: tuple[str, ...] = ("Musical instrument", "Singing", "Tools")
  seconds: float = 1.0
  image_size: int = 256
  sample_rate: int = 16000
  split_seed: int = 0
  max_bad_share: float = 0.01
  fingerprint: str = ""

  def __post_init__(self):
    check_at_least("data.image_size", self.image_size, 1)
    check_at_least("data.sample_rate", self.sample_rate, 1000)  # Hz, not kHz.
    check_at_least("data.max_bad_share", self.max_bad_share, 0)
    check_at_least("data.seconds", self.seconds, 0.01)
    if not math.isfinite(self.seconds):
      raise UserError(f"config.data.seconds={self.seconds} must have an end")
    # Of a digest: names have blanks, IDs have slashes.
    under = repr(sorted(set(self.under))).encode()
    parts = (
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"{self.seconds:g}s",
      f"seed{self.split_seed}",
      f"validation{VALIDATION_SHARE:g}",
      f"under_{hashlib.sha256(under).hexdigest()[:8]}",
      f"source_{self.fingerprint}",
    )
    self.name = "-".join(parts)


class Clips(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; `prepare` is the way in."""

  # See builders/stamps/builder.py.
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
    del dl_manager  # Nothing to download: the folder is there.
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
    # What belongs together: clips of a video are not each other's negatives.
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
        preparing.check_bad(metadata, self.builder_config.max_bad_share)
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
      # What is evaluated is not misaligned.
      margin=MARGIN if clip.split == "train" else 0.0,
      rate=config.sample_rate,
    )
    sound = files.sounds[clip.id]
    return image, decoding.read_audible(sound, config.sample_rate, section)


def prepare(config: ClipsConfig, data_dir: str | pathlib.Path) -> Clips:
  """Prepares a data set, unless it is already prepared, and returns it.

  Args:
    config: what to prepare.
    data_dir: where TFDS keeps data sets; 'clips/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` names what was left out: 'bad';
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

  config = dataclasses.replace(config, fingerprint=identify())
  builder = preparing.prepare_once(
    Clips, config, data_dir, _megabytes, identify
  )
  metadata = builder.info.metadata
  preparing.check_bad(metadata, config.max_bad_share)
  counts = (len(metadata["bad"]), metadata["pairs"])
  logging.info("%s: %d of %d clips left out", builder.data_dir, *counts)
  return builder


def _scan(
  config: ClipsConfig, root: pathlib.Path, labels: Sequence[str]
) -> list[clips_files.Clip]:
  return clips_files.scan(root, labels, VALIDATION_SHARE, config.split_seed)


def load(builder: Clips, split: str) -> Sequence[dict]:
  """Random access to the records of a split; see `clip_records`.

  `waveform` is the sound around the frame: `config.seconds` of it, in 'train'
  up to `MARGIN` more on either side; the whole clip where the time of the
  frame is not known.

  Args:
    builder: from `prepare`.
    split: 'train', 'validation' or 'test'.
  """
  return preparing.open_split(builder, split)


def _megabytes(builder: Clips) -> int:
  """A guess: ten seconds of sound and a half compressed picture each."""
  config = builder.builder_config
  size = 10 * 2 * config.sample_rate + config.image_size**2
  return 1 + round(builder.info.metadata.get("pairs", 0) * size / 1e6)
