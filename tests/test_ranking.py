"""Ranking figures against sklearn, hand counts and simulated tie-breaking."""

import json
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from vgsgan.evals import ranking as r


def _by_sorting(scores, relevance, ks):
  """Recalls and median for one strict order, by sorting row by row."""
  ranks = []
  for row, relevant in zip(scores, relevance, strict=True):
    order = sorted(range(len(row)), key=lambda j: -row[j])
    ranks.append(1 + min(order.index(j) for j in np.flatnonzero(relevant)))
  ranks = np.array(ranks)
  return {k: np.mean(ranks <= k) for k in ks}, np.median(ranks)


def _random(rng, q=9, n=7, share=0.3):
  relevance = rng.random((q, n)) < share
  relevance[np.arange(q), rng.integers(0, n, q)] = True
  return rng.normal(size=(q, n)), relevance


def test_figures_without_ties_equal_sorting():
  rng = np.random.default_rng(0)
  for q in (1, 2, 7, 8, 9):
    scores, relevance = _random(rng, q)
    recalls, median = _by_sorting(scores, relevance, (1, 2, 5))
    got = r.ranking(scores, relevance, (1, 2, 5))
    assert got["median_rank"]["value"] == median
    for k, recall in recalls.items():
      assert got[f"R@{k}"]["value"] == pytest.approx(recall, abs=1e-12)


def test_figures_equal_sklearns_for_pairs():
  scores = np.random.default_rng(1).normal(size=(40, 40))
  got = r.ranking(scores, np.eye(40, dtype=bool), (1, 5, 10))
  for k in (1, 5, 10):
    expected = top_k_accuracy_score(np.arange(40), scores, k=k)
    assert got[f"R@{k}"]["value"] == pytest.approx(expected)
    assert got[f"R@{k}"]["chance"] == pytest.approx(k / 40)
  assert got["median_rank"]["chance"] == 20.5


def test_many_to_many_equals_a_case_worked_by_hand():
  scores = np.array([[5, 4, 3, 2], [1, 2, 3, 4], [1, 2, 2, 0], [7, 7, 7, 7]])
  relevance = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
  # First relevant at rank 2; at 3; at 1 or 2; at 1 (1/2), 2 (1/3) or 3 (1/6).
  got = r.ranking(scores, relevance, (1, 2, 3))
  assert got["R@1"]["value"] == pytest.approx((0 + 0 + 1 / 2 + 1 / 2) / 4)
  assert got["R@2"]["value"] == pytest.approx((1 + 0 + 1 + 5 / 6) / 4)
  assert got["R@3"]["value"] == 1
  assert got["median_rank"]["value"] == 2
  # By chance: 1/2 with two relevant of four, 1/4 with one.
  assert got["R@1"]["chance"] == pytest.approx((3 * 1 / 2 + 1 / 4) / 4)
  assert (got["gallery"], got["queries"]) == (4, 4)
  json.dumps(got)


def test_ties_are_the_mean_over_random_orders():
  rng = np.random.default_rng(2)
  scores, relevance = _random(rng, q=6)
  scores = np.round(scores)
  got = r.ranking(scores, relevance, (1, 2, 5))
  draws = 4000
  sums = dict.fromkeys((1, 2, 5), 0.0)
  for _ in range(draws):
    jitter = rng.random(scores.shape) * 1e-3
    recalls, _ = _by_sorting(scores + jitter, relevance, sums)
    for k in sums:
      sums[k] += recalls[k] / draws
  for k, mean in sums.items():
    assert got[f"R@{k}"]["value"] == pytest.approx(mean, abs=0.015)


def test_chance_is_the_mean_of_random_scores():
  rng = np.random.default_rng(3)
  _, relevance = _random(rng, q=300, n=20, share=0.15)
  chance = r.ranking(np.zeros(relevance.shape), relevance)
  runs = [
    r.ranking(rng.normal(size=relevance.shape), relevance) for _ in range(200)
  ]
  for name in ("R@1", "R@5", "R@10"):
    mean = np.mean([run[name]["value"] for run in runs])
    assert chance[name]["chance"] == pytest.approx(mean, abs=0.01)
  medians = [run["median_rank"]["value"] for run in runs]
  assert chance["median_rank"]["chance"] == pytest.approx(
    np.mean(medians), abs=0.5
  )


@pytest.mark.parametrize("n", [1, 2, 5, 6, 300])
def test_a_constant_score_is_chance(n):
  rng = np.random.default_rng(n)
  _, relevance = _random(rng, q=11, n=n, share=0.2)
  for constant in (0.0, 3.5, -np.inf, np.nan):
    got = r.ranking(np.full(relevance.shape, constant), relevance, (1, 5, 200))
    for name in ("R@1", "R@5", "R@200", "median_rank"):
      assert got[name]["value"] == got[name]["chance"]


def test_hit_probability_is_exact():
  cases = [
    (g, m, u, k)
    for g in (0, 1, 4)
    for m in (1, 2, 5)
    for u in (0, 1, 3, 200)
    for k in (1, 2, 5, 7, 150, 300)
  ]
  for g, m, u, k in cases:
    s = min(max(k - g, 0), u + m)
    expected = 1 - Fraction(comb(u, s), comb(u + m, s))
    args = (np.array([x]) for x in (g, m, u))
    got = r.hit_probability(*args, k)[0]
    assert got == pytest.approx(float(expected), rel=1e-9, abs=1e-12), (g, m, u)


def test_a_million_items_keep_precision():
  n = 10**6
  args = (np.array([x]) for x in (0, 1, n - 1))
  assert r.hit_probability(*args, 1)[0] == pytest.approx(1e-6, rel=1e-9)
  one = [np.array([x]) for x in (0, 1, n - 1)]
  assert r.hit_probability(*one, n // 2)[0] == pytest.approx(0.5, abs=1e-8)
  ranks = r.BestRanks(*(np.array([x] * 3) for x in (0, 1, n - 1, 1)), n)
  assert r.summarize([ranks])["median_rank"]["chance"] == pytest.approx(
    (n + 1) / 2, abs=0.02
  )


def test_order_and_scale_have_no_effect():
  rng = np.random.default_rng(4)
  for _ in range(20):
    scores, relevance = _random(rng)
    scores = np.round(scores, 1)
    got = r.ranking(scores, relevance)
    assert got == r.ranking(np.exp(2 * scores) - 5, relevance)
    assert got == r.ranking(scores.astype(np.float32), relevance)
    items = rng.permutation(scores.shape[1])
    assert got == r.ranking(scores[:, items], relevance[:, items])
    assert got == r.ranking(scores, relevance * 0.5)


def test_nan_ranks_worst():
  scores = np.array([[np.nan, 0.0, -9.0], [np.nan, 2.0, 1.0]])
  relevance = np.array([[1, 0, 0], [0, 0, 1]], bool)
  got = r.ranking(scores, relevance, (1, 2))
  assert got["R@2"]["value"] == 0.5
  assert got["median_rank"]["value"] == 2.5


def test_queries_without_an_answer_are_counted_apart():
  rng = np.random.default_rng(5)
  scores, relevance = _random(rng)
  scores[:, 0] = np.inf
  more = np.concatenate([relevance, np.zeros((2, 7), bool)])
  got = r.ranking(np.concatenate([scores, scores[:2]]), more)
  alone = r.ranking(scores, relevance)
  assert got == alone | {"without_answer": 2}
  with pytest.raises(ValueError, match="none of 2 queries"):
    r.ranking(scores[:2], more[-2:])
  with pytest.raises(ValueError, match="none of 0 queries"):
    r.ranking_blocks([])


def test_blocks_equal_the_whole_matrix():
  rng = np.random.default_rng(6)
  scores, relevance = _random(rng, q=23)
  relevance[4] = False
  whole = r.ranking(scores, relevance)
  for size in (1, 5, 23):
    starts = range(0, 23, size)
    blocks = ((scores[i : i + size], relevance[i : i + size]) for i in starts)
    streamed = r.ranking_blocks(blocks)
    assert whole == streamed
  with pytest.raises(ValueError, match="several galleries"):
    r.ranking_blocks([(scores, relevance), (scores[:, 1:], relevance[:, 1:])])


def test_k_must_be_a_rank():
  with pytest.raises(ValueError, match="k >= 1"):
    r.ranking(np.eye(2), np.eye(2), (0, 1))
  assert r.ranking(np.eye(2), np.eye(2), (99,))["R@99"]["chance"] == 1
