"""Base classes of the configs of all builders."""

import abc
import dataclasses
from typing import ClassVar

import tensorflow_datasets as tfds

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig, abc.ABC):
  """Settings of a data set. The other fields decide `name`, its folder.

  Attributes:
    name: derived; a passed value is ignored.
    fingerprint: digest of the source; `prepare` fills it in.
  """

  name: str = ""
  fingerprint: str = ""

  def __post_init__(self):
    self.check()
    self.name = "-".join(self.parts())

  def check(self) -> None:
    """Raises UserError if a field is out of its range."""

  @abc.abstractmethod
  def parts(self) -> list[str]:
    """The parts of the name."""

  @abc.abstractmethod
  def num_bytes(self, pairs: int) -> int:
    """Estimates the size of `pairs` records, for the error of a full disk."""


@dataclasses.dataclass(kw_only=True, eq=False)
class FolderConfig(Config):
  """Settings for data prepared from a folder of images and recordings.

  Attributes:
    source: the folder.
    image_size: side of the square images, pixels.
    sample_rate: sample rate of the waveforms, Hz.
    max_bad_share: share of the pairs that may be missing or undecodable.
  """

  SECONDS: ClassVar[int]  # Estimated length of a recording.
  PIXEL_BYTES: ClassVar[int] = 3  # Estimate without compression.
  MEND: ClassVar[str] = "mend the source or raise --config.data.max_bad_share"

  source: str = ""
  image_size: int
  sample_rate: int = 16000
  max_bad_share: float = 0.01

  def check(self) -> None:
    check_at_least("data.image_size", self.image_size, 1)
    check_at_least("data.sample_rate", self.sample_rate, 1000)  # Refuses kHz.
    check_at_least("data.max_bad_share", self.max_bad_share, 0)

  def parts(self) -> list[str]:
    return [
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      *self.choices(),
      f"source_{self.fingerprint}",
    ]

  def choices(self) -> list[str]:
    """The parts of the name for the selection from the folder."""
    return []

  def num_bytes(self, pairs: int) -> int:
    sound = self.SECONDS * 2 * self.sample_rate
    return pairs * (sound + self.PIXEL_BYTES * self.image_size**2)

  def check_bad(self, metadata: dict) -> None:
    """Raises UserError if too many of a builder's pairs cannot be used.

    Args:
      metadata: `pairs`, a count, and `bad`, a list of [name, reason].
    """
    bad, total = metadata["bad"], metadata["pairs"]
    if len(bad) > self.max_bad_share * total:
      raise UserError(
        f"at least {len(bad)} of {total} pairs ({len(bad) / total:.2%}) cannot "
        f"be used, more than the limit of {self.max_bad_share:.2%}; the first "
        f"is {bad[0][0]} ({bad[0][1]}): {self.MEND}"
      )
