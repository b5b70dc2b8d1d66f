"""The tests with pairs: hand-worked cases, chance, and scores out of order."""

import numpy as np
import pytest

from vgsgan.evals import pairs

KINDS = ("size", "color", "thing")


def test_both_directions_of_a_pair_worked_by_hand():
  scores = np.array(
    [
      # Images in rows, captions in columns. Both captions find their image;
      # the second image prefers the first caption.
      [[3.0, 0.0], [2.0, 1.0]],
      # A tie: half for both directions of the first caption and image.
      [[1.0, 1.0], [1.0, 5.0]],
    ]
  )
  figures = pairs.pair_test(scores, np.array([0, 2]), KINDS, ("thing",))
  by_speech, by_image = figures["speech_to_image"], figures["image_to_speech"]
  assert by_speech["size"] == {"value": 1.0, "chance": 0.5}
  assert by_image["size"]["value"] == 0.5
  assert by_speech["thing"]["value"] == by_image["thing"]["value"] == 0.75
  assert by_speech["attributes"]["value"] == 1.0  # Of size alone.
  assert by_speech["nouns"]["value"] == 0.75
  assert figures["pairs"] == {"size": 1, "color": 0, "thing": 1}
  assert "color" not in by_speech


def test_models_that_do_not_hear_or_see_the_difference_are_at_chance():
  rng = np.random.default_rng(0)
  changed = rng.integers(0, 3, 300)
  columns = rng.normal(size=(300, 2, 1))
  for scores in (
    np.repeat(columns, 2, 2),  # Deaf: an image's score for any caption.
    np.repeat(columns, 2, 2).swapaxes(1, 2),  # Blind.
    np.zeros((300, 2, 2)),
  ):
    figures = pairs.pair_test(scores, changed, KINDS, ("thing",))
    for direction in ("speech_to_image", "image_to_speech"):
      for figure in figures[direction].values():
        assert figure["value"] == pytest.approx(0.5)


def test_no_number_loses():
  scores = np.full((1, 2, 2), np.nan)
  scores[0, 0, 1] = -1e30
  figures = pairs.pair_test(scores, np.array([1]), KINDS, ())
  # Both captions against one image that has a number, and one that has none.
  assert figures["speech_to_image"]["color"]["value"] == 0.25
  assert figures["image_to_speech"]["color"]["value"] == 0.25


def test_words_alone_worked_by_hand():
  # Three pairs: two of size (0 against 1), one of color (4 against 2).
  values = np.array([[0, 1], [1, 0], [4, 2]])
  changed = np.array([0, 0, 1])
  words = np.array([[0, 0], [0, 0], [0, 1], [1, 4], [1, 7]])
  held_out = np.array([False, True, False, False, False])
  scores = np.array(
    [
      [[2, 1], [2, 1], [9, 9]],  # Size 0: right, then wrong.
      [[2, 1], [1, 2], [0, 0]],  # Held out: right twice.
      [[1, 1], [2, 1], [9, 9]],  # Size 1: a tie, then right.
      [[0, 0], [0, 0], [1, 0]],  # Color 4: right.
      [[0, 0], [0, 0], [1, 0]],  # A color that no pair has.
    ],
    float,
  )
  figures = pairs.word_test(
    scores, words, held_out, values, changed, KINDS, ("thing",)
  )
  training = figures["training_voices"]
  assert training["size"]["value"] == pytest.approx((0.5 + 0.75) / 2)
  assert training["color"]["value"] == 1.0
  assert training["attributes"]["value"] == pytest.approx((0.625 + 1) / 2)
  assert set(figures["held_out_voices"]) == {"size", "attributes"}
  assert figures["held_out_voices"]["size"]["value"] == 1.0
