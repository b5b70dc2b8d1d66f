"""oneDNN's convolutions against XLA's, in values and every derivative."""

import concurrent.futures
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from vgsgan.kernels.convolution import library, onednn
from vgsgan.models import convolve
from vgsgan.parallel import mesh
from vgsgan.train import costs, forward

pytestmark = pytest.mark.skipif(
  library.installed() is None,
  reason="needs the extra onednn (Linux on x86-64)",
)


def plain(x, kernel):
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=numbers
  )


def operands(b, h, w, c, f, k, seed=0):
  draw = np.random.default_rng(seed).normal
  x, kernel = draw(size=(b, h, w, c)), draw(size=(k, k, c, f))
  return jnp.float32(x), jnp.float32(kernel)


def with_gradients(conv):
  def found(x, kernel):
    y, pull = jax.vjp(conv, x, kernel)
    ct = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, *pull(ct)

  return found


def close(got, want):
  """Within rounding, relative to the largest number."""
  for one, other in zip(got, want, strict=True):
    atol = 2e-5 * float(jnp.abs(other).max())
    np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def calls(lowered):
  return lowered.as_text().count("@vgsgan_conv2d_")


def test_the_calls_are_compiled_and_registered():
  assert library.ready()


def test_onednn_equals_the_convolution_and_its_gradients():
  """Rows that threads share evenly and not, odd sides, few channels, many."""
  rng = np.random.default_rng(0)
  for trial in range(40):
    b, h, w = (int(n) for n in rng.integers(1, (10, 12, 12)))
    c, f = (int(n) for n in rng.choice([1, 3, 4, 7, 16, 33, 64], 2))
    x, kernel = operands(b, h, w, c, f, int(rng.choice([3, 5])), trial)
    lowered = jax.jit(with_gradients(convolve.conv2d)).lower(x, kernel)
    assert calls(lowered) == 3
    close(
      lowered.compile()(x, kernel), jax.jit(with_gradients(plain))(x, kernel)
    )


@pytest.mark.parametrize(
  "shape", [(2, 4, 4, 64, 64, 3), (1, 3, 2, 41, 70, 3), (3, 1, 1, 20, 7, 5)]
)
def test_kernels_larger_than_the_maps_are_right(shape):
  """Evenly and not, and too few of them to share."""
  x, kernel = operands(*shape)
  lowered = jax.jit(with_gradients(convolve.conv2d)).lower(x, kernel)
  assert calls(lowered) == 3
  close(lowered.compile()(x, kernel), jax.jit(with_gradients(plain))(x, kernel))


def test_all_kinds_have_right_derivatives():
  """Pushed forward, and pulled back through what was pulled back."""
  x, kernel = operands(3, 5, 6, 4, 7, 3)

  def everything(conv):
    def pulled(x, kernel, ct):
      return jax.vjp(conv, x, kernel)[1](ct)

    y = conv(x, kernel)
    pushed = jax.jvp(conv, (x, kernel), (jnp.sin(x), jnp.cos(kernel)))
    twice = jax.vjp(pulled, x, kernel, y)[1]((jnp.sin(x), jnp.cos(kernel)))
    return *pushed, *twice

  close(everything(convolve.conv2d), everything(plain))


def test_vmap_equals_that_of_the_plain_convolution():
  x, kernel = operands(6, 5, 6, 4, 7, 3)
  x = x.reshape(2, 3, 5, 6, 4)
  for axes in ((0, None), (None, 0), (0, 0)):
    pictures = x if axes[0] == 0 else x[0]
    kernels = jnp.stack([kernel, 2 * kernel]) if axes[1] == 0 else kernel
    got, want = (
      jax.vmap(conv, axes)(pictures, kernels)
      for conv in (convolve.conv2d, plain)
    )
    close([got], [want])


@pytest.mark.parametrize(
  ("count", "model"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2)]
)
def test_devices_convolve_their_own_rows(count, model):
  devices = mesh.make_mesh(count, model)
  x, kernel = operands(16, 5, 6, 4, 7, 3)
  places = mesh.batch_sharding(devices), mesh.replicated(devices)

  def in_context(x, kernel):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      return with_gradients(convolve.conv2d)(x, kernel)

  lowered = jax.jit(in_context, in_shardings=places).lower(x, kernel)
  assert calls(lowered) == 3
  compiled = lowered.compile()
  assert "all-gather" not in compiled.as_text()
  got = compiled(*jax.device_put((x, kernel), places))
  close(got, with_gradients(plain)(x, kernel))


def test_rows_that_devices_cannot_share_are_left_to_xla():
  devices = mesh.make_mesh(8)
  x, kernel = operands(6, 5, 6, 4, 7, 3)
  whole = mesh.replicated(devices)

  def in_context(x, kernel):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      return with_gradients(convolve.conv2d)(x, kernel)

  lowered = jax.jit(in_context, in_shardings=whole).lower(x, kernel)
  assert calls(lowered) == 0
  got = lowered.compile()(*jax.device_put((x, kernel), whole))
  close(got, with_gradients(plain)(x, kernel))


def test_accelerators_and_other_precisions_use_xla():
  x, kernel = operands(2, 5, 6, 4, 17, 3)
  traced = jax.jit(with_gradients(convolve.conv2d)).trace(x, kernel)
  for platform in ("cuda", "tpu"):
    lowered = traced.lower(lowering_platforms=(platform,))
    assert calls(lowered) == 0
    assert "stablehlo.convolution" in lowered.as_text()
  half = jax.jit(convolve.conv2d).lower(
    x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  )
  assert calls(half) == 0


def test_flops_equal_those_of_the_convolution():
  x, kernel = operands(2, 5, 6, 4, 17, 3)
  traced = jax.jit(with_gradients(convolve.conv2d)).trace(x, kernel)
  # Forward and two gradients, each as many.
  assert costs.flops(traced.jaxpr, 1, "cpu") == 3 * 2 * (2 * 5 * 6) * (
    4 * 17 * 9
  )
  assert costs.bfloat16_flops(traced.jaxpr, 1, "tpu") == costs.flops(
    traced.jaxpr, 1, "tpu"
  )


def test_programs_that_run_at_once_are_independent():
  """Primitives are made, and buffers grow and serve again, at the same time."""
  rng = np.random.default_rng(0)
  cases = [operands(*rng.integers(1, 20, 5), 3, seed=i) for i in range(12)]
  run = jax.jit(with_gradients(convolve.conv2d))
  compiled = [run.lower(*case).compile() for case in cases]
  turns = rng.permutation(np.repeat(np.arange(len(cases)), 6))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(
      pool.map(lambda i: jax.device_get(compiled[i](*cases[i])), turns)
    )
  for i, got in zip(turns, found, strict=True):
    close(got, with_gradients(plain)(*cases[i]))


def test_a_loop_uses_onednn():
  x, kernel = operands(4, 5, 6, 4, 4, 3)

  def looped(conv):
    def body(x, _):
      return jnp.tanh(conv(x, kernel)), None

    return jax.jit(lambda x: lax.scan(body, x, None, length=3)[0])

  assert calls(looped(convolve.conv2d).lower(x)) == 1
  close([looped(convolve.conv2d)(x)], [looped(plain)(x)])


@pytest.fixture
def asked_anew(monkeypatch, tmp_path):
  """`ready` looks again, with nothing kept, and forgets what it saw then."""
  monkeypatch.setattr(library, "CACHE", tmp_path)
  library.ready.cache_clear()
  yield tmp_path
  library.ready.cache_clear()


def test_xla_is_used_without_a_compiler(asked_anew, monkeypatch, caplog):
  monkeypatch.setenv("CXX", "no-such-compiler")
  with caplog.at_level(logging.WARNING):
    assert not library.ready()
  assert "C++ compiler" in caplog.text and "no-such-compiler" in caplog.text
  lowered = jax.jit(convolve.conv2d).lower(*operands(2, 5, 6, 4, 17, 3))
  assert calls(lowered) == 0


def test_a_compilers_error_is_reported(asked_anew, monkeypatch, caplog):
  monkeypatch.setenv("CXX", "c++ --no-such-option")
  with caplog.at_level(logging.WARNING):
    assert not library.ready()
  assert "no-such-option" in caplog.text
  assert not list(asked_anew.iterdir()), "nothing half-made is left"


def test_a_missing_extra_gives_no_warning(asked_anew, monkeypatch, caplog):
  monkeypatch.setattr(library, "_LIBRARY", "no-such-package")
  assert not library.ready()
  assert not caplog.records


def test_the_library_is_compiled_once(asked_anew, monkeypatch):
  found = library.installed()
  made = library.compiled(*found, asked_anew)
  monkeypatch.setattr(library.subprocess, "run", None)
  assert library.compiled(*found, asked_anew) == made
  assert list(asked_anew.iterdir()) == [made]


def test_remat_does_not_convolve_twice():
  """`config.train.remat` keeps convolutions, whoever computes them."""
  x, kernel = operands(2, 5, 6, 4, 4, 3)

  def loss(x):
    return jnp.tanh(convolve.conv2d(x, kernel)).sum()

  def count(policy):
    made = jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=policy)))(x)
    return str(made).count(onednn.PRIMITIVE.name)

  assert count(forward._keep) == 2  # Forward, and the gradient.
  assert count(None) == 3


@pytest.mark.parametrize("check", [True, False])
def test_shard_map_uses_the_plain_form(check):
  devices = mesh.make_mesh(4)
  x, kernel = operands(8, 5, 6, 4, 7, 3)
  rows, whole = PartitionSpec(devices.axis_names), PartitionSpec()

  def inside(conv):
    island = jax.shard_map(
      conv,
      mesh=devices,
      in_specs=(rows, whole),
      out_specs=rows,
      check_vma=check,
    )
    return jax.jit(with_gradients(island))

  close(inside(convolve.conv2d)(x, kernel), inside(plain)(x, kernel))


@pytest.mark.parametrize("sizes", [(0, 3, 3, 4, 5), (2, 3, 3, 0, 5)])
def test_empty_arrays_give_empty_results(sizes):
  x, kernel = operands(*sizes, 3)
  for got, want in zip(
    with_gradients(convolve.conv2d)(x, kernel),
    with_gradients(plain)(x, kernel),
    strict=True,
  ):
    np.testing.assert_array_equal(got, want)


def test_a_damaged_library_is_compiled_again(asked_anew):
  found = library.installed()
  kept = library.compiled(*found, asked_anew)
  kept.unlink()  # Else the library that is loaded would be cut short.
  kept.write_bytes(b"no library")
  assert hasattr(library._opened(*found), "vgsgan_conv2d_output")


def test_a_library_that_others_can_write_is_not_loaded(
  asked_anew, monkeypatch, caplog
):
  folder = asked_anew / "a" / "b"
  monkeypatch.setattr(library, "CACHE", folder)
  found = library.installed()
  library._opened(*found)
  (kept,) = folder.iterdir()
  for path in (folder, folder.parent, kept):
    assert path.stat().st_mode & 0o777 == 0o700
  good = kept.read_bytes()

  kept.unlink()  # Else the library that is loaded would be cut short.
  kept.write_bytes(b"planted")
  kept.chmod(0o702)
  assert library.compiled(*found, folder).read_bytes() == good

  kept.write_bytes(b"planted")
  folder.chmod(0o777)
  with caplog.at_level(logging.WARNING):
    calls = library._opened(*found)
  assert hasattr(calls, "vgsgan_conv2d_output")
  assert kept.read_bytes() == b"planted"
  assert f"kept in {folder}: others can write there" in caplog.text
