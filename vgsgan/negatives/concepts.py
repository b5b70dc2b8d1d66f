"""Concepts: groups of embedding dimensions, and the units that draw them.

As published ("Learning Words by Drawing Images", CVPR 2019): dimensions that
fire together on the same words form a concept, and a generator's units are
ranked for each concept by where they are active. Both are found between steps,
on the host, by NumPy; what the compiled step then takes has always the same
shapes, so that nothing compiles anew.
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
  valid: which are no padding.
  """

  centroids: Float[np.ndarray, "k d"]
  valid: Bool[np.ndarray, "k"]


def coactivation(
  points: Float[np.ndarray, "n d"], quantile: float = 0.99
) -> Bool[np.ndarray, "n d"]:
  """Where each dimension is above its own quantile.

  A dimension that is mostly 0 and never above is never active.

  Args:
    points: published, the product of image and audio features where a pair
      matches best; one a pair, up to 10,000.
    quantile: over the points.
  """
  return points > np.quantile(points, quantile, axis=0)


def jaccard(active: Bool[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
  """Of the points where one of two dimensions is active, the share with both.

  0 with a dimension that is never active, itself too.
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
    count: clusters to stop at, published 250; also the fixed length of the
      result. Those too small to be concepts are among them.
    least: dimensions that a cluster must have to be a concept; published are
      more than 3, so 4.
  """
  n_dims = active.shape[1]
  centroids = np.zeros((count, n_dims), np.float32)
  used = np.flatnonzero(active.any(axis=0))
  if len(used) > 1:
    distances = 1.0 - jaccard(active[:, used])
    tree = scipy.cluster.hierarchy.average(
      scipy.spatial.distance.squareform(distances, checks=False)
    )
    # Not `fcluster`: it never cuts between merges at one distance, and all
    # dimensions that are never active together merge at 1.
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
  """Scores of concepts for image features; for use in the compiled step.

  Args:
    features: of the place where the word is.
    mean, std: of the features over the data; a dimension of deviation 0 does
      not count.
    centroids: of `clusters`.

  Returns:
    Mean of each concept's standardised dimensions; -inf for padding.
  """
  varies = std > 0
  standard = (features - mean) / jnp.where(varies, std, 1.0)
  scores = jnp.where(varies, standard, 0.0) @ centroids.T
  return jnp.where(jnp.any(centroids != 0, axis=1), scores, -jnp.inf)


def sample(key: Key[Array, ""], scores: Float[Array, "b k"]) -> Int[Array, "b"]:
  """A concept for each row, with chances like its score clipped to [0, 4].

  As published for tries after the first. The best where none is above 0.
  """
  weights = jnp.clip(scores, 0.0, 4.0)
  drawn = jax.random.categorical(key, jnp.log(weights), axis=1)
  some = jnp.any(weights > 0, axis=1)
  return jnp.where(some, drawn, jnp.argmax(scores, axis=1))


def unit_iou(
  unit_maps: Float[np.ndarray, "n h w c"],
  concept_maps: Bool[np.ndarray, "n h w k"],
  quantile: float = 0.95,
) -> Float[np.ndarray, "k c"]:
  """How well the places where a unit is active cover a concept's.

  A row is a rank score for `edits.top_units`.

  Args:
    unit_maps: activations of a layer's units over drawn pictures.
    concept_maps: where each concept is, at the layer's resolution.
    quantile: a unit is active above its own quantile over all places. Published
      is the quantile with the largest information quality ratio, for each pair
      of unit and concept; a fixed one is enough to rank.

  Returns:
    Intersection over union; 0 for a concept that is nowhere.
  """
  flat = unit_maps.reshape(-1, unit_maps.shape[-1])
  # float32 counts exactly up to 2^24 places, and its product is fast.
  units = (flat > np.quantile(flat, quantile, axis=0)).astype(np.float32)
  concepts = concept_maps.reshape(-1, concept_maps.shape[-1]).astype(np.float32)
  both = concepts.T @ units
  either = concepts.sum(0)[:, None] + units.sum(0) - both
  return both / np.maximum(either, 1.0)
