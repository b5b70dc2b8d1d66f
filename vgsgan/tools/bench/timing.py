"""Turns of timers, their medians, and the matrix product they are held to."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Of the matrices: as large as an accelerator needs, as quick as a CPU allows.
SIDE, CPU_SIDE = 8192, 2048

Timer = Callable[[], float]


def turns(
  timers: Mapping[str, Callable[[], Any]], repeat: int
) -> dict[str, list[Any]]:
  """What each timer gives, by name, in `repeat` turns of one call of each.

  One more turn comes first and does not count: it fills caches.
  """
  found: dict[str, list[Any]] = {name: [] for name in timers}
  for _ in range(repeat + 1):
    for name, timer in timers.items():
      found[name].append(timer())
  return {name: taken[1:] for name, taken in found.items()}


def medians(timers: Mapping[str, Timer], repeat: int) -> dict[str, float]:
  """The median of each timer, by name; see `turns`."""
  found = turns(timers, repeat)
  return {name: float(np.median(taken)) for name, taken in found.items()}


def seconds(call: Callable[..., Any], *args: Any) -> float:
  """How long a call takes, and the arrays that it returns."""
  began = time.perf_counter()
  jax.block_until_ready(call(*args))
  return time.perf_counter() - began


def clock_and_processor(
  call: Callable[..., Any], *args: Any
) -> tuple[float, float]:
  """`seconds`, and those that the processor spends in them on all threads."""
  began = time.process_time()
  clock = seconds(call, *args)
  return clock, time.process_time() - began


class Matmul:
  """A product of square matrices on one device, which stands for its peak.

  Attributes:
    side: of the matrices.
    flops: of the product.
  """

  def __init__(self, dtype: Any, side: int | None = None):
    on_cpu = jax.default_backend() == "cpu"
    self.side = side or (CPU_SIDE if on_cpu else SIDE)
    self.flops = 2 * self.side**3
    self._square = jnp.ones((self.side, self.side), dtype)
    self._product = jax.jit(jnp.matmul)

  def run(self) -> jax.Array:
    """The product."""
    return self._product(self._square, self._square)

  def seconds(self) -> float:
    """How long it takes; a timer."""
    return seconds(self.run)
