"""What is published of chips, and how long a step would take by it.

The time is an estimate and not measured: the longer of the matrix products at
the peak rate and of the bytes that XLA counts at that of the memory, and after
it all that is sent, at the rate of the links, none of it hidden. XLA counts
what is in a loop once; the matrix products are counted in full, each as often
as a TPU makes it in bfloat16: those of float32 at `Precision.HIGHEST` take six
times as long (`programs.bfloat16_flops`).
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published rates of a chip (cloud.google.com/tpu/docs/v5e and the like).

  Attributes:
    flops: bfloat16 operations a second.
    memory: bytes.
    bandwidth: bytes a second from and to memory.
    links: bytes a second that it sends over all its links to other chips.
  """

  flops: float
  memory: float
  bandwidth: float
  links: float


GIB = 2.0**30
CHIPS = {
  "TPU v4": Chip(275e12, 32 * GIB, 1200e9, 300e9),
  "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 200e9),
  "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 600e9),
  "TPU v6 lite": Chip(918e12, 32 * GIB, 1640e9, 400e9),
}


def published(devices: Sequence[jax.Device]) -> Chip | None:
  """What each of these devices has: a chip's, or a share where it is a core.

  A chip of TPU v4, say, is one device to a program that runs on it and two,
  one for each of its cores, to one that is compiled ahead of time.

  Args:
    devices: all that run a program, of one kind.

  Returns:
    None where nothing is known of the chip.
  """
  chip = CHIPS.get(devices[0].device_kind)
  if chip is None:
    return None
  cores = sum(one.coords == devices[0].coords for one in devices)
  return Chip(*(rate / cores for rate in dataclasses.astuple(chip)))


def memory_of(devices: Sequence[jax.Device]) -> float:
  """Bytes that each of these devices has, or 0 where that is not known.

  Of processors it is an equal share of the machine's.
  """
  chip = published(devices)
  if chip:
    return chip.memory
  if devices[0].platform == "cpu":
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(pages / len(devices))
  try:
    found = devices[0].memory_stats() or {}
  except jax.errors.JaxRuntimeError:  # Of devices that are not here.
    return 0.0
  return float(found.get("bytes_limit", 0))


def estimate(found: dict[str, Any], chip: Chip) -> dict[str, float]:
  """Seconds of a step at published rates; see the module's docstring."""
  compute = found["flops"]["bfloat16"] / chip.flops
  memory = found["bytes_accessed"] / chip.bandwidth
  links = found["sent"] / chip.links
  return {
    "compute": compute,
    "memory": memory,
    "links": links,
    "step": max(compute, memory) + links,
  }
