"""What is published of chips, and how long a step would take by it.

The time is an estimate and not measured: the longer of the matrix products at
the peak rate and of the bytes that XLA counts at that of the memory, and after
it all that is sent, at the rate of the links, none of it hidden. XLA counts
what is in a loop once; the matrix products are counted in full.
"""

import dataclasses
import os
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


def memory_of(device: jax.Device, devices: int) -> float:
  """Bytes a device has; of processors, an equal share of the machine's."""
  if device.device_kind in CHIPS:
    return CHIPS[device.device_kind].memory
  if device.platform == "cpu":
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(pages / devices)
  return float((device.memory_stats() or {}).get("bytes_limit", 0))


def estimate(found: dict[str, Any], chip: Chip) -> dict[str, float]:
  """Seconds of a step at published rates; see the module's docstring."""
  compute = found["flops"]["matrix"] / chip.flops
  memory = found["bytes_accessed"] / chip.bandwidth
  links = found["sent"] / chip.links
  return {
    "compute": compute,
    "memory": memory,
    "links": links,
    "step": max(compute, memory) + links,
  }
