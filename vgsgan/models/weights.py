"""Weights in a file: a tree of arrays and its metadata in one .npz file."""

import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vgsgan.common import files, jsonfiles
from vgsgan.common.errors import UserError, one_line

_META = "meta.json"


def save_params(
  path: str | pathlib.Path, tree: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
  """Writes a tree of weights; the file is written whole or not at all.

  An array of float32 becomes float16 if its largest rounding error is at most
  0.1 % of its largest weight.

  Args:
    path: path of the file, `NAME.npz`.
    tree: nested dicts of arrays. A name with a slash is read back as a dict in
      a dict; `load_generator` and its siblings undo that.
    meta: origin of the weights, as JSON (config, seed, figures, command).

  Raises:
    UserError: the file cannot be written.
  """
  flat = flatten(jax.device_get(tree))
  dtypes = {name: str(value.dtype) for name, value in flat.items()}
  about = {"meta": dict(meta), "dtypes": dtypes}
  text = np.frombuffer(jsonfiles.dumps(about).encode(), np.uint8)
  file = io.BytesIO()
  small = {name: _smaller(value) for name, value in flat.items()}
  np.savez_compressed(file, **{_META: text}, **small)
  files.replace(pathlib.Path(path), file.getvalue())


def load_params(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a file of `save_params`.

  Returns:
    The tree, nested dicts of NumPy arrays in their original dtypes, and `meta`.

  Raises:
    UserError: the file is missing, damaged, or of another kind.
  """
  try:
    about, arrays = _read(pathlib.Path(path).read_bytes())
  except Exception as error:  # Decoders raise any error for damaged bytes.
    reason = one_line(error)
    raise UserError(
      f"no weights in {path}: {reason}; put back a copy of the file"
    ) from error
  return unflatten(arrays), about["meta"]


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  if not zipfile.is_zipfile(io.BytesIO(data)):
    raise ValueError("it is no .npz file")
  with np.load(io.BytesIO(data), allow_pickle=False) as file:
    arrays = {name: file[name] for name in file.files}
  about = json.loads(arrays.pop(_META).tobytes())
  dtypes = about["dtypes"]
  if arrays.keys() != dtypes.keys():
    raise ValueError("its arrays are not those it lists")
  return about, {k: v.astype(dtypes[k]) for k, v in arrays.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  """The leaves of nested dicts by path: {"a": {"b": x}} -> {"a/b": x}."""
  flat: dict[str, np.ndarray] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{name}/")
    else:
      flat[f"{prefix}{name}"] = np.asarray(value)
  return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The inverse of `flatten`; empty dicts are lost."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *folders, name = path.split("/")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = value
  return tree


def _smaller(value: np.ndarray) -> np.ndarray:
  if value.dtype != np.float32 or not value.size:
    return value
  with np.errstate(over="ignore"):
    half = value.astype(np.float16)
  largest = np.abs(value).max()
  loss = np.abs(half.astype(np.float32) - value).max()
  return half if loss <= 1e-3 * largest else value
