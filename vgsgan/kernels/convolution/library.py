"""oneDNN's convolutions as XLA custom calls: found, compiled once, registered.

The extra `onednn` installs the library and its headers for Linux on x86-64.
`onednn.cc` beside this file is compiled with the machine's C++ compiler the
first time that a convolution is wanted, and kept in `~/.cache/vgsgan/onednn`,
a folder for its owner alone: what is loaded from it is run.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import jax
import jaxlib
from absl import logging

from vgsgan.common import files

# What of a convolution is computed, and the symbol in `onednn.cc` that does.
TARGETS = {
  "output": "vgsgan_conv2d_output",
  "input": "vgsgan_conv2d_input",
  "kernel": "vgsgan_conv2d_kernel",
}
CACHE = pathlib.Path("~/.cache/vgsgan/onednn")

_SOURCE = pathlib.Path(__file__).with_name("onednn.cc")
_LIBRARY, _HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"


@functools.cache
def ready() -> bool:
  """Whether the calls are registered, as the first question has them.

  False without a word where the extra is not installed or JAX computes on
  something else than a CPU, and with a warning where they cannot be compiled.
  """
  if jax.default_backend() != "cpu":
    return False
  found = installed()
  if found is None:
    return False
  try:
    calls = _opened(*found)
    registered = {name: getattr(calls, name) for name in TARGETS.values()}
  except (
    *(OSError, RuntimeError, ValueError, AttributeError),
    subprocess.CalledProcessError,
  ) as error:
    said = getattr(error, "stderr", "") or str(error)
    logging.warning(
      "oneDNN is installed, but its convolutions could not be compiled, and "
      "XLA's slower ones take their place (is there a C++ compiler?): %s",
      " ".join(said.split())[:300],
    )
    return False
  for name, call in registered.items():
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(call), platform="cpu")
  return True


def _opened(library: pathlib.Path, headers: pathlib.Path) -> ctypes.CDLL:
  """The calls; compiled anew if what is kept cannot be opened or trusted."""
  # First, or a library of the same name in LD_LIBRARY_PATH would be taken.
  ctypes.CDLL(str(library))
  try:
    folder = files.private_folder(CACHE)
  except OSError as error:
    logging.warning(
      "oneDNN's convolutions are compiled at each start, as they cannot be "
      "kept in %s: %s; mend or delete it",
      error.filename or CACHE,
      error.strerror or error,
    )
    with tempfile.TemporaryDirectory() as fresh:
      made = compiled(library, headers, pathlib.Path(fresh))
      return ctypes.CDLL(str(made))
  kept = compiled(library, headers, folder)
  try:
    return ctypes.CDLL(str(kept))
  except OSError:
    kept.unlink()
    return ctypes.CDLL(str(compiled(library, headers, folder)))


def installed() -> tuple[pathlib.Path, pathlib.Path] | None:
  """The library and the folder of its headers, where the extra is installed."""
  library = _file(_LIBRARY, "libdnnl.so.3")
  header = _file(_HEADERS, "dnnl.hpp")
  return (library, header.parent) if library and header else None


def _file(package: str, name: str) -> pathlib.Path | None:
  """The first file of that name in a package, if there is one."""
  try:
    listed = importlib.metadata.files(package) or []
  except importlib.metadata.PackageNotFoundError:
    return None
  found = [pathlib.Path(file.locate()) for file in listed if file.name == name]
  return found[0].resolve() if found and found[0].exists() else None


def compiled(
  library: pathlib.Path, headers: pathlib.Path, folder: pathlib.Path
) -> pathlib.Path:
  """The shared object; compiled unless one of the same parts is kept.

  One that others own or can write is not taken.

  Args:
    library: to be linked with.
    headers: folder of them.
    folder: where it is kept; nobody else can write there.

  Raises:
    OSError, RuntimeError: there is no compiler, or nowhere to keep what it
      makes.
    subprocess.CalledProcessError: it refused; `stderr` says why.
  """
  command = [
    *shlex.split(os.environ.get("CXX", "c++")),
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-w"),
    *(f"-I{jax.ffi.include_dir()}", f"-I{headers}", str(_SOURCE)),
    *(str(library), f"-Wl,-rpath,{library.parent}"),
  ]
  parts = [*command, sys.platform, jaxlib.__version__, _SOURCE.read_text()]
  digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
  kept = folder / f"{digest}.so"
  with contextlib.suppress(FileNotFoundError):
    try:
      files.require_own(kept)
    except PermissionError:
      kept.unlink()
  if not kept.exists():
    logging.info("compiling oneDNN's convolutions, once, into %s", kept)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
      # Renamed when whole: other processes may be compiling it as well.
      made = pathlib.Path(scratch) / kept.name
      subprocess.run(
        [*command, "-o", str(made)], check=True, capture_output=True, text=True
      )
      made.chmod(0o700)
      made.replace(kept)
  return kept
