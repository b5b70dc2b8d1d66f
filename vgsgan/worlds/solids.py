"""Intersections of rays with solids that stand on a floor, in closed form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CUBE, SPHERE, CYLINDER = range(3)
FAR = 1e6  # Distance of a ray that misses.


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
  """Scales x to length 1 along its last axis; zeros stay zeros."""
  squared = jnp.sum(x * x, -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def meet(
  shape: Int[Array, ""],
  center: Float[Array, "3"],
  radius: Float[Array, ""],
  angle: Float[Array, ""],
  origins: Float[Array, "r 3"],
  rays: Float[Array, "r 3"],
) -> tuple[Float[Array, "r"], Float[Array, "r 3"]]:
  """First intersections of rays from outside with one solid.

  Args:
    shape: CUBE, SPHERE or CYLINDER.
    center: position at the height `radius`; the solid stands on the floor.
    radius: radius of a sphere; a cube's side is radius * sqrt(2), a cylinder's
      radius is 0.8 radius and its height twice that.
    angle: rotation about the vertical axis, radians.
    origins: origins of the rays.
    rays: unit directions.

  Returns:
    Distances, FAR for a ray that misses, and outward unit normals, arbitrary
    for a ray that misses.
  """
  c, s = jnp.cos(angle), jnp.sin(angle)
  turn = jnp.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
  o, d = _turned(origins - center, turn), _turned(rays, turn)
  intersections = [
    _meet_cube(o, d, radius * 2**-0.5, radius),
    _meet_sphere(o, d, radius),
    _meet_cylinder(o, d, radius * 0.8, radius),
  ]
  distance = jnp.stack([t for t, _ in intersections])[shape]
  normal = jnp.stack([n for _, n in intersections])[shape]
  return distance, _turned(normal, turn.T)


def _turned(x: Float[Array, "r 3"], turn: Float[Array, "3 3"]):
  # By default accelerators multiply matrices in low precision.
  return jnp.matmul(x, turn.T, precision=jax.lax.Precision.HIGHEST)


def _slab(o, d, half):
  """Distances where lines enter and leave -half < x < half, by coordinate."""
  safe = jnp.where(jnp.abs(d) < 1e-6, 1e-6, d)
  a, b = (-half - o) / safe, (half - o) / safe
  return jnp.minimum(a, b), jnp.maximum(a, b)


def _hit(enter, leave):
  return jnp.where((enter < leave) & (enter > 1e-4), enter, FAR)


def _meet_cube(o, d, half, lift):
  # The centre is at the height `lift`; move the cube down to the floor.
  o = o + jnp.array((0.0, 0.0, 1.0)) * (lift - half)
  enter, leave = _slab(o, d, half)
  axis = jnp.argmax(enter, -1)
  normal = -jnp.sign(d) * jax.nn.one_hot(axis, 3)
  return _hit(jnp.max(enter, -1), jnp.min(leave, -1)), normal


def _meet_sphere(o, d, radius):
  b, c = jnp.sum(o * d, -1), jnp.sum(o * o, -1) - radius**2
  root = jnp.sqrt(jnp.maximum(b * b - c, 0.0))
  distance = jnp.where(b * b > c, _hit(-b - root, -b + root), FAR)
  return distance, unit(o + distance[:, None] * d)


def _meet_cylinder(o, d, radius, lift):
  o = o + jnp.array((0.0, 0.0, 1.0)) * (lift - radius)
  a = jnp.maximum(jnp.sum(d[:, :2] ** 2, -1), 1e-9)
  b = jnp.sum(o[:, :2] * d[:, :2], -1)
  inside = b * b - a * (jnp.sum(o[:, :2] ** 2, -1) - radius**2)
  root = jnp.sqrt(jnp.maximum(inside, 0.0))
  low, high = _slab(o[:, 2], d[:, 2], radius)
  enter = jnp.maximum((-b - root) / a, low)
  leave = jnp.minimum((-b + root) / a, high)
  distance = jnp.where(inside > 0, _hit(enter, leave), FAR)
  on_side = (-b - root) / a > low
  side = (o + distance[:, None] * d) * jnp.array((1.0, 1.0, 0.0))
  cap = -jnp.sign(d[:, 2:]) * jnp.array((0.0, 0.0, 1.0))
  return distance, jnp.where(on_side[:, None], unit(side), cap)
