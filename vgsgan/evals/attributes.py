"""Which single words a model understands: the attribute and semantic tests.

After "Learning Words by Drawing Images" (Surís et al., CVPR 2019) and its
published code. There the semantic test has negatives that the GAN edited; here
they are rendered (`worlds.contrasts`), so figures are not comparable. As in
`ranking`, ties are in random order, in expectation, and NaN is below every
number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Shaped

from vgsgan.evals import ranking
from vgsgan.worlds.attributes import ATTRIBUTES, KIND, WORDS

MOST = 500  # Pictures with a word, and as many without, as published.
# Least share of the picture that an object with the word covers: 100 pixels of
# 128 x 128, as published. The published upper limit, 700 pixels for all words
# but sizes, would leave out every large object of the scenes made here.
LEAST_AREA = 100 / 128**2
_KINDS = tuple(ATTRIBUTES)

Figures = dict[str, Any]


def chosen(
  word: str,
  attributes: Int[np.ndarray, "p n 4"],
  area: Float[np.ndarray, "p n"],
  most: int = MOST,
) -> tuple[Int[np.ndarray, "a"], Int[np.ndarray, "b"]]:
  """Pictures with a word, and pictures without it: the first of each.

  Args:
    word: one of WORDS.
    attributes: of the objects, indices in the order of ATTRIBUTES; -1 where
      that is unknown, or there is no object.
    area: the share of the picture that each covers; 0: there is no object.
    most: how many of each, at most.

  Returns:
    Indices of pictures in which the word is true of an object larger than
    `LEAST_AREA`, and of those in which it is of none of any size. Of both kinds
    only those in which nothing is unknown: or the one would be the clearer
    pictures, which a model can tell without knowing any word.
  """
  kind = KIND[word]
  values = attributes[..., _KINDS.index(kind)]
  there = area > 0
  has = there & (values == ATTRIBUTES[kind].index(word))
  visible = has & (area > LEAST_AREA)
  known = there.any(1) & ~(there & (values < 0)).any(1)
  with_it = np.flatnonzero(known & visible.any(1))
  without = np.flatnonzero(known & ~has.any(1))
  return with_it[:most], without[:most]


def pair_accuracy(
  higher: Shaped[np.ndarray, "a"], lower: Shaped[np.ndarray, "b"]
) -> float:
  """Share of all pairs in which the first scores above the second.

  Ties count half, so a constant score has 0.5.

  Raises:
    ValueError: there are no pairs.
  """
  if not (len(higher) and len(lower)):
    raise ValueError(f"no pairs of {len(higher)} and {len(lower)} scores")
  ranks = scipy.stats.rankdata(_numbers(np.concatenate([higher, lower])))
  a, b = len(higher), len(lower)
  return float((ranks[:a].sum() - a * (a + 1) / 2) / (a * b))


def attribute_test(
  scores: Shaped[np.ndarray, "w p"],
  words: Sequence[str],
  held_out: Bool[np.ndarray, "w"],
  attributes: Int[np.ndarray, "p n 4"],
  area: Float[np.ndarray, "p n"],
  most: int = MOST,
) -> Figures:
  """Whether a word scores higher with pictures that it is true of.

  Args:
    scores: of w recordings of single words with p pictures.
    words: what each recording says, one of WORDS.
    held_out: whether its voice is; a word may be said by any number of voices.
    attributes: of the pictures; see `chosen`, as for `area` and `most`.
    area: likewise.
    most: likewise.

  Returns:
    `{"training_voices": figures, "held_out_voice": figures, "pictures": {word:
    {"with": n, "without": m}}}`. Figures: `words` with one for each word, the
    mean over its recordings of `pair_accuracy`; one for each kind, the mean of
    its words; and `mean`, that of the kinds. Each is `{"value", "chance"}`.
    Words without pairs or without a recording are left out, kinds without
    words too, and voices without any.
  """
  pairs = {word: chosen(word, attributes, area, most) for word in WORDS}
  said = np.array(words)
  result: Figures = {}
  for name, voices in (
    ("training_voices", ~held_out),
    ("held_out_voice", held_out),
  ):
    accuracy = {}
    for word, (with_it, without) in pairs.items():
      rows = scores[voices & (said == word)]
      if len(rows) and len(with_it) and len(without):
        accuracy[word] = np.mean(
          [pair_accuracy(row[with_it], row[without]) for row in rows]
        )
    if accuracy:
      result[name] = _by_kind(accuracy)
  result["pictures"] = {
    word: {"with": len(with_it), "without": len(without)}
    for word, (with_it, without) in pairs.items()
  }
  return result


def _by_kind(accuracy: dict[str, float]) -> Figures:
  kinds = {}
  for kind in ATTRIBUTES:
    of = [value for word, value in accuracy.items() if KIND[word] == kind]
    if of:
      kinds[kind] = np.mean(of)
  mean = _figure(np.mean(list(kinds.values())), 0.5)
  words = {word: _figure(value, 0.5) for word, value in accuracy.items()}
  figures = {kind: _figure(value, 0.5) for kind, value in kinds.items()}
  return {"words": words, **figures, "mean": mean}


def semantic_test(
  true: Shaped[np.ndarray, "i"],
  negatives: Shaped[np.ndarray, "i k"],
  changed: Int[np.ndarray, "i k"],
) -> Figures:
  """Whether a caption scores highest with the picture that it is true of.

  Args:
    true: scores of the captions with their pictures.
    negatives: with the pictures that differ in one attribute.
    changed: the index of that attribute in ATTRIBUTES.

  Returns:
    `R@1` and `R@3` of the true picture among all, `items`, and `by_kind`: for
    each attribute, the share of the pictures in which it was changed that
    score below the true one, and their number, `pairs`. All but the counts are
    `{"value", "chance"}`; with four negatives chance is 0.2, 0.6 and 0.5.
  """
  scores = np.concatenate([true[:, None], negatives], axis=1)
  relevance = np.zeros(scores.shape, bool)
  relevance[:, 0] = True
  found = ranking.ranking(scores, relevance, (1, 3))
  one, other = _numbers(true)[:, None], _numbers(negatives)
  right = (one > other) + 0.5 * (one == other)
  by_kind = {}
  for i, kind in enumerate(ATTRIBUTES):
    of = right[changed == i]
    if len(of):
      by_kind[kind] = _figure(of.mean(), 0.5) | {"pairs": len(of)}
  recalls = {name: found[name] for name in ("R@1", "R@3")}
  return recalls | {"items": len(true), "by_kind": by_kind}


def _figure(value: float, chance: float) -> Figures:
  return {"value": float(value), "chance": chance}


def _numbers(scores: np.ndarray) -> np.ndarray:
  scores = np.asarray(scores, np.float64)
  return np.where(np.isnan(scores), -np.inf, scores)
