"""Whole galleries in blocks: the same figures as the dense matrix."""

import jax
import ml_collections
import numpy as np
import pytest

from vgsgan.evals import ranking, retrieval
from vgsgan.losses import scores
from vgsgan.parallel import mesh
from vgsgan.tasks import grounding_evaluation
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState


def test_relevance_is_many_to_many():
  # Recording 7 is read for images 1 and 2; image 2 is described twice.
  right = retrieval.relevance(
    np.array([7, 7, 8, 9]), np.array([1, 2, 2, 3]), np.array([1, 2, 3])
  )
  np.testing.assert_array_equal(
    right,
    [
      [True, True, False],
      [True, True, False],
      [False, True, False],
      [False, False, True],
    ],
  )


@pytest.fixture(scope="module")
def galleries():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(13, 2, 2, 4)).astype(np.float32)
  speech = rng.normal(size=(21, 5, 4)).astype(np.float32)
  valid = np.arange(5) < rng.integers(1, 6, (21, 1))
  right = rng.random((21, 13)) < 0.15
  right[np.arange(21), rng.integers(0, 13, 21)] = True
  return images, speech, valid, right


@pytest.mark.parametrize("block", [4, 8, 64])
def test_blocks_give_the_figures_of_the_whole_matrix(galleries, block):
  images, speech, valid, right = galleries
  groups = {"odd": np.arange(21) % 2 == 1, "first": np.arange(21) < 6}
  polls = []
  found = retrieval.retrieval(
    jax.jit(scores.misa), images, speech, valid, right, groups, block,
    lambda: polls.append(1),
  )  # fmt: skip
  assert polls
  # The score written as a loop over pairs, independent of `scores`.
  dense = np.zeros((21, 13))
  for s in range(21):
    for i in range(13):
      dots = images[i].reshape(4, 4) @ speech[s, valid[s]].T
      dense[s, i] = dots.max(0).mean()
  for name, chosen in {"": slice(None), **groups}.items():
    figures = found if name == "" else found["by_group"][name]
    for direction, matrix, answers in (
      ("speech_to_image", dense[chosen], right[chosen]),
      ("image_to_speech", dense[chosen].T, right[chosen].T),
    ):
      expected = ranking.ranking(matrix, answers)
      assert figures[direction].keys() == expected.keys()
      for key, value in expected.items():
        assert figures[direction][key] == pytest.approx(value)


def test_score_sees_only_blocks(galleries):
  images, speech, valid, _ = galleries
  shapes = set()

  def score(i, s, v):
    shapes.add((len(i), len(s), len(v)))
    return np.zeros((len(i), len(s)))

  for by_speech in (True, False):
    rows = list(
      retrieval.score_blocks(score, images, speech, valid, 8, by_speech)
    )
    assert max(matrix.shape[0] for _, matrix in rows) <= 8
    total = 21 if by_speech else 13
    assert [r.start for r, _ in rows] == list(range(0, total, 8))
    assert sum(len(matrix) for _, matrix in rows) == total
  assert shapes == {(8, 8, 8)}


def test_padding_rows_are_dropped():
  """A row a recording, and a row a picture: that of its first record."""
  images = np.array([7, 7, 3, 9, 3, 5])
  records = [
    {"row": np.float32(i), "image_id": image, "speech_id": np.int32(20 + i)}
    for i, image in enumerate(np.int32(images))
  ]
  config = ml_collections.ConfigDict(
    {"eval": {"batch": 4}, "data": {"num_threads": 1}}
  )

  def encode(state, batch):
    maps = batch["row"][:, None] + state.step
    ids = {name: batch[name] for name in ("image_id", "speech_id")}
    return (maps[..., None, None], maps[..., None] + 100, maps > -1), ids

  predict = Predictor(
    encode, lambda record, rng: record, config, mesh.make_mesh(1)
  )
  polled = []
  state = TrainState(0, {}, {}, {})
  found = grounding_evaluation.collect(
    predict.batches(state, records, lambda: polled.append(1))
  )
  assert len(polled) == 2
  np.testing.assert_array_equal(found["image_id"], images)
  np.testing.assert_array_equal(found["speech_id"], np.arange(20, 26))
  np.testing.assert_array_equal(found["speech"].ravel(), np.arange(100, 106))
  np.testing.assert_array_equal(found["gallery"], [7, 3, 9, 5])
  np.testing.assert_array_equal(found["images"].ravel(), [0, 2, 3, 5])
  assert found["valid"].shape == (6, 1)


def test_the_best_epoch_has_the_best_mean_of_both_directions():
  results = {
    "speech_to_image": {"R@1": {"value": 0.9}, "R@10": {"value": 0.25}},
    "image_to_speech": {"R@1": {"value": 0.8}, "R@10": {"value": 0.75}},
  }
  assert grounding_evaluation.mean_recall_at_10(results) == 0.5
