"""Contrasts: pictures that differ in what the caption says, and exactly."""

import math
from collections import Counter

import jax
import numpy as np
import pytest

from vgsgan.data.builders.clevrgan import contrasts
from vgsgan.worlds import captions, scenes, speech
from vgsgan.worlds.attributes import ATTRIBUTES, KIND


def sampled(seed):
  return jax.device_get(scenes.sample(jax.random.key(seed), 1, 2))


def test_gap_is_what_sampling_keeps():
  scene = sampled(0)._replace(
    present=np.array([True, True]),
    size=np.array([0, 1]),
    position=np.array([[0.0, 0.0], [3.0, 4.0]], np.float32),
  )
  expected = math.hypot(3.0, 0.6 * 4.0) - 0.45 - 0.85
  assert scenes.gap(scene) == pytest.approx(expected)
  alone = scene._replace(present=np.array([True, False]))
  assert scenes.gap(alone) > 1e5
  gaps = [scenes.gap(sampled(seed)) for seed in range(40)]
  assert min(gaps) >= 0.1 - 1e-5


def having(scene):
  return Counter(
    words[getattr(scene, kind)[i]]
    for kind, words in ATTRIBUTES.items()
    for i in np.flatnonzero(scene.present)
  )


def test_changes_make_the_caption_false():
  """It says a word more often than there are objects of which it is true."""
  chosen = 0
  for seed in range(60):
    rng, scene = np.random.default_rng(seed), sampled(seed)
    things = [
      {
        kind: words[getattr(scene, kind)[i]]
        for kind, words in ATTRIBUTES.items()
      }
      for i in np.flatnonzero(scene.present)
    ]
    caption = captions.caption(rng, things)
    said = Counter(filter(None, map(captions.canonical, caption.split())))
    assert not said - having(scene)
    changes = contrasts.choose(rng, scene, caption)
    assert len(set(changes)) == len(changes) and len(changes) in (0, 4)
    assert all(n <= 2 for n in Counter(k for _, k, _ in changes).values())
    for change in changes:
      other = contrasts.edited(scene, *change)
      differ = [k for k in ATTRIBUTES if not same(scene, other, k)]
      assert differ == [tuple(ATTRIBUTES)[change[1]]]
      (lost,) = having(scene) - having(other)
      assert KIND[lost] == differ[0]
      assert said - having(other) == Counter([lost])
      assert scenes.gap(other) > 0
    chosen += bool(changes)
  assert chosen > 40


def same(one, other, name):
  return np.array_equal(getattr(one, name), getattr(other, name))


def test_contrasts_are_exact_pictures():
  kinds = Counter()
  for number in range(12):
    item = contrasts.contrast(0, 5, number, 16, 3)
    again = contrasts.contrast(0, 5, number, 16, 3)
    np.testing.assert_array_equal(item.negatives, again.negatives)
    assert (item.caption, item.voice) == (again.caption, again.voice)
    assert item.voice in speech.VOICES and len(item.picture.z) == 0
    assert item.negatives.shape == (4, 16, 16, 3)
    true = item.picture.image.astype(int)
    floor = ~item.picture.masks.any(0)
    # Far from the objects' edges, whose pixels the floor shares.
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
      floor = floor & np.roll(floor, step, axis)
    for kind, negative in zip(item.changed, item.negatives, strict=True):
      name = tuple(ATTRIBUTES)[kind]
      kinds[name] += 1
      assert np.abs(negative - true).max() > 10
      if name in ("color", "material"):
        np.testing.assert_array_equal(
          negative[floor], item.picture.image[floor]
        )
  assert set(kinds) == set(ATTRIBUTES)
  other = contrasts.contrast(1, 5, 0, 16, 3)
  first = contrasts.contrast(0, 5, 0, 16, 3)
  assert not np.array_equal(other.picture.image, first.picture.image)
