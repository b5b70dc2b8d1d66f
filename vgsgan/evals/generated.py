"""Figures of generated pictures and sounds, alone and as pairs.

Each has beside it what is known of its scale: `real`, the same of real clips;
`mismatched`, of real pictures with the sounds of other clips; `chance`, of one
picture and one sound drawn every time, the means of the real ones, which have
the least squared error that can be had without looking.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vgsgan.evals.frechet import frechet_distance

Figure = dict[str, float]


class Clips(NamedTuple):
  """Pictures and spectrograms, in [-1, 1]; row i of one goes with i's other."""

  picture: Float[np.ndarray, "n s s 3"]
  sound: Float[np.ndarray, "n t f"]


def flat(rows: Float[np.ndarray, "n *rest"]) -> Float[np.ndarray, "n *rest"]:
  """As many rows, each their mean."""
  return np.broadcast_to(rows.mean(0), rows.shape)


def squared_error(
  real: Float[np.ndarray, "n *rest"], made: Float[np.ndarray, "n *rest"]
) -> Figure:
  """Mean over rows and numbers; by chance, of the mean row."""
  return {
    "value": float(np.mean((real - made) ** 2)),
    "chance": float(np.mean((real - real.mean(0)) ** 2)),
  }


def coarse(
  rows: Float[np.ndarray, "n h w c"], cells: int = 4
) -> Float[np.ndarray, "n d"]:
  """Means over cells x cells places: features that nothing was trained for.

  Places are as equal as sides allow, which are of one number a place at least.
  """
  for axis in (1, 2):
    places = np.array_split(rows, min(cells, rows.shape[axis]), axis)
    means = [place.mean(axis, keepdims=True) for place in places]
    rows = np.concatenate(means, axis)
  return rows.reshape(len(rows), -1)


def spread(features: Float[np.ndarray, "n d"]) -> float:
  """Mean distance of two rows."""
  rows = np.float64(features)
  # Differences, not products: rows may be all alike.
  total = sum(np.sqrt(((row - rows) ** 2).sum(1)).sum() for row in rows)
  return float(total / (len(rows) * (len(rows) - 1)))


def likeness(
  real: Float[np.ndarray, "n d"],
  mean: Float[np.ndarray, "n d"],
  made: Mapping[str, Float[np.ndarray, "n d"]],
) -> dict[str, dict[str, Figure]]:
  """How like the real each set is, and how varied, in features.

  Frechet distances are of the real's even rows to the others' odd ones: so all
  are of sets of one size, and no row is compared with what was made of itself.
  The order of the rows must not mean anything.

  Args:
    real: features of the real.
    mean: of their mean, `flat`.
    made: of what was generated, by name.

  Returns:
    `{"frechet": {name: figure}, "diversity": {name: figure}}`, the diversity
    being the mean distance of two rows.
  """

  def away(rows):
    return frechet_distance(real[0::2], rows[1::2])

  known = {"real": away(real), "chance": away(mean)}
  varied = {"real": spread(real), "chance": 0.0}
  return {
    "frechet": {name: {"value": away(x), **known} for name, x in made.items()},
    "diversity": {
      name: {"value": spread(x), **varied} for name, x in made.items()
    },
  }


def matches(
  match: Callable[[Clips], Float[np.ndarray, "n"]],
  real: Clips,
  made: Mapping[str, Clips],
) -> dict[str, dict[str, Figure]]:
  """The share of pairs that are found to belong together, and how surely.

  Args:
    match: a logit of each pair, above 0 where the two belong together.
    real: pairs that do; mismatched, each picture is with the sound of the clip
      before it, which happens to fit as often as two clips are alike.
    made: pairs of which at least one part is generated.

  Returns:
    `{"accuracy": {name: figure}, "score": {name: figure}}`, the score being the
    mean logit; by chance they are those of the mismatched.
  """
  apart = Clips(real.picture, np.roll(real.sound, 1, axis=0))
  logits = {name: match(clips) for name, clips in made.items()}
  matched, mismatched = match(real), match(apart)
  found = {}
  for figure, of in (("accuracy", lambda x: x > 0), ("score", lambda x: x)):
    known = {
      "real": float(np.mean(of(matched))),
      "mismatched": float(np.mean(of(mismatched))),
    }
    known["chance"] = known["mismatched"]
    found[figure] = {
      name: {"value": float(np.mean(of(x))), **known}
      for name, x in logits.items()
    }
  return found


def recognised(
  logits: Float[np.ndarray, "n c"],
  of_real: Float[np.ndarray, "n c"],
  labels: Int[np.ndarray, "n l"],
) -> Figure:
  """The share of clips whose likeliest class is one of their labels (-1: none).

  By chance: of always answering with the commonest class.
  """
  has = (labels[..., None] == np.arange(logits.shape[1])).any(axis=1)

  def share(of):
    return float(np.take_along_axis(has, of.argmax(1)[:, None], axis=1).mean())

  return {
    "value": share(logits),
    "real": share(of_real),
    "chance": float(has.mean(0).max()),
  }
