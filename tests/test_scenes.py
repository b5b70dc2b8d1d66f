"""The renderer against marching, an analytic disc and its own invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vgsgan.worlds import scenes, solids

RADII = {0: 0.45, 1: 0.85}
render = jax.jit(scenes.render, static_argnames=("size", "samples"))


@pytest.fixture(scope="module")
def draw():
  """Many scenes and their pictures of 32 pixels."""
  keys = jax.random.split(jax.random.key(3), 64)
  many = jax.jit(jax.vmap(lambda key: scenes.sample(key, 1, 2)))(keys)
  pictures = jax.jit(jax.vmap(lambda scene: scenes.render(scene, 32)))(many)
  return many, jax.device_get(pictures)


def scene(**changes):
  """One large red rubber sphere in the middle."""
  fields = {
    "present": [True, False],
    "size": [1, 0],
    "color": [1, 0],
    "material": [0, 0],
    "shape": [solids.SPHERE, 0],
    "position": [[0.3, -0.2], [9.0, 9.0]],
    "angle": [0.4, 0.0],
    "light": [-1.5, -5.0, 6.0],
    "camera": [0.1, -7.0, 4.6],
  }
  return scenes.Scene(
    **{name: jnp.asarray(value) for name, value in (fields | changes).items()}
  )


def camera_rays(camera, size):
  """Unit directions [size, size, 3] of a pinhole at `camera`, in numpy."""
  forward = np.array([0, 0, 0.25]) - camera
  forward /= np.linalg.norm(forward)
  right = np.array([forward[1], -forward[0], 0.0])
  right /= np.linalg.norm(right)
  up = np.cross(right, forward)
  steps = (np.arange(size) + 0.5) / size * 0.5 - 0.25
  rays = forward + steps[None, :, None] * right - steps[:, None, None] * up
  return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


@pytest.mark.parametrize("size", [0, 1])
def test_a_sphere_covers_its_projected_disc(size):
  one = scene(size=[size, 0])
  mask = np.asarray(render(one, 64, samples=1).masks[0])
  camera = np.asarray(one.camera, np.float64)
  radius = RADII[size]
  center = np.array([0.3, -0.2, radius]) - camera
  cosine = camera_rays(camera, 64) @ (center / np.linalg.norm(center))
  half_angle = np.arcsin(radius / np.linalg.norm(center))
  outside = np.arccos(cosine) - half_angle
  clear = np.abs(outside) > 1e-4
  assert clear.mean() > 0.99
  np.testing.assert_array_equal(mask[clear], outside[clear] < 0)
  assert mask.any()


def signed_distance(shape, radius, points):
  """To a solid that stands on the floor at the origin, in numpy."""
  x, y, z = np.moveaxis(points, -1, 0)
  if shape == solids.SPHERE:
    return np.linalg.norm(points - [0, 0, radius], axis=-1) - radius
  if shape == solids.CUBE:
    half = radius / np.sqrt(2)
    q = np.abs(np.stack([x, y, z - half], -1)) - half
  else:
    half = 0.8 * radius
    q = np.stack([np.hypot(x, y), np.abs(z - half)], -1) - half
  outside = np.linalg.norm(np.maximum(q, 0), axis=-1)
  return outside + np.minimum(q.max(-1), 0)


def march(shape, radius, origins, rays):
  distance = np.zeros(len(rays))
  for _ in range(400):
    at = origins + distance[:, None] * rays
    distance += np.minimum(signed_distance(shape, radius, at), 10.0)
  at = origins + distance[:, None] * rays
  return distance, np.abs(signed_distance(shape, radius, at))


def gradient(shape, radius, points):
  step = 1e-4
  ends = [
    signed_distance(shape, radius, points + step * e)
    - signed_distance(shape, radius, points - step * e)
    for e in np.eye(3)
  ]
  return np.stack(ends, -1) / (2 * step)


@pytest.mark.parametrize("shape", [solids.CUBE, solids.SPHERE, solids.CYLINDER])
@pytest.mark.parametrize("radius", [0.45, 0.85])
def test_intersections_equal_those_by_marching(shape, radius):
  rng = np.random.default_rng(shape)
  place, angle = np.array([0.7, -0.4]), 0.6
  # In the solid's own frame first; from above and aslant.
  origins = rng.normal(size=(3000, 3))
  origins *= 6 / np.linalg.norm(origins, axis=-1, keepdims=True)
  origins[:, 2] = np.abs(origins[:, 2]) + 0.2
  towards = rng.uniform(-1.2, 1.2, (3000, 3)) * radius + [0, 0, radius]
  rays = towards - origins
  rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
  distance, missed_by = march(shape, radius, origins, rays)
  turn = np.array(
    [
      [np.cos(angle), -np.sin(angle), 0],
      [np.sin(angle), np.cos(angle), 0],
      [0, 0, 1],
    ]
  )
  center = np.array([*place, radius])
  found, normal = solids.meet(
    jnp.int32(shape),
    jnp.asarray(center, jnp.float32),
    jnp.float32(radius),
    jnp.float32(angle),
    jnp.asarray(origins @ turn.T + [*place, 0.0], jnp.float32),
    jnp.asarray(rays @ turn.T, jnp.float32),
  )
  found, normal = np.asarray(found), np.asarray(normal)
  hit = found < solids.FAR
  certain = (missed_by < 1e-6) | (missed_by > 1e-2)
  assert certain.mean() > 0.9
  np.testing.assert_array_equal(hit[certain], missed_by[certain] < 1e-6)
  both = hit & (missed_by < 1e-6)
  assert both.sum() > 500
  np.testing.assert_allclose(found[both], distance[both], atol=2e-3)
  expected = gradient(
    shape, radius, origins[both] + distance[both, None] * rays[both]
  )
  # Edges have no normal; there the gradient is not of length 1.
  smooth = np.abs(np.linalg.norm(expected, axis=-1) - 1) < 1e-3
  assert smooth.mean() > 0.95
  np.testing.assert_allclose(
    normal[both][smooth], expected[smooth] @ turn.T, atol=5e-3
  )


def test_normals_are_finite_and_of_length_one(draw):
  many = jax.tree.map(lambda x: x[0], draw[0])
  rays = jnp.asarray(camera_rays(np.asarray(many.camera), 32), jnp.float32)
  _, normal, seen = scenes._nearest(many, many.camera, rays.reshape(-1, 3))
  assert np.isfinite(normal).all()
  np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-4)
  assert (np.asarray(normal)[np.asarray(seen) < 0] == [0, 0, 1]).all()


def test_masks_are_disjoint_and_inside_their_boxes(draw):
  many, pictures = draw
  assert (pictures.masks.sum(1) <= 1).all()
  assert np.isfinite(pictures.image).all()
  assert pictures.image.min() >= 0 and pictures.image.max() <= 1
  for b, present in enumerate(np.asarray(many.present)):
    for n, there in enumerate(present):
      mask, box = pictures.masks[b, n], pictures.boxes[b, n]
      assert mask.any() == there
      if not there:
        assert (box == 0).all()
        continue
      rows, columns = np.nonzero(mask)
      edges = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
      np.testing.assert_allclose(box * 32, edges, atol=1e-4)


def changed(one, other):
  """Pixels that differ between the pictures of two scenes."""
  a, b = (np.asarray(render(s, 32).image) for s in (one, other))
  return np.abs(a - b).max(-1) > 1e-6


def two(draw, which):
  """A scene of two objects."""
  rows = np.flatnonzero(np.asarray(draw[0].present).all(1))
  return jax.tree.map(lambda x: x[rows[which]], draw[0])


def with_first(one, **values):
  return one._replace(
    **{name: getattr(one, name).at[0].set(v) for name, v in values.items()}
  )


@pytest.mark.parametrize("which", range(4))
def test_colour_and_material_change_only_the_object(draw, which):
  one = two(draw, which)
  mask = np.asarray(render(one, 32).masks[0])
  near = ndimage.binary_dilation(mask, np.ones((3, 3)))
  for name, count in (("color", 8), ("material", 2)):
    value = (getattr(one, name)[0] + 1) % count
    difference = changed(one, with_first(one, **{name: value}))
    assert not difference[~near].any(), name
    assert difference[mask].mean() > 0.9, name


@pytest.mark.parametrize("which", range(4))
def test_size_and_shape_change_only_the_object_and_its_shadow(draw, which):
  one = two(draw, which)
  without = one._replace(present=one.present.at[0].set(False))
  for name, count in (("size", 2), ("shape", 3)):
    other = with_first(one, **{name: (getattr(one, name)[0] + 1) % count})
    allowed = changed(one, without) | changed(other, without)
    difference = changed(one, other)
    assert difference.any() and not (difference & ~allowed).any(), name
    assert allowed.mean() < 0.5


def test_images_agree_at_all_resolutions(draw):
  for which in range(4):
    one = two(draw, which)
    coarse, fine = render(one, 32), render(one, 64)
    exact = render(one, 64, samples=1).image

    def half(x):
      return np.asarray(x).reshape(32, 2, 32, 2, -1).mean((1, 3))

    np.testing.assert_allclose(coarse.image, half(exact), atol=1e-5)
    assert np.abs(coarse.image - half(fine.image)).mean() < 0.01
    np.testing.assert_allclose(coarse.boxes, fine.boxes, atol=1.5 / 32)


def test_two_objects_never_touch_and_stay_on_the_floor():
  keys = jax.random.split(jax.random.key(1), 20000)
  many = jax.jit(jax.vmap(lambda key: scenes.sample(key, 2, 2)))(keys)
  radius = np.array([RADII[0], RADII[1]])[np.asarray(many.size)]
  position = np.asarray(many.position)
  apart = np.linalg.norm(position[:, 0] - position[:, 1], axis=-1)
  # The sphere is the widest of the three solids of one radius.
  assert (apart - radius.sum(1)).min() > 0
  assert np.abs(position).max() <= 1.2


def test_all_attributes_are_equally_frequent():
  keys = jax.random.split(jax.random.key(2), 8000)
  many = jax.jit(jax.vmap(lambda key: scenes.sample(key, 1, 2)))(keys)
  for name, count in (("size", 2), ("color", 8), ("material", 2), ("shape", 3)):
    share = np.bincount(np.asarray(getattr(many, name)).ravel()) / 16000
    np.testing.assert_allclose(share, 1 / count, atol=0.02)
  assert np.asarray(many.present).sum(1).mean() == pytest.approx(1.5, abs=0.03)


def test_a_key_fixes_a_scene_alone_and_in_a_batch(draw):
  many, pictures = draw
  keys = jax.random.split(jax.random.key(3), 64)
  for row in (0, 17):
    again = scenes.sample(keys[row], 1, 2)
    for one, other in zip(many, again, strict=True):
      np.testing.assert_allclose(one[row], other, atol=1e-6)
    single = render(again, 32)
    # The lamp's image in metal amplifies the rounding of a normal.
    np.testing.assert_allclose(pictures.image[row], single.image, atol=2e-3)
    np.testing.assert_array_equal(pictures.masks[row], single.masks)
