"""Train, validation and test splits that do not leak.

Pure functions of integer labels. Two protocols: `cells` holds out some
descriptions of images that training sees under other descriptions (other
languages, other speakers); `images` holds out whole images together with all
records that say the same.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from vgsgan.common.errors import UserError

SPLITS = ("train", "validation", "test")


def components(
  n: int, keys: Sequence[Sequence[Hashable]]
) -> Int[np.ndarray, "n"]:
  """Labels items so that any two that share a key have the same label.

  Args:
    n: number of items.
    keys: for each item its keys, possibly none.

  Returns:
    Labels 0, 1, 2... in the order of first appearance.

  Raises:
    ValueError: `keys` is not one list for each item.
  """
  if len(keys) != n:
    raise ValueError(f"{len(keys)} lists of keys for {n} items")
  parent = list(range(n))

  def root(i: int) -> int:
    while parent[i] != i:
      parent[i] = parent[parent[i]]
      i = parent[i]
    return i

  first: dict[Hashable, int] = {}
  for i, own in enumerate(keys):
    for key in own:
      a, b = root(first.setdefault(key, i)), root(i)
      # The smaller index stays the root: it is the first appearance.
      parent[max(a, b)] = min(a, b)
  roots = np.array([root(i) for i in range(n)], dtype=np.int64)
  return np.unique(roots, return_inverse=True)[1].astype(np.int64)


class Labels(NamedTuple):
  """Labels of the image, the speech and the concept of pairs.

  concept: equal for pairs that share an image or speech, directly or through
    other pairs; they are never impostors of each other.
  """

  image_id: Int[np.ndarray, "n"]
  speech_id: Int[np.ndarray, "n"]
  concept: Int[np.ndarray, "n"]


def label_pairs(
  images: Sequence[Sequence[Hashable]], speech: Sequence[Sequence[Hashable]]
) -> Labels:
  """Labels pairs; images that share a key share a label, and so does speech.

  Args:
    images: for each pair the keys that its image has.
    speech: for each pair the keys that its speech has.
  """
  n = len(images)
  image_id, speech_id = components(n, images), components(n, speech)
  either = zip(image_id.tolist(), speech_id.tolist(), strict=True)
  keys = [[("image", i), ("speech", s)] for i, s in either]
  return Labels(image_id, speech_id, components(n, keys))


def cells(
  image: Int[np.ndarray, "n"],
  unit: Int[np.ndarray, "n"],
  seed: int,
  test_share: float,
  validation_share: float,
) -> Shaped[np.ndarray, "n"]:
  """Holds out records of images that training sees through other records.

  Units are never divided. At least half of the records of every image stay in
  train, so an image with one record is never held out. The result depends
  on the labels and not on the order of the records.

  Args:
    image: the image of each record.
    unit: the unit of each record; records of one unit say the same thing.
    seed: seed of the choice.
    test_share: share of the records wanted in test; reached from below.
    validation_share: share wanted in validation; reached from below.

  Returns:
    'train', 'validation' or 'test' for each record.

  Raises:
    UserError: a split would be empty, or the shares make no sense.
  """
  row = np.unique(image, return_inverse=True)[1]
  room = np.bincount(row) // 2

  def take(members: Int[np.ndarray, "m"]) -> bool:
    images, counts = np.unique(row[members], return_counts=True)
    if (counts > room[images]).any():
      return False
    room[images] -= counts
    return True

  return _fill("cells", unit, seed, test_share, validation_share, take)


def images(
  component: Int[np.ndarray, "n"],
  seed: int,
  test_share: float,
  validation_share: float,
) -> Shaped[np.ndarray, "n"]:
  """Holds out whole components of images.

  Args:
    component: for each image its label; images with the same label share a
      recording or a caption and are never divided.
    seed: seed of the choice.
    test_share: share of the images wanted in test; reached from below.
    validation_share: share wanted in validation; reached from below.

  Returns:
    'train', 'validation' or 'test' for each image.

  Raises:
    UserError: a split would be empty, or the shares make no sense.
  """
  return _fill(
    "images", component, seed, test_share, validation_share, lambda _: True
  )


def _fill(
  protocol: str,
  group: Int[np.ndarray, "n"],
  seed: int,
  test_share: float,
  validation_share: float,
  take: Callable[[np.ndarray], bool],
) -> Shaped[np.ndarray, "n"]:
  """Gives whole groups, in a seeded order, to test, validation, train.

  `take(members)` returns whether a group may be held out, and books it if so.
  """
  n = len(group)
  shares = {"test": test_share, "validation": validation_share}
  if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
    raise UserError(
      f"test_share {test_share:g} and validation_share {validation_share:g} "
      "must be positive and leave something for train: lower them"
    )
  split = np.full(n, "train", dtype="<U10")
  labels, position = np.unique(group, return_inverse=True)
  order = np.random.default_rng(seed).permutation(len(labels))
  members = np.split(
    np.argsort(position, kind="stable"),
    np.cumsum(np.bincount(position, minlength=len(labels)))[:-1],
  )
  for name, share in shares.items():
    wanted = max(1, round(share * n))
    for label in order:
      rows = members[label]
      free = len(rows) <= wanted and split[rows[0]] == "train"
      if free and take(rows):
        split[rows] = name
        wanted -= len(rows)
  empty = [name for name in SPLITS if not (split == name).any()]
  if empty:
    raise UserError(
      f"nothing is left for {' and '.join(empty)}: {n} items in {len(labels)} "
      f"groups that must stay whole are too few for the protocol '{protocol}'; "
      "use more stamps or more languages"
    )
  return split
