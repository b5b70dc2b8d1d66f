"""Memory: too little of it becomes one line; what is freed is kept."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import jax

from vgsgan.common.errors import UserError, first_line

TRAINING = (
  "lower --config.train.batch, raise --config.train.accumulate, set "
  "--config.train.remat, or --config.score.exchange=ring where a config has "
  "it, take more devices, or split what is trained over some with "
  "--config.mesh.model"
)
EVALUATION = "lower --config.eval.batch, or --config.eval.block if there is one"

# Names of `mallopt` in glibc's malloc.h, and the largest value it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed() -> None:
  """Has the C library keep blocks that are freed, for those to come.

  XLA takes the temporaries of a step on a CPU anew each time. As it is, glibc
  maps a large block and gives it back, and the kernel fills each of its pages
  with zeros when it is touched: a fifth of a step of VGG16. The process then
  holds what it once needed. What threads beside the first take is mapped all
  the same where it is above 64 MiB, so a CPU computes in the thread that asks.
  To be called before JAX has devices. Other C libraries are left as they are,
  and a glibc before 2.35, which takes no such value.
  """
  mallopt = sys.platform == "linux" and getattr(
    ctypes.CDLL(None), "mallopt", None
  )
  # The second by itself would have more blocks mapped, not fewer.
  if mallopt and mallopt(_M_MMAP_THRESHOLD, _LARGEST):
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    jax.config.update("jax_cpu_enable_async_dispatch", False)


@contextlib.contextmanager
def enough(advice: str) -> Iterator[None]:
  """Around what is compiled and run, wherever it turns out to be too large.

  Raises:
    UserError: a device's memory does not suffice; with the advice.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise too_large(first_line(error), advice) from error


def too_large(how: str, advice: str = TRAINING) -> UserError:
  """The error to raise; `how` may begin with the status that XLA gives."""
  how = how.rpartition("RESOURCE_EXHAUSTED: ")[2].rstrip(". ")
  return UserError(f"out of memory: {how}; {advice}")
