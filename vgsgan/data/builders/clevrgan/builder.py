"""Audio CLEVRGAN as a TFDS data set; `pictures` draws and describes.

A record is an image that the generator drew from `z` and a recording of its
caption. `train` and `validation` have voices of `speech.VOICES`; each image
of `test` is described by one of them and, in the same words, by
`speech.HELD_OUT`. Three more splits are for tests alone: `probe`, images
without sound; `words`, the fifteen words spoken alone by every voice, without
an image; `semantic`, rendered scenes with four others that differ in one
attribute that the caption states.

Captions recur within splits and between them. A voice that says a caption in
`train` says it in no other split, and one of `validation` in no test
(`voices.speakers`).

Records of equal captions have equal `speech_id` and `concept`. Evaluation
counts such pairs as right, and in training they are never impostors of each
other.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.data.builders import preparing, reading, sources
from vgsgan.data.builders.clevrgan import contrasts, pictures
from vgsgan.data.builders.clevrgan.config import ClevrganConfig
from vgsgan.data.builders.clevrgan.folder_builder import with_more
from vgsgan.data.builders.clevrgan.records import (
  IdCounter,
  Item,
  features,
  record,
)
from vgsgan.data.records import Dataset, Splits
from vgsgan.models import pretrained
from vgsgan.worlds import speech
from vgsgan.worlds.attributes import WORDS


class Clevrgan(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  # Raise it whenever the worlds change their results.
  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "2.0.0": (
      "No caption has the same voice in training, validation and tests; "
      "records of one caption have one `concept`."
    ),
    "1.0.0": "First release.",
  }

  def __init__(self, *args, networks=None, **kwargs):
    self._networks = networks  # Preparing needs them, reading does not.
    super().__init__(*args, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Pictures that a GAN drew, described aloud, after Audio CLEVRGAN "
        "(Surís et al., CVPR 2019)."
      ),
      features=features(config.image_size, config.most),
      supervised_keys=None,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    config = self.builder_config
    voices = len(speech.VOICES) + 1
    total = (
      *(config.train, config.validation, 2 * config.test, config.probe),
      *(voices * len(WORDS), config.semantic),
    )
    bar = tqdm(total=sum(total), desc="clevrgan", unit="record", disable=None)
    draw = pictures.drawing(*self._networks, config.seed, config.truncation)
    numbers = IdCounter()
    return {
      split: self._generate_examples(draw, split, numbers, bar)
      for split in pictures.SPLITS
    }

  def _generate_examples(self, draw, split, numbers, bar):
    bar.set_description(f"clevrgan {split}")
    contents = list(items(self.builder_config, draw, split))
    for item, spoken in recorded(contents, self.builder_config):
      bar.update()
      yield item.id, record(item, spoken, numbers)


def items(
  config: ClevrganConfig, draw: pictures.Draw, split: str
) -> Iterator[Item]:
  """Yields the contents of the records of a split, in order."""
  index = pictures.SPLITS.index(split)
  if split == "words":
    yield from _words(config)
    return
  count = getattr(config, split)
  names = [f"{split}{number:0{len(str(count))}d}" for number in range(count)]
  if split == "semantic":
    fixed = (config.image_size, config.most)
    for number, name in enumerate(names):
      item = contrasts.contrast(config.seed, index, number, *fixed)
      fields = (item.caption, item.voice, item.negatives, item.changed)
      yield Item(name, item.picture, name, *fields)
    return
  drawn = pictures.pictures(draw, index, count, config.most)
  for number, (name, picture) in enumerate(zip(names, drawn, strict=True)):
    if split == "probe":
      yield Item(name, picture, name)
      continue
    caption, voice = pictures.describe(picture, config.seed, index, number)
    yield Item(name, picture, name, caption, voice)
    if split == "test":
      yield Item(f"{name}_again", picture, name, caption, speech.HELD_OUT)


def _words(config: ClevrganConfig) -> Iterator[Item]:
  """Yields every word by every voice, with a black image."""
  size, most = config.image_size, config.most
  nothing = pictures.Picture(
    np.zeros(0, np.float32),
    np.zeros((size, size, 3), np.uint8),
    *pictures.labels([], most, size),
  )
  for word in WORDS:
    for voice in (*speech.VOICES, speech.HELD_OUT):
      yield Item(f"{word}:{voice}", nothing, "words", word, voice)


def recorded(
  contents: Sequence[Item], config: ClevrganConfig
) -> Iterator[tuple[Item, speech.Spoken]]:
  """Speaks the captions, in order."""
  silence = speech.Spoken(np.zeros(0, np.int16), ())
  jobs = [(item.caption, item.voice) for item in contents if item.caption]
  # Starting processes would take longer than a few words.
  workers = config.workers if len(jobs) > 100 else 0
  voices = speech.speak_all(jobs, config.sample_rate, workers)
  with contextlib.closing(voices):
    for item in contents:
      yield item, next(voices) if item.caption else silence


def prepare(config: ClevrganConfig, data_dir: str | pathlib.Path) -> Clevrgan:
  """Makes a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'clevrgan/NAME/VERSION' below it.

  Raises:
    UserError: a network is missing or does not fit, the packages that speak
      are missing, or the disk is full or cannot be written.
  """
  data_dir = sources.expanded(data_dir)
  networks = (
    pretrained.load_generator(config.generator),
    pretrained.load_recogniser(config.recogniser),
  )
  size = networks[0].module.image_size
  if size != config.image_size:
    raise UserError(
      f"config.data.image_size={config.image_size}, but the pictures of "
      f"config.data.generator have {size} pixels a side: make them agree"
    )
  files = {
    name: pathlib.Path(getattr(config, name) or pretrained.PACKAGED[name])
    for name in ("generator", "recogniser")
  }
  fingerprint = sources.content(files, data_dir)
  config = dataclasses.replace(config, fingerprint=fingerprint)
  return preparing.prepare_once(Clevrgan, config, data_dir, networks=networks)


def load(builder: Clevrgan, split: str) -> Sequence[dict]:
  """Random access to the records of a split.

  Args:
    builder: from `prepare`.
    split: one of `pictures.SPLITS`.

  Returns:
    Records: `id`, `caption`, `voice`, `language` UTF-8 bytes; `z` float32 [z],
    empty where no generator drew; `image` PNG bytes; `waveform` int16
    [samples], empty where there is no sound; `words` JSON: a list of
    {"spoken", "word", "start", "end"}, `word` one of WORDS or null, times in
    seconds, empty where the voice gives none; `attributes` int32 [n, 4] from
    left to right, -1 unknown; `masks` uint8 [n, s, s], 0 where there is no
    object; `held_out` whether the voice is; `image_id`, `speech_id`, `concept`
    int; of `semantic` alone `negatives` uint8 [4, s, s, 3], `changed` int32
    [4], in which of ATTRIBUTES they differ. Elsewhere both are empty.
  """
  return reading.open_split(builder, split)


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for; some are for tests alone."""
  config = ClevrganConfig(
    generator=data.generator,
    recogniser=data.recogniser,
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    most=data.most,
    truncation=data.truncation,
    train=data.num_train,
    validation=data.num_validation,
    test=data.num_test,
    probe=data.num_probe,
    semantic=data.num_semantic,
    seed=data.scene_seed,
    workers=data.speech_workers,
  )
  builder = prepare(config, data.data_dir)
  splits = {split: load(builder, split) for split in pictures.SPLITS}
  return splits | {"train": with_more(data, splits["train"])}


DATASET = Dataset(
  from_config,
  identity=(
    "generator",
    "recogniser",
    "image_size",
    "sample_rate",
    "most",
    "truncation",
    *(f"num_{split}" for split in ClevrganConfig.COUNTS),
    "scene_seed",
  ),
  others=("data_dir", "speech_workers"),
)
