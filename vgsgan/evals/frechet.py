"""Frechet distance, precision and recall of generated images in feature space.

Features are [n, d], one row per image, e.g. of `models.recogniser.features`.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

_BLOCK = 1024  # Rows of a matrix of distances at a time.


def frechet_distance(
  a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> float:
  """Squared Frechet distance of two normal distributions fitted to features.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al. (NeurIPS 2017),
  equation 6. The trace of the root is the sum of the roots of the eigenvalues
  of C1^(1/2) C2 C1^(1/2), which is symmetric. So no root is complex, and a
  singular covariance needs no offset. In float64; 0 for equal features.

  Raises:
    ValueError: a set has fewer than 2 rows.
  """
  if min(len(a), len(b)) < 2:
    raise ValueError(f"a covariance needs 2 rows, not {len(a)} and {len(b)}")
  a, b = np.float64(a), np.float64(b)
  gap = a.mean(0) - b.mean(0)
  c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
  root = _root(c1)
  product = root @ c2 @ root
  values = np.linalg.eigvalsh((product + product.T) / 2)
  cross = np.sqrt(np.maximum(values, 0)).sum()
  return max(float(gap @ gap + np.trace(c1) + np.trace(c2) - 2 * cross), 0.0)


def _root(c: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
  """The symmetric root of a covariance."""
  values, vectors = np.linalg.eigh(c)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def precision_recall(
  real: Float[np.ndarray, "n d"],
  generated: Float[np.ndarray, "m d"],
  k: int = 3,
) -> tuple[float, float]:
  """Improved precision and recall (Kynkaanniemi et al., NeurIPS 2019).

  The manifold of a set is the union of the balls around its points that reach
  to their k-th nearest neighbours in the set (equation 1; k = 3 as there).

  Returns:
    Precision: the share of the generated that lie in the manifold of the real;
    recall: the share of the real in the manifold of the generated.

  Raises:
    ValueError: a set has no k-th neighbours.
  """
  if min(len(real), len(generated)) <= k:
    raise ValueError(
      f"k = {k} needs more than {k} rows, not {len(real)} and {len(generated)}"
    )
  real, generated = np.float64(real), np.float64(generated)
  return (
    float(inside(generated, real, k).mean()),
    float(inside(real, generated, k).mean()),
  )


def inside(
  points: Float[np.ndarray, "n d"], of: Float[np.ndarray, "m d"], k: int
) -> Bool[np.ndarray, "n"]:
  """Marks the points that lie in the manifold of the set `of`."""
  # The nearest neighbour of a point in its own set is itself.
  radius = np.concatenate(
    [np.partition(_squared(rows, of), k, 1)[:, k] for rows in _blocks(of)]
  )
  return np.concatenate(
    [(_squared(rows, of) <= radius).any(1) for rows in _blocks(points)]
  )


def _blocks(rows):
  return (rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK))


def _squared(a, b):
  """Squared distances [n, m]; exactly 0 for equal points."""
  # Differences, not products, whose rounding errors would separate duplicates.
  return np.stack([((row - b) ** 2).sum(1) for row in a])


def equal_sizes(
  real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Splits real rows into even and odd, and takes as many generated ones."""
  n = min(len(real) // 2, len(generated))
  return real[0::2][:n], real[1::2][:n], generated[:n]


def frechet(
  real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"]
) -> dict[str, float]:
  """Frechet distance of generated to real rows, and of real to real.

  Both compare sets of one size, as in `compare`: fewer rows give a larger
  distance.
  """
  even, odd, generated = equal_sizes(real, generated)
  return {
    "value": frechet_distance(even, generated),
    "real": frechet_distance(even, odd),
  }


def compare(
  real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"]
) -> dict[str, Any]:
  """All figures, each also for one half of the real against the other.

  All sets have the size of half of the real, or of the generated if that is
  less, since every figure depends on the number of images. The order of the
  real rows must be random: the halves are its even and odd rows.

  Returns:
    `{"frechet_distance" | "precision" | "recall": {"value", "real"},
    "pictures"}`.
  """
  even, odd, generated = equal_sizes(real, generated)
  figures: dict[str, Any] = {
    "pictures": len(even),
    "frechet_distance": frechet(real, generated),
  }
  values = precision_recall(even, generated)
  reals = precision_recall(even, odd)
  for name, value, real_value in zip(
    ("precision", "recall"), values, reals, strict=True
  ):
    figures[name] = {"value": value, "real": real_value}
  return figures
