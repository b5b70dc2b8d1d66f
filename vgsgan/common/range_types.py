"""Ranges of values, which say in words what they hold."""

import dataclasses
import math
import numbers
from typing import Any

_MOST = 2**31 - 1  # Devices count in 32 bits.


@dataclasses.dataclass(frozen=True)
class Whole:
  """A whole number.

  Attributes:
    least: the smallest.
    most: the largest.
    unit: what it counts.
  """

  least: int
  most: int = _MOST
  unit: str = ""

  def holds(self, value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and self.least <= value <= self.most

  def __str__(self) -> str:
    return f"a whole number from {self.least} to {self.most}{_of(self.unit)}"


@dataclasses.dataclass(frozen=True)
class Real:
  """A finite number.

  Attributes:
    least: the smallest.
    most: the largest.
    unit: what it measures.
    open: whether `most` itself is too large.
  """

  least: int | float
  most: int | float
  unit: str = ""
  open: bool = False

  def holds(self, value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
      return False
    if not math.isfinite(value) or not self.least <= value <= self.most:
      return False
    return value < self.most or not self.open

  def __str__(self) -> str:
    to = "to below" if self.open else "to"
    return f"a number from {self.least:g} {to} {self.most:g}{_of(self.unit)}"


@dataclasses.dataclass(frozen=True)
class Flag:
  """True or False."""

  def holds(self, value: Any) -> bool:
    return isinstance(value, bool)

  def __str__(self) -> str:
    return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
  """A text; its user checks the value further."""

  def holds(self, value: Any) -> bool:
    return isinstance(value, str)

  def __str__(self) -> str:
    return "a text in quotes"


@dataclasses.dataclass(frozen=True)
class Each:
  """A tuple whose entries share one range.

  Attributes:
    entry: the range of each entry.
    some: whether the tuple must not be empty.
  """

  entry: Whole | Real | Flag
  some: bool = True

  def holds(self, value: Any) -> bool:
    if not isinstance(value, list | tuple) or (self.some and not len(value)):
      return False
    return all(map(self.entry.holds, value))

  def __str__(self) -> str:
    many = "one or more" if self.some else "none or more"
    return f"a tuple, {many}, each {self.entry}"


Range = Whole | Real | Flag | Text | Each


def _of(unit: str) -> str:
  return f" ({unit})" if unit else ""
