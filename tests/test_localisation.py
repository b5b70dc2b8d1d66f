"""Peaks and overlaps against loops over cells and fine rasters."""

import json

import numpy as np
import pytest

from vgsgan.evals import localisation as loc

FINE = 60  # Boxes end on this grid, in which both grids of cells below fit.


def _boxes(rng, n):
  ends = np.sort(rng.choice(FINE + 1, (n, 2, 2)) / FINE, axis=1)
  ends[:, 1] = np.minimum(np.maximum(ends[:, 1], ends[:, 0] + 1 / FINE), 1)
  ends[:, 0] = np.minimum(ends[:, 0], 1 - 1 / FINE)
  return ends.reshape(n, 4)


def _inside(box, y, x):
  top, left, bottom, right = box
  return top <= y < bottom and left <= x < right


def _pointing_by_loops(one, box):
  h, w = one.shape
  cells = [(i, j) for i in range(h) for j in range(w)]
  hit = {(i, j): _inside(box, (i + 0.5) / h, (j + 0.5) / w) for i, j in cells}
  peaks = [cell for cell in cells if one[cell] == one.max()]
  value = np.mean([hit[cell] for cell in peaks])
  return value, np.mean([hit[cell] for cell in cells]), any(hit.values())


def test_pointing_equals_loops():
  rng = np.random.default_rng(0)
  maps = np.round(rng.normal(size=(60, 4, 5)))
  boxes = _boxes(rng, 60)
  rows = [_pointing_by_loops(*row) for row in zip(maps, boxes, strict=True)]
  got = loc.pointing(maps, boxes)
  for name, column in zip(
    ("value", "chance", "best"), zip(*rows, strict=True), strict=True
  ):
    assert got[name] == pytest.approx(np.mean(column), abs=1e-12)
  centre = np.mean([_inside(box, 0.5, 0.5) for box in boxes])
  assert got["centre"] == pytest.approx(centre)
  assert (got["maps"], got["without_box"]) == (60, 0)
  json.dumps(got)


def test_pointing_equals_a_case_worked_by_hand():
  # The upper right cell; the left half; nothing but a gap between centres.
  boxes = np.array([[0, 0.5, 0.5, 1], [0, 0, 1, 0.5], [0.3, 0.3, 0.6, 0.6]])
  maps = np.array([[[0, 9], [1, 2]], [[5, 5], [5, 0]], [[1, 0], [0, 0]]])
  got = loc.pointing(maps.astype(np.float32), boxes)
  assert got["value"] == pytest.approx((1 + 2 / 3 + 0) / 3)
  assert got["chance"] == pytest.approx((1 / 4 + 1 / 2 + 0) / 3)
  assert got["centre"] == pytest.approx(1 / 3)
  assert got["best"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("constant", [0.0, -np.inf, np.nan])
def test_a_constant_map_points_by_chance(constant):
  boxes = _boxes(np.random.default_rng(1), 20)
  got = loc.pointing(np.full((20, 6, 6), constant), boxes)
  assert got["value"] == pytest.approx(got["chance"], abs=1e-12)


def test_nan_is_never_the_peak():
  maps = np.array([[[np.nan, 1.0], [0.0, np.nan]]])
  assert loc.pointing(maps, np.array([[0, 0.5, 0.5, 1]]))["value"] == 1


def test_images_without_the_object_are_left_out():
  rng = np.random.default_rng(2)
  maps, boxes = rng.normal(size=(6, 3, 3)), _boxes(rng, 6)
  absent = boxes.copy()
  absent[[1, 4]] = 0
  seen = [0, 2, 3, 5]
  for measure in (
    loc.pointing,
    lambda m, b: loc.intersection_over_union(m, b, 0.5),
  ):
    expected = measure(maps[seen], boxes[seen])
    assert measure(maps, absent) == pytest.approx(expected | {"without_box": 2})
    with pytest.raises(ValueError, match="none of 6 pictures"):
      measure(maps, 0 * boxes)


def test_pointing_any_averages_over_other_objects():
  rng = np.random.default_rng(3)
  maps, boxes = rng.normal(size=(80, 5, 5)), _boxes(rng, 160)
  boxes = boxes.reshape(80, 2, 4)
  boxes[::3, 1] = 0
  boxes[5] = 0
  rows = [
    _pointing_by_loops(one, box)[:2]
    for one, several in zip(maps, boxes, strict=True)
    for box in several
    if box.any()
  ]
  got = loc.pointing_any(maps, boxes)
  assert got["maps"] == len(rows)
  assert got["value"] == pytest.approx(np.mean(rows, axis=0)[0], abs=1e-12)
  assert got["chance"] == pytest.approx(np.mean(rows, axis=0)[1], abs=1e-12)


def _raster(boxes):
  middle = (np.arange(FINE) + 0.5) / FINE
  return np.array(
    [[[_inside(box, y, x) for x in middle] for y in middle] for box in boxes]
  )


def _iou_by_raster(one, mask, threshold):
  """Values at all places of the marked cells, counted in fine pixels."""
  h, w = one.shape
  marked = (one - one.min()) >= threshold * (one.max() - one.min())
  values = []
  for i in range(h):
    for j in range(w):
      moved = np.roll(marked, (i, j), (0, 1))
      fine = np.kron(moved, np.ones((FINE // h, FINE // w))) > 0
      values.append(np.sum(fine & mask) / np.sum(fine | mask))
  return values[0], np.mean(values), mask.mean()


@pytest.mark.parametrize("threshold", [0.0, 0.35, 1.0])
def test_overlap_with_boxes_is_exact(threshold):
  rng = np.random.default_rng(4)
  maps, boxes = rng.normal(size=(12, 4, 5)), _boxes(rng, 12)
  masks = _raster(boxes)
  rows = [_iou_by_raster(*r, threshold) for r in zip(maps, masks, strict=True)]
  of_boxes = loc.intersection_over_union(maps, boxes, threshold)
  for name, column in zip(
    ("value", "chance", "whole"), zip(*rows, strict=True), strict=True
  ):
    assert of_boxes[name] == pytest.approx(np.mean(column), abs=1e-9)
  for masks_ in (masks, masks.astype(np.uint8) * 255):
    of_masks = loc.intersection_over_union(maps, masks_, threshold)
    assert of_masks == pytest.approx(of_boxes, abs=1e-9)
  json.dumps(of_boxes)


def test_masks_may_have_any_shape():
  """Where a mask covers some cells in part a raster of both grids decides."""
  rng = np.random.default_rng(5)
  maps = rng.normal(size=(3, 4, 6))
  masks = rng.random((3, 10, 15)) < 0.3
  fine = np.kron(masks, np.ones((1, FINE // 10, FINE // 15))) > 0
  rows = [_iou_by_raster(*row, 0.6) for row in zip(maps, fine, strict=True)]
  got = loc.intersection_over_union(maps, masks, 0.6)
  found = [got[name] for name in ("value", "chance", "whole")]
  np.testing.assert_allclose(found, np.mean(rows, axis=0), atol=1e-9)


def test_constant_and_nan_maps_mark_all_or_nothing():
  boxes = _boxes(np.random.default_rng(6), 8)
  flat = loc.intersection_over_union(np.ones((8, 3, 3)), boxes, 0.5)
  assert flat["value"] == pytest.approx(flat["whole"])
  assert flat["chance"] == pytest.approx(flat["whole"])
  nothing = np.full((8, 3, 3), np.nan, np.float32)
  assert loc.intersection_over_union(nothing, boxes, 0.5)["value"] == 0
  with pytest.raises(ValueError, match="from 0 to 1"):
    loc.intersection_over_union(nothing, boxes, 1.1)
