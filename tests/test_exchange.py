"""Maps that are gathered or passed round, against the scores of one device."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vgsgan.losses import exchange, scores
from vgsgan.tools.compile import hlo
from vgsgan.train import costs

B = 8


def _mesh(**axes):
  auto = (jax.sharding.AxisType.Auto,) * len(axes)
  devices = jax.devices()[: math.prod(axes.values())]
  return jax.make_mesh(tuple(axes.values()), tuple(axes), auto, devices=devices)


def _maps(dtype):
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(B, 2, 2, 3)), dtype)
  audio = jnp.asarray(rng.normal(size=(B, 5, 3)), dtype)
  valid = jnp.asarray(np.arange(5) < rng.integers(1, 6, B)[:, None])
  return images, audio, valid, jnp.float32(1.7)


def _on(mesh, name):
  """Value and gradients of all scores, of maps split over all of the mesh."""
  axis = mesh.axis_names if len(mesh.axis_names) > 1 else mesh.axis_names[0]
  rows = P(axis)

  def island(images, audio, valid, scale):
    score = lambda *maps: scale * scores.misa(*maps)  # noqa: E731
    return exchange.EXCHANGES[name](score, axis, images, audio, valid)

  return jax.shard_map(
    island, mesh=mesh, in_specs=(rows, rows, rows, P()), out_specs=rows
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", exchange.EXCHANGES)
@pytest.mark.parametrize(
  "axes", [{"data": 2}, {"data": 8}, {"data": 2, "model": 2}]
)
def test_scores_follow_the_order_of_the_batch(axes, name, dtype):
  images, audio, valid, scale = _maps(dtype)
  slope = jnp.asarray(np.random.default_rng(1).normal(size=(B, B)), jnp.float32)

  def run(score):
    table, pull = jax.vjp(
      lambda images, audio, scale: score(images, audio, valid, scale),
      images,
      audio,
      scale,
    )
    return table, pull(slope)

  one = run(lambda *args: args[-1] * scores.misa(*args[:-1]))
  many = jax.jit(functools.partial(run, _on(_mesh(**axes), name)))()
  np.testing.assert_allclose(many[0], one[0], rtol=1e-5, atol=1e-6)
  # Of bfloat16, sums of up to eight are rounded in another order.
  rtol, atol = (1e-5, 1e-5) if dtype == jnp.float32 else (0.03, 0.06)
  for got, wanted in zip(many[1], one[1], strict=True):
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(
      np.asarray(got, float), np.asarray(wanted, float), rtol=rtol, atol=atol
    )


@pytest.mark.parametrize(
  "axes", [{"data": n} for n in range(1, 9)] + [{"data": 2, "model": 4}]
)
def test_reduce_scatter_gives_each_device_its_rows(axes):
  mesh = _mesh(**axes)
  n, rows = mesh.size, P(mesh.axis_names)
  # Device i has x[i], of three rows for every device.
  x = np.random.default_rng(0).normal(size=(n, 3 * n, 5)).astype(np.float32)
  island = jax.shard_map(
    lambda own: exchange.reduce_scatter(own[0], mesh.axis_names),
    mesh=mesh,
    in_specs=rows,
    out_specs=rows,
  )
  traced = jax.jit(island).trace(x)
  np.testing.assert_allclose(island(x), x.sum(0), rtol=1e-4, atol=1e-6)
  sent = costs.sent("reduce-scatter", x[0].nbytes, n)
  for found in (
    costs.collectives(traced.jaxpr, n, "cpu"),
    hlo.collectives(traced.lower().compile().as_text()),
  ):
    assert {one.kind for one in found} <= {"reduce-scatter"}
    assert sum(one.sent for one in found) == pytest.approx(sent)


def test_exchanges_need_the_stated_memory():
  """As `exchange` states it: of one device's eight pairs, on more and more."""
  own = 8 * 64 * 512  # b t d

  def used(name, devices):
    mesh = _mesh(data=devices)
    rows = jax.sharding.NamedSharding(mesh, P("data"))
    b = 8 * devices
    images, audio, valid = (
      jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
      for shape, dtype in (
        ((b, 1, 1, 512), jnp.float32),
        ((b, 64, 512), jnp.float32),
        ((b, 64), bool),
      )
    )

    def total(images, audio, valid):
      table = _on(mesh, name)(images, audio, valid, jnp.float32(1.0))
      return jnp.sum(jnp.sin(table))

    gradient = jax.jit(jax.value_and_grad(total, (0, 1)))
    compiled = gradient.lower(images, audio, valid).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  for devices in (2, 8):
    gathered = 3 * 4 * devices * own
    np.testing.assert_allclose(used("gather", devices), gathered, rtol=0.02)
    np.testing.assert_allclose(used("ring", devices), 2 * 8 * own, rtol=0.02)
