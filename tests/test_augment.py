"""Augmentation: what it may change, what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from vgsgan.data import augment

KEY = jax.random.key(0)


def test_shift_moves_images_by_whole_pixels():
  rng = np.random.default_rng(0)
  images = np.full((16, 12, 12, 3), 7.0, np.float32)
  images[:, 4:8, 4:8] = rng.random((16, 4, 4, 3))
  moved = np.asarray(
    augment.shift_and_flip(KEY, jnp.asarray(images), pixels=3, flip=False)
  )
  seen = set()
  for before, after in zip(images, moved, strict=True):
    y, x = np.argwhere((after != 7).any(-1)).min(0)
    seen.add((y, x))
    np.testing.assert_array_equal(after[y : y + 4, x : x + 4], before[4:8, 4:8])
    assert abs(y - 4) <= 3 and abs(x - 4) <= 3
  assert len(seen) > 5


def test_flip_mirrors_some_images_and_changes_no_others():
  images = jax.random.uniform(KEY, (64, 4, 4, 3))
  out = np.asarray(augment.shift_and_flip(KEY, images, pixels=0, flip=True))
  images = np.asarray(images)
  same = [np.array_equal(a, b) for a, b in zip(out, images, strict=True)]
  mirrored = [
    np.array_equal(a, b[:, ::-1]) for a, b in zip(out, images, strict=True)
  ]
  assert all(a != b for a, b in zip(same, mirrored, strict=True))
  assert 16 < sum(mirrored) < 48


def test_masks_hide_one_band_each_inside_the_clip_and_fill_with_its_mean():
  features = jax.random.normal(KEY, (32, 50, 20))
  num_frames = jnp.arange(19, 51)
  out = augment.mask_bands(KEY, features, num_frames, 0.3, 5)
  changed = np.asarray(out != features)
  for row, n in enumerate(np.asarray(num_frames)):
    assert not changed[row, n:].any()
    inside = changed[row, :n]
    times, bands = inside.all(1), inside.all(0)
    np.testing.assert_array_equal(inside, times[:, None] | bands)
    assert times.sum() <= 0.3 * n + 1 and bands.sum() <= 6
    for hidden in (times, bands):
      assert np.abs(np.diff(np.pad(hidden.astype(int), 1))).sum() <= 2
    if inside.any():
      fill = np.unique(np.asarray(out)[row, :n][inside])
      mean = np.asarray(features)[row, :n].mean()
      np.testing.assert_allclose(fill, mean, atol=1e-5)
  assert changed.any()


def test_no_stretch_is_the_identity():
  features = jax.random.normal(KEY, (3, 40, 10))
  num_frames = jnp.array([40, 17, 1])
  out, frames = augment.stretch(KEY, features, num_frames, 0.0, 0.0)
  np.testing.assert_array_equal(frames, num_frames)
  for row, n in enumerate((40, 17, 1)):
    np.testing.assert_allclose(out[row, :n], features[row, :n], atol=1e-6)


def test_stretch_scales_the_length_and_keeps_a_ramp_a_ramp():
  t, f, n = 100, 8, 60
  ramp = jnp.arange(t, dtype=jnp.float32)[None, :, None]
  features = jnp.broadcast_to(ramp, (64, t, f))
  out, frames = augment.stretch(KEY, features, jnp.full(64, n), 0.25, 0.2)
  factors = []
  for row in range(64):
    last = int(frames[row]) - 1
    slope = float(out[row, last, 0]) / last
    expected = np.arange(last + 1) * slope
    np.testing.assert_allclose(out[row, : last + 1, 3], expected, atol=1e-2)
    factors.append(1 / slope)
    assert last == pytest.approx(factors[-1] * (n - 1), abs=1.01)
  assert 0.74 < min(factors) < 0.9 and 1.1 < max(factors) < 1.26


def test_a_longer_vocal_tract_moves_a_formant():
  features = jnp.zeros((64, 10, 40)).at[:, :, 20].set(1.0)
  out, _ = augment.stretch(KEY, features, jnp.full(64, 10), 0.0, 0.2)
  peaks = np.asarray(out[:, 5]).argmax(1)
  assert 16 <= peaks.min() < 19 and 21 < peaks.max() <= 25


def test_shifts_reach_every_offset_of_both_axes():
  image = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
  images = jnp.broadcast_to(image, (600, 9, 9, 1))
  moved = np.asarray(augment.shift_and_flip(KEY, images, pixels=2, flip=False))
  offsets = np.argwhere(moved[..., 0])[:, 1:] - 4
  counts = np.zeros((5, 5), int)
  np.add.at(counts, tuple((offsets + 2).T), 1)
  # 24 of each of 25 are expected, 4.8 is the deviation.
  assert counts.sum() == 600 and counts.min() > 4 and counts.max() < 48


def test_hidden_stretches_and_bands_are_independent():
  b, t, f = 2000, 40, 40
  out = augment.mask_bands(
    KEY, jnp.ones((b, t, f)).at[:, :, ::2].set(3.0), jnp.full(b, t), 0.5, 20
  )
  hidden = np.asarray(out) == 2.0
  in_time, in_mel = hidden.all(2), hidden.all(1)
  widths = in_time.sum(1), in_mel.sum(1)
  assert abs(np.corrcoef(*widths)[0, 1]) < 0.1
  both = (widths[0] > 0) & (widths[1] > 0)
  starts = [hide.argmax(1)[both] for hide in (in_time, in_mel)]
  assert abs(np.corrcoef(*starts)[0, 1]) < 0.1
  # Widths are uniform up to the widest.
  for width in widths:
    assert width.mean() == pytest.approx(10, abs=0.5)
    assert width.max() in (20, 21)


def test_degrade_mixes_in_a_share_of_the_binomial_blur():
  images = jax.random.uniform(KEY, (50, 6, 7, 3))
  out = np.asarray(augment.degrade(KEY, images, 0.8, 0.0, 0.0))
  images = np.asarray(images)
  kernel = np.array([1.0, 2.0, 1.0]) / 4
  soft = images
  for axis in (1, 2):
    soft = scipy.ndimage.convolve1d(soft, kernel, axis, mode="nearest")
  towards, moved = (x.reshape(50, -1) for x in (soft - images, out - images))
  shares = (towards * moved).sum(1) / (towards**2).sum(1)
  np.testing.assert_allclose(moved, shares[:, None] * towards, atol=1e-6)
  assert 0 <= shares.min() < 0.1 and 0.7 < shares.max() <= 0.8
