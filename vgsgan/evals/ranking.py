"""Retrieval figures from scores and relevance, each with its chance.

R@k is the share of queries with a relevant item among the k best, the field's
"recall at k" (Harwath et al., 2018, section 4); with one relevant item per
query it is hit@k. Ties count in expectation over random orders: nothing is
drawn, and a constant score gets exactly the chance figures.

The median rank is the median, over queries and random orders, of the rank of
the best relevant item: the rank at which R@k passes one half. Without ties it
is the plain median. Ranks start at 1.

nDCG@k is for graded relevance: the gains of the k best, each divided by
log2(rank + 1), over the largest possible sum (Järvelin and Kekäläinen, 2002,
with linear gain; the gain 2^r - 1 is that of Burges et al., 2005).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Shaped

# Above this k the log-gamma form is used: k products would be slow.
_MANY = 128

# Gain of a relevance.
GAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "exponential": lambda relevance: np.exp2(relevance) - 1,
  "linear": lambda relevance: relevance,
}


class BestRanks(NamedTuple):
  """Counts that give the rank of each query's best relevant item.

  higher: irrelevant items that score above it.
  tied_relevant, tied_irrelevant: items with the same score, itself included.
  relevant: all relevant items; a query with 0 has no answer.
  gallery: number of items.
  """

  higher: Int[np.ndarray, "q"]
  tied_relevant: Int[np.ndarray, "q"]
  tied_irrelevant: Int[np.ndarray, "q"]
  relevant: Int[np.ndarray, "q"]
  gallery: int


def best_ranks(
  scores: Shaped[np.ndarray, "q n"], relevance: Shaped[np.ndarray, "q n"]
) -> BestRanks:
  """Ranks of the best relevant items, for some of the queries.

  Args:
    scores: scores of q queries with all n items; higher is better. NaN counts
      as -inf, below every number. A row of only NaN is all ties, at chance.
    relevance: an item is relevant where this is True or above 0.
  """
  scores = np.asarray(scores)
  if scores.dtype not in (np.float32, np.float64):
    scores = scores.astype(np.float64)
  scores = np.where(np.isnan(scores), -np.inf, scores)
  is_relevant = relevance > 0
  best = np.max(
    scores, axis=1, initial=-np.inf, where=is_relevant, keepdims=True
  )
  tied = scores == best
  return BestRanks(
    higher=np.sum(scores > best, axis=1),
    tied_relevant=np.sum(tied & is_relevant, axis=1),
    tied_irrelevant=np.sum(tied & ~is_relevant, axis=1),
    relevant=np.sum(is_relevant, axis=1),
    gallery=scores.shape[1],
  )


def summarize(
  blocks: Sequence[BestRanks], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, Any]:
  """Figures over all queries of the blocks.

  Args:
    blocks: blocks of queries to one gallery.
    ks: the k of R@k, each at least 1; may exceed the gallery.

  Returns:
    `{"R@1": {"value", "chance"}, ..., "median_rank": {"value", "chance"},
    "gallery": n, "queries": q, "without_answer": m}`. R@k are shares in [0, 1].
    Queries without a relevant item are left out and counted in
    `without_answer`.

  Raises:
    ValueError: no query has an answer, galleries differ, or a k is below 1.
  """
  if any(k < 1 for k in ks):
    raise ValueError(f"R@k needs k >= 1: {tuple(ks)}")
  galleries = sorted({block.gallery for block in blocks})
  if len(galleries) > 1:
    raise ValueError(f"blocks of several galleries, of sizes {galleries}")
  queries = sum(len(block.relevant) for block in blocks)
  answered = [_answered(block) for block in blocks]
  if not any(len(fields[0]) for fields in answered):
    raise ValueError(f"none of {queries} queries has a relevant item")
  higher, tied, others, relevant = (
    np.concatenate(parts) for parts in zip(*answered, strict=True)
  )
  gallery = galleries[0]
  value = (higher, tied, others)
  chance = (np.zeros_like(higher), relevant, gallery - relevant)

  figures: dict[str, Any] = {
    f"R@{k}": {"value": _recall(*value, k), "chance": _recall(*chance, k)}
    for k in ks
  }
  figures["median_rank"] = {
    "value": _median_rank(*value, gallery),
    "chance": _median_rank(*chance, gallery),
  }
  figures["gallery"] = gallery
  figures["queries"] = len(relevant)
  figures["without_answer"] = queries - len(relevant)
  return figures


def ranking(
  scores: Shaped[np.ndarray, "q n"],
  relevance: Shaped[np.ndarray, "q n"],
  ks: Sequence[int] = (1, 5, 10),
) -> dict[str, Any]:
  """`summarize` of one whole matrix; see there and `best_ranks`."""
  return summarize([best_ranks(scores, relevance)], ks)


def ranking_blocks(
  blocks: Iterable[tuple[np.ndarray, np.ndarray]],
  ks: Sequence[int] = (1, 5, 10),
) -> dict[str, Any]:
  """`ranking` of blocks of rows (scores, relevance), each with all columns.

  Only five numbers per query are kept.
  """
  return summarize([best_ranks(*block) for block in blocks], ks)


def _answered(block: BestRanks) -> tuple[np.ndarray, ...]:
  has = block.relevant > 0
  fields = (block.higher, block.tied_relevant, block.tied_irrelevant)
  return (*(field[has] for field in fields), block.relevant[has])


def hit_probability(
  higher: Int[np.ndarray, "q"],
  relevant: Int[np.ndarray, "q"],
  irrelevant: Int[np.ndarray, "q"],
  k: int,
) -> Shaped[np.ndarray, "q"]:
  """Probability that a relevant item is among the k best.

  `higher` items rank above a block of ties of `relevant` (at least 1) and
  `irrelevant` items in random order. With s = k - higher places left, the
  probability is 1 - C(irrelevant, s) / C(irrelevant + relevant, s).
  """
  places = np.maximum(k - higher, 0)
  size = irrelevant + relevant
  # With more places than irrelevant items, a relevant one takes a place.
  certain = places > irrelevant
  places = np.minimum(places, irrelevant)
  if k <= _MANY:
    miss = np.ones(len(places))
    for i in range(int(places.max(initial=0))):
      factor = (irrelevant - i) / np.maximum(size - i, 1)
      miss *= np.where(i < places, factor, 1.0)
  else:
    miss = np.exp(
      scipy.special.gammaln(irrelevant + 1)
      - scipy.special.gammaln(irrelevant - places + 1)
      - scipy.special.gammaln(size + 1)
      + scipy.special.gammaln(size - places + 1)
    )
  return np.where(certain, 1.0, 1.0 - miss)


def _recall(
  higher: np.ndarray, relevant: np.ndarray, irrelevant: np.ndarray, k: int
) -> float:
  return float(np.mean(hit_probability(higher, relevant, irrelevant, k)))


def _median_rank(
  higher: np.ndarray,
  relevant: np.ndarray,
  irrelevant: np.ndarray,
  gallery: int,
) -> float:
  """Mean of the first ranks that reach, and that pass, half the queries."""
  # An even number of queries can reach exactly one half. Log-gamma errs by some
  # 1e-9 at a million items, and must not move the median by half a rank.
  slack = 1e-8

  def first(reached: float) -> int:
    low, high = 1, gallery
    while low < high:
      middle = (low + high) // 2
      if _recall(higher, relevant, irrelevant, middle) >= reached:
        high = middle
      else:
        low = middle + 1
    return low

  return (first(0.5 - slack) + first(0.5 + slack)) / 2


def ndcg(
  scores: Shaped[np.ndarray, "q n"],
  relevance: Shaped[np.ndarray, "q n"],
  k: int = 30,
  gain: str = "exponential",
  allowed: Bool[np.ndarray, "q n"] | None = None,
) -> dict[str, Any]:
  """Mean over the queries of nDCG@k.

  Args:
    scores: as in `best_ranks`.
    relevance: at least 0; an item of relevance 0 has no gain.
    k: at least 1; may exceed the gallery.
    gain: one of GAINS. Figures depend on it, chance most of all: report it.
    allowed: False for items that are not in a query's gallery, such as the
      query itself.

  Returns:
    `{"nDCG@k": {"value", "chance"}, "gain": gain, "gallery": n, "queries": q,
    "without_answer": m}`. Chance is that of a constant score. Queries without a
    relevant item are left out and counted in `without_answer`.

  Raises:
    ValueError: no query has an answer, relevance is negative, not finite or
      too large for its gain, k is below 1, or the gain unknown.
  """
  if k < 1:
    raise ValueError(f"nDCG@k needs k >= 1: {k}")
  if gain not in GAINS:
    raise ValueError(f"gain {gain!r} is none of {tuple(GAINS)}")
  gains = GAINS[gain](np.asarray(relevance, np.float64))
  if allowed is None:
    allowed = np.ones(gains.shape, bool)
  gains = np.where(allowed, gains, 0.0)
  if not np.all(np.isfinite(gains) & (gains >= 0)):
    raise ValueError("relevance must be 0 or more, and its gain finite")
  has = gains.any(axis=1)
  if not has.any():
    raise ValueError(f"none of {len(has)} queries has a relevant item")
  gallery = int(allowed.sum(axis=1).max())
  gains, allowed = gains[has], allowed[has]

  discounts = np.zeros(gains.shape[1])
  places = min(k, len(discounts))
  discounts[:places] = 1 / np.log2(np.arange(places) + 2)
  ideal = -np.sort(-gains, axis=1) @ discounts

  def figure(scores: np.ndarray) -> float:
    return float(np.mean(_dcg(scores, gains, allowed, discounts) / ideal))

  value, chance = figure(np.asarray(scores)[has]), figure(np.zeros(gains.shape))
  return {
    f"nDCG@{k}": {"value": value, "chance": chance},
    "gain": gain,
    "gallery": gallery,
    "queries": len(gains),
    "without_answer": int(np.sum(~has)),
  }


def _dcg(
  scores: Shaped[np.ndarray, "q n"],
  gains: Float[np.ndarray, "q n"],
  allowed: Bool[np.ndarray, "q n"],
  discounts: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "q"]:
  """Discounted cumulative gain; each item of a tie has the tie's mean gain."""
  scores = np.asarray(scores, np.float64)
  lowest = np.where(np.isnan(scores), -np.inf, scores)
  # NaN sorts last, and does not tie with NaN.
  keys = np.where(allowed, -lowest, np.nan)
  order = np.argsort(keys, axis=1, kind="stable")
  keys = np.take_along_axis(keys, order, axis=1)
  first = np.ones(keys.shape, bool)
  first[:, 1:] = keys[:, 1:] != keys[:, :-1]
  tie = np.cumsum(first.ravel()) - 1
  total = np.bincount(tie, np.take_along_axis(gains, order, axis=1).ravel())
  means = (total / np.bincount(tie))[tie]
  return means.reshape(keys.shape) @ discounts
