"""The attribute and the semantic test, against loops over all pairs."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vgsgan.evals import attributes as figures
from vgsgan.worlds.attributes import ATTRIBUTES, KIND, WORDS

KINDS = tuple(ATTRIBUTES)


def pictures(rng, count, most=3):
  """Random labels: some objects are missing, some attributes unknown."""
  labels = np.stack(
    [rng.integers(0, len(ATTRIBUTES[k]), (count, most)) for k in KINDS], -1
  )
  labels[rng.random(labels.shape) < 0.1] = -1
  area = rng.uniform(0.003, 0.06, (count, most))
  there = np.arange(most) < rng.integers(1, most + 1, count)[:, None]
  return np.where(there[..., None], labels, -1), np.where(there, area, 0.0)


def shares(higher, lower):
  total = 0.0
  for a, b in itertools.product(higher, lower):
    total += 1.0 if a > b else 0.5 if a == b else 0.0
  return total / (len(higher) * len(lower))


# Pairs.


@pytest.mark.parametrize("seed", range(5))
def test_pair_accuracy_is_the_area_under_the_roc_curve(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 8, 40).astype(np.float32)
  label = np.arange(40) < rng.integers(1, 40)
  found = figures.pair_accuracy(scores[label], scores[~label])
  assert found == pytest.approx(roc_auc_score(label, scores))
  assert found == pytest.approx(shares(scores[label], scores[~label]))


def test_pair_accuracy_handles_ties_and_nan():
  one = np.array([1.0, np.nan])
  assert figures.pair_accuracy(one, np.array([0.0])) == 0.5
  assert figures.pair_accuracy(one, np.array([np.nan])) == 0.75
  assert figures.pair_accuracy(one, np.array([-np.inf])) == 0.75
  with pytest.raises(ValueError, match="no pairs of 0 and 2"):
    figures.pair_accuracy(one[:0], one)


# Pictures with and without a word.


@pytest.mark.parametrize("seed", range(3))
def test_selected_images_equal_a_loop(seed):
  labels, area = pictures(np.random.default_rng(seed), 60)
  for word in WORDS:
    k = KINDS.index(KIND[word])
    value = ATTRIBUTES[KIND[word]].index(word)
    with_word, without = [], []
    for i in range(60):
      there = [n for n in range(3) if area[i, n] > 0]
      pixels = [area[i, n] * 16384 for n in there if labels[i, n, k] == value]
      if not all(labels[i, n, k] >= 0 for n in there):
        continue
      if any(p > 100 for p in pixels):
        with_word.append(i)
      if not pixels:
        without.append(i)
    found = figures.select_images(word, labels, area, 12)
    assert found[0].tolist() == with_word[:12]
    assert found[1].tolist() == without[:12]


def test_an_image_without_objects_is_not_selected():
  labels, area = np.full((1, 2, 4), -1), np.zeros((1, 2))
  assert not any(len(c) for c in figures.select_images("red", labels, area))


# The attribute test.


def test_attribute_test_equals_loops():
  rng = np.random.default_rng(0)
  labels, area = pictures(rng, 80)
  words = [w for w in WORDS for _ in range(3)]
  held_out = np.arange(len(words)) % 3 == 2
  order = rng.permutation(len(words))
  words, held_out = [words[i] for i in order], held_out[order]
  scores = rng.integers(0, 9, (len(words), 80)).astype(np.float32)
  found = figures.attribute_test(scores, words, held_out, labels, area, 20)
  for name, wanted in (("training_voices", False), ("held_out_voice", True)):
    expected = {}
    for word in WORDS:
      a, b = figures.select_images(word, labels, area, 20)
      rows = [
        scores[i]
        for i in range(len(words))
        if words[i] == word and held_out[i] == wanted
      ]
      assert len(rows) == (1 if wanted else 2)
      expected[word] = np.mean([shares(row[a], row[b]) for row in rows])
      assert found["pictures"][word] == {"with": len(a), "without": len(b)}
      one = found[name]["words"][word]
      assert one["value"] == pytest.approx(expected[word])
      assert one["chance"] == 0.5
    means = []
    for kind, of in ATTRIBUTES.items():
      means.append(np.mean([expected[word] for word in of]))
      assert found[name][kind]["value"] == pytest.approx(means[-1])
    assert found[name]["mean"]["value"] == pytest.approx(np.mean(means))
    assert found[name]["mean"]["chance"] == 0.5


def test_attribute_test_gives_1_to_true_and_half_to_constant_scores():
  labels, area = pictures(np.random.default_rng(1), 100)
  held_out = np.zeros(len(WORDS), bool)
  knows = np.zeros((len(WORDS), 100))
  for row, word in enumerate(WORDS):
    knows[row, figures.select_images(word, labels, area)[0]] = 1.0
  found = figures.attribute_test(knows, WORDS, held_out, labels, area)
  assert found["training_voices"]["mean"]["value"] == 1.0
  assert "held_out_voice" not in found
  flat = figures.attribute_test(0 * knows, WORDS, held_out, labels, area)
  for name in (*ATTRIBUTES, "mean"):
    assert flat["training_voices"][name] == {"value": 0.5, "chance": 0.5}


def test_words_without_pairs_are_left_out():
  labels, area = pictures(np.random.default_rng(2), 50)
  labels[..., 3] = np.where(labels[..., 3] >= 0, 0, -1)  # Cubes alone.
  scores = np.zeros((len(WORDS), 50))
  held_out = np.zeros(len(WORDS), bool)
  found = figures.attribute_test(scores, WORDS, held_out, labels, area)
  words = found["training_voices"]["words"]
  assert set(WORDS) - set(words) == set(ATTRIBUTES["shape"])
  assert "shape" not in found["training_voices"]
  assert found["pictures"]["cube"]["without"] == 0
  assert found["pictures"]["sphere"]["with"] == 0


# The semantic test.


@pytest.mark.parametrize("seed", range(4))
def test_semantic_test_equals_loops(seed):
  rng = np.random.default_rng(seed)
  true = rng.integers(0, 4, 30).astype(np.float32)
  others = rng.integers(0, 4, (30, 4)).astype(np.float32)
  changed = rng.integers(0, 3, (30, 4))
  found = figures.semantic_test(true, others, changed)
  for k in (1, 3):
    hits = 0.0
    for t, row in zip(true, others, strict=True):
      above, ties = (row > t).sum(), (row == t).sum()
      # It takes each of its ties + 1 places equally often.
      hits += np.mean([above + place < k for place in range(ties + 1)])
    assert found[f"R@{k}"]["value"] == pytest.approx(hits / 30)
    assert found[f"R@{k}"]["chance"] == pytest.approx(k / 5)
  assert found["items"] == 30
  assert set(found["by_kind"]) == set(KINDS[:3])
  for i, kind in enumerate(KINDS[:3]):
    places = np.argwhere(changed == i)
    pairs = [shares([true[a]], [others[a, b]]) for a, b in places]
    assert found["by_kind"][kind] == {
      "value": pytest.approx(np.mean(pairs)),
      "chance": 0.5,
      "pairs": len(pairs),
    }


def test_semantic_test_handles_true_constant_and_nan_scores():
  others, changed = np.zeros((6, 4)), np.tile(np.arange(4), (6, 1))
  knows = figures.semantic_test(np.ones(6), others, changed)
  flat = figures.semantic_test(np.zeros(6), others, changed)
  broken = figures.semantic_test(np.full(6, np.nan), others, changed)
  for k in (1, 3):
    assert knows[f"R@{k}"]["value"] == 1.0
    assert flat[f"R@{k}"]["value"] == pytest.approx(k / 5)
    assert broken[f"R@{k}"]["value"] == 0.0
  for kind in KINDS:
    assert knows["by_kind"][kind]["value"] == 1.0
    assert flat["by_kind"][kind]["value"] == 0.5
    assert broken["by_kind"][kind]["value"] == 0.0
