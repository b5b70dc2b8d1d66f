"""Compiled programs that are kept on disk, so that a next start reads them.

JAX has such a cache; this module says where it lies. A program is kept for one
version of JAX and one kind of CPU: another kind may lack instructions that it
uses. What is kept is run, so nobody else may be able to write it.
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

# The value of `config.compilation_cache` in runs that do not say.
FOLDER = "~/.cache/vgsgan/jax"
# Bytes of all kinds and versions together, on disk. A step takes about one MB.
LARGEST = 2**31

# Lines of /proc/cpuinfo that tell the kinds of CPU apart (x86, then ARM).
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
# Seconds after which an entry is whole, unless its writer was killed.
_WRITTEN = 60.0


def start_for(config: ml_collections.ConfigDict) -> None:
  """Starts the cache that a run's config names, or else the usual one."""
  start(config.get("compilation_cache", FOLDER))


def start(folder: str) -> None:
  """Has JAX keep what it compiles, and read what it has kept.

  A folder that JAX was given (`JAX_COMPILATION_CACHE_DIR`) comes first. One
  that cannot be used costs a warning and no more.

  Args:
    folder: for all kinds of CPU and versions of JAX; "" keeps nothing.
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
  """A name of this machine's kind of CPU, and of how many cores it may use.

  XLA divides loops among the cores that it finds when it compiles.

  Args:
    cpuinfo: contents of /proc/cpuinfo; None to read it where it exists.
  """
  if cpuinfo is None:
    path = pathlib.Path("/proc/cpuinfo")
    cpuinfo = path.read_text() if path.exists() else platform.processor()
  first, _, _ = cpuinfo.partition("\n\n")
  lines = [line.partition(":") for line in first.splitlines()]
  known = {name.strip(): value.strip() for name, _, value in lines}
  parts = [known.get(name, "") for name in _KIND]
  if not any(parts):
    parts = [first]
  digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
  cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
  return f"{platform.machine()}-{digest}-{cores or os.cpu_count()}"


def _shrink(root: pathlib.Path, largest: int) -> None:
  """Removes the entries that were not used for longest, of all kinds."""
  entries = []
  for path in root.glob("*/*-cache"):
    if not _ENTRY.search(path.name):
      continue
    with contextlib.suppress(FileNotFoundError):  # Another run removed it.
      found = path.stat()
      used = max(found.st_atime, found.st_mtime)
      entries.append((used, found.st_size, path))
  excess = sum(size for _, size, _ in entries) - largest
  for _, size, path in sorted(entries):
    if excess <= 0:
      break
    path.unlink(missing_ok=True)
    excess -= size


def _shorten_warnings(place: pathlib.Path) -> None:
  """Says JAX's first warning about the cache in one line, and no other.

  Removes what cannot be read, which JAX would leave there.
  """
  show, said = warnings.showwarning, []

  def shorten(message: Any, *others: Any, **named: Any) -> None:
    failed = _FAILED.match(str(message))
    if failed is None:
      show(message, *others, **named)
      return
    what, program, reason = failed.groups()
    if what == "reading":
      for path in place.glob(f"{program}-*-cache"):
        with contextlib.suppress(OSError):
          if time.time() - path.stat().st_mtime > _WRITTEN:
            path.unlink()
    if not said:
      said.append(program)
      _warn(
        f"{what} {program} in the compilation cache {place} failed "
        f"({' '.join(reason.split())[:160]}): it is compiled anew"
      )

  warnings.showwarning = shorten


def _warn(line: str) -> None:
  print(f"warning: {line}", file=sys.stderr, flush=True)
