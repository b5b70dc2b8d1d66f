"""Tests with pairs of images that differ in the word of one kind.

Nouns, pose and voice are equal on both sides, so a model that hears only the
other words, hears nothing or sees nothing is at 50 %. Both directions are
tested: a caption between two images, and an image between two captions (as in
Winoground, Thrush et al., CVPR 2022). Ties count half; NaN loses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vgsgan.evals.attributes import won

Figures = dict[str, Any]


def pair_test(
  scores: Float[np.ndarray, "n 2 2"],
  changed: Int[np.ndarray, "n"],
  kinds: Sequence[str],
  nouns: Sequence[str],
) -> Figures:
  """Share of comparisons that the true partner wins, by kind and direction.

  Args:
    scores: scores of both images (rows) of a pair with both captions.
    changed: index into `kinds` of the difference.
    kinds: names of the kinds.
    nouns: those of them that are nouns.

  Returns:
    For `speech_to_image` and `image_to_speech`: an entry for each kind that
    occurs, and the means over kinds, `attributes` and `nouns`. Each is
    `{"value", "chance"}`. `pairs` is the number of pairs by kind.
  """
  right, left = scores[:, [0, 1], [0, 1]], scores[:, [1, 0], [0, 1]]
  wins = {
    "speech_to_image": won(right, left).mean(1),
    "image_to_speech": won(right, left[:, ::-1]).mean(1),
  }
  result: Figures = {
    name: summary(
      {
        kind: rows[changed == i].mean()
        for i, kind in enumerate(kinds)
        if np.any(changed == i)
      },
      nouns,
    )
    for name, rows in wins.items()
  }
  result["pairs"] = {
    kind: int(np.sum(changed == i)) for i, kind in enumerate(kinds)
  }
  return result


def word_test(
  scores: Float[np.ndarray, "w n 2"],
  words: Int[np.ndarray, "w 2"],
  held_out: Bool[np.ndarray, "w"],
  values: Int[np.ndarray, "n 2"],
  changed: Int[np.ndarray, "n"],
  kinds: Sequence[str],
  nouns: Sequence[str],
) -> Figures:
  """Share of pairs that a word, spoken alone, tells apart.

  Args:
    scores: scores of w recordings of words with both images of n pairs.
    words: kind and index of the word of each recording.
    held_out: True for recordings of held-out voices.
    values: index of the word of both images, of the kind in which they differ.
    changed: index of that kind in `kinds`.
    kinds: names of the kinds.
    nouns: those of them that are nouns.

  Returns:
    `training_voices` and `held_out_voices`: see `pair_test`. A kind is the mean
    over its words, a word the mean over recordings and pairs.
  """
  result: Figures = {}
  for name, voices in (
    ("training_voices", ~held_out),
    ("held_out_voices", held_out),
  ):
    by_kind = {}
    for i, kind in enumerate(kinds):
      by_word = []
      for index in np.unique(words[words[:, 0] == i, 1]):
        rows = voices & (words[:, 0] == i) & (words[:, 1] == index)
        sides = (values == index) & (changed == i)[:, None]
        pairs, side = np.nonzero(sides)
        if rows.any() and len(pairs):
          s = scores[rows][:, pairs]
          each = np.arange(len(pairs))
          by_word.append(won(s[:, each, side], s[:, each, 1 - side]).mean())
      if by_word:
        by_kind[kind] = np.mean(by_word)
    if by_kind:
      result[name] = summary(by_kind, nouns)
  return result


def summary(by_kind: dict[str, float], nouns: Sequence[str]) -> Figures:
  """Figures by kind, and their means over attributes and over nouns."""
  groups = {
    "attributes": [v for kind, v in by_kind.items() if kind not in nouns],
    "nouns": [v for kind, v in by_kind.items() if kind in nouns],
  }
  means = {name: np.mean(rows) for name, rows in groups.items() if rows}
  return {
    name: {"value": float(value), "chance": 0.5}
    for name, value in (by_kind | means).items()
  }
