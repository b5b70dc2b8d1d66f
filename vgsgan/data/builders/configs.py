"""Base classes of the configs of all builders."""

import dataclasses
from typing import ClassVar

import tensorflow_datasets as tfds

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig):
  """Says what to prepare. `name` follows from the rest: one folder for each.

  Attributes:
    name: derived; what is passed is not used.
    fingerprint: of the source; `prepare` fills it in.
  """

  name: str = ""
  fingerprint: str = ""

  def __post_init__(self):
    self.check()
    self.name = "-".join(self.parts())

  def check(self) -> None:
    """Raises UserError if a field is out of its range."""

  def parts(self) -> list[str]:
    """The parts of the name."""
    raise NotImplementedError

  def num_bytes(self, pairs: int) -> int:
    """About how much `pairs` records take, to say when a disk is full."""
    raise NotImplementedError


@dataclasses.dataclass(kw_only=True, eq=False)
class FolderConfig(Config):
  """Settings for data prepared from a folder of pictures and recordings.

  Attributes:
    source: the folder.
    image_size: side of the square pictures, pixels.
    sample_rate: of the waveforms, Hz.
    max_bad_share: share of the pairs that may be missing or undecodable.
  """

  SECONDS: ClassVar[int]  # Of a recording, about.
  PIXEL_BYTES: ClassVar[int] = 3  # Of a picture that is not compressed.
  MEND: ClassVar[str] = "mend the source or raise --config.data.max_bad_share"

  source: str = ""
  image_size: int
  sample_rate: int = 16000
  max_bad_share: float = 0.01

  def check(self) -> None:
    check_at_least("data.image_size", self.image_size, 1)
    check_at_least("data.sample_rate", self.sample_rate, 1000)  # Hz, not kHz.
    check_at_least("data.max_bad_share", self.max_bad_share, 0)

  def parts(self) -> list[str]:
    return [
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      *self.choices(),
      f"source_{self.fingerprint}",
    ]

  def choices(self) -> list[str]:
    """The parts of the name that say what is taken from the folder."""
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
