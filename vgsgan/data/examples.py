"""Makes records of each kind into arrays of fixed shape."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int16, UInt8

from vgsgan.data import decoding
from vgsgan.data.records import Example, Record

SMALL = 2**13  # Bytes of a small encoded image, about 64 x 64 pixels.
MOST = 4096  # Small images to keep decoded: 50 MB at 64 x 64 pixels.
# Labels to keep for a clip; AudioSet's clips have at most a dozen.
MOST_LABELS = 12


@dataclasses.dataclass(frozen=True)
class PairExample:
  """Makes a record of image and recording into arrays of fixed shape.

  Attributes:
    samples: length of `waveform`; longer recordings are cropped.
    random_crop: crops anywhere, rather than keeping the beginning.
    shortest: crops all recordings, to a random length from this many samples
      to the whole, so that words are heard without their context; 0 leaves
      them whole.
  """

  samples: int
  random_crop: bool
  shortest: int = 0

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    waveform = np.asarray(record["waveform"], np.int16)
    kept = min(self.samples, len(waveform))
    if 0 < self.shortest < kept:
      kept = int(rng.integers(self.shortest, kept + 1))
    excess = len(waveform) - kept
    if excess > 0:
      start = int(rng.integers(excess + 1)) if self.random_crop else 0
      waveform = waveform[start : start + kept]
    padded = np.zeros(self.samples, np.int16)
    padded[: len(waveform)] = waveform
    return {
      "waveform": padded,
      "num_samples": np.int32(len(waveform)),
      "image": decode(record["image"]),
      # Images and recordings of one concept are never impostors.
      "image_concept": np.int32(record.get("image_concept", record["concept"])),
      "speech_concept": np.int32(record["concept"]),
      "image_id": np.int32(record["image_id"]),
      "speech_id": np.int32(record["speech_id"]),
    }


class DrawnPairExample(PairExample):
  """Adds `z`, the latent that the image was drawn from, to a `PairExample`.

  Records of photographs have no latent, and their examples no `z`.
  """

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    example = super().__call__(record, rng)
    if "z" in record:
      example["z"] = np.asarray(record["z"], np.float32)
    return example


@dataclasses.dataclass(frozen=True)
class PlaceExample(PairExample):
  """Adds a scene of `builders.places` to a `PairExample`.

  `attributes` int32 [6], `said` bool [6], `pose` float32 [8].

  Attributes:
    wrong: whether the wrong caption is added: `wrong` int16 [samples] and
      `num_wrong`, 0 where there is none.
  """

  wrong: bool = False

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    example = super().__call__(record, rng) | {
      "attributes": np.asarray(record["attributes"], np.int32),
      "said": np.asarray(record["said"], bool),
      "pose": np.asarray(record["pose"], np.float32),
    }
    if self.wrong:
      other = super().__call__(record | {"waveform": record["wrong"]}, rng)
      example |= {
        "wrong": other["waveform"],
        "num_wrong": other["num_samples"],
      }
    return example


class ImageExample:
  """Takes a record's image alone: `image` uint8 [s, s, 3]."""

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    del rng
    return {"image": decode(record["image"])}


class SceneWordsExample:
  """Takes image and words of a record of `builders.places`.

  `image` uint8 [s, s, 3]; `attributes` int32 [6].
  """

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    del rng
    return {
      "image": decode(record["image"]),
      "attributes": np.asarray(record["attributes"], np.int32),
    }


class SceneExample:
  """Makes a record of `builders.scenes` into arrays of fixed shape.

  `image` uint8 [s, s, 3]; `masks` uint8 [n, s, s]; `attributes` int32 [n, 4],
  -1 where there is no object.
  """

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    del rng  # Augmentation happens on the device.
    return {
      "image": decode(record["image"]),
      "masks": np.asarray(record["masks"], np.uint8),
      "attributes": np.asarray(record["attributes"], np.int32),
    }


@dataclasses.dataclass(frozen=True)
class ClipExample:
  """Makes a record of image and sound into arrays of fixed shape.

  Sound is cut out anywhere. Matching and mismatched sounds must be cut in the
  same way, or the cut tells them apart. `grid` makes this mistake on purpose,
  to show its effect ("Objects that Sound", ECCV 2018, section 3.3): the
  matching sound, `aligned`, starts at a video frame; the mismatched one,
  `waveform`, starts anywhere.

  Attributes:
    samples: length of `waveform`; shorter sounds are followed by silence.
    grid: samples between video frames; 0 cuts all sounds alike.
  """

  samples: int
  grid: int = 0

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    sound = np.asarray(record["waveform"], np.int16)
    places = max(0, len(sound) - self.samples) + 1
    labels = np.full(MOST_LABELS, -1, np.int32)
    clip_labels = np.asarray(record["labels"], np.int32)[:MOST_LABELS]
    labels[: len(clip_labels)] = clip_labels
    example = {
      "image": decode(record["image"]),
      "waveform": self._cut(sound, int(rng.integers(places))),
      "num_samples": np.int32(min(self.samples, len(sound))),
      "clip_id": np.int32(record["clip_id"]),
      "labels": labels,
    }
    if self.grid:
      start = int(rng.integers(-(-places // self.grid))) * self.grid
      example["aligned"] = self._cut(sound, start)
    return example

  def _cut(self, sound: np.ndarray, start: int) -> Int16[np.ndarray, "s"]:
    cut = sound[start : start + self.samples]
    return np.pad(cut, (0, self.samples - len(cut)))


def decode(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes an image to read-only pixels.

  A small image is cached, because decoding takes most of the time of reading a
  pair, and the image recurs with other recordings and in other epochs.
  """
  return (_decode_cached if len(encoded) <= SMALL else _decode)(encoded)


def _decode(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
  with decoding.open_image(encoded) as opened:
    # `convert` would copy even an RGB image.
    return np.asarray(opened if opened.mode == "RGB" else opened.convert("RGB"))


_decode_cached = functools.lru_cache(MOST)(_decode)
