"""Layers against the library's own, in values and gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.filling import initialised
from vgsgan.kernels.convolution import library
from vgsgan.models import convolve, layers

KEY = jax.random.key(0)


def _normal(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
  ("shape", "window", "strides", "padding"),
  [
    ((2, 16, 3), (3,), (2,), (1,)),
    ((2, 17, 3), (3,), (2,), (1,)),
    ((2, 1, 3), (3,), (2,), (1,)),
    ((2, 8, 6, 3), (2, 2), (2, 2), None),
    ((2, 7, 5, 3), (2, 2), (2, 2), None),
    ((2, 9, 8, 3), (3, 2), (2, 1), (1, 0)),
  ],
)
def test_max_pool_equals_flaxs(shape, window, strides, padding):
  # All negative, so that a pad of zero instead of -inf would be the maximum.
  x = -1.0 - jnp.abs(_normal(*shape))
  pads = [(pad, pad) for pad in padding or (0,) * len(window)]

  def squares(x, pool):
    y = pool(x)
    return (y**2).sum(), y

  @jax.jit
  def both(x):
    ours = functools.partial(
      layers.max_pool, window=window, strides=strides, padding=padding
    )
    theirs = functools.partial(
      nn.max_pool, window_shape=window, strides=strides, padding=pads
    )
    grad = jax.grad(squares, has_aux=True)
    return grad(x, ours), grad(x, theirs)

  (got_grad, got), (want_grad, want) = both(x)
  assert np.array_equal(got, want)
  np.testing.assert_allclose(got_grad, want_grad, rtol=1e-6)


def test_max_pool_refuses_wrong_axes_and_windows():
  with pytest.raises(ValueError, match="1 axes"):
    layers.max_pool(_normal(1, 4, 2), (2, 2), (2, 2))
  with pytest.raises(ValueError, match="exceeds"):
    layers.max_pool(_normal(1, 2, 2), (3,), (1,))


@pytest.fixture
def without_onednn(monkeypatch):
  """What is computed where the extra is not installed."""
  monkeypatch.setattr(library, "ready", lambda: False)


@pytest.mark.parametrize(
  ("kernel", "channels", "features"),
  [
    (3, 3, 4),
    (5, 1, 4),
    (1, 3, 4),
    (1, 8, 4),
    (3, 8, 17),
    # Two columns at a time.
    (3, 8, 4),
    (5, 6, 16),
  ],
)
def test_conv2d_equals_flaxs(kernel, channels, features, without_onednn):
  x = _normal(2, 7, 6, channels)
  ours = layers.Conv2D(features, kernel)
  _same_as_flax(ours, nn.Conv(features, (kernel, kernel)), x)


def test_conv2d_of_an_odd_width_equals_flaxs(without_onednn):
  _same_as_flax(layers.Conv2D(4), nn.Conv(4, (3, 3)), _normal(2, 6, 7, 8))


def test_two_columns_have_forward_and_second_derivatives(without_onednn):
  """Inversion pushes forward through convolutions; penalties pull twice."""
  x, kernel = _normal(2, 4, 6, 8), _normal(3, 3, 8, 4, seed=1)

  def plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )

  def both(conv):
    def penalty(kernel):
      pulled = jax.grad(lambda x: (conv(x, kernel) ** 3).sum())(x)
      return (pulled**2).sum()

    pushed = jax.jvp(lambda x: conv(x, kernel), (x,), (jnp.sin(x),))
    return pushed, jax.grad(penalty)(kernel) / 1e5

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
    *jax.jit(lambda: (both(convolve.conv2d), both(plain)))(),
  )


def test_accelerators_use_the_plain_convolution(without_onednn):
  x, kernel = jnp.zeros((2, 4, 6, 8)), jnp.zeros((3, 3, 8, 4))
  traced = jax.jit(convolve.conv2d).trace(x, kernel)
  for platform in ("cpu", "cuda", "tpu"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 1, "both forms are there"
    assert ("stride = [1, 2]" in text) == (platform == "cpu")


def test_doubled_conv2d_equals_conv2d_of_a_doubled_map(without_onednn):
  ours, x = layers.DoubledConv2D(4), _normal(2, 5, 4, 3)
  variables = initialised(ours, x)
  kernel, bias = variables["params"]["kernel"], _normal(4)
  variables = {"params": {"kernel": kernel, "bias": bias}}
  large = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
  want = nn.Conv(4, (3, 3)).apply(variables, large)
  got = jax.jit(ours.apply)(variables, x)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("kernel", "t"), [(1, 9), (3, 9), (5, 5), (5, 4), (17, 3), (17, 1)]
)
def test_conv1d_equals_flaxs(kernel, t):
  _same_as_flax(
    layers.Conv1D(4, kernel), nn.Conv(4, (kernel,)), _normal(2, t, 3)
  )


def _same_as_flax(ours, theirs, x):
  variables = initialised(ours, x)

  def squares(variables, x, module):
    y = module.apply(variables, x)
    return (y**2).sum(), y

  @jax.jit
  def both(variables, x):
    grad = jax.grad(squares, (0, 1), has_aux=True)
    return grad(variables, x, ours), grad(variables, x, theirs)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    *both(variables, x),
  )


def test_frame_masks_follow_lengths():
  mask = layers.frame_mask(jnp.asarray([0, 2, 3]), 3)
  assert mask.tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
  frames = jnp.arange(1, 40)
  halved = (frames + 1) // 2
  assert np.array_equal(layers.num_outputs(frames, 2), halved)
  assert np.array_equal(layers.num_outputs(frames, 4), (halved + 1) // 2)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_norm_counts_only_valid_positions(kind):
  x = 3.0 + 2.0 * _normal(2, 9, 8)
  mask = layers.frame_mask(jnp.asarray([4, 7]), 9)[..., None]
  norm = layers.Norm(kind)
  x = jnp.where(mask, x, 1e3)

  @jax.jit
  def normalise(x):
    variables = norm.init(KEY, x, True, mask)
    return norm.apply(variables, x, True, mask, mutable="batch_stats")

  y, stats = normalise(x)
  short = [np.asarray(x[0, :4]), np.asarray(x[1, :7])]
  if kind == "batch":
    together = np.concatenate(short)
    mean, var = together.mean(0), together.var(0)
    kept = stats["batch_stats"]["batch"]
    np.testing.assert_allclose(kept["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(kept["var"], 0.9 + 0.1 * var, rtol=1e-4)
    want = [(clip - mean) / np.sqrt(var + 1e-5) for clip in short]
  else:
    # Eight channels in eight groups: each of its own.
    want = [
      (clip - clip.mean(0)) / np.sqrt(clip.var(0) + 1e-5) for clip in short
    ]
  np.testing.assert_allclose(y[0, :4], want[0], atol=1e-4)
  np.testing.assert_allclose(y[1, :7], want[1], atol=1e-4)
  with pytest.raises(ValueError, match="norm must be one of"):
    layers.Norm("layer").init(KEY, x, True)
