"""Layers against the library's own, towers against hand-worked figures."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgsgan.models import audio, convolve, image, layers

KEY = jax.random.key(0)


def _normal(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def _init(module, *args, **kwargs):
  """Random variables, by numpy: drawing them in JAX compiles for seconds.

  Biases and statistics are not at their trivial start either, so that a leak
  of them into padding shows.
  """
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape)
    name = path[-1].key
    if name == "kernel":
      noise *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
    elif name in ("scale", "var"):
      noise = 1.0 + 0.1 * np.abs(noise)
    else:
      noise *= 0.1
    return jnp.asarray(noise, jnp.float32)

  shapes = jax.eval_shape(lambda: module.init(KEY, *args, **kwargs))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def _abstract_count(tower, *args):
  """Parameters of a tower, without computing one of them."""
  shapes = jax.eval_shape(lambda: tower.init(KEY, *args, train=False))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def _output(tower, *args):
  shape = jax.eval_shape(
    lambda: tower.init_with_output(KEY, *args, train=False)[0]
  )
  return shape[0].shape if isinstance(shape, tuple) else shape.shape


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
def test_max_pool_is_that_of_flax(shape, window, strides, padding):
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


def test_max_pool_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match="1 axes"):
    layers.max_pool(_normal(1, 4, 2), (2, 2), (2, 2))
  with pytest.raises(ValueError, match="exceeds"):
    layers.max_pool(_normal(1, 2, 2), (3,), (1,))


@pytest.fixture
def without_onednn(monkeypatch):
  """What is computed where the extra is not installed."""
  monkeypatch.setattr(convolve.onednn_library, "ready", lambda: False)


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
def test_conv2d_is_the_convolution(kernel, channels, features, without_onednn):
  x = _normal(2, 7, 6, channels)
  ours = layers.Conv2D(features, kernel)
  _same_as_flax(ours, nn.Conv(features, (kernel, kernel)), x)


def test_conv2d_of_an_odd_width_is_the_convolution(without_onednn):
  _same_as_flax(layers.Conv2D(4), nn.Conv(4, (3, 3)), _normal(2, 6, 7, 8))


def test_two_columns_at_a_time_push_forward_and_twice_back(without_onednn):
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


def test_an_accelerator_is_given_the_plain_convolution(without_onednn):
  x, kernel = jnp.zeros((2, 4, 6, 8)), jnp.zeros((3, 3, 8, 4))
  traced = jax.jit(convolve.conv2d).trace(x, kernel)
  for platform in ("cpu", "cuda", "tpu"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 1, "both forms are there"
    assert ("stride = [1, 2]" in text) == (platform == "cpu")


def test_doubled_conv2d_is_the_convolution_of_a_doubled_map(without_onednn):
  ours, x = layers.DoubledConv2D(4), _normal(2, 5, 4, 3)
  variables = _init(ours, x)
  kernel, bias = variables["params"]["kernel"], _normal(4)
  variables = {"params": {"kernel": kernel, "bias": bias}}
  large = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
  want = nn.Conv(4, (3, 3)).apply(variables, large)
  got = jax.jit(ours.apply)(variables, x)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("kernel", "t"), [(1, 9), (3, 9), (5, 5), (5, 4), (17, 3), (17, 1)]
)
def test_conv1d_is_the_convolution(kernel, t):
  _same_as_flax(
    layers.Conv1D(4, kernel), nn.Conv(4, (kernel,)), _normal(2, t, 3)
  )


def _same_as_flax(ours, theirs, x):
  variables = _init(ours, x)

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


def test_masks_and_lengths():
  mask = layers.frame_mask(jnp.asarray([0, 2, 3]), 3)
  assert mask.tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
  frames = jnp.arange(1, 40)
  halved = (frames + 1) // 2
  assert np.array_equal(layers.num_outputs(frames, 2), halved)
  assert np.array_equal(layers.num_outputs(frames, 4), (halved + 1) // 2)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_norm_counts_valid_positions_alone(kind):
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


def test_speech_parameters_by_hand():
  features, frames = jnp.zeros((1, 64, 40)), jnp.ones(1, int)
  start = 2 + (40 * 128 + 128) + (11 * 128 * 256 + 256)
  step = 17 * 512 * 512 + 512
  third = 17 * 256 * 512 + 512
  dave = start + third + step + (17 * 512 * 1024 + 1024)
  assert dave == 15_965_570
  assert _abstract_count(audio.davenet(), features, frames) == dave
  large = audio.large(512)
  assert _abstract_count(large, features, frames) == start + third + 5 * step
  quarter = audio.davenet(256, 0.25)
  assert quarter.widths == (32, 64, 128, 128, 256)


@pytest.mark.parametrize(
  ("make", "outputs", "field"),
  [(audio.davenet, 128, 265), (audio.large, 32, 2153), (audio.small, 256, 249)],
)
def test_speech_strides_and_receptive_fields(make, outputs, field):
  tower = make(32, 0.0625)
  args = jnp.zeros((2, 2048, 40)), jnp.ones(2, int)
  assert _output(tower, *args) == (2, outputs, 32)
  assert tower.stride == 2048 // outputs
  assert audio.receptive_field(tower.kernels, tower.pools) == field


@pytest.mark.parametrize(
  "tower",
  [
    audio.large(8, 0.0625),
    # Ends in a pool without ReLU: zeros would beat negative frames.
    audio.SpeechTower(
      (4, 8, 8), (1, 11, 17), (False, True, True), False, norm="batch"
    ),
    audio.SpeechTower((4, 8, 8), (1, 11, 17), (True,) * 3, norm="group"),
  ],
)
def test_padding_reaches_no_valid_output(tower):
  features = 20.0 * _normal(3, 150, 40) - 40.0
  variables = _init(tower, features, jnp.full(3, 150), train=True)

  @jax.jit
  def embed(features, frames):
    return tower.apply(
      variables, features, frames, train=True, mutable="batch_stats"
    )

  for lengths in np.random.default_rng(0).integers(1, 150, (4, 3)):
    frames = jnp.asarray(lengths)
    mask = layers.frame_mask(frames, 150)[..., None]
    far = jnp.pad(jnp.where(mask, features, 0.0), ((0, 0), (0, 51), (0, 0)))
    far_mask = layers.frame_mask(frames, 201)[..., None]
    (near, valid), stats = embed(jnp.where(mask, features, jnp.nan), frames)
    (long, far_valid), far_stats = embed(jnp.where(far_mask, far, 1e4), frames)
    assert valid.tolist() == far_valid.tolist()
    assert valid.tolist() == [-(-n // tower.stride) for n in lengths]
    np.testing.assert_allclose(long[:, : near.shape[1]], near, atol=1e-4)
    assert not np.any(long[:, near.shape[1] :])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
      stats,
      far_stats,
    )


def test_clip_alone_is_the_clip_in_a_batch():
  tower = audio.SpeechTower((4, 8, 8), (1, 11, 17), (True, True, True))
  features = _normal(2, 120, 40)
  variables = _init(tower, features, jnp.full(2, 120), train=True)
  frames = jnp.asarray([37, 120])
  embed = jax.jit(lambda *args: tower.apply(variables, *args, train=False))
  both, valid = embed(features, frames)
  alone, _ = embed(features[:1, :37], frames[:1])
  assert alone.shape[1] == int(valid[0]) == 5
  np.testing.assert_allclose(both[0, :5], alone[0], atol=1e-5)


def test_input_norm_has_one_mean_over_valid_frames_and_bands():
  tower = audio.SpeechTower((4,), (1,), (False,))
  features = 20.0 * _normal(2, 30, 40) - 40.0
  frames = jnp.asarray([11, 25])

  @jax.jit
  def statistics():
    variables = tower.init(KEY, features, frames, train=True)
    return tower.apply(
      variables, features, frames, train=True, mutable="batch_stats"
    )[1]

  stats = statistics()
  stats = stats["batch_stats"]["input_norm"]["batch"]
  valid = np.concatenate([features[0, :11], features[1, :25]])
  assert stats["mean"].shape == (1,)
  np.testing.assert_allclose(stats["mean"], [0.1 * valid.mean()], rtol=1e-4)
  np.testing.assert_allclose(stats["var"], [0.9 + 0.1 * valid.var()], rtol=1e-4)


def test_impossible_speech_towers_are_refused():
  args = jnp.zeros((1, 8, 4)), jnp.ones(1, int)
  with pytest.raises(ValueError, match="one width, kernel and pool"):
    audio.SpeechTower((4, 4), (1,), (False,)).init(KEY, *args, train=True)
  with pytest.raises(ValueError, match="odd"):
    audio.SpeechTower((4,), (4,), (False,)).init(KEY, *args, train=True)


def test_vgg_parameters_by_hand():
  # torchvision's vgg16().features: 14,714,688; then 3 x 3 x 512 x 1024 + 1024.
  pixels = jnp.zeros((1, 64, 64, 3))
  count = _abstract_count(image.Vgg(1024), pixels)
  assert count == 14_714_688 + 9 * 512 * 1024 + 1024


def test_resnet_parameters_by_hand():
  tower = image.ResNet(32, (8, 16), (1, 2), (1, 2))
  stem = 12 * 9 * 8 + 16
  first = 2 * (8 * 9 * 8 + 16)
  second = 8 * 9 * 16 + 16 * 9 * 16 + 2 * 32 + (8 * 16 + 32)
  third = 2 * (16 * 9 * 16 + 32)
  count = _abstract_count(tower, jnp.zeros((1, 64, 64, 3)))
  assert count == stem + first + second + third + 16 * 32 + 32


@pytest.mark.parametrize(("size", "cells"), [(64, 4), (128, 8), (224, 14)])
def test_image_maps(size, cells):
  pixels = jnp.zeros((2, size, size, 3))
  assert _output(image.Vgg(16, 0.125), pixels) == (2, cells, cells, 16)
  four = image.ResNet(16, (8,) * 4)
  assert _output(four, pixels) == (2, cells, cells, 16)
  eight = image.ResNet(16, (8,) * 4, strides=(1, 2, 2, 1))
  assert _output(eight, pixels) == (2, 2 * cells, 2 * cells, 16)
  assert (four.stride, eight.stride) == (16, 8)


@pytest.mark.parametrize("size", [48, 100])
def test_images_of_other_sizes_are_refused(size):
  pixels = jnp.zeros((1, size, size, 3))
  for tower in (image.Vgg(8, 0.125), image.ResNet(8, (8,) * 4)):
    with pytest.raises(ValueError, match="multiples of 32"):
      tower.init(KEY, pixels, train=True)


def test_impossible_resnets_are_refused():
  pixels = jnp.zeros((1, 64, 64, 3))
  for fields, message in (
    ({"blocks": (1,)}, "one width, depth"),
    ({"strides": (1, 3, 2, 2)}, "1 or 2"),
    ({"norm": "none"}, "'batch' or 'group'"),
  ):
    with pytest.raises(ValueError, match=message):
      image.ResNet(8, **fields).init(KEY, pixels, train=True)


@pytest.mark.parametrize(
  "make",
  [
    lambda **fields: image.Vgg(8, 0.0625, **fields),
    lambda **fields: image.ResNet(8, (8,), (1,), (2,), **fields),
  ],
  ids=["vgg", "resnet"],
)
def test_final_relu_is_where_it_is_asked_for(make):
  pixels = _normal(2, 64, 64, 3)
  variables = _init(make(), pixels, train=True)

  @jax.jit
  def embed(pixels):
    return [
      make(final_relu=relu).apply(variables, pixels, train=False)
      for relu in (False, True)
    ]

  bare, relu = embed(pixels)
  assert (bare < 0).any()
  np.testing.assert_allclose(relu, nn.relu(bare), rtol=1e-6)


def test_folding_keeps_each_square_together():
  x = jnp.arange(16).reshape(1, 4, 4, 1).astype(jnp.float32)
  got = image.space_to_depth(x)
  assert got[0, 0, 1].tolist() == [2, 3, 6, 7]


def _step(tower):
  def loss(variables, *args):
    stats = {"batch_stats": variables.get("batch_stats", {})}

    def inner(params):
      y, stats_out = tower.apply(
        {"params": params, **stats}, *args, train=True, mutable="batch_stats"
      )
      first = y[0] if isinstance(y, tuple) else y
      return (first**2).mean(), (y, stats_out)

    return jax.value_and_grad(inner, has_aux=True)(variables["params"])

  return loss


@pytest.mark.parametrize(
  ("tower", "shape"),
  [
    (
      audio.SpeechTower(
        (4, 8, 8), (1, 11, 17), (False, True, True), norm="batch"
      ),
      (16, 64, 40),
    ),
    (image.ResNet(8, (8, 16), (1, 1), (2, 2)), (16, 64, 64, 3)),
  ],
  ids=["speech", "resnet"],
)
def test_eight_devices_do_as_one(tower, shape):
  args = [_normal(*shape)]
  if len(shape) == 3:
    args.append(jnp.arange(1, 65, 4))
  variables = _init(tower, *args, train=True)
  step = jax.jit(_step(tower))
  one = step(variables, *args)
  mesh = Mesh(np.array(jax.devices()), ("data",))
  across = NamedSharding(mesh, PartitionSpec("data"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  eight = step(
    jax.device_put(variables, everywhere),
    *(jax.device_put(arg, across) for arg in args),
  )
  assert len(jax.tree.leaves(eight[0][1][0])[0].sharding.device_set) == 8
  assert jax.tree.leaves(one[0][1][1])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    one,
    eight,
  )
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(eight))


def test_half_precision_keeps_parameters_and_statistics_whole():
  pixels = _normal(1, 64, 64, 3)
  features = _normal(1, 64, 40), jnp.asarray([50])
  for tower, args in (
    (image.ResNet(8, (8, 8), (1, 1), (2, 2), dtype=jnp.bfloat16), (pixels,)),
    (image.Vgg(8, 0.0625, norm="group", dtype=jnp.bfloat16), (pixels,)),
    (audio.davenet(8, 0.0625, norm="batch", dtype=jnp.bfloat16), features),
  ):
    y, variables = jax.eval_shape(
      lambda tower=tower, args=args: tower.init_with_output(
        KEY, *args, train=True
      )
    )
    y = y[0] if isinstance(y, tuple) else y
    assert y.dtype == jnp.bfloat16
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
