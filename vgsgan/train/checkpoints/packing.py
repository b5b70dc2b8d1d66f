"""Small arrays joined into a few, for whoever takes long over each array.

Orbax spends some 2 ms of a core on an array, however small, and a state has
hundreds. On the devices those of one type are joined into one; when they are
read they are cut apart on the host, for any devices.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgsgan.train.checkpoints.integrity import by_name, from_names

# Bytes of an array that is joined. Larger ones take their time for their bytes,
# and are better read by each device for itself.
SMALL = 2**20

# The names and shapes of what was joined, in order, by dtype. JSON.
Layout = Mapping[str, list[list[Any]]]


def pack(state: Any) -> tuple[dict[str, Any], dict[str, list[list[Any]]]]:
  """A copy of a state on its devices, small arrays joined, and its layout.

  Left apart are large arrays, those that no device holds all of, and keys.

  Args:
    state: a tree of arrays on the same devices; may be donated afterwards.

  Returns:
    (stored, layout): `stored` has the flat arrays by dtype in "joined" and the
    others by name in "apart".
  """
  joined, apart = {}, {}
  for name, x in by_name(state).items():
    # Keys have dtypes of JAX's own.
    plain = isinstance(x.dtype, np.dtype) and x.is_fully_replicated
    group = joined.setdefault(x.dtype, {}) if plain else apart
    group[name] = x
  for group in joined.values():
    for name in [n for n, x in group.items() if x.nbytes > SMALL]:
      apart[name] = group.pop(name)
  joined = {str(dtype): group for dtype, group in joined.items() if group}
  layout = {
    dtype: [[name, list(x.shape)] for name, x in group.items()]
    for dtype, group in joined.items()
  }
  flat = {dtype: list(group.values()) for dtype, group in joined.items()}
  return _copy(flat, apart), layout


@jax.jit
def _copy(joined: dict[str, list], apart: dict[str, Any]) -> dict[str, Any]:
  flat = {
    dtype: jnp.concatenate([x.ravel() for x in group])
    for dtype, group in joined.items()
  }
  return {"joined": flat, "apart": jax.tree.map(jnp.copy, apart)}


def split(stored: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
  """The arrays of `pack` by name; the joined ones as they are on the host.

  Raises:
    ValueError: they are shorter than the layout says.
  """
  named = dict(stored["apart"])
  for dtype, entries in layout.items():
    flat, at = np.asarray(stored["joined"][dtype]), 0
    for name, shape in entries:
      end = at + math.prod(shape)
      named[name], at = flat[at:end].reshape(shape), end
  return named


def wanted(abstract: Any, layout: Layout) -> dict[str, Any]:
  """What is to be read for a state: see `unpack`.

  Args:
    abstract: a tree of `jax.ShapeDtypeStruct` with shardings.
    layout: of `pack`, of a state with these arrays.

  Returns:
    A tree as `pack` stores it, of arrays of NumPy where they were joined.
  """
  apart, joined = by_name(abstract), {}
  for dtype, entries in layout.items():
    size = sum(math.prod(shape) for _, shape in entries)
    joined[dtype] = np.empty(size, apart[entries[0][0]].dtype)
    for name, _ in entries:
      del apart[name]
  return {"joined": joined, "apart": apart}


def unpack(stored: Mapping[str, Any], layout: Layout, abstract: Any) -> Any:
  """The state, each array where `abstract` has it.

  Args:
    stored: what was read for `wanted`.
    layout: of `pack`.
    abstract: a tree of `jax.ShapeDtypeStruct` with shardings.

  Raises:
    ValueError: the arrays are shorter than the layout says.
  """
  named, places = split(stored, layout), by_name(abstract)
  for entries in layout.values():
    for name, shape in entries:
      named[name] = jax.make_array_from_callback(
        tuple(shape), places[name].sharding, named[name].__getitem__
      )
  return from_names(named, abstract)
