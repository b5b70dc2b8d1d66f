"""Retrieval of images by speech and speech by image, in blocks of queries."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vgsgan.evals import ranking

# (images [b, h, w, d], speech [c, t, d], valid [c, t]) -> scores [b, c].
Score = Callable[[Array, Array, Array], Array]


def relevance(
  speech_id: Int[np.ndarray, "s"],
  image_id: Int[np.ndarray, "s"],
  gallery: Int[np.ndarray, "i"],
) -> Bool[np.ndarray, "s i"]:
  """Marks the images of the gallery that match each recording.

  Record r pairs `speech_id[r]` with `image_id[r]`; an image matches a recording
  if any record pairs the two. So a recording that is paired with five images
  has five right answers, and an image with six recordings has six.
  """
  _, speech = np.unique(speech_id, return_inverse=True)
  column = {int(image): i for i, image in enumerate(gallery)}
  pairs = np.zeros((speech.max(initial=-1) + 1, len(gallery)), bool)
  for s, image in zip(speech, image_id, strict=True):
    pairs[s, column[int(image)]] = True
  return pairs[speech]


def _padded(array: np.ndarray, start: int, size: int) -> np.ndarray:
  """`array[start:start + size]`, padded with the array's first row."""
  rows = array[start : start + size]
  fill = np.repeat(array[:1], size - len(rows), axis=0)
  return np.concatenate([rows, fill])


def score_blocks(
  score: Score,
  images: Float[np.ndarray, "i h w d"],
  speech: Float[np.ndarray, "s t d"],
  valid: Bool[np.ndarray, "s t"],
  block: int,
  by_speech: bool,
) -> Iterator[tuple[slice, Float[np.ndarray, "q n"]]]:
  """Rows of the score matrix, `block` queries at a time over the gallery.

  Only `block x gallery` scores and `block x block` matchmaps exist at a time.
  `score` sees one shape, so it compiles once.
  """
  num = {True: len(speech), False: len(images)}

  def part(i: int, s: int) -> np.ndarray:
    inputs = (
      _padded(images, i, block),
      _padded(speech, s, block),
      _padded(valid, s, block),
    )
    scores = jax.device_get(score(*jax.device_put(inputs)))
    return scores[: len(images) - i, : len(speech) - s]

  for start in range(0, num[by_speech], block):
    rest = range(0, num[not by_speech], block)
    if by_speech:
      row = np.concatenate([part(i, start) for i in rest]).T
    else:
      row = np.concatenate([part(start, s) for s in rest], axis=1)
    yield slice(start, start + len(row)), row


def retrieval(
  score: Score,
  images: Float[np.ndarray, "i h w d"],
  speech: Float[np.ndarray, "s t d"],
  valid: Bool[np.ndarray, "s t"],
  right: Bool[np.ndarray, "s i"],
  groups: dict[str, Bool[np.ndarray, "s"]],
  block: int = 128,
  poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """R@1, 5, 10 and median rank in both directions, overall and by group.

  Args:
    score: scores all pairs of a block.
    images: the image gallery's feature maps.
    speech: the recordings' feature maps.
    valid: their valid frames.
    right: True where an image matches a recording; see `relevance`.
    groups: subsets of the recordings by name, e.g. one per language. Their
      queries search the whole image gallery; images search their recordings.
    block: queries and gallery items scored at a time.
    poll: called at every block; raises an exception to stop.

  Returns:
    `{"speech_to_image": figures, "image_to_speech": figures, "by_group":
    {name: {...}}}`, figures as `ranking.summarize` gives them.
  """
  subsets = {"": np.ones(len(speech), bool), **groups}
  to_image = {name: [] for name in subsets}
  for rows, scores in score_blocks(score, images, speech, valid, block, True):
    poll()
    for name, chosen in subsets.items():
      subset = chosen[rows]
      ranks = ranking.best_ranks(scores[subset], right[rows][subset])
      to_image[name].append(ranks)
  to_speech = {name: [] for name in subsets}
  for rows, scores in score_blocks(score, images, speech, valid, block, False):
    poll()
    for name, chosen in subsets.items():
      answers = right[chosen][:, rows].T
      to_speech[name].append(ranking.best_ranks(scores[:, chosen], answers))
  figures = {
    name: {
      "speech_to_image": ranking.summarize(to_image[name]),
      "image_to_speech": ranking.summarize(to_speech[name]),
    }
    for name in subsets
  }
  return figures.pop("") | {"by_group": figures}
