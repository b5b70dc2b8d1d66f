"""Tests of single words: the attribute test and the semantic test.

After "Learning Words by Drawing Images" (Surís et al., CVPR 2019) and its
published code. There the semantic test has negatives that the GAN edited; here
they are rendered (`data.builders.clevrgan.contrasts`), so figures are not
comparable. As in `ranking`, ties count in expectation over random orders, and
NaN ranks below every number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Shaped

from vgsgan.evals import ranking
from vgsgan.worlds.attributes import ATTRIBUTES, KIND, WORDS

MOST = 500  # Images with a word, and as many without it, as published.
# Least share of the image that an object with the word covers: 100 pixels of
# 128 x 128, as published. The published upper limit, 700 pixels for all words
# but sizes, would leave out every large object of the scenes made here.
LEAST_AREA = 100 / 128**2
_KINDS = tuple(ATTRIBUTES)

Figures = dict[str, Any]


def select_images(
  word: str,
  attributes: Int[np.ndarray, "p n 4"],
  area: Float[np.ndarray, "p n"],
  most: int = MOST,
) -> tuple[Int[np.ndarray, "a"], Int[np.ndarray, "b"]]:
  """Selects the first images with a word, and the first without it.

  Args:
    word: one of WORDS.
    attributes: attributes of the objects, indices in the order of ATTRIBUTES;
      -1 where the attribute is unknown, or there is no object.
    area: share of the image that each object covers; 0: there is no object.
    most: the largest number of images of each kind.

  Returns:
    Indices of images in which the word is true of an object larger than
    `LEAST_AREA`, and of images in which it is true of no object of any size.
    Images with an unknown attribute of that kind are in neither: otherwise one
    set would hold the clearer images, which a model tells without any word.
  """
  kind = KIND[word]
  values = attributes[..., _KINDS.index(kind)]
  there = area > 0
  has = there & (values == ATTRIBUTES[kind].index(word))
  visible = has & (area > LEAST_AREA)
  usable = there.any(1) & ~(there & (values < 0)).any(1)
  with_word = np.flatnonzero(usable & visible.any(1))
  without = np.flatnonzero(usable & ~has.any(1))
  return with_word[:most], without[:most]


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
  """Share of image pairs that a spoken word tells apart, by word and kind.

  Args:
    scores: scores of w recordings of single words with p images.
    words: the word of each recording, one of WORDS.
    held_out: True for recordings of held-out voices; any number of voices may
      say a word.
    attributes: attributes of the images' objects; see `select_images`.
    area: share of the image that each object covers; see `select_images`.
    most: largest number of images with a word, and without it.

  Returns:
    `{"training_voices": figures, "held_out_voice": figures, "pictures": {word:
    {"with": n, "without": m}}}`. Figures: `words` has an entry for each word,
    the mean of `pair_accuracy` over its recordings; an entry for each kind, the
    mean over its words; and `mean`, the mean over kinds. Each is `{"value",
    "chance"}`. Words without pairs or recordings are left out, and kinds and
    voices without words.
  """
  pairs = {word: select_images(word, attributes, area, most) for word in WORDS}
  said = np.array(words)
  result: Figures = {}
  for name, voices in (
    ("training_voices", ~held_out),
    ("held_out_voice", held_out),
  ):
    accuracy = {}
    for word, (with_word, without) in pairs.items():
      rows = scores[voices & (said == word)]
      if len(rows) and len(with_word) and len(without):
        accuracy[word] = np.mean(
          [pair_accuracy(row[with_word], row[without]) for row in rows]
        )
    if accuracy:
      result[name] = _by_kind(accuracy)
  result["pictures"] = {
    word: {"with": len(with_word), "without": len(without)}
    for word, (with_word, without) in pairs.items()
  }
  return result


def _by_kind(accuracy: dict[str, float]) -> Figures:
  kinds = {}
  for kind in ATTRIBUTES:
    values = [value for word, value in accuracy.items() if KIND[word] == kind]
    if values:
      kinds[kind] = np.mean(values)
  mean = _figure(np.mean(list(kinds.values())), 0.5)
  words = {word: _figure(value, 0.5) for word, value in accuracy.items()}
  figures = {kind: _figure(value, 0.5) for kind, value in kinds.items()}
  return {"words": words, **figures, "mean": mean}


def semantic_test(
  true: Shaped[np.ndarray, "i"],
  negatives: Shaped[np.ndarray, "i k"],
  changed: Int[np.ndarray, "i k"],
) -> Figures:
  """Recall of a caption's own image among images that differ in one attribute.

  Args:
    true: scores of the captions with their own images.
    negatives: scores with k images that differ in one attribute.
    changed: the index of that attribute in ATTRIBUTES.

  Returns:
    `R@1` and `R@3` of the true image among all, `items`, and `by_kind`: for
    each attribute, the share of the negatives with that attribute changed that
    score below the true image, and their number, `pairs`. All but the counts
    are `{"value", "chance"}`; with four negatives chance is 0.2, 0.6 and 0.5.
  """
  scores = np.concatenate([true[:, None], negatives], axis=1)
  relevance = np.zeros(scores.shape, bool)
  relevance[:, 0] = True
  figures = ranking.ranking(scores, relevance, (1, 3))
  wins = won(true[:, None], negatives)
  by_kind = {}
  for i, kind in enumerate(ATTRIBUTES):
    rows = wins[changed == i]
    if len(rows):
      by_kind[kind] = _figure(rows.mean(), 0.5) | {"pairs": len(rows)}
  recalls = {name: figures[name] for name in ("R@1", "R@3")}
  return recalls | {"items": len(true), "by_kind": by_kind}


def won(
  right: Shaped[np.ndarray, "*rows"], wrong: Shaped[np.ndarray, "*others"]
) -> Float[np.ndarray, "*both"]:
  """1 where `right` is larger, 0.5 for ties, else 0; arrays are broadcast."""
  right, wrong = _numbers(right), _numbers(wrong)
  return (right > wrong) + 0.5 * (right == wrong)


def _figure(value: float, chance: float) -> Figures:
  return {"value": float(value), "chance": chance}


def _numbers(scores: np.ndarray) -> np.ndarray:
  """Scores in float64, with NaN as -inf."""
  scores = np.asarray(scores, np.float64)
  return np.where(np.isnan(scores), -np.inf, scores)
