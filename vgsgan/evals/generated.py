"""Figures of generated images and sounds, alone and as pairs.

Each figure comes with references for its scale. `real` is that of real clips;
`mismatched` that of real images with the sounds of other clips; `chance` that
of a constant image and sound, the means of the real ones, which have the least
squared error of all constants.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vgsgan.evals.frechet import frechet_distance

Figure = dict[str, float]


class Clips(NamedTuple):
  """Images and spectrograms in [-1, 1]; row i of both belongs to clip i."""

  picture: Float[np.ndarray, "n s s 3"]
  sound: Float[np.ndarray, "n t f"]


def flat(rows: Float[np.ndarray, "n *rest"]) -> Float[np.ndarray, "n *rest"]:
  """Replaces every row by the mean row."""
  return np.broadcast_to(rows.mean(0), rows.shape)


def squared_error(
  real: Float[np.ndarray, "n *rest"], generated: Float[np.ndarray, "n *rest"]
) -> Figure:
  """Mean squared error over all numbers; chance is that of the mean row."""
  return {
    "value": float(np.mean((real - generated) ** 2)),
    "chance": float(np.mean((real - real.mean(0)) ** 2)),
  }


def coarse(
  rows: Float[np.ndarray, "n h w c"], cells: int = 4
) -> Float[np.ndarray, "n d"]:
  """Means over a grid of cells x cells: untrained features.

  Cells are as equal as the sides allow. A side shorter than `cells` has one
  cell per place.
  """
  for axis in (1, 2):
    places = np.array_split(rows, min(cells, rows.shape[axis]), axis)
    means = [place.mean(axis, keepdims=True) for place in places]
    rows = np.concatenate(means, axis)
  return rows.reshape(len(rows), -1)


def spread(features: Float[np.ndarray, "n d"]) -> float:
  """Mean Euclidean distance of two different rows."""
  rows = np.float64(features)
  # Differences, not products, which would not give 0 for equal rows.
  total = sum(np.sqrt(((row - rows) ** 2).sum(1)).sum() for row in rows)
  return float(total / (len(rows) * (len(rows) - 1)))


def likeness(
  real: Float[np.ndarray, "n d"],
  mean: Float[np.ndarray, "n d"],
  generated: Mapping[str, Float[np.ndarray, "n d"]],
) -> dict[str, dict[str, Figure]]:
  """Frechet distance to the real, and diversity, of each generated set.

  Frechet distances compare the real's even rows with the others' odd rows. So
  all sets have one size, and no row is compared with one generated from itself.
  The order of the rows must be random.

  Args:
    real: features of the real.
    mean: features of their mean, `flat`.
    generated: features of generated sets, by name.

  Returns:
    `{"frechet": {name: figure}, "diversity": {name: figure}}`; diversity is the
    mean distance of two rows.
  """

  def distance(rows):
    return frechet_distance(real[0::2], rows[1::2])

  distances = {"real": distance(real), "chance": distance(mean)}
  spreads = {"real": spread(real), "chance": 0.0}
  return {
    "frechet": {
      name: {"value": distance(x), **distances} for name, x in generated.items()
    },
    "diversity": {
      name: {"value": spread(x), **spreads} for name, x in generated.items()
    },
  }


def matches(
  match: Callable[[Clips], Float[np.ndarray, "n"]],
  real: Clips,
  generated: Mapping[str, Clips],
) -> dict[str, dict[str, Figure]]:
  """Share of pairs judged to belong together, and the mean logit.

  Mismatched pairs join each real image with the sound of the clip before it.
  Some of these match, as often as two clips are alike.

  Args:
    match: gives a logit per pair, above 0 where the two belong together.
    real: pairs that belong together.
    generated: pairs of which at least one part is generated, by name.

  Returns:
    `{"accuracy": {name: figure}, "score": {name: figure}}`; the score is the
    mean logit, and chance the figure of the mismatched pairs.
  """
  rolled = Clips(real.picture, np.roll(real.sound, 1, axis=0))
  logits = {name: match(clips) for name, clips in generated.items()}
  matched, mismatched = match(real), match(rolled)
  figures = {}
  for figure, value in (("accuracy", lambda x: x > 0), ("score", lambda x: x)):
    references = {
      "real": float(np.mean(value(matched))),
      "mismatched": float(np.mean(value(mismatched))),
    }
    references["chance"] = references["mismatched"]
    figures[figure] = {
      name: {"value": float(np.mean(value(x))), **references}
      for name, x in logits.items()
    }
  return figures


def recognised(
  logits: Float[np.ndarray, "n c"],
  real_logits: Float[np.ndarray, "n c"],
  labels: Int[np.ndarray, "n l"],
) -> Figure:
  """The share of clips whose likeliest class is one of their labels (-1: none).

  Chance is that of always answering with the commonest class.
  """
  has = (labels[..., None] == np.arange(logits.shape[1])).any(axis=1)

  def share(logits):
    best = logits.argmax(1)[:, None]
    return float(np.take_along_axis(has, best, axis=1).mean())

  return {
    "value": share(logits),
    "real": share(real_logits),
    "chance": float(has.mean(0).max()),
  }
