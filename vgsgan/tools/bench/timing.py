"""Runs timers in turns; a matrix product for the machine's peak."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Sides of the matrices: an accelerator needs large ones, a CPU quick ones.
SIDE, CPU_SIDE = 8192, 2048

Timer = Callable[[], float]


def turns(
  timers: Mapping[str, Callable[[], Any]], repeat: int
) -> dict[str, list[Any]]:
  """Calls each timer once a turn, for `repeat` turns; their results by name.

  One more turn comes first and does not count: it fills caches.
  """
  times: dict[str, list[Any]] = {name: [] for name in timers}
  for _ in range(repeat + 1):
    for name, timer in timers.items():
      times[name].append(timer())
  return {name: taken[1:] for name, taken in times.items()}


def medians(timers: Mapping[str, Timer], repeat: int) -> dict[str, float]:
  """The median of each timer, by name; see `turns`."""
  times = turns(timers, repeat)
  return {name: float(np.median(taken)) for name, taken in times.items()}


def seconds(call: Callable[..., Any], *args: Any) -> float:
  """Seconds until a call returns and its arrays are ready."""
  began = time.perf_counter()
  jax.block_until_ready(call(*args))
  return time.perf_counter() - began


def clock_and_processor(
  call: Callable[..., Any], *args: Any
) -> tuple[float, float]:
  """Seconds of a call by the clock, and of the processor over all threads."""
  began = time.process_time()
  clock = seconds(call, *args)
  return clock, time.process_time() - began


class Matmul:
  """A product of square matrices on one device, to estimate its peak.

  Attributes:
    side: rows of the matrices.
    flops: operations of the product.
  """

  def __init__(self, dtype: Any, side: int | None = None):
    on_cpu = jax.default_backend() == "cpu"
    self.side = side or (CPU_SIDE if on_cpu else SIDE)
    self.flops = 2 * self.side**3
    self._square = jnp.ones((self.side, self.side), dtype)
    self._product = jax.jit(jnp.matmul)

  def run(self) -> jax.Array:
    """Computes the product."""
    return self._product(self._square, self._square)

  def seconds(self) -> float:
    """Times the product; a timer."""
    return seconds(self.run)
