"""Strict JSON: atomic writes, reads, and differences of two trees."""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vgsgan.common.errors import UserError
from vgsgan.common.files import replace


def dumps(obj: Any, **options: Any) -> str:
  """Strict JSON, with NumPy's numbers as numbers and NaN as "nan"."""

  def strict(x: Any) -> Any:
    if isinstance(x, Mapping):
      return {str(k): strict(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [strict(v) for v in x]
    if isinstance(x, np.ndarray | np.generic):
      return strict(x.tolist())
    return x if not isinstance(x, float) or math.isfinite(x) else str(x)

  return json.dumps(strict(obj), allow_nan=False, ensure_ascii=False, **options)


def write_json(path: str | os.PathLike, obj: Any) -> None:
  """Writes strict JSON atomically: readers see the old or the whole new file.

  Raises:
    UserError: the file cannot be written.
  """
  replace(pathlib.Path(path), f"{dumps(obj, indent=2)}\n".encode())


def read_json(path: str | os.PathLike) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: the file cannot be read, or is not JSON.
  """
  try:
    return json.loads(pathlib.Path(path).read_bytes())
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path}: {error}; put back a copy") from error


def flatten(tree: Mapping[str, Any]) -> dict[str, float]:
  """The numbers of nested dicts by path: {"a": {"b": 1}} -> {"a/b": 1}."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= {f"{name}/{k}": v for k, v in flatten(value).items()}
    elif isinstance(value, int | float | np.number):
      flat[name] = float(value)
  return flat


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
  """A line `name: old -> new` for each field in which two dicts differ."""
  # Both go through JSON, since one of them was read from JSON.
  old, new = json.loads(dumps(old)), json.loads(dumps(new))
  for name in sorted(old.keys() | new.keys()):
    was, now = old.get(name), new.get(name)
    if isinstance(was, dict) and isinstance(now, dict):
      yield from differences(was, now, f"{prefix}{name}.")
    elif was != now:
      yield f"{prefix}{name}: {was} -> {now}"
