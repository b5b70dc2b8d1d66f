"""Flags for XLA that compile for CPUs in half the time.

Most tests compile for longer than they compute. Nothing here imports JAX, which
reads the flags as it starts.
"""

import importlib.metadata

FLAGS = "--xla_backend_optimization_level=0"
# A flag that another version does not know would end the process.
VERSION = importlib.metadata.version("jaxlib")
if VERSION.startswith(("0.10.", "0.12.")):
  FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
if VERSION.startswith("0.10."):
  FLAGS += " --xla_cpu_use_fusion_emitters=false"
