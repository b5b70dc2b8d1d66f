"""A picture and a recording that describes it, as arrays of fixed shape."""

import dataclasses
import functools

import numpy as np
from jaxtyping import UInt8

from vgsgan.data import decoding, pipeline

SMALL = 2**13  # Bytes of an encoded picture: one of 64 pixels, about.
MOST = 4096  # Small pictures that are kept decoded: 50 MB of 64 pixels.


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

  def __call__(
    self, record: pipeline.Record, rng: np.random.Generator
  ) -> pipeline.Example:
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

  def __call__(
    self, record: pipeline.Record, rng: np.random.Generator
  ) -> pipeline.Example:
    example = super().__call__(record, rng)
    if "z" in record:
      example["z"] = np.asarray(record["z"], np.float32)
    return example


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
