"""A picture and a second of the sound that goes with it, as fixed shapes."""

import dataclasses

import numpy as np
from jaxtyping import Int16

from vgsgan.data import pipeline
from vgsgan.data.examples import decode

# Labels of a clip that are kept; AudioSet's clips have at most a dozen.
MOST_LABELS = 12


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

  def __call__(
    self, record: pipeline.Record, rng: np.random.Generator
  ) -> pipeline.Example:
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
