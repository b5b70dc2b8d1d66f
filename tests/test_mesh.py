"""Where a run's arrays lie, and what sharing them saves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.placing import placed
from vgsgan.common.errors import UserError
from vgsgan.parallel import mesh
from vgsgan.train.state import TrainState
from vgsgan.train.step import jit_step

STATE = {
  "kernel": (3, 3, 64, 128),
  "square": (128, 128),
  "wide": (512, 129),
  "odd": (127, 129),
  "bias": (128,),
  "step": (),
}


def shapes(names=tuple(STATE)):
  return {name: jax.ShapeDtypeStruct(STATE[name], float) for name in names}


def test_large_arrays_are_split_over_model_along_their_longest_side():
  devices = mesh.make_mesh(8, model=4)
  places = mesh.state_shardings(shapes(), devices)
  local = {name: places[name].shard_shape(STATE[name]) for name in STATE}
  assert local == STATE | {
    "kernel": (3, 3, 64, 32),
    "square": (128, 32),
    "wide": (128, 129),
  }


def test_arrays_are_replicated_if_model_is_1():
  for place in mesh.state_shardings(shapes(), mesh.make_mesh(8)).values():
    assert place.is_fully_replicated


def test_a_batch_is_split_over_all_devices():
  devices = mesh.make_mesh(8, model=4)
  rows = mesh.shard({"x": np.arange(16)}, devices)["x"]
  held = sorted(np.asarray(x.data).tolist() for x in rows.addressable_shards)
  assert held == [[i, i + 1] for i in range(0, 16, 2)]


@pytest.mark.parametrize("batch", [0, -8])
def test_an_empty_batch_is_refused(batch):
  with pytest.raises(
    UserError, match=rf"train.batch={batch} must be at least 1"
  ):
    mesh.check_batch(batch, mesh.make_mesh(8), "train.batch")


def test_an_uneven_batch_is_refused_with_the_nearest_even_ones():
  with pytest.raises(UserError) as refused:
    mesh.check_batch(15, mesh.make_mesh(8), "train.batch")
  assert "of 15 does not divide over 8 devices: 15 = 8 x 1 + 7" in str(
    refused.value
  )
  assert str(refused.value).endswith("--config.train.batch to 8 or 16")


def test_neighbours_share_a_copy_of_the_state():
  ids = [[d.id for d in row] for row in mesh.make_mesh(8, model=4).devices]
  assert ids == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("model", [0, 3, 16])
def test_a_model_axis_that_does_not_divide_is_refused(model):
  with pytest.raises(UserError, match="does not divide the 8 devices"):
    mesh.make_mesh(8, model)


def test_a_split_state_has_the_same_update_in_less_memory():
  """A linear model by hand: its update, and what each device holds."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(16, 256)), rng.normal(size=(16, 64))
  kernel = rng.normal(size=(256, 64))
  expected = kernel - 0.1 * 2 * x.T @ (x @ kernel - y) / y.size

  def update(state, batch):
    def loss(kernel):
      return jnp.mean(jnp.square(batch["x"] @ kernel - batch["y"]))

    value, grad = jax.value_and_grad(loss)(state.params)
    return state.replace(params=state.params - 0.1 * grad), {"loss": value}

  held = {}
  for model in (1, 8):
    devices = mesh.make_mesh(8, model)
    state = TrainState(jnp.int32(0), jnp.float32(kernel), {}, {})
    state = placed(state, devices)
    batch = mesh.shard({"x": np.float32(x), "y": np.float32(y)}, devices)
    step = jit_step(update, state, devices).lower(state, batch)
    compiled = step.compile()
    held[model] = compiled.memory_analysis().argument_size_in_bytes
    after, _ = compiled(state, batch)
    assert after.params.sharding.is_fully_replicated == (model == 1)
    np.testing.assert_allclose(after.params, expected, rtol=1e-4, atol=1e-5)
  assert held[1] - held[8] == kernel.size * 4 * 7 // 8
