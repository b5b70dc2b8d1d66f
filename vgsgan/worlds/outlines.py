"""Outlines of the things of the world of places."""

import numpy as np
from jaxtyping import Float

from vgsgan.worlds.place_words import THINGS

ANGLES = 96
_ANGLE = np.arange(ANGLES) * 2 * np.pi / ANGLES
_UP = -np.pi / 2  # The image's y axis points down.


def regular(sides: int, turn: float) -> Float[np.ndarray, "a"]:
  """A regular polygon with a corner at the angle `turn`, 1 from the centre."""
  part = 2 * np.pi / sides
  return np.cos(part / 2) / np.cos((_ANGLE - turn) % part - part / 2)


def polygon(corners: Float[np.ndarray, "c 2"]) -> Float[np.ndarray, "a"]:
  """A polygon (x, y) whose whole outline can be seen from (0, 0)."""
  ray = np.stack([np.cos(_ANGLE), np.sin(_ANGLE)], -1)
  reach = np.full(ANGLES, 1e-3)
  for p, q in zip(corners, np.roll(corners, -1, 0), strict=True):
    side = q - p
    across = ray[:, 0] * side[1] - ray[:, 1] * side[0]
    across = np.where(np.abs(across) < 1e-9, 1e-9, across)
    distance = (p[0] * side[1] - p[1] * side[0]) / across
    along = (p[0] * ray[:, 1] - p[1] * ray[:, 0]) / across
    hit = (distance > 0) & (along >= -1e-9) & (along <= 1 + 1e-9)
    reach = np.where(hit, np.maximum(reach, distance), reach)
  return reach


def mirrored(*right: tuple) -> Float[np.ndarray, "a"]:
  """A polygon of these corners and their mirror images on the left."""
  left = [(-x, y) for x, y in reversed(right) if x]
  return polygon(np.array([*right, *left], float))


def _outlines() -> dict[str, Float[np.ndarray, "a"]]:
  cos, sin = np.cos(_ANGLE), np.sin(_ANGLE)
  t = np.arange(24) * np.pi / 12
  heart = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)
  boat = [(0, -1), (0.6, 0), (1, 0), (0.6, 0.8)]
  boat += [(-0.6, 0.8), (-1, 0), (-0.2, 0)]
  nearest = np.maximum(np.minimum(np.abs(cos), np.abs(sin)), 1e-3)
  return {
    "coin": np.ones(ANGLES),
    "crate": regular(4, np.pi / 4),
    "tent": regular(3, _UP),
    "star": 0.7 + 0.3 * np.cos(5 * (_ANGLE - _UP)),
    "cross": np.minimum(1.0, 0.32 / nearest),
    "kite": mirrored((0, -1), (0.55, -0.2), (0, 1)),
    "flower": 0.8 + 0.2 * np.cos(6 * _ANGLE),
    "egg": 0.72 / np.sqrt(1 - (0.7 * sin) ** 2),
    "arrow": mirrored((0, -1), (0.85, 0), (0.3, 0), (0.3, 0.9)),
    "house": mirrored((0, -1), (0.8, -0.25), (0.7, 0.8)),
    "heart": polygon(np.stack([16 * np.sin(t) ** 3, -heart], -1) / 17),
    "gear": 0.88 + 0.12 * np.sign(np.cos(8 * _ANGLE)),
    "bow": 0.3 + 0.7 * np.abs(cos) ** 1.5,
    "cup": mirrored((0.9, -0.7), (0.5, 0.8)),
    "boat": polygon(np.array(boat, float)),
    "leaf": polygon(np.stack([np.cos(t), 0.6 * np.sin(t) ** 3], -1)),
  }


# Distances from the centre by the angle, for each of THINGS.
OUTLINES = np.stack([_outlines()[name] for name in THINGS]).astype(np.float32)
