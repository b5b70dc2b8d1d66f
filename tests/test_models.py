"""Towers against hand-worked figures, and on many devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.filling import initialised
from vgsgan.models import audio, image, layers

KEY = jax.random.key(0)


def _normal(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def _abstract_count(tower, *args):
  """Parameters of a tower, without computing one of them."""
  shapes = jax.eval_shape(lambda: tower.init(KEY, *args, train=False))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def _output(tower, *args):
  shape = jax.eval_shape(
    lambda: tower.init_with_output(KEY, *args, train=False)[0]
  )
  return shape[0].shape if isinstance(shape, tuple) else shape.shape


def test_speech_towers_have_the_parameters_counted_by_hand():
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
def test_padding_changes_no_valid_output(tower):
  features = 20.0 * _normal(3, 150, 40) - 40.0
  variables = initialised(tower, features, jnp.full(3, 150), train=True)

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


def test_a_clip_is_embedded_alone_as_in_a_batch():
  tower = audio.SpeechTower((4, 8, 8), (1, 11, 17), (True, True, True))
  features = _normal(2, 120, 40)
  variables = initialised(tower, features, jnp.full(2, 120), train=True)
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


def test_vgg_has_the_parameters_counted_by_hand():
  # torchvision's vgg16().features: 14,714,688; then 3 x 3 x 512 x 1024 + 1024.
  pixels = jnp.zeros((1, 64, 64, 3))
  count = _abstract_count(image.Vgg(1024), pixels)
  assert count == 14_714_688 + 9 * 512 * 1024 + 1024


def test_resnet_has_the_parameters_counted_by_hand():
  tower = image.ResNet(32, (8, 16), (1, 2), (1, 2))
  stem = 12 * 9 * 8 + 16
  first = 2 * (8 * 9 * 8 + 16)
  second = 8 * 9 * 16 + 16 * 9 * 16 + 2 * 32 + (8 * 16 + 32)
  third = 2 * (16 * 9 * 16 + 32)
  count = _abstract_count(tower, jnp.zeros((1, 64, 64, 3)))
  assert count == stem + first + second + third + 16 * 32 + 32


@pytest.mark.parametrize(("size", "cells"), [(64, 4), (128, 8), (224, 14)])
def test_image_towers_give_maps_of_their_stride(size, cells):
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
def test_final_relu_follows_its_field(make):
  pixels = _normal(2, 64, 64, 3)
  variables = initialised(make(), pixels, train=True)

  @jax.jit
  def embed(pixels):
    return [
      make(final_relu=relu).apply(variables, pixels, train=False)
      for relu in (False, True)
    ]

  bare, relu = embed(pixels)
  assert (bare < 0).any()
  np.testing.assert_allclose(relu, nn.relu(bare), rtol=1e-6)


def test_space_to_depth_keeps_squares_together():
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
def test_towers_are_equal_on_1_and_8_devices(tower, shape):
  args = [_normal(*shape)]
  if len(shape) == 3:
    args.append(jnp.arange(1, 65, 4))
  variables = initialised(tower, *args, train=True)
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


def test_half_precision_keeps_parameters_and_statistics_in_float32():
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
