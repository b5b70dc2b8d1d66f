"""Concepts against planted ones and other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
from sklearn.cluster import AgglomerativeClustering

from vgsgan.negatives import concepts, edits


def _planted(seed=0, n=3000, sizes=(9, 6, 4, 3), alone=5, dead=4):
  """Points in which groups of dimensions fire together, and their groups."""
  rng = np.random.default_rng(seed)
  width = sum(sizes) + alone + dead
  points = np.maximum(rng.normal(size=(n, width)), 0).astype(np.float32)
  dims = rng.permutation(width)
  groups = np.split(dims, np.cumsum(sizes))
  for group in groups[:-1]:
    spoken = rng.random(n) < 0.012
    points[np.ix_(spoken, group)] += 8 + rng.random((spoken.sum(), len(group)))
  points[:, groups[-1][alone:]] = 0
  return points, [set(group.tolist()) for group in groups[:-1]]


def _groups(found):
  return [
    set(np.flatnonzero(row).tolist()) for row in found.centroids[found.valid]
  ]


def test_coactivation_marks_points_above_the_quantile():
  points = _planted()[0]
  active = concepts.coactivation(points, 0.9)
  dead = ~points.any(axis=0)
  np.testing.assert_allclose(active[:, ~dead].mean(0), 0.1, atol=1e-3)
  assert dead.sum() == 4 and not active[:, dead].any()


def test_jaccard_equals_scipys():
  active = np.random.default_rng(1).random((60, 9)) < 0.3
  active[:, 3] = False
  expected = 1 - scipy.spatial.distance.cdist(active.T, active.T, "jaccard")
  expected[3, 3] = 0
  np.testing.assert_allclose(concepts.jaccard(active), expected)


@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_are_found(seed):
  points, groups = _planted(seed)
  # Four groups and five dimensions on their own.
  found = concepts.clusters(concepts.coactivation(points), count=9)
  assert found.centroids.shape == (9, points.shape[1])
  assert found.valid.tolist() == [True] * 3 + [False] * 6
  # The group of three is too small; the largest comes first.
  assert _groups(found) == groups[:3]
  np.testing.assert_allclose(found.centroids.sum(1), found.valid, rtol=1e-6)
  found = concepts.clusters(concepts.coactivation(points), 9, least=3)
  assert _groups(found) == groups


def test_clusters_equal_sklearns():
  active = np.random.default_rng(2).random((400, 30)) < 0.2
  labels = AgglomerativeClustering(
    n_clusters=7, metric="precomputed", linkage="average"
  ).fit_predict(1 - concepts.jaccard(active))
  expected = {tuple(np.flatnonzero(labels == k)) for k in range(7)}
  found = _groups(concepts.clusters(active, 7, least=1))
  assert {tuple(sorted(group)) for group in found} == expected


def test_clusters_handle_few_or_no_dimensions():
  # Never two at once: all merges are at one distance.
  apart = np.eye(12, dtype=bool)
  found = concepts.clusters(apart, 5, least=1)
  assert found.valid.all() and sum(map(len, _groups(found))) == 12
  for active in (np.zeros((5, 3), bool), np.eye(5, 3, dtype=bool)):
    found = concepts.clusters(active, 250)
    assert found.centroids.shape == (250, 3) and not found.valid.any()
  one = np.zeros((5, 3), bool)
  one[0, 1] = True
  assert _groups(concepts.clusters(one, 4, least=1)) == [{1}]


def test_assign_is_the_mean_standardised_dimension():
  points, groups = _planted()
  found = concepts.clusters(concepts.coactivation(points), 9, least=3)
  mean, std = points.mean(0), points.std(0)
  feature = np.tile(mean, (4, 1))
  for row, group in zip(feature, groups, strict=True):
    row[list(group)] += 2 * std[list(group)]
  feature[:, std == 0] = 7
  got = jax.jit(concepts.assign)(
    *map(jnp.asarray, (feature, mean, std, found.centroids))
  )
  expected = np.where(found.valid, 2 * np.eye(4, 9), -np.inf)
  np.testing.assert_allclose(got, expected, atol=1e-3)


def test_units_are_ranked_by_their_overlap_with_concepts():
  rng = np.random.default_rng(3)
  n, size, count, units = 40, 8, 3, 12
  where = rng.random((n, size, size, count)) < 0.05
  activations = rng.random((n, size, size, units)).astype(np.float32)
  order = rng.permutation(units)
  # Each concept has a unit that draws it all, and one that draws half of it.
  for k in range(count):
    seen = where[..., k]
    activations[..., order[k]] += 2 * seen
    activations[..., order[count + k]] += 2 * (
      seen & (np.arange(n) < n // 2)[:, None, None]
    )
  activations[..., order[-1]] = 0
  where = np.concatenate([where, np.zeros_like(where[..., :1])], axis=-1)
  ranks = np.argsort(-concepts.unit_iou(activations, where), 1, kind="stable")
  for k in range(count):
    assert ranks[k, :2].tolist() == [order[k], order[count + k]]
    assert ranks[k, -1] == order[-1]
  assert ranks[count].tolist() == list(range(units))

  iou = concepts.unit_iou(activations, where, 0.9)
  assert iou.shape == (count + 1, units) and not iou[count].any()
  for k, c in ((0, order[0]), (1, 4)):
    unit = activations[..., c]
    on, there = unit > np.quantile(unit, 0.9), where[..., k]
    np.testing.assert_allclose(
      iou[k, c], (on & there).sum() / (on | there).sum(), rtol=1e-6
    )
  chosen = edits.top_units(jnp.asarray(iou[:count]), 2)
  assert [set(np.flatnonzero(row)) for row in chosen] == [
    {order[k], order[count + k]} for k in range(count)
  ]


def test_concepts_are_sampled_by_clipped_score():
  scores = np.array([-1.0, 3.0, 0.0, 1.0, 90.0, -np.inf], np.float32)
  rows = np.broadcast_to(scores, (8000, 6))
  drawn = np.asarray(concepts.sample(jax.random.key(0), jnp.asarray(rows)))
  shares = np.bincount(drawn, minlength=6) / len(drawn)
  np.testing.assert_allclose(
    shares, np.array([0, 3, 0, 1, 4, 0]) / 8, atol=0.02
  )
  assert not shares[[0, 2, 5]].any()
  low = jnp.array([[-3.0, -np.inf, -1.0, -2.0], [0.0, -1.0, -np.inf, -np.inf]])
  for seed in range(5):
    assert concepts.sample(jax.random.key(seed), low).tolist() == [2, 0]
