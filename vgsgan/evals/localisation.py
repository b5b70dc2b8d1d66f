"""Localisation figures: a map's peak or marked cells against a box or mask.

A map has a number for each cell of a grid over the image. As in `ranking`, ties
count in expectation over random orders, and NaN ranks below every number.
Chance is the expectation over random shifts of the map, around the edges.
Images without the object, whose box or mask is empty, are left out and counted.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

Figures = dict[str, Any]


def _cells(
  boxes: Float[np.ndarray, "n 4"], height: int, width: int
) -> Shaped[np.ndarray, "n h w"]:
  """Marks the cells whose centre is in the box."""
  top, left, bottom, right = boxes.T[..., None]
  y = (np.arange(height) + 0.5) / height
  x = (np.arange(width) + 0.5) / width
  rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)
  return rows[:, :, None] & columns[:, None, :]


def _areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
  top, left, bottom, right = boxes.T
  return np.maximum(bottom - top, 0) * np.maximum(right - left, 0)


def pointing(
  maps: Float[np.ndarray, "n h w"], boxes: Float[np.ndarray, "n 4"]
) -> Figures:
  """Share of maps whose peak is in the box.

  After the pointing game (Zhang et al., ECCV 2016), without its tolerance.

  Args:
    maps: evidence for the object; higher is surer.
    boxes: top, left, bottom, right, from 0 to 1 down and to the right. A cell
      is in a box if its centre is.

  Returns:
    `{"value", "chance", "centre", "best", "maps": n, "without_box": m}`.
    Chance is the share of cells that are in the box; `centre` is the figure of
    the image's middle, and `best` that of the best map: a small box may hold no
    cell's centre.

  Raises:
    ValueError: all boxes are empty.
  """
  there = _areas(boxes) > 0
  _check_any(there, "box")
  maps = np.where(np.isnan(maps), -np.inf, maps)[there]
  inside = _cells(boxes[there], *maps.shape[1:])
  peak = maps == maps.max(axis=(1, 2), keepdims=True)
  hits = np.sum(peak & inside, axis=(1, 2)) / np.sum(peak, axis=(1, 2))
  return {
    "value": float(hits.mean()),
    "chance": float(inside.mean()),
    "centre": float(_cells(boxes[there], 1, 1).mean()),
    "best": float(inside.any(axis=(1, 2)).mean()),
    "maps": len(maps),
    "without_box": int(np.sum(~there)),
  }


def pointing_any(
  maps: Float[np.ndarray, "n h w"], boxes: Float[np.ndarray, "n m 4"]
) -> Figures:
  """Share of maps whose peak is in the box of one other object.

  If the sound moves the peak, `pointing` falls to this figure with the wrong
  sound: a silent object is then as likely as the sounding one.

  Args:
    maps: as in `pointing`.
    boxes: boxes of the silent objects; zeros if there is no object.

  Returns:
    As `pointing`, over all pairs of a map and one other object.

  Raises:
    ValueError: there are no other objects.
  """
  return pointing(np.repeat(maps, boxes.shape[1], 0), boxes.reshape(-1, 4))


def _overlap(
  starts: Float[np.ndarray, "*n"], ends: Float[np.ndarray, "*n"], cells: int
) -> Float[np.ndarray, "*n cells"]:
  """Share of each of `cells` equal parts of [0, 1] that an interval covers."""
  edges = np.arange(cells + 1) / cells
  low = np.maximum(starts[..., None], edges[:-1])
  high = np.minimum(ends[..., None], edges[1:])
  return np.maximum(high - low, 0) * cells


def _coverage(truth: np.ndarray, height: int, width: int) -> np.ndarray:
  """The share [n h w] of each cell that a box or a mask covers."""
  if truth.ndim == 2:
    top, left, bottom, right = truth.T.astype(np.float64)
    rows = _overlap(top, bottom, height)
    return rows[:, :, None] * _overlap(left, right, width)[:, None, :]
  y, x = (np.arange(size + 1) / size for size in truth.shape[1:])
  rows = _overlap(y[:-1], y[1:], height)
  columns = _overlap(x[:-1], x[1:], width)
  return rows.T @ (truth > 0) @ columns


def intersection_over_union(
  maps: Float[np.ndarray, "n h w"],
  truth: Float[np.ndarray, "n 4"] | Shaped[np.ndarray, "n y x"],
  threshold: float,
) -> Figures:
  """The mean IoU of the cells above a threshold with a box or a mask.

  Args:
    maps: finite, or all NaN, which marks no cell.
    truth: boxes as in `pointing`, or masks of any size, above 0 at the object.
      Areas are exact: a cell may be covered in part.
    threshold: from 0 to 1; marks the cells of at least min + threshold (max -
      min) of their map, so a constant map marks all. Choose it on other images.

  Returns:
    `{"value", "chance", "whole", "maps": n, "without_box": m}`; `whole` is the
    IoU of the whole image.

  Raises:
    ValueError: no image has the object, or the threshold is out of range.
  """
  if not 0 <= threshold <= 1:
    raise ValueError(f"threshold must be from 0 to 1: {threshold}")
  cover = _coverage(truth, *maps.shape[1:])
  there = cover.any(axis=(1, 2))
  _check_any(there, "box or mask")
  cover, maps = cover[there], maps[there].astype(np.float64)
  low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
  marked = (maps - low >= threshold * (high - low)).astype(np.float64)

  total = marked.sum(axis=(1, 2)) + cover.sum(axis=(1, 2))
  shared = np.sum(marked * cover, axis=(1, 2))
  # Overlap for every shift of the marked cells, by the correlation theorem.
  spectrum = np.conj(np.fft.rfft2(marked)) * np.fft.rfft2(cover)
  moved = np.fft.irfft2(spectrum, marked.shape[1:])
  return {
    "value": float(np.mean(shared / (total - shared))),
    "chance": float(np.mean(moved / (total[:, None, None] - moved))),
    "whole": float(cover.mean()),
    "maps": len(maps),
    "without_box": int(np.sum(~there)),
  }


def _check_any(there: np.ndarray, what: str):
  if not there.any():
    raise ValueError(f"none of {len(there)} pictures has a {what}")
