"""Edits of drawn pictures: hard negatives made inside the compiled step.

Two kinds over one generator interface, `Draw`. Unit edits, as published
("Learning Words by Drawing Images", CVPR 2019), keep z and switch off some
units of some layers where the matchmap says the word is. Latent moves change z
and so the whole picture. Either may change too little, and then the caption is
still true: edits are made in several strengths, and of each picture the weakest
that changes it enough is taken, or none.

All are pure functions with fixed shapes. Random numbers are drawn for the whole
global batch, so they do not depend on the devices.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from vgsgan.losses.scores import l2_normalize

# What a layer's units [b, h, w, c] are multiplied by; a layer that is not named
# stays as it is. Ones change nothing, 0 switches the unit off at that place.
Keep = dict[str, Array]

# (z [b, z], keep) -> pictures [b, s, s, 3]
Draw = Callable[[Array, Keep], Array]


class Peak(NamedTuple):
  """Where an image and a caption match best.

  heat: the best frame of each location; frame, row, column: the best of all.
  """

  heat: Float[Array, "b h w"]
  frame: Int[Array, "b"]
  row: Int[Array, "b"]
  column: Int[Array, "b"]


def peak(matchmap: Float[Array, "b h w t"], valid: Bool[Array, "b t"]) -> Peak:
  """The best frame of each location, and the best location.

  Padded frames and NaN never win: a location of NaN has heat -inf. A caption
  without valid frames has heat 0 everywhere and its peak at the first place.
  """
  usable = valid[:, None, None, :] & ~jnp.isnan(matchmap)
  masked = jnp.where(usable, matchmap, -jnp.inf)
  silent = ~jnp.any(valid, axis=1)[:, None, None]
  heat = jnp.where(silent, 0.0, jnp.max(masked, axis=-1))
  b, h, w = heat.shape
  place = jnp.argmax(heat.reshape(b, h * w), axis=1)
  row, column = jnp.divmod(place, w)
  flat = masked.reshape(b, h * w, -1)
  there = jnp.take_along_axis(flat, place[:, None, None], axis=1)[:, 0]
  return Peak(heat, jnp.argmax(there, axis=1), row, column)


def region(
  heat: Float[Array, "b h w"], share: float | Float[Array, ""]
) -> Bool[Array, "b h w"]:
  """The places around the peak that are hotter than `share` of it.

  Of `heat > share * max` it is the part that is connected with the peak, by
  sides or corners: 3x3 dilation inside it until nothing is added. The peak
  itself is always in, alone where it is not above 0. NaN is never in, except as
  the peak (the first place) of a map of nothing else. Published: 0.95 at first.
  """
  heat = jnp.where(jnp.isnan(heat), -jnp.inf, lax.stop_gradient(heat))
  b, h, w = heat.shape
  place = jnp.argmax(heat.reshape(b, h * w), axis=1)
  seed = jax.nn.one_hot(place, h * w, dtype=bool).reshape(b, h, w)
  highest = jnp.max(heat, axis=(1, 2), keepdims=True)
  hot = seed | ((heat > share * highest) & (highest > 0))

  def dilate(carry: tuple[Array, Array]) -> tuple[Array, Array]:
    _, now = carry
    window = (1, 3, 3), (1, 1, 1), "SAME"
    wider = lax.reduce_window(now, False, lax.bitwise_or, *window)
    return now, wider & hot

  def grew(carry: tuple[Array, Array]) -> Array:
    return jnp.any(carry[0] != carry[1])

  return lax.while_loop(grew, dilate, dilate((seed, seed)))[1]


def resize(
  mask: Bool[Array, "b h w"], height: int, width: int
) -> Bool[Array, "b height width"]:
  """The mask on another grid over the same picture.

  A cell is set where it overlaps a set cell of `mask`. So a coarser mask never
  loses a region, and a finer one by a whole factor repeats each cell.
  """

  def overlaps(old: int, new: int) -> np.ndarray:
    i, j = np.arange(new)[:, None], np.arange(old)
    return (j * new < (i + 1) * old) & ((j + 1) * new > i * old)

  _, h, w = mask.shape
  rows, columns = overlaps(h, height), overlaps(w, width)
  factors = (jnp.asarray(x, jnp.float32) for x in (mask, rows, columns))
  return jnp.einsum("bhw,yh,xw->byx", *factors) > 0


def keep_mask(
  units: Float[Array, "b c"], region: Bool[Array, "b h w"]
) -> Float[Array, "b h w c"]:
  """A layer's multiplier: 0 at the chosen units inside the region, else 1."""
  inside = region.astype(units.dtype)
  return 1.0 - inside[..., None] * units[:, None, None, :]


def top_units(
  rank_score: Float[Array, "b c"], count: int
) -> Float[Array, "b c"]:
  """Chooses (1) the `count` units with the largest score, or all if fewer.

  Of equals the first; NaN comes last.
  """
  place = jnp.argsort(jnp.argsort(-rank_score, axis=1), axis=1)
  return (place < count).astype(jnp.float32)


def aimed(
  score_of_keep: Callable[[Keep], Float[Array, "b"]],
  shapes: dict[str, tuple[int, int, int, int]],
  region: Bool[Array, "b h w"],
) -> dict[str, Float[Array, "b c"]]:
  """How far the score falls if a unit is switched off in the region.

  To first order, for all units with one backward pass. A unit with activation a
  enters the picture as keep * a, so the score's gradient by keep at ones is a
  times its gradient by a: the known attribution "activation times gradient". As
  keep goes from 1 to 0 at a place, the score falls by that much, exactly where
  it is linear in the activations; the fall in the region sums over its places.

  Args:
    score_of_keep: score of each caption with its picture drawn with a `Keep`.
      A row's score must depend on that row of the multipliers alone.
    shapes: `(b, h, w, c)` of the layers that are asked about.
    region: where, on any grid.

  Returns:
    For each layer the falls, as rank scores for `top_units`.
  """
  ones = {name: jnp.ones(shape) for name, shape in shapes.items()}
  slopes = jax.grad(lambda keep: jnp.sum(score_of_keep(keep)))(ones)
  falls = {}
  for name, slope in slopes.items():
    inside = resize(region, *slope.shape[1:3])[..., None]
    falls[name] = jnp.sum(jnp.where(inside, slope, 0.0), axis=(1, 2))
  return falls


class Ladder(NamedTuple):
  """Strengths of an edit, weakest first; a rung is a place in each.

  counts: units to switch off.
  changes: least `change` of the picture for the edit to count.
  shares: of the peak, for the `region`.
  """

  counts: tuple[int, ...]
  changes: tuple[float, ...]
  shares: tuple[float, ...]


def published_ladder(rungs: int, first: int = 30) -> Ladder:
  """The published tries: each edits more, and is content with less.

  Args:
    rungs: how many tries, 1 to 10, else ValueError: shares would be negative.
    first: units of the weakest. Published: 140 for layer4, 30 for the others.
  """
  if not 1 <= rungs <= 10:
    raise ValueError(f"a ladder of {rungs} rungs: 1 to 10 are possible")
  tries = range(rungs)
  return Ladder(
    tuple(first + 40 * r for r in tries),
    tuple((95 - 5 * r) / 100 for r in tries),
    tuple((95 - 10 * r) / 100 for r in tries),
  )


def change(
  edited: Float[Array, "b s s 3"],
  image: Float[Array, "b s s 3"],
  region: Bool[Array, "b h w"],
) -> Float[Array, "b"]:
  """How much of the region changed: `|(edited - image) m| / |image m|`.

  Euclidean norms over the region's pixels, as the image tower takes them,
  normalised: so the published thresholds fit. Without gradient.
  """
  mask = resize(region, *image.shape[1:3])[..., None]

  def norm(x: Array) -> Array:
    inside = jnp.where(mask, x.astype(jnp.float32), 0.0)
    return jnp.sqrt(jnp.sum(jnp.square(inside), axis=(1, 2, 3)))

  edited, image = lax.stop_gradient((edited, image))
  return norm(edited - image) / jnp.maximum(norm(image), 1e-6)


def weakest_enough(
  changes: Float[Array, "k b"],
  threshold: float | Float[Array, ""] | Float[Array, "k"],
) -> tuple[Int[Array, "b"], Float[Array, "b"]]:
  """The first rung whose change reaches its threshold, and weight 1.

  Rung 0 and weight 0 where none does. A change of NaN reaches nothing.
  """
  limits = jnp.broadcast_to(jnp.asarray(threshold), len(changes))
  enough = changes >= limits[:, None]
  return jnp.argmax(enough, axis=0), jnp.any(enough, axis=0).astype(jnp.float32)


def take(
  stack: Float[Array, "k b *rest"], rung: Int[Array, "b"]
) -> Float[Array, "b *rest"]:
  """`stack[rung[i], i]` for each i."""
  index = rung.reshape(1, -1, *(1,) * (stack.ndim - 2))
  return jnp.take_along_axis(stack, index, axis=0)[0]


def gaussian_move(
  key: Key[Array, ""],
  z: Float[Array, "b z"],
  sigma: float | Float[Array, ""],
) -> Float[Array, "b z"]:
  """Adds noise of standard deviation `sigma`."""
  return z + sigma * jax.random.normal(key, z.shape, z.dtype)


def chunk_move(
  key: Key[Array, ""],
  z: Float[Array, "b z"],
  size: int,
  strength: float | Float[Array, ""],
) -> Float[Array, "b z"]:
  """Moves one chunk of each hierarchical z (BigGAN), drawn at random.

  The chunk becomes `sqrt(1 - strength^2) * chunk + strength * fresh`, so that
  what was standard normal remains so.

  Args:
    key: for which chunk, and for the fresh one.
    z: chunks side by side.
    size: how many numbers a chunk has; ValueError if it does not divide z.
    strength: from 0, nothing, to 1, drawn anew.
  """
  b, width = z.shape
  if width % size:
    raise ValueError(f"a z of {width} cannot be cut in chunks of {size}")
  key_chunk, key_fresh = jax.random.split(key)
  chosen = jax.random.randint(key_chunk, (b, 1), 0, width // size)
  fresh = jax.random.normal(key_fresh, z.shape, z.dtype)
  moved = jnp.sqrt(1.0 - strength**2) * z + strength * fresh
  return jnp.where(jnp.arange(width) // size == chosen, moved, z)


def sefa(
  weight: Float[Array, "out z"], count: int
) -> tuple[Float[Array, "count z"], Float[Array, "count"]]:
  """Directions of z that change a layer most, in closed form.

  Shen & Zhou, "Closed-Form Factorization of Latent Semantics in GANs", CVPR
  2021: with A the weight with each row (one output) scaled to length 1, the
  eigenvectors of A^T A with the largest eigenvalues.

  Args:
    weight: of the layers that read z, stacked; they compute `weight @ z`.
    count: how many unit directions, strongest first, with their eigenvalues.
  """
  rows = l2_normalize(weight)
  gram = jnp.matmul(rows.T, rows, precision="highest")
  values, vectors = jnp.linalg.eigh(gram)
  return vectors.T[::-1][:count], values[::-1][:count]


def direction_move(
  key: Key[Array, ""],
  z: Float[Array, "b z"],
  directions: Float[Array, "n z"],
  strength: float | Float[Array, ""],
) -> Float[Array, "b z"]:
  """Moves each z by `strength` along a direction and sign drawn at random."""
  key_direction, key_sign = jax.random.split(key)
  chosen = jax.random.randint(key_direction, z.shape[:1], 0, len(directions))
  sign = jax.random.rademacher(key_sign, z.shape[:1], z.dtype)
  return z + strength * sign[:, None] * directions[chosen]
