"""Learning rates and optimisers, compiled, against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from vgsgan.train.state import TrainState, optimizer, schedule


def optim(**fields):
  known = {"name": "sgd", "lr": 0.5, "momentum": 0.0, "b2": 0.9}
  known |= {"weight_decay": 0.0, "clip_norm": 0.0}
  known |= {"schedule": "constant", "warmup_steps": 0, "decay_steps": 1}
  return ConfigDict(known | fields)


def rates(optims, steps, counts):
  """Rates of each schedule at these counts, in one compiled program."""
  schedules = [schedule(x, steps) for x in optims]
  run = jax.jit(lambda counts: [x(counts) for x in schedules])
  return np.stack(run(np.asarray(counts, np.int32)))


@pytest.mark.parametrize("warmup", [0, 3])
def test_step_decay_multiplies_by_a_tenth_every_decay_steps(warmup):
  """Compares with Python's integers: XLA's float division misses some."""
  lengths, counts = range(1, 201), range(warmup, 1205)
  use = {"schedule": "step", "warmup_steps": warmup}
  optims = [optim(decay_steps=n, **use) for n in lengths]
  got = rates(optims, 10, counts)
  falls = [[(count - warmup) // n for count in counts] for n in lengths]
  expected = 0.5 * 0.1 ** np.minimum(falls, 30)
  assert got.shape == expected.shape
  near = expected > 1e-29  # float32 ends not far below.
  np.testing.assert_allclose(got[near], expected[near], rtol=1e-5)
  assert (got[~near] < 1e-29).all()


def test_warm_up_rises_to_where_the_schedule_begins():
  got = rates([optim(warmup_steps=4)], 10, range(6))
  np.testing.assert_allclose(got[0], [0, 0.125, 0.25, 0.375, 0.5, 0.5])


def test_a_cosine_falls_to_nothing_at_the_end():
  got = rates([optim(schedule="cosine", warmup_steps=2)], 8, range(9))
  turns = np.cos(np.pi * np.arange(7) / 6)
  expected = [0, 0.25, *(0.25 * (1 + turns))]
  np.testing.assert_allclose(got[0], expected, atol=1e-7)


def updated(use, steps, slope):
  """A weight of 1, a bias of -2, after updates with gradients `slope` times."""
  tx = optimizer(use, steps)
  params = {"weight": jnp.ones(()), "bias": jnp.full((), -2.0)}
  state = TrainState.create(params, {"seen": jnp.zeros(())}, tx)

  @jax.jit
  def update(state):
    stats = {"seen": state.batch_stats["seen"] + 1}

    def loss(params):  # Its gradient is the slope.
      parts = jax.tree.map(jnp.multiply, params, slope)
      return parts["weight"] + parts["bias"], ({}, stats)

    return state.minimise(loss, tx, schedule(use, steps))[0]

  path = []
  for _ in range(steps):
    state = update(state)
    path.append([float(state.params[name]) for name in ("weight", "bias")])
  assert int(state.step) == steps == float(state.batch_stats["seen"])
  return np.array(path)


SLOPE = {"weight": jnp.float32(1.0), "bias": jnp.float32(-0.5)}


def test_sgd_gathers_momentum():
  """Velocities: 1, 1 + 0.8, 1 + 0.8 * 1.8 times the gradient."""
  got = updated(optim(momentum=0.8), 3, SLOPE)
  fall = 0.5 * np.cumsum([1.0, 1.8, 2.44])
  np.testing.assert_allclose(got[:, 0], 1 - fall, rtol=1e-6)
  np.testing.assert_allclose(got[:, 1], -2 + 0.5 * fall, rtol=1e-6)


def test_sgd_decays_weights_as_a_gradient():
  """w - lr (g + decay w), of weights and biases alike."""
  got = updated(optim(weight_decay=0.1), 2, SLOPE)
  first = 1 - 0.5 * (1 + 0.1 * 1), -2 - 0.5 * (-0.5 + 0.1 * -2)
  second = (
    first[0] - 0.5 * (1 + 0.1 * first[0]),
    first[1] - 0.5 * (-0.5 + 0.1 * first[1]),
  )
  np.testing.assert_allclose(got, [first, second], rtol=1e-6)


def test_adam_adds_the_decay_to_the_gradient():
  """The first update is lr in the sign of g + decay w, whatever their size."""
  got = updated(
    optim(name="adam", momentum=0.5, weight_decay=1.0),
    1,
    {"weight": jnp.float32(-0.25), "bias": jnp.float32(1.0)},
  )
  # g + w: 0.75 and -1; without a decay the signs would be the other way.
  np.testing.assert_allclose(got[0], [1 - 0.5, -2 + 0.5], rtol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
  """w - lr (sign(g) + decay w) at first: Loshchilov and Hutter (2019)."""
  got = updated(optim(name="adamw", momentum=0.5, weight_decay=0.1), 1, SLOPE)
  expected = 1 - 0.5 * (1 + 0.1 * 1), -2 - 0.5 * (-1 + 0.1 * -2)
  np.testing.assert_allclose(got[0], expected, rtol=1e-6)


def test_adam_divides_by_the_size_of_the_gradient():
  """One that does not change is divided by its own size every time."""
  got = updated(optim(name="adam", momentum=0.5), 3, SLOPE)
  np.testing.assert_allclose(got[:, 0], [0.5, 0.0, -0.5], atol=1e-6)


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.2)])
def test_both_adams_have_the_momenta_of_the_config(name, decay):
  """Kingma and Ba (2015), algorithm 1, with b1 = 0.5 and b2 = 0.9."""
  tx = optimizer(optim(name=name, momentum=0.5, weight_decay=decay), 2)
  w, state, m, v = jnp.zeros(()), tx.init(jnp.zeros(())), 0.0, 0.0
  expected = 0.0
  for step, g in enumerate((1.0, -2.0), start=1):
    update, state = jax.jit(tx.update)(jnp.float32(g), state, w)
    w = optax.apply_updates(w, update)
    m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g * g
    unbiased = m / (1 - 0.5**step), v / (1 - 0.9**step)
    way = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    expected -= 0.5 * (way + decay * expected)
  np.testing.assert_allclose(w, expected, rtol=1e-5)


def test_gradients_are_clipped_before_momentum_and_decay():
  """Gradients of length sqrt(1.25) come to be as long as `clip_norm`."""
  got = updated(optim(clip_norm=0.1, weight_decay=0.2), 1, SLOPE)
  weight, bias = 0.1 / np.sqrt(1.25), -0.05 / np.sqrt(1.25)
  expected = 1 - 0.5 * (weight + 0.2), -2 - 0.5 * (bias - 0.4)
  np.testing.assert_allclose(got[0], expected, rtol=1e-5)
