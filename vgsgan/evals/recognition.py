"""Figures of object recognition, each with its chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vgsgan.worlds import recognise
from vgsgan.worlds.attributes import ATTRIBUTES


def majority(labels: Int[np.ndarray, "n"]) -> float:
  """Accuracy of always answering with the most frequent label."""
  return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def given_masks(
  logits: Float[np.ndarray, "o 16"], attributes: Int[np.ndarray, "o 4"]
) -> dict[str, Any]:
  """Accuracy of each kind of attribute, given the objects' masks.

  Args:
    logits: mean logits over each object's mask.
    attributes: indices into ATTRIBUTES[kind], in its order.

  Returns:
    `{kind: {"value", "chance"}, "objects": o}`.
  """
  figures: dict[str, Any] = {}
  start = 1
  for i, (kind, words) in enumerate(ATTRIBUTES.items()):
    guess = np.argmax(logits[:, start : start + len(words)], -1)
    right = guess == attributes[:, i]
    chance = majority(attributes[:, i])
    figures[kind] = {"value": float(right.mean()), "chance": chance}
    start += len(words)
  return figures | {"objects": len(attributes)}


def found_objects(
  logits: Sequence[Float[np.ndarray, "s t 16"]],
  masks: Sequence[Bool[np.ndarray, "n s t"]],
  attributes: Sequence[Int[np.ndarray, "n 4"]],
) -> dict[str, Any]:
  """Figures of detecting and naming objects, without their masks.

  Args:
    logits: logits of each image.
    masks: masks of its objects; empty where there is no object.
    attributes: attributes of its objects.

  Returns:
    `count`: share of images with the true number of detected objects, with
    chance; `found`: share of objects of which a detected one covers more than
    half (intersection over union); `named`: share of the words of these that
    are sure (`recognise.SURE`); `right`: share of sure words that are right.
  """
  counts, truth, hits, sure, right = [], [], [], [], []
  for image, image_masks, labels in zip(logits, masks, attributes, strict=True):
    objects = recognise.objects(image)
    there = image_masks.any((1, 2))
    counts.append(len(objects))
    truth.append(int(there.sum()))
    for mask, indices in zip(image_masks[there], labels[there], strict=True):
      match = next((o for o in objects if _overlap(o["mask"], mask) > 0.5), {})
      hits.append(bool(match))
      for kind, index in zip(ATTRIBUTES, indices, strict=True):
        word = match.get(kind)
        sure.append(word is not None) if match else None
        right.append(word == ATTRIBUTES[kind][index]) if word else None
  return {
    "count": {
      "value": float(np.mean(np.array(counts) == truth)),
      "chance": majority(np.array(truth)),
    },
    "found": _share(hits),
    "named": _share(sure),
    "right": _share(right),
  }


def _share(flags: list[bool]) -> float:
  return float(np.mean(flags)) if flags else 0.0


def _overlap(a, b) -> float:
  """Intersection over union of two masks."""
  return (a & b).sum() / max((a | b).sum(), 1)
