"""Settings of Audio CLEVRGAN."""

import dataclasses
from typing import ClassVar

from vgsgan.common.options import check_at_least
from vgsgan.data.builders.clevrgan import pictures
from vgsgan.data.builders.configs import Config


@dataclasses.dataclass(kw_only=True, eq=False)
class ClevrganConfig(Config):
  """Settings of the data set; `fingerprint` is of the two networks.

  Attributes:
    generator: .npz of the network that draws; '' is the packaged one.
    recogniser: .npz of the network that recognises objects; '' is the packaged
      one.
    image_size: side of the images that the generator draws, pixels.
    sample_rate: sample rate of the waveforms, Hz.
    most: largest number of objects in an image; the length of `attributes`.
    truncation: largest number in a latent; 0 for no limit.
    train: number of training records.
    validation: number of validation records.
    test: number of test images, with two recordings each.
    probe: number of images of the split.
    semantic: number of records of the split.
    seed: seed of all random numbers.
    workers: processes that speak; their number does not change the speech.
  """

  COUNTS: ClassVar[tuple[str, ...]] = (
    "train",
    "validation",
    "test",
    "probe",
    "semantic",
  )

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

  def check(self) -> None:
    check_at_least("data.image_size", self.image_size, 8)
    check_at_least("data.sample_rate", self.sample_rate, 1000)
    check_at_least("data.most", self.most, 2)
    check_at_least("data.truncation", self.truncation, 0)
    check_at_least("data.scene_seed", self.seed, 0)
    check_at_least("data.speech_workers", self.workers, 0)
    for split in self.COUNTS:
      check_at_least(f"data.num_{split}", getattr(self, split), 1)

  def parts(self) -> list[str]:
    return [
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"upto{self.most}",
      *([f"truncation{self.truncation:g}"] if self.truncation else []),
      *(f"{split}{getattr(self, split)}" for split in self.COUNTS),
      f"seed{self.seed}",
      f"networks_{self.fingerprint}",
    ]

  def num_bytes(self, pairs: int) -> int:
    """Estimates from above: three seconds of speech, uncompressed images."""
    del pairs  # The counts of the config decide.
    spoken = self.train + self.validation + 2 * self.test + self.semantic
    images = spoken + self.probe + len(pictures.SPLITS) * self.semantic
    sound = spoken * 3 * 2 * self.sample_rate
    return sound + images * 4 * self.image_size**2
