"""Eight fake devices, and every annotation of vgsgan checked as it runs."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  # Most tests compile for longer than they compute: a third of the time.
  + " --xla_backend_optimization_level=0"
)
# Many runs of one small model: each program is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp())
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from jaxtyping import install_import_hook

install_import_hook("vgsgan", "beartype.beartype")

# Fixtures that several files share.
pytest_plugins = [
  "tests.launch_stage",
  "tests.saved_states",
]
