"""What is freed is kept, and taken again."""

import platform
import subprocess
import sys

import pytest

# Page faults, of 4 KiB, of taking 256 MiB again. The least of three times: a
# system that looks for pages to spare may find these.
FAULTS = """
import resource
import jax
import jax.numpy as jnp
import numpy as np
from vgsgan.common import memory
{before}
def faults():
  began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  take()
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began
{program}
take()
print(min(faults() for _ in range(3)))
"""
OF_NUMPY = "take = lambda: np.full(2**28, 1, np.uint8)"
OF_XLA = """
ones = jnp.ones([2**13, 1])
# What a loop carries is a temporary of the program.
@jax.jit
def largest(x):
  return jax.lax.fori_loop(0, 2, lambda i, y: y * x, x * x.T).max()
take = lambda: largest(ones).block_until_ready()
"""


def faults(before: str, program: str) -> int:
  program = FAULTS.format(before=before, program=program)
  command = [sys.executable, "-c", program]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  return int(done.stdout)


def keeps() -> bool:
  """Whether this C library can be told to keep what is freed."""
  name, version = platform.libc_ver()
  numbers = tuple(int(x) for x in version.split(".") if x)
  return name == "glibc" and numbers >= (2, 35)


@pytest.mark.skipif(not keeps(), reason="it is about glibc 2.35 and later")
@pytest.mark.parametrize("program", [OF_NUMPY, OF_XLA], ids=["numpy", "xla"])
def test_freed_memory_is_reused(program):
  # Of huge pages there are fewer, but not none.
  assert faults("memory.keep_freed()", program) < 64 < faults("", program)
