"""Clips that are alike, found by picture and by sound, within and across.

After "Objects that Sound" (Arandjelović and Zisserman, ECCV 2018, 3.1): each
picture and each sound of a set is a query to all pictures and to all sounds.
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
  # A row of zeros stays that.
  return features / np.maximum(norms, np.finfo(np.float64).tiny)


def four_directions(
  image: Float[np.ndarray, "n d"],
  audio: Float[np.ndarray, "n d"],
  relevance: Shaped[np.ndarray, "n n"],
  k: int = 30,
) -> dict[str, Any]:
  """nDCG@k of pictures and sounds that look for pictures and sounds.

  Nearest first, by Euclidean distance of features scaled to length 1. A query
  is not in its own gallery; the other half of its clip is. (The paper does not
  say whether a query finds itself.)

  Args:
    image: of the pictures of n clips.
    audio: of their sounds, in the same order.
    relevance: of any clip for any other, e.g. `Hierarchy.relevance`.
    k: see `ranking.ndcg`, as for errors.

  Returns:
    `{"image_to_image": figures, "image_to_audio": figures, "audio_to_image":
    figures, "audio_to_audio": figures}`, figures as `ranking.ndcg` gives them.
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
  """The same of one modality: `four_directions` has it for both."""
  others = ~np.eye(len(features), dtype=bool)
  scores = _likeness(features, features)
  return ranking.ndcg(scores, relevance, k, allowed=others)


def _likeness(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Less the squared distances [n, m]."""
  # A row of zeros is equally far from all but for rounding: a tie.
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
  """Canonical correlation analysis: features that were not trained to agree.

  The directions in which the pictures and the sounds of n clips correlate
  most, best first, each of variance 1 in those clips. The paper gives its
  baselines 128. The solution is closed; scikit-learn's is iterated, which takes
  forty times as long for 128 features and leaves correlations 0.001 off.

  Args:
    image: of the clips to learn from, many more than there are features: with
      fewer, anything correlates.
    audio: likewise.
    components: at least 1. There are fewer where features are fewer, constant
      or linearly dependent, and none where all are constant: `four_directions`
      is then at chance.

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
  """UserError where the package for CCA is missing."""
  try:
    import cca_zoo.linear  # noqa: F401
  except ImportError as error:
    raise UserError(
      f'CCA needs the package cca-zoo ({error}): pip install -e ".[retrieval]"'
    ) from error
