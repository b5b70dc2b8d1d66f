"""A CLEVR-like world: samples and renders random scenes in pure JAX.

Cubes, spheres and cylinders of rubber or metal, of two sizes and CLEVR's eight
colours, stand on a grey floor (Johnson et al., CVPR 2017, section 3). Rays meet
them in closed form, so images are exact at any resolution, and each pixel's
object is known. Lengths are in the units of CLEVR's scenes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vgsgan.worlds.attributes import ATTRIBUTES
from vgsgan.worlds.solids import FAR, meet, unit

MOST = 2  # The floor always has room for so many objects.

# CLEVR's colours, in the order of ATTRIBUTES["color"].
COLORS = (
  np.array(
    [
      (87, 87, 87),
      (173, 35, 35),
      (42, 75, 215),
      (29, 105, 20),
      (129, 74, 25),
      (129, 38, 192),
      (41, 208, 208),
      (255, 238, 51),
    ],
    np.float32,
  )
  / 255
)
_RADII = np.array((0.45, 0.85), np.float32)  # small, large
_FLOOR = np.array((0.62, 0.62, 0.61), np.float32)
_REACH = 1.2  # Objects stand within this distance of the axes.
_GAP = 0.1  # Least distance between two objects.
# Weights of distances: the camera shortens depth, and gaps must be visible.
_DEPTH = np.array((1.0, 0.6), np.float32)
_CANDIDATES = 32  # Places tried for each object.
_ARRANGEMENTS = 16  # Arrangements of all objects that are tried.


class Scene(NamedTuple):
  """A scene of up to n objects; a batch of scenes has one more axis in front.

  Attributes:
    present: True for the objects that exist.
    size, color, material, shape: indices into ATTRIBUTES[...].
    position: position of the centre on the floor.
    angle: rotation about the vertical axis, radians.
    light: position of the key light.
    camera: position of the camera, which points at the middle of the floor.
  """

  present: Bool[Array, "*b n"]
  size: Int[Array, "*b n"]
  color: Int[Array, "*b n"]
  material: Int[Array, "*b n"]
  shape: Int[Array, "*b n"]
  position: Float[Array, "*b n 2"]
  angle: Float[Array, "*b n"]
  light: Float[Array, "*b 3"]
  camera: Float[Array, "*b 3"]


class Picture(NamedTuple):
  """A rendered image and its labels.

  Attributes:
    image: RGB in [0, 1].
    masks: pixels of which each object covers more than half.
    boxes: boxes of the masks, (top, left, bottom, right) in [0, 1]; zeros for
      an empty mask.
  """

  image: Float[Array, "*b s s 3"]
  masks: Bool[Array, "*b n s s"]
  boxes: Float[Array, "*b n 4"]


def sample(key: PRNGKeyArray, fewest: int, most: int) -> Scene:
  """Samples a scene of `fewest` to `most` objects.

  Two objects never touch. With three, some overlap in 0.5 % of scenes.
  """
  keys = jax.random.split(key, 9)
  count = jax.random.randint(keys[0], (), fewest, most + 1)
  indices = {
    name: jax.random.randint(k, (most,), 0, len(ATTRIBUTES[name]))
    for name, k in zip(ATTRIBUTES, keys[1:5], strict=True)
  }
  radius = jnp.asarray(_RADII)[indices["size"]]
  present = jnp.arange(most) < count
  return Scene(
    present=present,
    position=_places(keys[5], radius, present),
    angle=jax.random.uniform(keys[6], (most,), maxval=2 * jnp.pi),
    light=jnp.array((-1.0, -4.5, 6.5))
    + jax.random.uniform(keys[7], (3,), minval=-1.0),
    camera=jnp.array((0.0, -7.0, 4.6))
    + jax.random.uniform(keys[8], (3,), minval=-0.35, maxval=0.35),
    **indices,
  )


def _places(
  key: PRNGKeyArray, radius: Float[Array, "n"], present: Bool[Array, "n"]
) -> Float[Array, "n 2"]:
  """Samples places on the floor for objects that do not touch.

  Several arrangements are tried, since a large object in the middle leaves no
  room for another. The first clear one is used, else that of the largest gap.
  """
  keys = jax.random.split(key, _ARRANGEMENTS)
  places, gaps = jax.vmap(_arrange, (0, None, None))(keys, radius, present)
  return places[jnp.argmax(jnp.minimum(gaps, _GAP))]


def _arrange(key: PRNGKeyArray, radius, present):
  """Places one object after the other; returns places and the least gap.

  The first clear candidate is used, else that of the largest gap.
  """
  shape = (len(radius), _CANDIDATES, 2)
  candidates = jax.random.uniform(key, shape, minval=-_REACH, maxval=_REACH)
  places, least = [candidates[0, 0]], jnp.array(_GAP)
  for i in range(1, len(radius)):
    offsets = candidates[i][:, None] - jnp.stack(places)
    distance = jnp.linalg.norm(offsets * _DEPTH, axis=-1)
    gap = jnp.min(distance - radius[:i] - radius[i], axis=1)
    best = jnp.argmax(jnp.minimum(gap, _GAP))
    places.append(candidates[i, best])
    least = jnp.where(present[i], jnp.minimum(least, gap[best]), least)
  return jnp.stack(places), least


def gap(scene: Scene) -> float:
  """Least gap between two objects of one scene; negative if they touch."""
  there = np.flatnonzero(scene.present)
  place = np.asarray(scene.position)[there] * _DEPTH
  radius = _RADII[np.asarray(scene.size)[there]]
  apart = np.linalg.norm(place[:, None] - place, axis=-1)
  apart -= radius[:, None] + radius
  return float(np.min(apart[~np.eye(len(there), dtype=bool)], initial=FAR))


def render(scene: Scene, size: int, samples: int = 2) -> Picture:
  """Renders one scene as a square image.

  Args:
    scene: a scene without batch axes; use `jax.vmap` for a batch.
    size: side of the image, pixels.
    samples: rays per pixel along each axis.
  """
  fine = size * samples
  rays = _rays(scene.camera, fine)
  distance, normal, hit = _nearest(scene, scene.camera, rays)
  point = scene.camera + distance[:, None] * rays
  to_light = unit(scene.light - point)
  lit = ~_blocked(scene, point + 1e-3 * normal, to_light)
  color = _shade(scene, hit, point, rays, normal, to_light, lit)
  image = color.reshape(size, samples, size, samples, 3).mean((1, 3))
  ids = jnp.arange(scene.present.shape[0])[:, None]
  masks = (hit == ids).reshape(-1, size, samples, size, samples)
  masks = masks.mean((2, 4)) > 0.5
  return Picture(image, masks, boxes(masks))


def boxes(masks: Bool[Array, "*b s t"]) -> Float[Array, "*b 4"]:
  """(top, left, bottom, right) of each mask in [0, 1]; zeros if it is empty."""
  rows, columns = jnp.any(masks, -1), jnp.any(masks, -2)
  any_row = jnp.any(rows, -1)

  def edges(line):
    n = line.shape[-1]
    return jnp.argmax(line, -1) / n, 1 - jnp.argmax(line[..., ::-1], -1) / n

  (top, bottom), (left, right) = edges(rows), edges(columns)
  box = jnp.stack([top, left, bottom, right], -1)
  return jnp.where(any_row[..., None], box, 0.0)


def _rays(camera: Float[Array, "3"], fine: int) -> Float[Array, "r 3"]:
  """Unit directions through the pixels, row by row from the top left."""
  forward = unit(jnp.array((0.0, 0.0, 0.25)) - camera)
  right = unit(jnp.cross(forward, jnp.array((0.0, 0.0, 1.0))))
  up = jnp.cross(right, forward)
  reach = 0.25  # Tangent of half the field of view.
  steps = reach * ((jnp.arange(fine) + 0.5) * 2 / fine - 1)
  y, x = jnp.meshgrid(-steps, steps, indexing="ij")
  rays = forward + x[..., None] * right + y[..., None] * up
  return unit(rays.reshape(-1, 3))


def _nearest(scene: Scene, origin, rays):
  """Distance, normal and index of the object that each ray meets; -1: floor."""
  distance, normal = jax.vmap(
    lambda *o: meet(*o, jnp.broadcast_to(origin, rays.shape), rays)
  )(*_solids(scene))
  distance = jnp.where(scene.present[:, None], distance, FAR)
  floor = jnp.where(rays[:, 2] < -1e-4, -origin[2] / rays[:, 2], FAR)
  hit = jnp.argmin(distance, 0)
  first = jnp.take_along_axis(distance, hit[None], 0)[0]
  on_floor = floor <= first
  normal = jnp.take_along_axis(normal, hit[None, :, None], 0)[0]
  up = jnp.array((0.0, 0.0, 1.0))
  return (
    jnp.minimum(floor, first),
    jnp.where(on_floor[:, None], up, normal),
    jnp.where(on_floor, -1, hit),
  )


def _blocked(scene: Scene, points, rays):
  """True where an object stands between a point and the light."""
  distance, _ = jax.vmap(lambda *o: meet(*o, points, rays))(*_solids(scene))
  return jnp.any((distance < FAR) & scene.present[:, None], 0)


def _solids(scene: Scene):
  radius = jnp.asarray(_RADII)[scene.size]
  center = jnp.concatenate([scene.position, radius[:, None]], -1)
  return scene.shape, center, radius, scene.angle


def _shade(scene: Scene, hit, point, rays, normal, to_light, lit):
  """RGB at each ray's end: matt rubber, or metal that reflects a room."""
  base = jnp.asarray(COLORS)[scene.color[hit]]
  metal = (scene.material[hit] == 1)[:, None]
  facing = jnp.maximum(jnp.sum(normal * to_light, -1), 0.0) * lit
  diffuse = (0.35 + 0.1 * normal[:, 2] + 0.7 * facing)[:, None]
  floor = jnp.asarray(_FLOOR) * (0.55 + 0.5 * facing)[:, None]
  mirrored = rays - 2 * jnp.sum(rays * normal, -1, keepdims=True) * normal
  lamp = jnp.maximum(jnp.sum(mirrored * to_light, -1), 0.0) ** 24
  # A bright wall behind the camera makes a streak down a cylinder's side.
  wall = jnp.maximum(-unit(mirrored[:, :2])[:, 1], 0.0) ** 12
  # An object reflects the floor, so it is dark at its foot, in its own shadow.
  foot = jnp.clip(
    point[:, 2] / (2 * jnp.asarray(_RADII)[scene.size[hit]]), 0, 1
  )
  room = 0.15 + 0.7 * jnp.maximum(mirrored[:, 2], 0.0) + 0.75 * wall * foot
  shine = (room + 0.9 * foot**2)[:, None]
  metal_color = base * (0.2 * diffuse + shine) + 0.16 * shine
  metal_color = metal_color + (0.9 * lit * lamp)[:, None]
  color = jnp.where(metal, metal_color, base * diffuse)
  color = jnp.where((hit < 0)[:, None], floor, color)
  return jnp.clip(color, 0.0, 1.0)
