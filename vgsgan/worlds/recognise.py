"""Turns a recogniser's logits into objects with words, on the host."""

from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from vgsgan.worlds.attributes import ATTRIBUTES, WORDS

SURE = 0.9  # Least mean probability of a word that is reported.
_LEAST_AREA = 0.006  # Least share of the image: 6 of 32 x 32 pixels.
_LEAST_PART = 0.08  # Least share of a component; smaller parts are edges.

Object = dict[str, Any]


def probabilities(
  logits: Float[np.ndarray, "*b 16"],
) -> Float[np.ndarray, "*b 15"]:
  """Probabilities of WORDS; those of each kind sum to 1."""
  start, parts = 1, []
  for words in ATTRIBUTES.values():
    parts.append(
      scipy.special.softmax(logits[..., start : start + len(words)], -1)
    )
    start += len(words)
  return np.concatenate(parts, -1)


def objects(
  logits: Float[np.ndarray, "s t 16"], sure: float = SURE
) -> list[Object]:
  """The objects of one image, from left to right.

  Args:
    logits: as from `models.recogniser.Recogniser`.
    sure: least mean probability over the object of a word that is reported.

  Returns:
    A dict per object: for each kind of ATTRIBUTES the word, or None if unsure;
    `mask` bool [s, t]; `box` (top, left, bottom, right) in [0, 1] as in
    `scenes.boxes`; `confidence`, by kind the mean probability of the likeliest
    word.
  """
  words = probabilities(logits)
  color = np.argmax(words[..., _slice("color")], -1)
  masks = split(logits[..., 0] > 0, color)
  return [_describe(mask, words[mask].mean(0), sure) for mask in masks]


def split(
  foreground: Bool[np.ndarray, "s t"], color: Int[np.ndarray, "s t"]
) -> list[Bool[np.ndarray, "s t"]]:
  """Masks of connected objects, split where colours meet.

  Objects of one colour that touch stay one object.
  """
  least = _LEAST_AREA * foreground.size
  masks = []
  labels, count = scipy.ndimage.label(foreground)
  for i in range(1, count + 1):
    component = labels == i
    if component.sum() < least:
      continue
    parts = _parts(component, color, max(least, _LEAST_PART * component.sum()))
    masks += _nearest(component, parts) if len(parts) > 1 else [component]
  return sorted(masks, key=lambda mask: np.nonzero(mask)[1].mean())


def _parts(component, color, least: float):
  """The connected patches of one colour that are large enough."""
  parts = []
  for value in np.unique(color[component]):
    labels, count = scipy.ndimage.label(component & (color == value))
    patches = (labels == i for i in range(1, count + 1))
    parts += [patch for patch in patches if patch.sum() >= least]
  return parts


def _nearest(component, parts):
  """Assigns each pixel of a component to the nearest of its parts."""
  apart = [scipy.ndimage.distance_transform_edt(~part) for part in parts]
  owner = np.argmin(apart, 0)
  return [component & (owner == i) for i in range(len(parts))]


def _describe(mask, words: Float[np.ndarray, "15"], sure: float) -> Object:
  described: Object = {"mask": mask, "box": _box(mask), "confidence": {}}
  for kind, names in ATTRIBUTES.items():
    likely = words[_slice(kind)]
    best = int(np.argmax(likely))
    described["confidence"][kind] = float(likely[best])
    described[kind] = names[best] if likely[best] >= sure else None
  return described


def _slice(kind: str) -> slice:
  start = WORDS.index(ATTRIBUTES[kind][0])
  return slice(start, start + len(ATTRIBUTES[kind]))


def _box(mask) -> tuple[float, float, float, float]:
  rows, columns = np.nonzero(mask)
  height, width = mask.shape
  return (
    float(rows.min() / height),
    float(columns.min() / width),
    float((rows.max() + 1) / height),
    float((columns.max() + 1) / width),
  )
