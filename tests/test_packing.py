"""Small arrays are joined and come apart again, wherever they are to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgsgan.train.checkpoints import packing

DTYPES = (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool)


def place(devices: int, *spec: str | None) -> NamedSharding:
  mesh = Mesh(np.array(jax.devices()[:devices]), ("model",))
  return NamedSharding(mesh, PartitionSpec(*spec))


def random_state(seed: int) -> dict:
  """Of a few types and shapes, one of them large and one of them split."""
  numbers = np.random.default_rng(seed)
  shapes = [(), (1,), (3, 0), *(tuple(numbers.integers(1, 9, 3)),) * 7]
  state = {"layer": {}, "list": []}
  for i, shape in enumerate(shapes):
    x = numbers.integers(0, 256, shape).astype(DTYPES[i % len(DTYPES)])
    state["layer"][f"w{i}"] = jax.device_put(x, place(8))
  large = np.full(packing.SMALL // 4 + 1, seed, np.float32)
  split = np.arange(64, dtype=np.float32).reshape(4, 16)
  key = jax.random.key(seed)
  state["list"] = [
    jax.device_put(large, place(8)),
    jax.device_put(split, place(8, None, "model")),
    jax.device_put(key, place(8)),
  ]
  return state


def raw(x) -> bytes:
  keys = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(x) if keys else x).tobytes()


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_comes_apart_on_other_devices(devices):
  state = random_state(devices)
  stored, layout = packing.pack(state)

  def target(x):
    split = x.ndim == 3 and x.shape[0] % devices == 0
    spec = place(devices, *["model"] * split)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec)

  abstract = jax.tree.map(target, state)
  found = packing.unpack(stored, layout, abstract)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  for x, y, there in zip(
    *map(jax.tree.leaves, (found, state, abstract)), strict=True
  ):
    assert (x.shape, x.dtype, raw(x)) == (y.shape, y.dtype, raw(y))
    if y.nbytes <= packing.SMALL and y.sharding == place(8):
      keys = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
      assert keys or x.sharding == there.sharding


def test_left_apart():
  state = random_state(0)
  stored, layout = packing.pack(state)
  assert set(stored["apart"]) == {"list/0", "list/1", "list/2"}
  # No device got more of the split one than it had.
  assert stored["apart"]["list/1"].sharding == place(8, None, "model")
  assert set(layout) == {np.dtype(d).name for d in DTYPES}
  for dtype, flat in stored["joined"].items():
    assert flat.dtype == dtype and flat.is_fully_replicated
    mine = [x for x in jax.tree.leaves(state["layer"]) if x.dtype == dtype]
    assert flat.shape == (sum(x.size for x in mine),)


def test_what_is_to_be_read_is_what_was_stored():
  state = random_state(0)
  stored, layout = packing.pack(state)
  wanted = packing.wanted(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    ),
    layout,
  )
  assert jax.tree.map(lambda x: (x.shape, x.dtype), wanted) == jax.tree.map(
    lambda x: (x.shape, x.dtype), stored
  )


def test_cut_short_is_noticed():
  stored, layout = packing.pack(random_state(0))
  stored["joined"]["float32"] = stored["joined"]["float32"][:-1]
  with pytest.raises(ValueError):
    packing.split(stored, layout)


def test_the_state_may_be_donated():
  state = {"a": jnp.arange(4.0), "b": jnp.ones((2, 3))}
  stored, layout = packing.pack(state)
  double = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s), donate_argnums=0)
  jax.block_until_ready(double(state))
  found = packing.split(stored, layout)
  np.testing.assert_array_equal(found["a"], [0, 1, 2, 3])
  np.testing.assert_array_equal(found["b"], [[1, 1, 1]] * 2)
