"""Words of images of places, named by a network, each with its chance."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vgsgan.evals import judging
from vgsgan.evals.recognition import majority
from vgsgan.models.pretrained import Network
from vgsgan.worlds.place_words import KINDS, NOUNS, SLICES


def predict(
  namer: Network, images: Float[np.ndarray, "n s s 3"]
) -> tuple[Float[np.ndarray, "n w"], Float[np.ndarray, "n d"]]:
  """Logits and features of images in [0, 1], on the host."""
  rows = zip(*judging.blocks(namer, images), strict=True)
  logits, features = (np.concatenate(x) for x in rows)
  return logits, features


def named(logits: Float[np.ndarray, "n w"]) -> Int[np.ndarray, "n 6"]:
  """The likeliest word of each kind, from the logits of `models.namer`."""
  return np.stack([logits[:, s].argmax(1) for s in SLICES.values()], 1)


def accuracy(
  names: Int[np.ndarray, "n 6"], words: Int[np.ndarray, "n 6"]
) -> dict[str, Any]:
  """Share of images whose word is named rightly, `{kind: {"value", "chance"}}`.

  Chance is that of always naming the commonest word.
  """
  return {
    kind: {
      "value": float(np.mean(names[:, i] == words[:, i])),
      "chance": majority(words[:, i]),
    }
    for i, kind in enumerate(KINDS)
  }


def shares(
  names: Int[np.ndarray, "n 6"], words: Int[np.ndarray, "m 6"]
) -> dict[str, dict[str, float]]:
  """How often each word is drawn, as a factor of its share in the data.

  Args:
    names: of drawn images.
    words: of the data.

  Returns:
    By kind the least and the largest factor of its words: 1 and 1 if all are
    drawn as often as they occur.
  """
  figures = {}
  for i, kind in enumerate(KINDS):
    factors = [
      np.mean(names[:, i] == word) / np.mean(words[:, i] == word)
      for word in np.unique(words[:, i])
    ]
    figures[kind] = {"least": float(min(factors)), "most": float(max(factors))}
  return figures


def edits(
  before: Int[np.ndarray, "n 6"],
  after: Int[np.ndarray, "n 6"],
  words: Int[np.ndarray, "n 6"],
  asked: Int[np.ndarray, "n 6"],
  changed: Int[np.ndarray, "n"],
) -> dict[str, dict[str, float]]:
  """What edits do to the caption, by the kind of the word that they change.

  Args:
    before: names of the images that are edited.
    after: names of their edits.
    words: words of the captions.
    asked: `words` with one word changed.
    changed: index into `KINDS` of that word.

  Returns:
    For each kind that occurs, and for `all`, shares of its edits: `falsified`,
    the word of the caption is gone; `true`, it is still there; `asked`, the
    word that was asked for is there; `noun`, another noun than the one changed
    is named anew; `other`, so is any other word; `clean`, it is as asked and no
    other noun is named anew.
  """
  rows = np.arange(len(changed))
  there = after[rows, changed]
  different = before != after
  different[rows, changed] = False
  nouns = np.array([kind in NOUNS for kind in KINDS])
  tests = {
    "falsified": there != words[rows, changed],
    "true": there == words[rows, changed],
    "asked": there == asked[rows, changed],
    "noun": (different & nouns).any(1),
    "other": different.any(1),
  }
  tests["clean"] = tests["asked"] & ~tests["noun"]
  subsets = {kind: changed == i for i, kind in enumerate(KINDS)}
  return {
    kind: {name: float(test[subset].mean()) for name, test in tests.items()}
    for kind, subset in ({"all": np.ones(len(rows), bool)} | subsets).items()
    if subset.any()
  }
