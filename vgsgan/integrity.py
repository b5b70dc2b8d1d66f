"""Whether a checkpoint is what was written, and why one could not be."""

import json
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


class DamagedError(Exception):
  """A checkpoint that cannot be read back as it was written; why, one line."""


def describe(state: Any, checksums: bool) -> dict[str, list[Any]]:
  """Shape, dtype and checksum (or None) of each array, by its path."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(state)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): [
      list(np.shape(leaf)),
      str(leaf.dtype),
      checksum(leaf) if checksums else None,
    ]
    for path, leaf in leaves
  }


def checksum(leaf: Any) -> int | None:
  """CRC-32 of the bytes; None where no one process holds all of them."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  if isinstance(leaf, jax.Array):
    if leaf.is_fully_replicated:
      leaf = leaf.addressable_data(0)  # one copy is enough
    elif not leaf.is_fully_addressable:
      return None
  host = np.ascontiguousarray(np.asarray(leaf))
  return zlib.crc32(host.reshape(-1).view(np.uint8))


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
  """The record as JSON gives it back, with a checksum of itself."""
  text = json.dumps(record, sort_keys=True, allow_nan=False)
  return {**json.loads(text), "crc32": zlib.crc32(text.encode())}


def refusal(error: BaseException | None) -> str | None:
  """What the operating system said, in Orbax's and TensorStore's wrappings."""
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
      return os.strerror(int(code[1]))
    error = error.__cause__ or error.__context__
  return None


def one_line(error: BaseException) -> str:
  return " ".join(f"{type(error).__name__}: {error}".split())[:200]
