"""One-line out-of-memory errors, and malloc settings."""

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
  """Makes glibc keep freed blocks for later allocations.

  On a CPU XLA allocates the temporaries of every step. By default glibc maps a
  large block and returns it, and the kernel zeroes each page at its first use:
  a fifth of a step of VGG16. With this setting the process keeps its largest
  memory. Threads other than the first still map blocks above 64 MiB, so
  asynchronous dispatch on a CPU is switched off. Call this before JAX has
  devices. Other C libraries, and glibc before 2.35, are left unchanged.
  """
  mallopt = sys.platform == "linux" and getattr(
    ctypes.CDLL(None), "mallopt", None
  )
  # Setting only the second threshold would map more blocks, not fewer.
  if mallopt and mallopt(_M_MMAP_THRESHOLD, _LARGEST):
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    jax.config.update("jax_cpu_enable_async_dispatch", False)


@contextlib.contextmanager
def explain_oom(advice: str) -> Iterator[None]:
  """Turns XLA's out-of-memory error in the block into one line with advice.

  Raises:
    UserError: a device's memory does not suffice.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise too_large(first_line(error), advice) from error


def too_large(how: str, advice: str = TRAINING) -> UserError:
  """The error to raise; `how` may begin with XLA's status."""
  how = how.rpartition("RESOURCE_EXHAUSTED: ")[2].rstrip(". ")
  return UserError(f"out of memory: {how}; {advice}")
