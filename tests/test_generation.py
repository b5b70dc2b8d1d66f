"""Distances of sets of features, by closed forms, scipy and by hand."""

import numpy as np
import pytest
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

from vgsgan.evals import frechet


def with_moments(rng, n, mean, covariance):
  """n points of exactly this sample mean and covariance."""
  x = rng.normal(size=(n, len(mean)))
  x -= x.mean(0)
  x = (
    x
    @ np.linalg.inv(
      np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False)))
    ).T
  )
  return x @ np.linalg.cholesky(covariance).T + mean


def random_covariance(rng, d):
  a = rng.normal(size=(d, 2 * d))
  return a @ a.T / d


def test_frechet_of_one_dimension_equals_the_formula():
  rng = np.random.default_rng(0)
  a = with_moments(rng, 50, np.array([1.0]), np.array([[4.0]]))
  b = with_moments(rng, 80, np.array([-2.0]), np.array([[9.0]]))
  # (m1 - m2)^2 + (s1 - s2)^2.
  assert frechet.frechet_distance(a, b) == pytest.approx(9 + 1)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_equals_that_by_scipys_root(seed):
  rng = np.random.default_rng(seed)
  d = 6
  means = rng.normal(size=(2, d))
  c1, c2 = random_covariance(rng, d), random_covariance(rng, d)
  a = with_moments(rng, 40, means[0], c1)
  b = with_moments(rng, 30, means[1], c2)
  root = linalg.sqrtm(c1 @ c2).real
  expected = np.sum((means[0] - means[1]) ** 2) + np.trace(c1 + c2 - 2 * root)
  assert frechet.frechet_distance(a, b) == pytest.approx(expected)
  assert frechet.frechet_distance(b, a) == pytest.approx(expected)


def test_frechet_handles_singular_covariances():
  rng = np.random.default_rng(1)
  a = rng.normal(size=(5, 40))  # Rank 4 of 40.
  assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
  assert frechet.frechet_distance(a, a + 2) == pytest.approx(160)
  # Along one line the roots are those of one dimension.
  line = np.zeros((1, 40))
  line[0, 7] = 1.0
  x = with_moments(rng, 9, np.zeros(1), np.eye(1))
  got = frechet.frechet_distance(x * line, 3 * x * line)
  assert got == pytest.approx((3 - 1) ** 2)
  constant = np.ones((4, 40))
  assert frechet.frechet_distance(constant, constant) == 0


def test_frechet_in_float32_is_computed_in_float64():
  x = np.random.default_rng(2).normal(size=(100, 8)).astype(np.float32) + 1e3
  assert frechet.frechet_distance(x, x) < 1e-6


def test_inside_equals_a_case_worked_by_hand():
  real = np.array([[0.0], [1.0], [3.0], [10.0]])
  # k = 1: radii 1, 1, 2, 7: [-1, 1], [0, 2], [1, 5], [3, 17].
  points = np.array([[-1.5], [-1.0], [2.0], [5.5], [17.0], [17.5]])
  got = frechet.inside(points, real, 1)
  np.testing.assert_array_equal(got, [False, True, True, True, True, False])


def test_precision_and_recall_tell_quality_from_variety():
  rng = np.random.default_rng(3)
  modes = np.array([[0.0, 0.0], [100.0, 0.0]])
  real = np.concatenate([rng.normal(size=(60, 2)) + m for m in modes])
  # All of what is drawn is real, but of one mode only.
  one = rng.normal(size=(120, 2)) * 0.3
  precision, recall = frechet.precision_recall(real, one)
  assert precision == 1 and 0.1 < recall < 0.5
  # Half of what is drawn is nothing real.
  junk = np.concatenate([real, real + np.array([0.0, 500.0])])
  precision, recall = frechet.precision_recall(real, junk)
  assert (precision, recall) == (0.5, 1)
  assert frechet.precision_recall(real, real) == (1, 1)
  assert frechet.precision_recall(real, real + 1e4) == (0, 0)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_those_by_sklearn(k, monkeypatch):
  monkeypatch.setattr(frechet, "_BLOCK", 7)
  rng = np.random.default_rng(4)
  real, drawn = rng.normal(size=(50, 4)), 1.5 * rng.normal(size=(40, 4))

  def share(points, of):
    near = NearestNeighbors(n_neighbors=k + 1).fit(of)
    radius = near.kneighbors(of)[0][:, k]
    apart = np.linalg.norm(points[:, None] - of, axis=-1)
    return (apart <= radius).any(1).mean()

  expected = share(drawn, real), share(real, drawn)
  assert frechet.precision_recall(real, drawn, k) == pytest.approx(expected)


def test_real_halves_are_the_reference():
  rng = np.random.default_rng(5)
  real, like = rng.normal(size=(2, 400, 3))
  got = frechet.compare(real, like)
  assert got["pictures"] == 200
  for name in ("precision", "recall"):
    assert got[name]["value"] == pytest.approx(got[name]["real"], abs=0.1)
    assert got[name]["real"] > 0.85
  assert got["frechet_distance"]["value"] < 0.1
  assert got["frechet_distance"]["real"] < 0.1
  worse = frechet.compare(real, like[:50] + 1.0)
  assert worse["pictures"] == 50
  assert worse["frechet_distance"]["value"] == pytest.approx(3, abs=1)


def test_frechet_of_real_rows_equals_its_reference():
  """In the mean over draws; with all rows it would be half of that."""
  rng = np.random.default_rng(6)
  found = [frechet.frechet(*rng.normal(size=(2, 48, 6))) for _ in range(60)]
  value, real = (np.array([x[k] for x in found]) for k in ("value", "real"))
  error = np.std(value - real) / np.sqrt(len(found))
  assert abs(np.mean(value - real)) < 3 * error < 0.15 * real.mean()
  # Neither is of more rows than the other where fewer are drawn.
  real, drawn = rng.normal(size=(48, 6)), rng.normal(size=(10, 6))
  few = frechet.frechet(real, drawn)
  assert few["real"] == frechet.frechet_distance(real[:20:2], real[1:20:2])
  assert few["value"] == frechet.frechet_distance(real[:20:2], drawn)


def test_too_few_rows_are_refused():
  with pytest.raises(ValueError, match="2 rows"):
    frechet.frechet_distance(np.zeros((1, 2)), np.zeros((5, 2)))
  with pytest.raises(ValueError, match="k = 3"):
    frechet.precision_recall(np.zeros((3, 2)), np.zeros((5, 2)))
