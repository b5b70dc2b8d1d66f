"""What is freed is kept, and taken again."""

import subprocess
import sys

import pytest

# Page faults of the second block of 256 MiB of a process, of 4 KiB pages.
FAULTS = """
import resource, threading
import numpy as np
from vgsgan import memory
{before}
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def second():
  np.full(2**28, 1, np.uint8)
  began = faults()
  np.full(2**28, 1, np.uint8)
  print(faults() - began)
{run}
"""
IN_A_THREAD = """
other = threading.Thread(target=second)
other.start()
other.join()
"""


def faults(before: str, run: str) -> int:
  program = FAULTS.format(before=before, run=run)
  command = [sys.executable, "-c", program]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is about glibc")
@pytest.mark.parametrize(
  "run", ["second()", IN_A_THREAD], ids=["main", "other"]
)
def test_freed_memory_is_kept(run):
  # Of huge pages there are fewer, but not none.
  assert faults("memory.keep_freed()", run) < 16 < faults("", run)
