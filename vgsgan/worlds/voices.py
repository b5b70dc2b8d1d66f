"""The voice that may say a caption, so that no two splits share a recording."""

import hashlib

import numpy as np

from vgsgan.worlds import speech


def choose(
  rng: np.random.Generator, caption: str, seed: int, split: str
) -> str:
  """Chooses one of `speakers` at random."""
  possible = speakers(caption, seed, split)
  return possible[int(rng.integers(len(possible)))]


def speakers(caption: str, seed: int, split: str) -> tuple[str, ...]:
  """Lists the training voices that may say a caption in a split.

  The caption and the seed order the five voices: the first three speak in
  training, the fourth in validation, the fifth in tests. So no two splits share
  a recording, and every caption can be said in each.

  Args:
    caption: the caption.
    seed: seed of the data set.
    split: 'train', 'validation', or a split for tests.
  """

  def order(voice: str) -> bytes:
    return hashlib.sha256(f"{seed}:{voice}:{caption}".encode()).digest()

  ordered = tuple(sorted(speech.VOICES, key=order))
  parts = {"train": ordered[:3], "validation": ordered[3:4]}
  return parts.get(split, ordered[4:])
