"""The world of places as a TFDS data set: rendered images, spoken captions.

`train` and `validation` have voices of `speech.VOICES`; each image of `test` is
described by one of them and, in the same words, by one of
`speech.ALL_HELD_OUT`. Three more splits are for tests of single words:

- `pairs` and `validation_pairs`: records 2i and 2i + 1 are a pair. Their scenes
  differ in the word of one kind, `changed`, and so do their captions;
- `words`: every word spoken alone by every voice, with a black image.

A voice that says a caption in `train` says it in no other split, and one of
`validation` in no test (`voices.speakers`).
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vgsgan.common import jsonfiles
from vgsgan.data.builders import preparing, reading, sources
from vgsgan.data.builders.clevrgan.records import IdCounter
from vgsgan.data.builders.places.config import PlacesConfig
from vgsgan.data.builders.places.items import Item, items, splits
from vgsgan.data.builders.scenes import encode
from vgsgan.data.records import Dataset, Splits
from vgsgan.worlds import place_words, places, speech
from vgsgan.worlds.place_words import KINDS

_BATCH = 250  # Images rendered at a time.
_SILENCE = speech.Spoken(np.zeros(0, np.int16), ())


class Places(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `prepare`."""

  # builders/stamps/builder.py says why.
  code_path = tfds.core.Path(__file__)
  # Raise it whenever the world changes its results.
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.image_size

    def tensor(shape, dtype, encoding="none"):
      return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

    texts = ("id", "caption", "voice", "language", "words")
    numbers = ("image_id", "speech_id", "concept", "changed")
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "One thing at one of many places, described aloud: a world in which "
        "nouns tell images apart."
      ),
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in texts}
        | {name: tfds.features.Scalar(np.int32) for name in numbers}
        | {
          "image": tfds.features.Image(
            shape=(size, size, 3), encoding_format="png"
          ),
          "waveform": tensor((None,), np.int16, "bytes"),
          "wrong": tensor((None,), np.int16, "bytes"),
          "attributes": tensor((len(KINDS),), np.int32),
          "said": tensor((len(KINDS),), np.bool_),
          "pose": tensor((len(places.POSE),), np.float32),
          "mask": tensor((size, size), np.uint8, "zlib"),
          "box": tensor((4,), np.float32),
          "held_out": tfds.features.Scalar(np.bool_),
        }
      ),
      supervised_keys=None,
      disable_shuffling=True,  # Pairs stay side by side.
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    config = self.builder_config
    contents = {split: items(config, split) for split in splits(config)}
    total = sum(map(len, contents.values()))
    bar = tqdm(total=total, desc="places", unit="record", disable=None)
    numbers = IdCounter()
    return {
      split: self._generate_examples(split, contents[split], numbers, bar)
      for split in contents
    }

  def _generate_examples(self, split, contents, numbers, bar):
    config = self.builder_config
    bar.set_description(f"places {split}")
    pictures = rendered(config, contents)
    with contextlib.closing(_spoken(config, contents)) as sounds:
      for item, picture in zip(contents, pictures, strict=True):
        bar.update()
        if split == "words":
          picture = places.Picture(*(np.zeros_like(x) for x in picture))
        spoken = next(sounds) if item.caption else _SILENCE
        record = _record(item, picture, spoken, numbers)
        if item.wrong:
          record["wrong"] = next(sounds).waveform
        yield item.id, record


def rendered(
  config: PlacesConfig, contents: Sequence[Item]
) -> Iterator[places.Picture]:
  """Renders scenes in order, with pixels 0 to 255."""

  @jax.jit
  @jax.vmap
  def draw(scene):
    picture = places.render(scene, config.image_size, config.loudness)
    pixels = jnp.rint(picture.image * 255).astype(jnp.uint8)
    return picture._replace(image=pixels)

  for start in range(0, len(contents), _BATCH):
    part = [item.scene for item in contents[start : start + _BATCH]]
    # The last batch is rendered whole, to compile once.
    filled = part + [part[-1]] * (_BATCH - len(part))
    rows = jax.device_get(draw(jax.tree.map(lambda *x: np.stack(x), *filled)))
    for i in range(len(part)):
      yield places.Picture(*(values[i] for values in rows))


def _spoken(
  config: PlacesConfig, contents: Sequence[Item]
) -> Iterator[speech.Spoken]:
  """Speaks captions in order, each followed by its wrong version if any."""
  jobs = [
    (text, item.voice)
    for item in contents
    for text in (item.caption, item.wrong)
    if text
  ]
  # Starting processes would take longer than a few words.
  workers = config.workers if len(jobs) > 100 else 0
  return speech.speak_all(jobs, config.sample_rate, workers)


def _record(
  item: Item,
  picture: places.Picture,
  spoken: speech.Spoken,
  numbers: IdCounter,
) -> dict[str, Any]:
  speech_id = numbers("speech", item.caption or item.id)
  times = [
    {"spoken": word, "start": round(start, 3), "end": round(end, 3)}
    for word, start, end in spoken.words
  ]
  return {
    "id": item.id,
    "image": encode(picture.image),
    "waveform": spoken.waveform,
    "wrong": np.zeros(0, np.int16),
    "caption": item.caption,
    "voice": item.voice,
    "language": "en",
    "words": jsonfiles.dumps(times),
    "attributes": item.scene.words.astype(np.int32),
    "said": np.array(place_words.stated(item.caption)),
    "pose": item.scene.pose.astype(np.float32),
    "mask": picture.mask.astype(np.uint8),
    "box": picture.box.astype(np.float32),
    "held_out": item.voice in speech.ALL_HELD_OUT,
    "image_id": numbers("image", item.image),
    "speech_id": speech_id,
    "concept": speech_id,  # An image has one caption.
    "changed": item.changed,
  }


def prepare(config: PlacesConfig, data_dir: str | pathlib.Path) -> Places:
  """Makes a data set, unless it is already prepared, and returns it.

  Args:
    config: settings of the data set.
    data_dir: where TFDS keeps data sets; 'places/NAME/VERSION' below it.

  Raises:
    UserError: the packages that speak are missing, or the disk is full or
      cannot be written.
  """
  data_dir = sources.expanded(data_dir)
  return preparing.prepare_once(Places, config, data_dir)


def load(builder: Places, split: str) -> Sequence[dict]:
  """Random access to the records of a split.

  Args:
    builder: from `prepare`.
    split: one of `items.splits`.

  Returns:
    Records: `id`, `caption`, `voice`, `language` UTF-8 bytes; `image` PNG
    bytes; `waveform` int16 [samples]; `wrong` likewise, the caption with one
    attribute wrong, or empty; `words` JSON: a list of {"spoken",
    "start", "end"}, times in seconds, empty where the voice gives none;
    `attributes` int32 [6], indices into the words of `place_words.VOCABULARY`;
    `said` bool [6], whether the caption says them; `pose` float32 [8]; `mask`
    uint8 [s, s]; `box` float32 [4]; `held_out` whether the voice is;
    `image_id`, `speech_id`, `concept` int; `changed` the kind in which a pair
    differs, or of a single word, else -1.
  """
  return reading.open_split(builder, split)


def config_of(data: ml_collections.ConfigDict) -> PlacesConfig:
  """The settings in `config.data`; UserError if one is out of its range."""
  return PlacesConfig(
    image_size=data.image_size,
    sample_rate=data.sample_rate,
    things=data.things,
    places=data.places,
    skies=data.skies,
    loudness=data.loudness,
    said=data.said,
    wrong=data.wrong,
    train=data.num_train,
    validation=data.num_validation,
    test=data.num_test,
    pairs=data.num_pairs,
    seed=data.scene_seed,
    workers=data.speech_workers,
  )


def from_config(data: ml_collections.ConfigDict) -> Splits:
  """The splits that `config.data` asks for; some are for tests alone."""
  config = config_of(data)
  builder = prepare(config, data.data_dir)
  return {split: load(builder, split) for split in splits(config)}


DATASET = Dataset(
  from_config,
  check=config_of,
  identity=(
    "image_size",
    "sample_rate",
    "things",
    "places",
    "skies",
    "loudness",
    "said",
    "wrong",
    *(f"num_{split}" for split in PlacesConfig.COUNTS),
    "scene_seed",
  ),
  others=("data_dir", "speech_workers"),
)
