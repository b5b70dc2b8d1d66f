"""Makes records of each kind into arrays of fixed shape."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int16, UInt8

from vgsgan.data import decoding
from vgsgan.data.records import Example, Record

SMALL = 2**13  # Bytes of an encoded picture: one of 64 pixels, about.
MOST = 4096  # Small pictures that are kept decoded: 50 MB of 64 pixels.
# Labels of a clip that are kept; AudioSet's clips have at most a dozen.
MOST_LABELS = 12


@dataclasses.dataclass(frozen=True)
class PairExample:
  """A record of picture and recording, made into arrays of fixed shape.

  Attributes:
    samples: length of `waveform`; longer recordings are cropped.
    random_crop: crop anywhere, rather than keep the beginning.
    shortest: crop all recordings, to a random length from this many samples
      to the whole, so that words are heard without what is said around them;
      0 leaves them whole.
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
      # Pictures and recordings of one concept are never impostors.
      "image_concept": np.int32(record.get("image_concept", record["concept"])),
      "speech_concept": np.int32(record["concept"]),
      "image_id": np.int32(record["image_id"]),
      "speech_id": np.int32(record["speech_id"]),
    }


class DrawnPairExample(PairExample):
  """As `PairExample`, with the latent that the picture was drawn from: `z`.

  Where the record knows it: photographs have none.
  """

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    example = super().__call__(record, rng)
    if "z" in record:
      example["z"] = np.asarray(record["z"], np.float32)
    return example


class PictureExample:
  """A record's picture alone: `image` uint8 [s, s, 3]."""

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    del rng
    return {"image": decode(record["image"])}


class SceneExample:
  """A record of `builders.scenes`, made into arrays of fixed shape.

  `image` uint8 [s, s, 3]; `masks` uint8 [n, s, s]; `attributes` int32 [n, 4],
  -1 where there is no object.
  """

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    del rng  # What is random is drawn on the device.
    return {
      "image": decode(record["image"]),
      "masks": np.asarray(record["masks"], np.uint8),
      "attributes": np.asarray(record["attributes"], np.int32),
    }


@dataclasses.dataclass(frozen=True)
class ClipExample:
  """A record of picture and sound, made into arrays of fixed shape.

  Sound is cut out anywhere: what belongs to a picture and what does not is to
  be cut in one way, or the cut tells them apart. `grid` is the mistake, kept to
  show its effect ("Objects that Sound", ECCV 2018, section 3.3): the sound that
  goes with the picture, `aligned`, starts at a video frame, and that which
  stands against other pictures, `waveform`, anywhere.

  Attributes:
    samples: length of `waveform`; shorter sounds are followed by silence.
    grid: samples between video frames, or 0 to cut all sound alike.
  """

  samples: int
  grid: int = 0

  def __call__(self, record: Record, rng: np.random.Generator) -> Example:
    sound = np.asarray(record["waveform"], np.int16)
    places = max(0, len(sound) - self.samples) + 1
    labels = np.full(MOST_LABELS, -1, np.int32)
    known = np.asarray(record["labels"], np.int32)[:MOST_LABELS]
    labels[: len(known)] = known
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


def decode(picture: bytes) -> UInt8[np.ndarray, "h w 3"]:
  """Pixels of an encoded picture, read-only.

  A small one is kept: it comes again, with another recording or in the next
  epoch, and of what is read of a pair it takes longest.
  """
  return (_kept if len(picture) <= SMALL else _decoded)(picture)


def _decoded(picture: bytes) -> UInt8[np.ndarray, "h w 3"]:
  with decoding.open_image(picture) as opened:
    # Of what is RGB already, `convert` would only make another copy.
    return np.asarray(opened if opened.mode == "RGB" else opened.convert("RGB"))


_kept = functools.lru_cache(MOST)(_decoded)
