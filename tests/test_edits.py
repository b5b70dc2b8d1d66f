"""Edits against labelled components, true ablations and other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import NamedSharding, PartitionSpec

from vgsgan.negatives import edits

KEY = jax.random.key(3)
SHARES = (0.95, 0.5, 0.2)

# ------------------------------------------------------------------- where


def _component(heat, share):
  """The labelled component of the peak."""
  top = np.unravel_index(np.argmax(heat), heat.shape)
  hot = heat > share * heat[top] if heat[top] > 0 else np.zeros_like(heat)
  labels, _ = scipy.ndimage.label(hot, np.ones((3, 3)))
  expected = (labels == labels[top]) & (labels > 0)
  expected[top] = True
  return expected


@pytest.mark.parametrize("share", SHARES)
def test_region_is_the_component_of_the_peak(share):
  rng = np.random.default_rng(0)
  maps = rng.random((300, 9, 7)).astype(np.float32)
  maps[100:200] = scipy.ndimage.gaussian_filter(maps[100:200], (0, 1.5, 1.5))
  maps[200:] -= rng.random((100, 1, 1)) * 2  # Partly or wholly below 0.
  maps[200:250] = np.round(maps[200:250], 1)  # Ties.
  got = jax.jit(edits.region)(maps, share)
  for heat, mask in zip(maps, np.asarray(got), strict=True):
    np.testing.assert_array_equal(mask, _component(heat, np.float32(share)))


def test_region_follows_a_winding_path():
  path = np.zeros((7, 7))
  path[::2] = 1
  path[1, 6] = path[3, 0] = path[5, 6] = 1
  path[0, 0] = 2
  got = edits.region(jnp.asarray(path[None], jnp.float32), 0.4)
  # Corners connect: also round the bends.
  np.testing.assert_array_equal(got[0], path > 0)


def test_region_handles_flat_and_nan_maps():
  nan = np.nan
  maps = np.array(
    [
      [[1, nan, 0.9], [nan, nan, 0.8]],  # NaN separates.
      [[nan, nan, nan], [nan, nan, nan]],
      [[-1, -2, -3], [-1.01, -4, -5]],
      [[0, 0, 0], [0, 0, 0]],
      [[1, np.inf, 1], [1, 1, 1]],
    ],
    np.float32,
  )
  got = np.asarray(edits.region(jnp.asarray(maps), 0.5))
  peaks = np.zeros((5, 2, 3), bool)
  peaks[[0, 1, 2, 3, 4], 0, [0, 0, 0, 0, 1]] = True
  np.testing.assert_array_equal(got, peaks)


def test_peak_is_the_best_valid_place():
  rng = np.random.default_rng(1)
  maps = rng.normal(size=(20, 3, 4, 5)).astype(np.float32)
  valid = np.arange(5) < rng.integers(1, 6, 20)[:, None]
  maps[~np.broadcast_to(valid[:, None, None], maps.shape)] = np.nan
  maps[0, 1, 1] = np.nan
  got = edits.peak(jnp.asarray(maps), jnp.asarray(valid))
  for i, kept in enumerate(valid):
    clean = np.where(np.isnan(maps[i]), -np.inf, maps[i])[..., kept]
    np.testing.assert_array_equal(got.heat[i], clean.max(-1))
    best = np.unravel_index(np.argmax(clean), clean.shape)
    assert (got.row[i], got.column[i], got.frame[i]) == best
  silent = edits.peak(jnp.asarray(maps), jnp.zeros_like(valid))
  assert not np.any(silent.heat) and not np.any(silent.row + silent.frame)


def test_resize_keeps_overlapping_cells():
  rng = np.random.default_rng(2)
  mask = jnp.asarray(rng.random((10, 4, 6)) < 0.2)
  up = edits.resize(mask, 8, 18)
  np.testing.assert_array_equal(up, np.repeat(np.repeat(mask, 2, 1), 3, 2))
  np.testing.assert_array_equal(edits.resize(up, 4, 6), mask)
  np.testing.assert_array_equal(edits.resize(mask, 4, 6), mask)
  pooled = np.asarray(mask).reshape(10, 2, 2, 2, 3).any((2, 4))
  np.testing.assert_array_equal(edits.resize(mask, 2, 2), pooled)
  # Any size: never lost, and every touched cell touched.
  for cell in range(24):
    one = jnp.zeros(24, bool).at[cell].set(True).reshape(1, 4, 6)
    for h, w in ((1, 1), (3, 5), (7, 7), (5, 2)):
      there = edits.resize(one, h, w)
      assert np.any(there)
      assert edits.resize(there, 4, 6)[0, cell // 6, cell % 6]


# ------------------------------------------------------------- which units


def test_keep_mask_is_0_at_chosen_units_in_the_region():
  units = jnp.array([[1.0, 0.0], [0.0, 0.0]])
  where = jnp.array([[[True, False]], [[True, True]]])
  expected = np.ones((2, 1, 2, 2))
  expected[0, 0, 0, 0] = 0
  np.testing.assert_array_equal(edits.keep_mask(units, where), expected)


def test_top_units_are_the_highest_ranked():
  scores = jnp.array([[0.0, 3.0, 1.0, 3.0], [np.nan, -5.0, -1.0, -1.0]])
  assert edits.top_units(scores, 1).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
  assert edits.top_units(scores, 3).tolist() == [[0, 1, 1, 1], [0, 1, 1, 1]]
  assert edits.top_units(scores, 9).tolist() == [[1] * 4] * 2


def _linear_world(rng, b=3):
  """Pictures and scores that are linear in the activations of two layers."""
  sizes = {"low": (4, 4, 6), "high": (8, 8, 5)}
  weights = {n: rng.normal(size=s).astype("f4") for n, s in sizes.items()}
  acts = {n: rng.normal(size=(b, *s)).astype("f4") for n, s in sizes.items()}

  def score(keep):
    parts = [
      jnp.sum(keep.get(n, 1.0) * acts[n] * weights[n], axis=(1, 2, 3))
      for n in sizes
    ]
    return sum(parts)

  return score, {n: (b, *s) for n, s in sizes.items()}


def test_attribution_is_the_true_fall_of_a_linear_score():
  score, shapes = _linear_world(np.random.default_rng(4))
  where = jnp.asarray(np.random.default_rng(5).random((3, 8, 8)) < 0.3)
  falls = edits.unit_attributions(score, shapes, where)
  assert set(falls) == set(shapes)
  for name, (b, h, w, c) in shapes.items():
    inside = edits.resize(where, h, w)
    for unit in range(c):
      one = jnp.broadcast_to(jnp.arange(c) == unit, (b, c)).astype(float)
      after = score({name: edits.keep_mask(one, inside)})
      np.testing.assert_allclose(
        falls[name][:, unit], score({}) - after, atol=1e-4
      )


def _drawn_world(b, seed=0, c=24):
  """A small nonlinear convolutional generator with one editable layer."""
  keys = jax.random.split(jax.random.key(seed), 5)
  first = jax.random.normal(keys[0], (10, 4 * 4 * c)) / 3
  conv = jax.random.normal(keys[1], (3, 3, c, c)) / np.sqrt(9 * c)
  last = jax.random.normal(keys[2], (3, 3, c, 3)) / np.sqrt(9 * c)
  scorer = jax.random.normal(keys[3], (b, 16, 16, 3))
  z = jax.random.normal(keys[4], (b, 10))

  def convolve(x, kernel):
    x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )

  def draw(z, keep):
    x = jax.nn.relu((z @ first).reshape(-1, 4, 4, c))
    x = jax.nn.relu(convolve(x, conv)) * keep.get("middle", 1.0)
    return jnp.tanh(convolve(x, last))

  score = lambda images: jnp.mean(images * scorer, axis=(1, 2, 3))  # noqa: E731
  return draw, score, z, {"middle": (b, 8, 8, c)}


def test_attributed_units_lower_the_score_more_than_random_ones():
  b, c, count = 16, 24, 6
  draw, score, z, shapes = _drawn_world(b)
  heat = jax.random.uniform(KEY, (b, 8, 8))
  where = edits.region(heat, 0.4)
  of_keep = lambda keep: score(draw(z, keep))  # noqa: E731
  falls = edits.unit_attributions(of_keep, shapes, where)["middle"]

  # Against differences, for some units.
  for unit in (0, 7):
    one = jnp.broadcast_to(jnp.arange(c) == unit, (b, c)).astype(float)
    little = 1 - 1e-2 * (1 - edits.keep_mask(one, where))
    slope = (of_keep({}) - of_keep({"middle": little})) / 1e-2
    np.testing.assert_allclose(falls[:, unit], slope, rtol=0.1, atol=2e-4)

  def fall(units):
    keep = {"middle": edits.keep_mask(units, where)}
    return np.asarray(of_keep({}) - of_keep(keep))

  attributed = fall(edits.top_units(falls, count))
  randoms = np.stack(
    [
      fall(edits.top_units(jax.random.uniform(key, (b, c)), count))
      for key in jax.random.split(KEY, 20)
    ]
  )
  assert np.all(attributed > 0)
  assert np.all(attributed > randoms.mean(axis=0) + randoms.std(axis=0))
  assert np.mean(attributed > randoms) > 0.98


# -------------------------------------------------------------- how strong


def test_published_attempts_grow_as_in_the_paper():
  attempts = edits.published_attempts(3, 140)
  assert attempts.counts == (140, 180, 220)
  assert attempts.changes == (0.95, 0.9, 0.85)
  assert attempts.shares == (0.95, 0.85, 0.75)
  assert edits.published_attempts(10).shares[-1] == 0.05
  for rungs in (0, 11):
    with pytest.raises(ValueError, match="1 to 10"):
      edits.published_attempts(rungs)


def test_change_is_relative_to_the_image_in_the_region():
  image = np.ones((4, 4, 4, 3), np.float32)
  image[2:] = 0
  edited = image.copy()
  edited[0, :2, :2] = 3  # The region.
  edited[1, 2:] = 9  # Outside.
  edited[3] = 1
  where = np.zeros((4, 2, 2), bool)
  where[:, 0, 0] = True
  got = edits.change(*map(jnp.asarray, (edited, image, where)))
  np.testing.assert_allclose(got[:3], [2, 0, 0])
  assert np.isfinite(got[3]) and got[3] > 1
  # Half of a region's energy.
  edited[0, 0, :2] = 1
  got = edits.change(*map(jnp.asarray, (edited, image, where)))
  np.testing.assert_allclose(got[0], np.sqrt(2), rtol=1e-6)


def test_first_sufficient_is_the_weakest_that_changes_enough():
  changes = jnp.array(
    [[0.9, 0.1, 0.1, np.nan], [0.2, 0.5, 0.2, 0.9], [0.9, 0.9, 0.3, np.nan]]
  )
  rung, weight = edits.first_sufficient(changes, 0.5)
  assert rung.tolist() == [0, 1, 0, 1] and weight.tolist() == [1, 1, 0, 1]
  falling = jnp.array([0.95, 0.6, 0.3])
  rung, weight = edits.first_sufficient(changes, falling)
  assert rung.tolist() == [2, 2, 2, 1] and weight.tolist() == [1, 1, 1, 1]
  stack = jnp.arange(24.0).reshape(3, 4, 2)
  taken = edits.take(stack, rung)
  np.testing.assert_array_equal(taken, stack[rung, jnp.arange(4)])
  np.testing.assert_allclose(edits.take(changes, rung), [0.9, 0.9, 0.3, 0.9])


# ------------------------------------------------------------------ latents


def test_chunk_move_changes_one_chunk():
  z = jax.random.normal(KEY, (2000, 12))
  moved = np.asarray(edits.chunk_move(jax.random.key(5), z, 4, 0.6))
  touched = (moved != z).reshape(2000, 3, 4)
  assert np.all(touched.any(2) == touched.all(2))
  assert np.all(touched.any(2).sum(1) == 1)
  np.testing.assert_allclose(touched.any(2).mean(0), 1 / 3, atol=0.05)
  there = touched.reshape(2000, 12)
  old, new = np.asarray(z)[there], moved[there]
  np.testing.assert_allclose(new.std(), 1, atol=0.03)
  np.testing.assert_allclose(np.corrcoef(old, new)[0, 1], 0.8, atol=0.02)
  with pytest.raises(ValueError, match="z of 12 cannot be cut in chunks of 5"):
    edits.chunk_move(KEY, z, 5, 1.0)


def test_gaussian_move_has_the_deviation_asked_for():
  z = jnp.ones((500, 8))
  moved = np.asarray(edits.gaussian_move(KEY, z, 0.3)) - 1
  np.testing.assert_allclose(moved.std(), 0.3, rtol=0.05)
  np.testing.assert_allclose(moved.mean(), 0, atol=0.02)


def test_sefa_directions_are_singular_vectors():
  rng = np.random.default_rng(6)
  weight = rng.normal(size=(30, 6)) * [6, 5, 3, 2, 1, 0.5]
  weight[4] = 0  # An output that reads nothing.
  rows = np.delete(weight, 4, axis=0)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  _, singular, vectors = np.linalg.svd(rows)
  directions, values = edits.sefa(jnp.asarray(weight, jnp.float32), 4)
  np.testing.assert_allclose(values, singular[:4] ** 2, rtol=1e-4)
  np.testing.assert_allclose(
    np.abs(np.sum(directions * vectors[:4], axis=1)), 1, atol=1e-4
  )


def test_direction_move_follows_one_signed_direction():
  z = jax.random.normal(KEY, (600, 6))
  directions = jnp.eye(6)[:3]
  step = np.asarray(edits.direction_move(KEY, z, directions, 2.0) - z)
  np.testing.assert_allclose(np.abs(step).sum(1), 2, rtol=1e-5)
  counts = [np.sum(step[:, i].round() == s) for i in range(6) for s in (-2, 2)]
  assert min(counts[:6]) > 60 and not any(counts[6:])


# ------------------------------------------------------------ many devices


def _everything(key, z, heat):
  """An edit of each kind, as a step makes it."""
  draw, score, _, shapes = _drawn_world(len(z))
  image = draw(z, {})
  attempts = edits.Attempts((4, 8, 12), (0.9, 0.4, 0.2), (0.9, 0.6, 0.3))
  pictures, changes = [], []
  for count, share in zip(attempts.counts, attempts.shares, strict=True):
    where = edits.region(heat, share)
    falls = edits.unit_attributions(
      lambda keep: score(draw(z, keep)), shapes, where
    )
    units = edits.top_units(falls["middle"], count)
    pictures.append(draw(z, {"middle": edits.keep_mask(units, where)}))
    changes.append(edits.change(pictures[-1], image, where))
  rung, weight = edits.first_sufficient(
    jnp.stack(changes), jnp.array(attempts.changes)
  )
  return {
    "picture": edits.take(jnp.stack(pictures), rung),
    "rung": rung,
    "weight": weight,
    "gaussian": edits.gaussian_move(key, z, 0.5) - z,
    "chunk": edits.chunk_move(key, z, 2, 1.0),
    "direction": edits.direction_move(key, z, jnp.eye(10), 1.0) - z,
  }


def test_edits_are_equal_on_1_and_8_devices():
  z = jax.random.normal(KEY, (16, 10))
  heat = jax.random.uniform(jax.random.key(1), (16, 8, 8))
  run = jax.jit(_everything)
  results = []
  for n in (1, 8):
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((n,), ("data",), auto, devices=jax.devices()[:n])
    split = NamedSharding(mesh, PartitionSpec("data"))
    results.append(jax.device_get(run(KEY, *jax.device_put((z, heat), split))))
  one, many = results
  for name, value in one.items():
    np.testing.assert_allclose(value, many[name], atol=2e-6, err_msg=name)
  assert len(np.unique(one["gaussian"], axis=0)) == 16
  assert len(np.unique(one["direction"].round(3), axis=0)) > 4
  # Some edits in it are weak, some strong, and some not enough.
  assert len(np.unique(one["rung"])) > 1 and 0 < one["weight"].mean()
