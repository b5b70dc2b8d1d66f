"""Keeps compiled programs on disk, so that the next start reads them.

JAX has such a cache; this module chooses its folder. A program is kept for one
version of JAX and one kind of CPU, because another kind may lack instructions
that it uses. Cached programs are run, so no other user may write to the folder.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import sys
import time
import warnings
from typing import Any

import jax
import jaxlib
import ml_collections

from vgsgan.common import files

# The default of `config.compilation_cache`.
FOLDER = "~/.cache/vgsgan/jax"
# Limit in bytes over all kinds and versions. A step takes about one MB.
LARGEST = 2**31

# Lines of /proc/cpuinfo that distinguish kinds of CPU (x86, then ARM).
_KIND = (
  *("vendor_id", "cpu family", "model", "model name", "flags"),
  *("CPU implementer", "CPU architecture", "CPU part", "Features"),
)
# JAX's own warnings about the cache.
_FAILED = re.compile(
  r"Error (reading|writing) persistent compilation cache entry for '(.*?)': "
  r"(.*)",
  re.DOTALL,
)
_ENTRY = re.compile(r"-[0-9a-f]{64}-cache$")
# An older entry is complete, or its writer was killed.
_WRITTEN = 60.0  # Seconds.


def start_for(config: ml_collections.ConfigDict) -> None:
  """Starts the cache that a run's config names, or else the default one."""
  start(config.get("compilation_cache", FOLDER))


def start(folder: str) -> None:
  """Has JAX write its compiled programs to a folder, and read them from it.

  A folder in `JAX_COMPILATION_CACHE_DIR` takes precedence. A folder that cannot
  be used leads to a warning.

  Args:
    folder: for all kinds of CPU and versions of JAX; "" for no cache.
  """
  if not folder or jax.config.jax_compilation_cache_dir is not None:
    return
  try:
    root = files.private_folder(folder)
    version = f"{jax.__version__}-{jaxlib.__version__}-{cpu_kind()}"
    place = files.private_folder(root / version)
    _shrink(root, LARGEST)
  except (OSError, RuntimeError) as error:
    where = getattr(error, "filename", None) or folder
    reason = getattr(error, "strerror", None) or error
    _warn(
      f"the compilation cache {where} is not used: {reason}; mend this, or "
      "name another folder in --config.compilation_cache ('' for none)"
    )
    return
  jax.config.update("jax_compilation_cache_dir", str(place))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    # The many small programs of a start take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  _shorten_warnings(place)


def cpu_kind(cpuinfo: str | None = None) -> str:
  """A name of this machine's kind of CPU and the number of cores it may use.

  The cores count because XLA divides loops among them when it compiles.

  Args:
    cpuinfo: contents of /proc/cpuinfo; None to read it where it exists.
  """
  if cpuinfo is None:
    path = pathlib.Path("/proc/cpuinfo")
    cpuinfo = path.read_text() if path.exists() else platform.processor()
  first, _, _ = cpuinfo.partition("\n\n")
  lines = [line.partition(":") for line in first.splitlines()]
  fields = {name.strip(): value.strip() for name, _, value in lines}
  parts = [fields.get(name, "") for name in _KIND]
  if not any(parts):
    parts = [first]
  digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
  cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
  return f"{platform.machine()}-{digest}-{cores or os.cpu_count()}"


def _shrink(root: pathlib.Path, largest: int) -> None:
  """Removes the least recently used entries, of all kinds of CPU."""
  entries = []
  for path in root.glob("*/*-cache"):
    if not _ENTRY.search(path.name):
      continue
    with contextlib.suppress(FileNotFoundError):  # Another run removed it.
      stat = path.stat()
      used = max(stat.st_atime, stat.st_mtime)
      entries.append((used, stat.st_size, path))
  excess = sum(size for _, size, _ in entries) - largest
  for _, size, path in sorted(entries):
    if excess <= 0:
      break
    path.unlink(missing_ok=True)
    excess -= size


def _shorten_warnings(place: pathlib.Path) -> None:
  """Shows JAX's first warning about the cache in one line, and no others.

  Also removes entries that cannot be read, which JAX would leave there.
  """
  show, warned = warnings.showwarning, []

  def shorten(message: Any, *others: Any, **named: Any) -> None:
    failed = _FAILED.match(str(message))
    if failed is None:
      show(message, *others, **named)
      return
    action, program, reason = failed.groups()
    if action == "reading":
      for path in place.glob(f"{program}-*-cache"):
        with contextlib.suppress(OSError):
          if time.time() - path.stat().st_mtime > _WRITTEN:
            path.unlink()
    if not warned:
      warned.append(program)
      _warn(
        f"{action} {program} in the compilation cache {place} failed "
        f"({' '.join(reason.split())[:160]}): it is compiled anew"
      )

  warnings.showwarning = shorten


def _warn(line: str) -> None:
  print(f"warning: {line}", file=sys.stderr, flush=True)
