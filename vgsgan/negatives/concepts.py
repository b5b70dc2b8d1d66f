"""Concepts: groups of embedding dimensions, and the units that draw them.

As published ("Learning Words by Drawing Images", CVPR 2019): dimensions that
fire together on the same words form a concept, and a generator's units are
ranked for each concept by where they are active. Both are computed between
steps, on the host, by NumPy. The compiled step always takes arrays of the same
shapes, so that it is compiled once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int, Key


class Clusters(NamedTuple):
  """Concepts, the one with most dimensions first, then padding.

  centroids: 1 / size at a concept's dimensions, else 0; all 0 in padding.
  valid: True for concepts, False for padding.
  """

  centroids: Float[np.ndarray, "k d"]
  valid: Bool[np.ndarray, "k"]


def coactivation(
  points: Float[np.ndarray, "n d"], quantile: float = 0.99
) -> Bool[np.ndarray, "n d"]:
  """Marks the points at which each dimension is above its own quantile.

  A dimension that is almost always 0 has no active points.

  Args:
    points: as published, the product of image and audio features where a pair
      matches best; one per pair, up to 10,000.
    quantile: over the points, from 0 to 1.
  """
  return points > np.quantile(points, quantile, axis=0)


def jaccard(active: Bool[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
  """Jaccard index of two dimensions' active points, for all pairs.

  0 for a dimension that is never active, also with itself.
  """
  counts = active.astype(np.float64)
  both = counts.T @ counts
  each = np.diag(both)
  either = each[:, None] + each - both
  return both / np.maximum(either, 1.0)


def clusters(
  active: Bool[np.ndarray, "n d"], count: int = 250, least: int = 4
) -> Clusters:
  """Groups dimensions that are active together.

  Agglomerative clustering of the dimensions with average linkage on 1 -
  Jaccard. Dimensions that are never active are left out.

  Args:
    active: as from `coactivation`.
    count: clusters to stop at, 250 as published; also the fixed length of the
      result. It includes clusters too small to be concepts.
    least: least number of dimensions of a concept; published as more than 3,
      so 4.
  """
  n_dims = active.shape[1]
  centroids = np.zeros((count, n_dims), np.float32)
  used = np.flatnonzero(active.any(axis=0))
  if len(used) > 1:
    distances = 1.0 - jaccard(active[:, used])
    tree = scipy.cluster.hierarchy.average(
      scipy.spatial.distance.squareform(distances, checks=False)
    )
    # Not `fcluster`: it cannot cut between merges at the same distance, and
    # all dimensions that are never active together merge at 1.
    labels = scipy.cluster.hierarchy.cut_tree(tree, min(count, len(used)))
    members = [used[labels[:, 0] == label] for label in np.unique(labels)]
  else:
    members = [used]
  concepts = [group for group in members if len(group) >= max(least, 1)]
  concepts.sort(key=len, reverse=True)
  for centroid, group in zip(centroids, concepts, strict=False):
    centroid[group] = 1.0 / len(group)
  return Clusters(centroids, np.arange(count) < len(concepts))


def assign(
  features: Float[Array, "b d"],
  mean: Float[Array, "d"],
  std: Float[Array, "d"],
  centroids: Float[Array, "k d"],
) -> Float[Array, "b k"]:
  """Scores concepts for image features; runs in the compiled step.

  Args:
    features: image features at the place that the word refers to.
    mean: mean of the features over the data.
    std: their standard deviation; dimensions where it is 0 do not count.
    centroids: as in `Clusters`.

  Returns:
    Mean of each concept's standardised dimensions; -inf for padding.
  """
  varies = std > 0
  standard = (features - mean) / jnp.where(varies, std, 1.0)
  scores = jnp.where(varies, standard, 0.0) @ centroids.T
  return jnp.where(jnp.any(centroids != 0, axis=1), scores, -jnp.inf)


def sample(key: Key[Array, ""], scores: Float[Array, "b k"]) -> Int[Array, "b"]:
  """Draws a concept for each row, in proportion to its score clipped to [0, 4].

  As published for attempts after the first. If no score is above 0, the best
  concept is returned.
  """
  weights = jnp.clip(scores, 0.0, 4.0)
  sampled = jax.random.categorical(key, jnp.log(weights), axis=1)
  has_positive = jnp.any(weights > 0, axis=1)
  return jnp.where(has_positive, sampled, jnp.argmax(scores, axis=1))


def unit_iou(
  unit_maps: Float[np.ndarray, "n h w c"],
  concept_maps: Bool[np.ndarray, "n h w k"],
  quantile: float = 0.95,
) -> Float[np.ndarray, "k c"]:
  """Overlap of the places where a unit is active with those of a concept.

  A row is a rank score for `edits.top_units`.

  Args:
    unit_maps: activations of a layer's units over generated images.
    concept_maps: True where each concept is, at the layer's resolution.
    quantile: a unit is active above its own quantile over all places. The paper
      picks, for each unit and concept, the quantile with the largest
      information quality ratio; a fixed one is enough to rank.

  Returns:
    Intersection over union; 0 for a concept that occurs nowhere.
  """
  flat = unit_maps.reshape(-1, unit_maps.shape[-1])
  # float32 counts exactly up to 2^24 places, and its product is fast.
  units = (flat > np.quantile(flat, quantile, axis=0)).astype(np.float32)
  concepts = concept_maps.reshape(-1, concept_maps.shape[-1]).astype(np.float32)
  both = concepts.T @ units
  either = concepts.sum(0)[:, None] + units.sum(0) - both
  return both / np.maximum(either, 1.0)
