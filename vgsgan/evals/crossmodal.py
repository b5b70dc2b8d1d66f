"""Retrieval of similar clips by image and by sound, within and across both.

After "Objects that Sound" (Arandjelović and Zisserman, ECCV 2018, 3.1): each
image and each sound of a set is a query to all images and to all sounds.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Shaped

from vgsgan.common.errors import UserError
from vgsgan.evals import ranking


def _unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
  features = features.astype(np.float64)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  # The maximum keeps a row of zeros at zero.
  return features / np.maximum(norms, np.finfo(np.float64).tiny)


def four_directions(
  image: Float[np.ndarray, "n d"],
  audio: Float[np.ndarray, "n d"],
  relevance: Shaped[np.ndarray, "n n"],
  k: int = 30,
) -> dict[str, Any]:
  """nDCG@k of images and sounds as queries to images and sounds.

  Items are ranked by Euclidean distance of features scaled to length 1. A query
  is not in its own gallery; the other half of its clip is. (The paper does not
  say whether a query finds itself.)

  Args:
    image: features of the images of n clips.
    audio: features of their sounds, in the same order.
    relevance: relevance of each clip for each other, as `Hierarchy.relevance`.
    k: as in `ranking.ndcg`.

  Returns:
    `{"image_to_image": figures, "image_to_audio": figures, "audio_to_image":
    figures, "audio_to_audio": figures}`, figures as in `ranking.ndcg`.

  Raises:
    ValueError: as in `ranking.ndcg`.
  """
  return {
    "image_to_image": within(image, relevance, k),
    "image_to_audio": ranking.ndcg(_likeness(image, audio), relevance, k),
    "audio_to_image": ranking.ndcg(_likeness(audio, image), relevance, k),
    "audio_to_audio": within(audio, relevance, k),
  }


def within(
  features: Float[np.ndarray, "n d"],
  relevance: Shaped[np.ndarray, "n n"],
  k: int = 30,
) -> dict[str, Any]:
  """nDCG@k of one modality's features; see `four_directions`."""
  others = ~np.eye(len(features), dtype=bool)
  scores = _likeness(features, features)
  return ranking.ndcg(scores, relevance, k, allowed=others)


def _likeness(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Negative squared distances [n, m]."""
  # Rounding makes a tie of a row of zeros, which is equally far from all.
  return -scipy.spatial.distance.cdist(
    _unit(rows), _unit(items), "sqeuclidean"
  ).round(12)


@dataclasses.dataclass(frozen=True)
class Projection:
  """An affine map: (features - mean) @ weights."""

  mean: Float[np.ndarray, "d"]
  weights: Float[np.ndarray, "d k"]

  def __call__(
    self, features: Float[np.ndarray, "n d"]
  ) -> Float[np.ndarray, "n k"]:
    return (features - self.mean) @ self.weights


def canonical(
  image: Float[np.ndarray, "n d"],
  audio: Float[np.ndarray, "n e"],
  components: int = 128,
) -> tuple[Projection, Projection]:
  """Canonical correlation analysis, for features not trained to agree.

  Finds the directions in which the images and the sounds of n clips correlate
  most, best first, each of variance 1 in those clips. The paper gives its
  baselines 128. The solution is in closed form; scikit-learn iterates, which
  takes forty times as long for 128 features and leaves correlations 0.001 off.

  Args:
    image: features of the clips' images. There should be many more clips than
      features: with fewer, anything correlates.
    audio: features of their sounds.
    components: at least 1. There are fewer if features are fewer, constant or
      linearly dependent, and none if all are constant: `four_directions` is
      then at chance.

  Returns:
    The projections of image and audio features.

  Raises:
    UserError: cca-zoo is missing, a feature is not finite, or there are fewer
      than two clips.
  """
  if len(image) < 2:
    raise UserError(f"CCA of {len(image)} clips: it takes two or more")
  for name, features in (("image", image), ("audio", audio)):
    if not np.isfinite(features).all():
      raise UserError(
        f"CCA: {name} features are not finite: the network that gave them has "
        "diverged, train it with a lower rate"
      )
  check_cca()
  from cca_zoo.linear import CCA

  most = min(components, image.shape[1], audio.shape[1])
  views = [image.astype(np.float64), audio.astype(np.float64)]
  fitted = CCA(n_components=most).fit(views)
  of_image, of_audio = zip(fitted.means_, fitted.weights_, strict=True)
  return Projection(*of_image), Projection(*of_audio)


def check_cca() -> None:
  """Raises UserError if the package for CCA is missing."""
  try:
    import cca_zoo.linear  # noqa: F401
  except ImportError as error:
    raise UserError(
      f'CCA needs the package cca-zoo ({error}): pip install -e ".[retrieval]"'
    ) from error
