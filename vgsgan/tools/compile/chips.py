"""Published rates of chips, and an estimate of a step's time from them.

The time is estimated, not measured. It is the longer of two times, for the
matrix products at their peak rate and for the bytes that XLA counts at the rate
of the memory; then comes the time for all sent bytes at the rate of the links,
without overlap. XLA counts a loop's bytes once. Matrix products are counted in
full, as a TPU computes them in bfloat16: those of float32 at
`Precision.HIGHEST` take six times as long (`costs.bfloat16_flops`).
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
  """Rates of one of these devices: a chip, or a core with its share of one.

  A chip of TPU v4, for example, is one device to a program that runs on it. To
  a program that is compiled ahead of time it is two, one for each core.

  Args:
    devices: all devices of a program, of one kind.

  Returns:
    None if the chip is unknown.
  """
  chip = CHIPS.get(devices[0].device_kind)
  if chip is None:
    return None
  cores = sum(device.coords == devices[0].coords for device in devices)
  return Chip(*(rate / cores for rate in dataclasses.astuple(chip)))


def memory_of(devices: Sequence[jax.Device]) -> float:
  """Bytes of memory of each of these devices; 0 if unknown.

  Processors have equal shares of the machine's memory.
  """
  chip = published(devices)
  if chip:
    return chip.memory
  if devices[0].platform == "cpu":
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(pages / len(devices))
  try:
    stats = devices[0].memory_stats() or {}
  except jax.errors.JaxRuntimeError:  # The devices are not on this machine.
    return 0.0
  return float(stats.get("bytes_limit", 0))


def estimate(step: dict[str, Any], chip: Chip) -> dict[str, float]:
  """Seconds of a step at published rates; see the module's docstring.

  `step` has the figures of `footprint.figures`.
  """
  compute = step["flops"]["bfloat16"] / chip.flops
  memory = step["bytes_accessed"] / chip.bandwidth
  links = step["sent"] / chip.links
  return {
    "compute": compute,
    "memory": memory,
    "links": links,
    "step": max(compute, memory) + links,
  }
