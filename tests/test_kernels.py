"""MaxSim of every implementation against its closed form in float64."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from vgsgan.kernels import gpu, maxsim, tiled, tpu

INTERPRET = InterpretGPUParams(detect_races=True)
DTYPES = (jnp.float32, jnp.bfloat16)
IMPLEMENTATIONS = {
  "tiled": (
    functools.partial(tiled.sums, 50),
    functools.partial(tiled.gradients, 50, tiled.shares),
  ),
  "tiled, best kept": (
    lambda *operands: tiled.sums_and_best(50, *operands)[0],
    lambda *x: tiled.gradients(
      50, tiled.shares, *x, tiled.sums_and_best(50, *x[:4])[1]
    ),
  ),
  "tpu": (
    functools.partial(tpu.sums, interpret=True),
    functools.partial(tpu.gradients, interpret=True),
  ),
  "gpu": (
    functools.partial(gpu.sums, interpret=INTERPRET),
    functools.partial(gpu.gradients, interpret=INTERPRET),
  ),
}


def _case(seed, dtype, shape=None):
  """Random shapes and masks; vectors of small whole numbers, so with ties."""
  rng = np.random.default_rng(seed)
  m, i, n, j, d = shape or rng.integers(1, [6, 36, 6, 36, 20])
  draw = [
    lambda *shape: rng.integers(-2, 3, shape),
    lambda *shape: rng.normal(size=shape),
  ][seed % 2]
  a, b = (jnp.asarray(draw(*shape), dtype) for shape in ((m, i, d), (n, j, d)))
  a_valid, b_valid = rng.random((m, i)) < 0.7, rng.random((n, j)) < 0.7
  a_valid[:, 0] = True
  slope = rng.normal(size=(m, n)).astype(np.float32)
  return (a, jnp.asarray(a_valid), b, jnp.asarray(b_valid)), slope


def _expected(a, a_valid, b, b_valid, slope):
  """Sums and gradients, and the sizes of what is added up in these."""
  a, b = np.asarray(a, float), np.asarray(b, float)
  products = np.einsum("mid,njd->minj", a, b)
  products[~np.asarray(a_valid)] = -np.inf
  best = products.max(1, keepdims=True)
  sums = np.where(b_valid, best[:, 0], 0).sum(-1)
  ties = products == best
  share = ties * (slope[..., None] * b_valid / ties.sum(1))[:, None]
  gradients = [
    (np.einsum("minj,njd->mid", x, y), np.einsum("minj,mid->njd", x, z))
    for x, y, z in ((share, b, a), (abs(share), abs(b), abs(a)))
  ]
  return sums, *gradients, ties.sum(1).max()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_kernels_equal_the_closed_form(name, monkeypatch):
  # Several tiles in every direction.
  monkeypatch.setattr(tpu, "SIDE", 32)
  monkeypatch.setattr(tpu, "LANES", 16)
  monkeypatch.setattr(gpu, "COLUMNS", gpu.SIDE)
  monkeypatch.setattr(gpu, "TILE", 600)
  forward, backward = IMPLEMENTATIONS[name]

  @jax.jit
  def run(slope, *operands):
    return forward(*operands), backward(*operands, slope)

  most_ties = 0
  for seed in range(6):
    dtype = DTYPES[seed // 2 % 2]
    operands, slope = _case(seed, dtype)
    sums, gradients = run(slope, *operands)
    expected, by_operand, sizes, ties = _expected(*operands, slope)
    most_ties = max(most_ties, ties)
    assert sums.dtype == jnp.float32
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)
    for got, wanted, size in zip(gradients, by_operand, sizes, strict=True):
      assert got.dtype == dtype
      # Shares and results may be rounded to the operands' eight bits.
      rounding = 1e-6 if dtype == jnp.float32 else 2.0**-7
      error = np.abs(np.asarray(got, float) - wanted)
      assert np.all(error <= rounding * size + 1e-6), (seed, error.max())
  assert most_ties > 2


def test_a_gpu_pools_items_of_several_blocks(monkeypatch):
  monkeypatch.setattr(gpu, "COLUMNS", gpu.SIDE)
  # Two blocks of a's vectors, two of b's, more of channels than are under way.
  monkeypatch.setattr(gpu, "STAGES", 2)
  operands, slope = _case(0, jnp.bfloat16, (2, 100, 2, 40, 200))
  sums, gradients = jax.jit(
    lambda slope, *operands: (
      gpu.sums(*operands, interpret=INTERPRET),
      gpu.gradients(*operands, slope, interpret=INTERPRET),
    )
  )(slope, *operands)
  expected, by_operand, sizes, ties = _expected(*operands, slope)
  assert ties > 1
  np.testing.assert_array_equal(sums, expected)
  for got, wanted, size in zip(gradients, by_operand, sizes, strict=True):
    error = np.abs(np.asarray(got, float) - wanted)
    assert np.all(error <= 2.0**-7 * size)


def test_plain_and_its_gradients_equal_the_closed_form():
  @jax.jit
  def run(slope, a, a_valid, b, b_valid):
    plain = lambda a, b: maxsim.plain(a, a_valid, b, b_valid)  # noqa: E731
    sums, pull = jax.vjp(plain, a, b)
    return sums, pull(slope)

  for seed in range(4):
    operands, slope = _case(seed, jnp.float32)
    sums, gradients = run(slope, *operands)
    expected, by_operand, _, _ = _expected(*operands, slope)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, by_operand, strict=True):
      np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [1, 200, 2**18])
def test_invalid_vectors_have_no_effect(tile, monkeypatch):
  monkeypatch.setattr(maxsim, "TILE", tile)
  (a, a_valid, b, b_valid), slope = _case(7, jnp.float32)
  assert min(len(a), len(b)) > 2
  # Nothing valid in one item of each.
  a_valid, b_valid = a_valid.at[1].set(False), b_valid.at[2].set(False)

  def run(a, b):
    sums, pull = jax.vjp(
      lambda *x: maxsim.maxsim(x[0], a_valid, x[1], b_valid), a, b
    )
    return sums, *pull(jnp.asarray(slope))

  run = jax.jit(run)
  sums, by_a, by_b = run(a, b)
  assert not np.any(sums[1]) and not np.any(sums[:, 2]) and np.any(sums)
  assert not np.any(by_a[~a_valid]) and not np.any(by_b[~b_valid])
  assert np.any(by_a) and np.any(by_b)
  for content in (np.nan, np.inf, 1e30):
    others = (
      jnp.where(valid[..., None], x, content)
      for x, valid in ((a, a_valid), (b, b_valid))
    )
    jax.tree.map(
      np.testing.assert_array_equal, run(*others), (sums, by_a, by_b)
    )


def test_a_diverged_vector_is_not_hidden():
  (a, a_valid, b, b_valid), slope = _case(7, jnp.float32)
  a, slope = a.at[0, 0, 0].set(jnp.nan), jnp.asarray(slope)
  assert np.all(np.isnan(tiled.sums(50, a, a_valid, b, b_valid)[0]))
  by_a, by_b = tiled.gradients(50, tiled.shares, a, a_valid, b, b_valid, slope)
  assert np.any(np.isnan(by_a[0])) and np.any(np.isnan(by_b))


@pytest.mark.parametrize("tile", [1000, 2**18])
def test_a_diverged_vector_is_not_hidden_among_many(tile, monkeypatch):
  monkeypatch.setattr(maxsim, "TILE", tile)
  a, b = jnp.ones((2, 80, 4)), jnp.ones((3, 80, 4))
  valid = jnp.ones((2, 80), bool), jnp.ones((3, 80), bool).at[2, 5].set(False)

  @jax.jit
  def run(a, b):
    total = lambda a, b: jnp.sum(sums(a, b) ** 2)  # noqa: E731
    return sums(a, b), *jax.grad(total, (0, 1))(a, b)

  def sums(a, b):
    return maxsim.maxsim(a, valid[0], b, valid[1])

  in_a, by_a, _ = run(a.at[0, 3, 0].set(jnp.nan), b)
  assert np.isnan(in_a).tolist() == [[True] * 3, [False] * 3]
  assert np.any(np.isnan(by_a[0])) and not np.any(np.isnan(by_a[1]))
  in_b, _, by_b = run(a, b.at[1, 3, 0].set(jnp.nan).at[2, 5, 0].set(jnp.nan))
  assert np.isnan(in_b).tolist() == [[False, True, False]] * 2
  assert np.any(np.isnan(by_b[1])) and not np.any(np.isnan(by_b[2]))


def _bytes(function, b, places, frames, d=32):
  """Temporary bytes of value and gradients of `b` pairs, compiled."""
  struct = jax.ShapeDtypeStruct
  operands = [
    struct((b, places, d), jnp.float32),
    struct((b, places), bool),
    struct((b, frames, d), jnp.float32),
    struct((b, frames), bool),
  ]

  def run(a, a_valid, b, b_valid):
    total = lambda a, b: jnp.sum(jnp.sin(function(a, a_valid, b, b_valid)))  # noqa: E731
    return jax.value_and_grad(total, (0, 1))(a, b)

  compiled = jax.jit(run).lower(*operands).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_holds_only_scores_and_operands():
  dense, fused = (
    functools.partial(_bytes, function)
    for function in (maxsim.plain, maxsim.maxsim)
  )
  sizes = [(64, 49, 64), (64, 49, 256), (64, 196, 256), (256, 49, 64)]
  for b, places, frames in sizes:
    products = 4 * b * b * places * frames
    operands = 4 * 32 * b * (places + frames)
    used = fused(b, places, frames)
    # Gradients, operands masked, and a few tiles, however many products.
    assert used < 4 * operands + 16 * b * b + 4 * 4 * maxsim.TILE
    assert used < products / 5
    assert dense(b, places, frames) > products
  assert fused(64, 49, 64) < dense(64, 49, 64) / 10


@pytest.mark.parametrize(
  "capability, dtype, kernels",
  # Scores; their best and its shares, for the gradients.
  [("9.0", jnp.bfloat16, 3), ("9.0", jnp.float32, 0), ("8.0", jnp.bfloat16, 0)],
)
def test_gpus_compile_their_kernels(capability, dtype, kernels, monkeypatch):
  device = types.SimpleNamespace(compute_capability=capability)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  struct = jax.ShapeDtypeStruct
  operands = [
    struct((64, 49, 512), dtype),
    struct((64, 49), bool),
    struct((64, 100, 512), dtype),
    struct((64, 100), bool),
  ]

  def run(a, a_valid, b, b_valid):
    total = lambda a, b: jnp.sum(maxsim.maxsim(a, a_valid, b, b_valid))  # noqa: E731
    return jax.value_and_grad(total, (0, 1))(a, b)

  lowered = jax.jit(run).trace(*operands).lower(lowering_platforms=("cuda",))
  assert lowered.as_text().count("@mosaic_gpu") == kernels


# In a process of its own: a chip's library is loaded once a process, and logs.
COMPILED = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from vgsgan.losses import exchange, scores
from vgsgan.kernels import maxsim

chips = topologies.get_topology_desc(**json.loads(sys.argv[1]))
found = {}
for name, dtype, kind in (
  ("gather", jnp.bfloat16, scores.misa), ("ring", jnp.float32, scores.sima)
):
  mesh = Mesh(np.array(chips.devices), ("data",))
  struct = functools.partial(
    jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, P("data"))
  )
  island = jax.shard_map(
    functools.partial(exchange.EXCHANGES[name], kind, "data"),
    mesh=mesh, in_specs=P("data"), out_specs=P("data"),
  )
  total = lambda *maps: jnp.sum(jnp.sin(island(*maps)))
  compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(
    struct((64, 7, 7, 320), dtype), struct((64, 100, 320), dtype),
    struct((64, 100), bool),
  ).compile()
  found[name] = {
    "kernels": compiled.as_text().count(f'"{sys.argv[2]}"'),
    "bytes": compiled.memory_analysis().temp_size_in_bytes,
  }
print(json.dumps(found))
"""


def _compiled(topology, kernel):
  """Kernels and bytes of a mesh's programs, of chips that need not be there."""
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }
  done = subprocess.run(
    [sys.executable, "-c", COMPILED, json.dumps(topology), kernel],
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_kernels_compile_for_chips_of_a_mesh():
  topology = {"platform": "tpu", "topology_name": "v5e:2x2"}
  found = _compiled(topology, "tpu_custom_call")
  # Scores, and each gradient, which in a ring is formed with the scores anew.
  assert found["gather"]["kernels"] == found["ring"]["kernels"] == 3
  # A chip's matchmaps are 16 x 64 pairs' of 49 x 100 in float32.
  assert max(x["bytes"] for x in found.values()) < 16 * 64 * 49 * 100 * 4 / 2


# What a compiler has to know of one, of NVIDIA's data sheets.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
"""


@pytest.mark.skipif(
  importlib.util.find_spec("jax_cuda13_plugin") is None,
  reason="JAX's plug-in for CUDA is not installed",
)
def test_kernels_compile_for_gpus_of_a_mesh():
  topology = {"platform": "cuda", "topology": "1x1x4", "target_config": H100}
  found = _compiled(topology, "mosaic_gpu_v2")
  # Scores, for the gradients their best and its shares; none in float32.
  assert found["gather"]["kernels"] == 3 and found["ring"]["kernels"] == 0
