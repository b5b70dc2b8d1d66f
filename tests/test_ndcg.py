"""nDCG against scikit-learn, which averages ties too, and cases by hand."""

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from vgsgan.evals import ranking as r


def _random(rng, q=8, n=12, levels=4):
  relevance = rng.integers(0, levels, (q, n))
  relevance[:, 0] = levels - 1
  return np.round(rng.normal(size=(q, n)) * 2), relevance


@pytest.mark.parametrize("k", [1, 3, 12, 30])
def test_ndcg_equals_sklearns_with_ties(k):
  rng = np.random.default_rng(k)
  for _ in range(20):
    scores, relevance = _random(rng)
    for gain, gains in (
      ("exponential", 2.0**relevance - 1),
      ("linear", relevance),
    ):
      got = r.ndcg(scores, relevance, k, gain)
      figure = got[f"nDCG@{k}"]
      expected = ndcg_score(gains, scores, k=k)
      assert figure["value"] == pytest.approx(expected, abs=1e-12)
      chance = ndcg_score(gains, np.zeros(scores.shape), k=k)
      assert figure["chance"] == pytest.approx(chance, abs=1e-12)
      assert got["gain"] == gain


def test_ndcg_equals_a_case_worked_by_hand():
  scores = np.array([[9.0, 8.0, 7.0]])
  relevance = np.array([[1, 3, 2]])
  # Gains 1, 7, 3; ideally 7, 3, 1.
  third = 1 / np.log2(3)
  expected = (1 + 7 * third) / (7 + 3 * third)
  got = r.ndcg(scores, relevance, 2)
  assert got["nDCG@2"]["value"] == pytest.approx(expected, abs=1e-14)
  mean = 11 / 3
  chance = mean * (1 + third) / (7 + 3 * third)
  assert got["nDCG@2"]["chance"] == pytest.approx(chance, abs=1e-14)
  linear = r.ndcg(scores, relevance, 2, "linear")["nDCG@2"]["value"]
  assert linear == pytest.approx((1 + 3 * third) / (3 + 2 * third), abs=1e-14)
  assert (got["gallery"], got["queries"], got["without_answer"]) == (3, 1, 0)
  json.dumps(got)


def test_ties_are_the_mean_over_all_orders():
  scores = np.array([[3.0, 1.0, 1.0, 1.0, 0.0]])
  relevance = np.array([[0, 2, 0, 1, 3]])
  values = []
  for order in itertools.permutations([0.1, 0.2, 0.3]):
    strict = scores + np.array([[0, *order, 0]])
    values.append(r.ndcg(strict, relevance, 3)["nDCG@3"]["value"])
  assert len(set(values)) > 2
  got = r.ndcg(scores, relevance, 3)["nDCG@3"]["value"]
  assert got == pytest.approx(np.mean(values), abs=1e-14)


def test_masked_items_are_not_in_the_gallery():
  rng = np.random.default_rng(1)
  for _ in range(10):
    scores, relevance = _random(rng)
    scores[:, 3] = np.inf
    scores[0, 4:6] = np.nan, -np.inf
    allowed = rng.random(scores.shape) < 0.6
    allowed[:, 0] = True
    found = r.ndcg(scores, relevance, 4, allowed=allowed)
    assert found["gallery"] == max(map(sum, allowed.tolist()))
    got = found["nDCG@4"]
    rows = [
      r.ndcg(s[None, a], g[None, a], 4)["nDCG@4"]
      for s, g, a in zip(scores, relevance, allowed, strict=True)
    ]
    for name in ("value", "chance"):
      expected = np.mean([row[name] for row in rows])
      assert got[name] == pytest.approx(expected, abs=1e-12)


def test_nan_ranks_worst():
  relevance = np.array([[3, 1, 0]])
  with_nan = r.ndcg(np.array([[np.nan, 0.5, -9.0]]), relevance)
  lowest = r.ndcg(np.array([[-1e9, 0.5, -9.0]]), relevance)
  assert with_nan == lowest
  tied = r.ndcg(np.array([[np.nan, 0.5, -np.inf]]), relevance)
  assert lowest["nDCG@30"]["value"] < tied["nDCG@30"]["value"] < 1


def test_order_and_scale_have_no_effect():
  rng = np.random.default_rng(2)
  scores, relevance = _random(rng, 20, 9)
  got = r.ndcg(scores, relevance, 5)["nDCG@5"]
  items = rng.permutation(9)
  for other in (
    r.ndcg(np.exp(scores) * 3 - 1, relevance, 5),
    r.ndcg(scores.astype(np.float32), relevance, 5),
    r.ndcg(scores[:, items], relevance[:, items], 5),
  ):
    assert other["nDCG@5"] == pytest.approx(got, abs=1e-12)
  perfect = r.ndcg(relevance * 2.0, relevance, 5)["nDCG@5"]
  assert perfect["value"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 3.5, -np.inf, np.nan])
def test_a_constant_score_is_chance(constant):
  _, relevance = _random(np.random.default_rng(3), 11, 40)
  allowed = np.random.default_rng(4).random(relevance.shape) < 0.7
  for mask in (None, allowed):
    scores = np.full(relevance.shape, constant)
    figure = r.ndcg(scores, relevance, allowed=mask)["nDCG@30"]
    assert figure["value"] == figure["chance"]


def test_queries_without_an_answer_are_counted_apart():
  scores, relevance = _random(np.random.default_rng(5))
  alone = r.ndcg(scores, relevance)
  more = np.concatenate([relevance[:3], np.zeros((2, 12), int), relevance[3:]])
  got = r.ndcg(scores[[0, 1, 2, 0, 0, *range(3, 8)]], more)
  assert got == alone | {"without_answer": 2}
  hidden = np.ones(scores.shape, bool)
  hidden[1] = False
  assert r.ndcg(scores, relevance, allowed=hidden)["without_answer"] == 1
  with pytest.raises(ValueError, match="none of 8 queries"):
    r.ndcg(scores, 0 * relevance)


def test_invalid_relevance_is_refused():
  scores, relevance = np.eye(2), np.eye(2)
  with pytest.raises(ValueError, match="k >= 1"):
    r.ndcg(scores, relevance, 0)
  with pytest.raises(ValueError, match="gain 'log'"):
    r.ndcg(scores, relevance, gain="log")
  for bad in (-1.0, np.nan, np.inf):
    with pytest.raises(ValueError, match="0 or more"):
      r.ndcg(scores, relevance + np.array([[0, bad], [0, 0]]))
