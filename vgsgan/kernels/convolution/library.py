"""Compiles oneDNN's convolutions once and registers them as XLA custom calls.

The extra `onednn` installs the library and its headers for Linux on x86-64. The
first convolution compiles `onednn.cc` with the machine's C++ compiler and keeps
the result in `~/.cache/vgsgan/onednn`. Only its owner can access that folder,
since its code is loaded and run.
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

# Symbols in `onednn.cc` by the kind of convolution.
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
  """Registers the custom calls at the first use, and tells if they are ready.

  False if the extra is not installed, or JAX's backend is not a CPU; with a
  warning if they cannot be compiled.
  """
  if jax.default_backend() != "cpu":
    return False
  paths = installed()
  if paths is None:
    return False
  try:
    calls = _opened(*paths)
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
  """Opens the shared object; compiles it again if it cannot be opened."""
  # oneDNN is loaded first: its name could resolve to one in LD_LIBRARY_PATH.
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
      return ctypes.CDLL(str(compiled(library, headers, pathlib.Path(fresh))))
  kept = compiled(library, headers, folder)
  try:
    return ctypes.CDLL(str(kept))
  except OSError:
    kept.unlink()
    return ctypes.CDLL(str(compiled(library, headers, folder)))


def installed() -> tuple[pathlib.Path, pathlib.Path] | None:
  """The library and the folder of its headers; None without the extra."""
  library = _file(_LIBRARY, "libdnnl.so.3")
  header = _file(_HEADERS, "dnnl.hpp")
  return (library, header.parent) if library and header else None


def _file(package: str, name: str) -> pathlib.Path | None:
  """The file of that name in a package, or None."""
  try:
    listed = importlib.metadata.files(package) or []
  except importlib.metadata.PackageNotFoundError:
    return None
  paths = [pathlib.Path(file.locate()) for file in listed if file.name == name]
  return paths[0].resolve() if paths and paths[0].exists() else None


def compiled(
  library: pathlib.Path, headers: pathlib.Path, folder: pathlib.Path
) -> pathlib.Path:
  """The shared object, compiled unless the folder has one of the same inputs.

  A file that others own or can write is replaced.

  Args:
    library: the library to link with.
    headers: the folder of its headers.
    folder: the folder that keeps the object; only its owner can write there.

  Raises:
    OSError, RuntimeError: there is no compiler, or the folder cannot be
      written.
    subprocess.CalledProcessError: the compiler failed; `stderr` says why.
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
      # Renamed when complete: other processes may compile at the same time.
      path = pathlib.Path(scratch) / kept.name
      subprocess.run(
        [*command, "-o", str(path)], check=True, capture_output=True, text=True
      )
      path.chmod(0o700)
      path.replace(kept)
  return kept
