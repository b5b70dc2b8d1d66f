"""Checksums of checkpoints, and readable reasons for failed writes."""

import functools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vgsgan.common.errors import UserError, one_line


class DamagedError(Exception):
  """A checkpoint that cannot be read back as it was written; one line."""


def describe(state: Any, checksums: bool) -> dict[str, list[Any]]:
  """Lists shape, dtype and checksum (or None) of each array, by its path."""
  return {
    name: [
      list(np.shape(leaf)),
      str(leaf.dtype),
      checksum(leaf) if checksums else None,
    ]
    for name, leaf in by_name(state).items()
  }


def by_name(tree: Any) -> dict[str, Any]:
  """Maps paths such as `params/dense/kernel` to the leaves of a tree."""
  leaves, structure = jax.tree.flatten(tree)
  return dict(zip(_names(structure), leaves, strict=True))


@functools.lru_cache  # Slow, and needed at each save.
def _names(structure: Any) -> tuple[str, ...]:
  numbered = structure.unflatten(range(structure.num_leaves))
  names = tuple(
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_flatten_with_path(numbered)[0]
  )
  if len(set(names)) < len(names):
    raise ValueError(f"leaves of one name among {names}")
  return names


def checksum(leaf: Any) -> int | None:
  """Computes the CRC-32 of the bytes; None if no process holds all of them."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  if isinstance(leaf, jax.Array):
    if leaf.is_fully_replicated:
      leaf = leaf.addressable_data(0)  # One copy is enough.
    elif not leaf.is_fully_addressable:
      return None
  host = np.ascontiguousarray(np.asarray(leaf))
  return zlib.crc32(host.reshape(-1).view(np.uint8))


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
  """Normalises a record as JSON does, and adds a checksum of itself."""
  text = json.dumps(record, sort_keys=True, allow_nan=False)
  return {**json.loads(text), "crc32": zlib.crc32(text.encode())}


def read_record(step: pathlib.Path) -> dict[str, Any]:
  """Reads the record beside the arrays of a step's folder.

  Raises:
    DamagedError: it is not what was written.
    UserError: an earlier version wrote it, in another form.
  """
  path = step / "meta" / "metadata"  # JsonSave chooses this name.
  try:
    record = json.loads(path.read_bytes())
    whole = record == seal({k: v for k, v in record.items() if k != "crc32"})
  except (OSError, ValueError, AttributeError) as error:
    raise DamagedError(
      f"meta/metadata: {one_line(error, named=True)}"
    ) from error
  if not whole:
    raise DamagedError("meta/metadata is not what was written (CRC-32)")
  if "packed" in record:
    raise UserError(
      f"checkpoint {step} was saved by an earlier version of vgsgan, with its"
      " small arrays joined, which this one does not read: go on with the"
      " version that saved it, or train anew with another --workdir"
    )
  return record


def require_same_model(
  step: pathlib.Path, arrays: Mapping[str, Sequence[Any]], wanted: Any
) -> None:
  """Refuses a checkpoint whose arrays are not those of a state.

  Args:
    step: folder of the checkpoint.
    arrays: its arrays, in the form of `describe`.
    wanted: the state, or its shapes.

  Raises:
    UserError: a name, shape or dtype differs.
  """

  def show(entry: Sequence[Any] | None) -> str:
    return f"{entry[1]}{list(entry[0])}" if entry else "missing"

  own = describe(wanted, False)
  names = [*own, *(name for name in arrays if name not in own)]
  differ = [n for n in names if show(own.get(n)) != show(arrays.get(n))]
  if differ:
    name = differ[0]
    raise UserError(
      f"checkpoint {step} is of another model: {name} is"
      f" {show(arrays.get(name))} there and {show(own.get(name))} here"
      f" ({len(differ)} of {len(names)} arrays differ); give another"
      " --workdir, or the config it was trained with"
      f" ({step.parent.parent / 'config.json'})"
    )


def refusal(error: BaseException | None) -> str | None:
  """Finds the system's reason inside Orbax's and TensorStore's errors."""
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
      return os.strerror(int(code[1]))
    error = error.__cause__ or error.__context__
  return None
