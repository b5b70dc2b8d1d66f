"""Collectives read from a program's text, and from its trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vgsgan.parallel import mesh
from vgsgan.tools.compile import hlo
from vgsgan.train import costs

MESH = mesh.make_mesh(8, model=2)
ALL = ("data", "model")


def island(f, *shapes, axes=ALL):
  """`f` of each device's rows, traced and compiled."""
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  mapped = jax.shard_map(
    f, mesh=MESH, in_specs=P(axes), out_specs=P(axes), check_vma=False
  )
  places = NamedSharding(MESH, P(axes))
  return jax.jit(mapped, in_shardings=places).trace(*arguments)


# What a device holds is [2, 5]; what it sends by hand, in numbers of 4 bytes.
CASES = {
  "all-gather": (lambda x: lax.all_gather(x, ALL, tiled=True)[:2], 7 * 10),
  "reduce-scatter": (
    lambda x: lax.psum_scatter(jnp.tile(x, (8, 1)), ALL, tiled=True),
    7 * 10,
  ),
  "all-reduce": (lambda x: lax.psum(x, ALL), 2 * 7 / 8 * 10),
  "all-to-all": (
    lambda x: lax.all_to_all(jnp.tile(x, (4, 1)), ALL, 0, 0, tiled=True),
    7 * 5,
  ),
  "collective-permute": (
    lambda x: lax.ppermute(x, ALL, [(i, (i + 1) % 8) for i in range(8)]),
    10,
  ),
}


@pytest.mark.parametrize("kind", CASES)
def test_bytes_sent_by_hand(kind):
  f, numbers = CASES[kind]
  traced = island(f, (16, 5))
  compiled = traced.lower().compile()
  for found in (
    hlo.collectives(compiled.as_text()),
    costs.collectives(traced.jaxpr, 8, "cpu"),
  ):
    assert [one.kind for one in found] == [kind]
    assert [one.devices for one in found] == [8]
    assert found[0].sent == pytest.approx(4 * numbers)


@pytest.mark.parametrize(("axis", "devices"), [("data", 4), ("model", 2)])
def test_devices_of_a_collective_are_counted(axis, devices):
  traced = island(lambda x: lax.psum(x, axis), (16, 5))
  for found in (
    hlo.collectives(traced.lower().compile().as_text()),
    costs.collectives(traced.jaxpr, 8, "cpu"),
  ):
    assert [one.devices for one in found] == [devices]


def test_a_loop_counts_as_often_as_it_turns():
  def f(x):
    return lax.fori_loop(0, 7, lambda _, y: jnp.sin(lax.psum(y, ALL)), x)

  traced = island(f, (16, 5))
  for found in (
    hlo.collectives(traced.lower().compile().as_text()),
    costs.collectives(traced.jaxpr, 8, "cpu"),
  ):
    assert [(one.times, one.payload) for one in found] == [(7, 40)]


def test_collectives_of_the_partitioner_are_in_the_text_alone():
  rows = NamedSharding(MESH, P(ALL))
  x = jax.ShapeDtypeStruct((16, 5), jnp.float32)
  traced = jax.jit(lambda x: x.sum(), in_shardings=rows).trace(x)
  assert not costs.collectives(traced.jaxpr, 8, "cpu")
  found = hlo.collectives(traced.lower().compile().as_text())
  assert [(one.kind, one.payload) for one in found] == [("all-reduce", 4)]


# As libtpu writes: a gather spread over other work, a reduce-scatter as a
# fusion, a collective in two steps, and one in a loop.
TEXT = """
HloModule jit_step, is_scheduled=true, num_partitions=8

%start (p: f32[8,21]) -> (f32[8,21], f32[64,21]) {
  %all-gather.5 = f32[64,21]{1,0:T(8,128)} all-gather(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="3"}
  ROOT %custom-call = (f32[8,21], f32[64,21]) custom-call(%all-gather.5), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.6 (p: f32[8,21]) -> f32[64,21] {
  ROOT %all-gather.7 = f32[64,21]{1,0:T(8,128)} all-gather(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%all-reduce-scatter.4 (a: f32[8,4], b: bf16[16]) -> (f32[2,4], bf16[4]) {
  %all-reduce.1 = (f32[8,4]{1,0}, bf16[16]{0}) all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice = f32[2,4] dynamic-slice(%all-reduce.1)
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.2 = f32[4]{0} all-reduce(%x), replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1','axis_2':(1)2}, to_apply=%add
}

%condition (t: (s32[], f32[4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(10)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (p0: f32[8,21]) -> f32[] {
  %f = (f32[8,21], f32[64,21]) fusion(%p0), kind=kCustom, calls=%start
  %g = f32[64,21] fusion(%p0), kind=kCustom, calls=%async_collective_fusion.6
  %h = (f32[2,4], bf16[4]) fusion(%a, %b), kind=kCustom, calls=%all-reduce-scatter.4
  %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body
  %collective-permute-start = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%c), source_target_pairs={{0,1},{1,0}}
  %collective-permute-done = f32[3]{0} collective-permute-done(%collective-permute-start)
  %all-gather-start.1 = (pred[2]{0}, pred[16]{0}) all-gather-start(%d), replica_groups=[1,8]<=[8], dimensions={0}
  %all-gather-done.1 = pred[16]{0} all-gather-done((pred[2]{0}, pred[16]{0}) %all-gather-start.1)
  %alone = f32[99]{0} all-reduce(%e), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %r = f32[] constant(0)
}
"""  # noqa: E501


def test_forms_of_libtpu_are_read():
  found = hlo.collectives(TEXT)
  assert sorted((x.kind, x.payload, x.devices, x.times) for x in found) == [
    ("all-gather", 16, 8, 1),
    ("all-gather", 64 * 21 * 4, 8, 1),
    ("all-reduce", 16, 8, 10),
    ("collective-permute", 12, 8, 1),
    ("reduce-scatter", 8 * 4 * 4 + 16 * 2, 4, 1),
  ]


@pytest.mark.parametrize(
  ("shape", "expected"),
  [
    ("f32[]", 4),
    ("(bf16[3,5]{1,0:T(8,128)(2,1)S(1)}, s32[2], /*index=2*/pred[7])", 45),
    ("(c64[2], f8e4m3fn[3], token[])", 19),
    ("s4[3]", 2),
  ],
)
def test_bytes_of_types_by_hand(shape, expected):
  assert hlo.array_bytes(shape) == expected


def test_operations_of_products_and_loops_by_hand():
  place = NamedSharding(MESH, P(ALL))

  def f(x, w, image, kernel):
    y = lax.fori_loop(0, 5, lambda _, y: y @ w, x)
    convolved = lax.conv_general_dilated(
      image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    own = jax.shard_map(
      lambda rows: rows @ rows.T, mesh=MESH, in_specs=P(ALL), out_specs=P(ALL)
    )(x)
    return y, convolved, own

  shapes = (16, 6), (6, 6), (8, 4, 4, 3), (3, 3, 3, 2)
  arguments = [
    jax.ShapeDtypeStruct(
      s, jnp.float32, sharding=place if s[0] % 8 == 0 else None
    )
    for s in shapes
  ]
  traced = jax.jit(f).trace(*arguments)
  whole = 5 * 2 * 16 * 6 * 6 + 2 * (8 * 4 * 4 * 2) * (3 * 3 * 3)
  expected = whole / 8 + 2 * 2 * 2 * 6
  assert costs.flops(traced.jaxpr, 8, "cpu") == pytest.approx(expected)


def test_operations_as_xla_counts_them():
  """A gradient of two layers, where nothing is in a loop."""

  def loss(w, x):
    return jnp.sum(jnp.square(jnp.tanh(x @ w["in"]) @ w["out"]))

  rng = np.random.default_rng(0)
  w = {"in": rng.normal(size=(64, 128)), "out": rng.normal(size=(128, 32))}
  traced = jax.jit(jax.grad(loss)).trace(w, rng.normal(size=(256, 64)))
  found = costs.flops(traced.jaxpr, 1, "cpu")
  counted = traced.lower().compile().cost_analysis()["flops"]
  assert found == pytest.approx(counted, rel=0.05)


def test_branches_by_platform_by_hand():
  """Also those of a gradient, which are chosen by a number from outside."""

  def power(n):
    return lambda x: functools.reduce(jnp.matmul, [x] * (n + 1))

  def f(x):
    return lax.platform_dependent(
      x, tpu=power(1), cuda=power(2), default=power(3)
    )

  def step(x, _):
    return jax.checkpoint(f)(x), None

  def loss(x):
    return jnp.sum(lax.scan(step, x, None, length=5)[0])

  x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  product = 2 * 4**3
  forward = jax.jit(f).trace(x).jaxpr
  # Forward, forward again, and two products more for each one's gradient; but
  # what the last product gives is not needed again.
  both = jax.jit(jax.grad(loss)).trace(x).jaxpr
  for platform, n in (("tpu", 1), ("gpu", 2), ("cpu", 3)):
    assert costs.flops(forward, 1, platform) == n * product
    expected = 5 * (n + (n - 1) + 2 * n) * product
    assert costs.flops(both, 1, platform) == expected


def test_branches_by_data_count_as_the_most_expensive():
  def f(x, which):
    return lax.switch(which, [lambda x: x, lambda x: x @ x @ x], x)

  traced = jax.jit(f).trace(
    jax.ShapeDtypeStruct((4, 4), jnp.float32),
    jax.ShapeDtypeStruct((), jnp.int32),
  )
  assert costs.flops(traced.jaxpr, 1, "tpu") == 2 * 2 * 4**3


@pytest.mark.parametrize(
  ("dtype", "precision", "passes"),
  [
    (jnp.float32, None, 1),
    (jnp.float32, "high", 3),
    (jnp.float32, "highest", 6),
    (jnp.bfloat16, "highest", 1),
  ],
)
def test_bfloat16_products_of_a_product(dtype, precision, passes):
  def f(x, image):
    convolved = lax.conv_general_dilated(
      image, image, (1, 1), "VALID", precision=precision
    )
    return jnp.matmul(x, x, precision=precision), convolved

  traced = jax.jit(f).trace(
    jax.ShapeDtypeStruct((4, 4), dtype),
    jax.ShapeDtypeStruct((3, 3, 2, 2), dtype),
  )
  operations = 2 * 4**3 + 2 * (3 * 3) * (3 * 2 * 2)
  assert costs.flops(traced.jaxpr, 1, "tpu") == operations
  found = costs.bfloat16_flops(traced.jaxpr, 1, "tpu")
  assert found == passes * operations
