"""Audio CLEVRGAN as a TFDS data set; `pictures` draws and describes.

A record is a picture that the generator drew from `z` and a recording of its
caption. `train` and `validation` have voices of `speech.VOICES`; each picture
of `test` is described by one of them and, in the same words, by
`speech.HELD_OUT`. Three more splits are for tests alone: `probe`, pictures
without sound; `words`, the fifteen words spoken alone by every voice, without
a picture; `semantic`, rendered scenes with four others that differ in one
attribute that the caption states.

Captions recur within splits and between them. A voice that says a caption in
`train` says it in no other split, and one of `validation` in no test
(`clevrgan.voices`).

`speech_id` is equal where the caption is, and so is `concept`: evaluation
counts such pairs as right, and in training they are never impostors of each
other.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least
from vgsgan.data.builders import preparing, sources
from vgsgan.data.builders.clevrgan import contrasts
from vgsgan.data.builders.clevrgan import pictures as clevrgan_pictures
from vgsgan.data.builders.clevrgan.records import (
  Item,
  Numbers,
  features,
  record,
)
from vgsgan.models import pretrained
from vgsgan.worlds import speech
from vgsgan.worlds.attributes import WORDS


@dataclasses.dataclass(kw_only=True, eq=False)
class ClevrganConfig(tfds.core.BuilderConfig):
  """What to prepare. `name` follows from the rest: one folder for each.

  Attributes:
    name: derived; what is passed is not used.
    generator: .npz of the network that draws; '' is the packaged one.
    recogniser: .npz of the network that says what is there; likewise.
    image_size: side of the pictures that the generator draws, pixels.
    sample_rate: of the waveforms, Hz.
    most: objects in a picture, at most; the length of `attributes`.
    truncation: largest number in a latent; 0: no limit.
    train: records of the split; `validation` and `semantic` likewise.
    test: pictures of the split, with two recordings each.
    probe: pictures of the split.
    seed: of all that is random.
    workers: processes that speak; they do not change what is said.
    fingerprint: of the two networks; `prepare` fills it in.
  """

  name: str = ""
  generator: str = ""
  recogniser: str = ""
  image_size: int = 32
  sample_rate: int = 16000
  most: int = 3
  truncation: float = 0.0
  train: int = 4000
  validation: int = 400
  test: int = 500
  probe: int = 2000
  semantic: int = 300
  seed: int = 0
  workers: int = 1
  fingerprint: str = ""

  def __post_init__(self):
    check_at_least("data.image_size", self.image_size, 8)
    check_at_least("data.sample_rate", self.sample_rate, 1000)
    check_at_least("data.most", self.most, 2)
    check_at_least("data.truncation", self.truncation, 0)
    check_at_least("data.scene_seed", self.seed, 0)
    check_at_least("data.speech_workers", self.workers, 0)
    counts = ("train", "validation", "test", "probe", "semantic")
    for split in counts:
      check_at_least(f"data.num_{split}", getattr(self, split), 1)
    parts = [
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"upto{self.most}",
      *([f"truncation{self.truncation:g}"] if self.truncation else []),
      *(f"{split}{getattr(self, split)}" for split in counts),
      f"seed{self.seed}",
      f"networks_{self.fingerprint}",
    ]
    self.name = "-".join(parts)


class Clevrgan(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; `prepare` is the way in."""

  # See builders/stamps/builder.py.
  code_path = tfds.core.Path(__file__)
  # To be raised whenever the worlds draw, say or speak otherwise.
  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "2.0.0": (
      "No caption has the same voice in training, validation and tests; "
      "records of one caption have one `concept`."
    ),
    "1.0.0": "First release.",
  }

  def __init__(self, *args, networks=None, **kwargs):
    self._networks = networks  # Only needed to prepare.
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
    draw = clevrgan_pictures.drawing(
      *self._networks, config.seed, config.truncation
    )
    numbers = Numbers()
    return {
      split: self._generate_examples(draw, split, numbers, bar)
      for split in clevrgan_pictures.SPLITS
    }

  def _generate_examples(self, draw, split, numbers, bar):
    bar.set_description(f"clevrgan {split}")
    found = list(items(self.builder_config, draw, split))
    for item, spoken in recorded(found, self.builder_config):
      bar.update()
      yield item.id, record(item, spoken, numbers)


def items(
  config: ClevrganConfig, draw: clevrgan_pictures.Draw, split: str
) -> Iterator[Item]:
  """What the records of a split are to hold, in order."""
  index = clevrgan_pictures.SPLITS.index(split)
  if split == "words":
    yield from _words(config)
    return
  count = getattr(config, split)
  names = [f"{split}{number:0{len(str(count))}d}" for number in range(count)]
  if split == "semantic":
    fixed = (config.image_size, config.most)
    for number, name in enumerate(names):
      item = contrasts.contrast(config.seed, index, number, *fixed)
      said = (item.caption, item.voice, item.negatives, item.changed)
      yield Item(name, item.picture, name, *said)
    return
  drawn = clevrgan_pictures.pictures(draw, index, count, config.most)
  for number, (name, picture) in enumerate(zip(names, drawn, strict=True)):
    if split == "probe":
      yield Item(name, picture, name)
      continue
    caption, voice = clevrgan_pictures.describe(
      picture, config.seed, index, number
    )
    yield Item(name, picture, name, caption, voice)
    if split == "test":
      yield Item(f"{name}_again", picture, name, caption, speech.HELD_OUT)


def _words(config: ClevrganConfig) -> Iterator[Item]:
  """Every word by every voice, with a black picture of nothing."""
  size, most = config.image_size, config.most
  nothing = clevrgan_pictures.Picture(
    np.zeros(0, np.float32),
    np.zeros((size, size, 3), np.uint8),
    *clevrgan_pictures.labels([], most, size),
  )
  for word in WORDS:
    for voice in (*speech.VOICES, speech.HELD_OUT):
      yield Item(f"{word}:{voice}", nothing, "words", word, voice)


def recorded(
  found: Sequence[Item], config: ClevrganConfig
) -> Iterator[tuple[Item, speech.Spoken]]:
  """Speaks the captions, in order."""
  silence = speech.Spoken(np.zeros(0, np.int16), ())
  jobs = [(item.caption, item.voice) for item in found if item.caption]
  # No processes for a few words.
  workers = config.workers if len(jobs) > 100 else 0
  voices = speech.speak_all(jobs, config.sample_rate, workers)
  with contextlib.closing(voices):
    for item in found:
      yield item, next(voices) if item.caption else silence


def prepare(config: ClevrganConfig, data_dir: str | pathlib.Path) -> Clevrgan:
  """Makes a data set, unless that is done already, and returns it.

  Args:
    config: what to make.
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
  drawn = networks[0].module.image_size
  if drawn != config.image_size:
    raise UserError(
      f"config.data.image_size={config.image_size}, but the pictures of "
      f"config.data.generator have {drawn} pixels a side: make them agree"
    )
  files = {
    name: pathlib.Path(getattr(config, name) or pretrained.PACKAGED[name])
    for name in ("generator", "recogniser")
  }
  fingerprint = sources.content(files, data_dir)
  config = dataclasses.replace(config, fingerprint=fingerprint)
  return preparing.prepare_once(
    Clevrgan, config, data_dir, _megabytes, networks=networks
  )


def load(builder: Clevrgan, split: str) -> Sequence[dict]:
  """Random access to the records of a split.

  Args:
    builder: from `prepare`.
    split: one of `clevrgan.SPLITS`.

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
  return preparing.open_split(builder, split)


def _megabytes(builder: Clevrgan) -> int:
  """A high guess: three seconds of speech, uncompressed pictures."""
  config = builder.builder_config
  spoken = config.train + config.validation + 2 * config.test + config.semantic
  pictures = (
    spoken + config.probe + len(clevrgan_pictures.SPLITS) * config.semantic
  )
  sound = spoken * 3 * 2 * config.sample_rate
  return 1 + round((sound + pictures * 4 * config.image_size**2) / 1e6)
