"""Eight fake devices, and every annotation of vgsgan checked as it runs."""

import os
import signal
import tempfile

from tests import quick_xla

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + f" --xla_force_host_platform_device_count=8 {quick_xla.FLAGS}"
)
# Many runs of one small model: each program is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp())
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import pytest
from jaxtyping import install_import_hook

install_import_hook("vgsgan", "beartype.beartype")

# Under nohup, and in the background of a script, they are ignored, here and in
# the programs that tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Fixtures that several files share.
pytest_plugins = [
  "tests.launch_stage",
  "tests.saved_states",
]

# Files of whole runs, of processes and of long compilations.
SLOW = """
  bench bench_torch checkpoints_faults classification clevrgan clips comparing
  compile_cache compiling concept_refresh correspondence drawing drill
  every_step every_task exchange forward gan generation_tasks grounding idea
  idea_runs inversion inverter judges keys launch launch_kubernetes launch_local
  launch_slurm launch_tpu losses_edited onednn places_gan preemption processes
  recognition samples select show sounding sources streams trainer
""".split()


def pytest_collection_modifyitems(items):
  """Marks what `pytest -m "not slow"`, the quick part, leaves out."""
  for item in items:
    if item.path.stem.removeprefix("test_") in SLOW:
      item.add_marker(pytest.mark.slow)
