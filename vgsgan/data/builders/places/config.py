"""Settings of the world of places."""

import dataclasses
from typing import ClassVar

from vgsgan.common.options import check_at_least, check_one_of
from vgsgan.data.builders.configs import Config
from vgsgan.worlds import place_words, places


@dataclasses.dataclass(kw_only=True, eq=False)
class PlacesConfig(Config):
  """Settings of the data set.

  Attributes:
    image_size: side of the images, pixels.
    sample_rate: sample rate of the waveforms, Hz.
    things: number of things that occur.
    places: number of places that occur.
    skies: number of skies that occur.
    loudness: contrast of the places, 0 to 1.
    said: the words that captions have, one of `place_words.SAID`.
    wrong: whether training records have their caption with one attribute wrong.
    train: number of training records.
    validation: number of validation records.
    test: number of test images, with two recordings each.
    pairs: number of pairs in each split of pairs.
    seed: seed of all random numbers.
    workers: processes that speak; their number does not change the speech.
  """

  COUNTS: ClassVar[tuple[str, ...]] = ("train", "validation", "test", "pairs")

  image_size: int = 32
  sample_rate: int = 16000
  things: int = len(place_words.THINGS)
  places: int = len(place_words.PLACES)
  skies: int = len(place_words.SKIES)
  loudness: float = 1.0
  said: str = "all"
  wrong: bool = False
  train: int = 4000
  validation: int = 400
  test: int = 500
  pairs: int = 500
  seed: int = 0
  workers: int = 1

  def check(self) -> None:
    check_at_least("data.image_size", self.image_size, 8)
    check_at_least("data.sample_rate", self.sample_rate, 1000)
    check_at_least("data.things", self.things, 1)
    check_at_least("data.places", self.places, 1)
    check_at_least("data.skies", self.skies, 1)
    check_at_least("data.loudness", self.loudness, 0)
    check_at_least("data.scene_seed", self.seed, 0)
    check_at_least("data.speech_workers", self.workers, 0)
    check_one_of("data.said", self.said, place_words.SAID)
    for split in self.COUNTS:
      check_at_least(f"data.num_{split}", getattr(self, split), 1)

  def parts(self) -> list[str]:
    return [
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"things{self.things}",
      f"places{self.places}",
      f"skies{self.skies}",
      f"loudness{self.loudness:g}",
      f"said_{self.said}",
      *(["wrong"] if self.wrong else []),
      *(f"{split}{getattr(self, split)}" for split in self.COUNTS),
      f"seed{self.seed}",
    ]

  @property
  def words(self) -> tuple[int, ...]:
    """Number of words of each kind that occur."""
    return places.counts(self.things, self.places, self.skies)

  def num_bytes(self, pairs: int) -> int:
    """Estimates from above: three seconds of speech, uncompressed images."""
    del pairs  # The counts of the config decide.
    records = 2 * self.train + self.validation + 2 * self.test + 4 * self.pairs
    return records * (3 * 2 * self.sample_rate + 4 * self.image_size**2)
