"""A state of training to save, small, with an array of every kind."""

import pathlib
import random
import shutil
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgsgan.train.checkpoints.manager import Checkpoints


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  opt_state: Any
  key: Any


def sharding(devices: int, *spec: str) -> NamedSharding:
  mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
  return NamedSharding(mesh, PartitionSpec(*spec))


def make_state(seed: int, devices: int = 8, width: int = 5) -> State:
  kernel = np.random.default_rng(seed).normal(size=(512, width))

  def put(x, *spec):
    x = np.asarray(x)
    place = sharding(devices, *spec)
    return jax.make_array_from_callback(x.shape, place, lambda at: x[at])

  return State(
    put(np.int32(seed)),
    {
      "dense": {"kernel": put(kernel.astype(np.float32))},
      "half": put(kernel.astype(jnp.bfloat16)),
    },
    {"mu": put(kernel.astype(np.float32), "data")},
    jax.random.wrap_key_data(put(np.array([0, seed], np.uint32))),
  )


def abstract(state: State, devices: int = 8) -> State:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding(devices)
    ),
    state,
  )


def assert_same(a: State, b: State) -> None:
  def raw(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    return np.asarray(x)

  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert raw(x).tobytes() == raw(y).tobytes()


@pytest.fixture(scope="session")
def two_saved(tmp_path_factory) -> pathlib.Path:
  """Steps 1 and 2 in a folder, the first with the better score."""
  folder = tmp_path_factory.mktemp("two") / "checkpoints"
  with Checkpoints(folder, best="r") as saved:
    saved.save(1, make_state(1), {"at": 1}, {"r": 0.5})
    saved.save(2, make_state(2), {"at": 2}, {"r": 0.1})
  return folder


@pytest.fixture
def saved_folder(two_saved, tmp_path) -> pathlib.Path:
  """A copy of them, to be damaged or added to."""
  copy = tmp_path / "run" / "checkpoints"
  return pathlib.Path(shutil.copytree(two_saved, copy))


def files(step: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in step.rglob("*") if path.is_file())


def garble(path: pathlib.Path, seed: int) -> None:
  data = bytearray(path.read_bytes())
  numbers = random.Random(seed)
  for _ in range(max(1, len(data) // 200)):
    data[numbers.randrange(len(data))] ^= numbers.randrange(1, 256)
  path.write_bytes(bytes(data))
