"""Says which Audio CLEVRGAN to make."""

import dataclasses
from typing import ClassVar

from vgsgan.common.options import check_at_least
from vgsgan.data.builders.clevrgan import pictures
from vgsgan.data.builders.configs import Config


@dataclasses.dataclass(kw_only=True, eq=False)
class ClevrganConfig(Config):
  """Settings of the set; `fingerprint` is of the two networks.

  Attributes:
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
    """A high guess: three seconds of speech, uncompressed pictures."""
    del pairs  # The counts say more.
    spoken = self.train + self.validation + 2 * self.test + self.semantic
    images = spoken + self.probe + len(pictures.SPLITS) * self.semantic
    sound = spoken * 3 * 2 * self.sample_rate
    return sound + images * 4 * self.image_size**2
