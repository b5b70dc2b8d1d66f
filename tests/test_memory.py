"""What is freed is kept, and taken again."""

import subprocess
import sys

import pytest

# Page faults of the second block of 256 MiB of a process, of 4 KiB pages.
FAULTS = """
import resource
import numpy as np
from vgsgan import memory
{before}
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.full(2**28, 1, np.uint8)
began = faults()
np.full(2**28, 1, np.uint8)
print(faults() - began)
"""


def faults(before: str) -> int:
  program = FAULTS.format(before=before)
  command = [sys.executable, "-c", program]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is about glibc")
def test_freed_memory_is_kept():
  # Of huge pages there are fewer, but not none.
  assert faults("memory.keep_freed()") < 16 < faults("")
