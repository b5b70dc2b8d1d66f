"""One update of grounding, compiled, against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.test_options import load
from vgsgan.parallel import mesh
from vgsgan.tasks import grounding
from vgsgan.train.state import TrainState


def updated(scale, rate):
  """The scale 1 / temperature after a step on two pairs that match alone.

  Scores are 1 of a pair and 0 of others, so that a higher scale is better.
  """
  config = load("stamps").get_config("smoke")
  config.loss.name = "infonce"
  config.score.update({"kind": "dot", "normalize": False})
  model = grounding.Grounding(config, mesh.make_mesh(1))
  model.tx = optax.sgd(rate)
  model.inputs = lambda batch, key: (jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))

  def maps(params, stats, *inputs, train):
    eye = jnp.eye(2)
    return (eye[:, None, None], eye[:, None], jnp.ones((2, 1), bool)), {}

  model.maps = maps
  params = {"log_scale": jnp.log(jnp.float32(scale))}
  state = TrainState.create(params, {}, model.tx)
  concepts = {f"{name}_concept": np.arange(2) for name in ("image", "speech")}
  state, metrics = jax.jit(model.step)(state, concepts)
  return float(jnp.exp(state.params["log_scale"])), jax.device_get(metrics)


def test_the_temperature_follows_its_slope():
  """Each anchor loses log(1 + exp(-s)), with slope -s / (1 + exp(s)) by log s.

  Of the two directions each counts half.
  """
  scale, metrics = updated(2.0, rate=0.5)
  assert metrics["loss"] == pytest.approx(np.log1p(np.exp(-2)), rel=1e-5)
  assert metrics["temperature"] == pytest.approx(0.5)
  slope = -2 / (1 + np.exp(2))
  assert scale == pytest.approx(2 * np.exp(-0.5 * slope), rel=1e-5)


def test_the_temperature_is_held_at_a_hundredth():
  scale, _ = updated(2.0, rate=1e4)
  assert scale == pytest.approx(100, rel=1e-5)
