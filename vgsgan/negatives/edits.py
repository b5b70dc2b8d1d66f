"""Edits of generated images: hard negatives made inside the compiled step.

Both kinds use one generator interface, `Draw`. Unit edits, as published
("Learning Words by Drawing Images", CVPR 2019), keep z and switch off some
units of some layers where the matchmap locates the word. Latent moves change z
and so the whole image. An edit may change too little, and then the caption is
still true. So each image is edited at several strengths, and the weakest edit
that changes it enough is used, if there is one.

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

# Multipliers [b, h, w, c] of layers' units, by layer; other layers are not
# changed. 1 keeps a unit, 0 switches it off at that place.
Keep = dict[str, Array]

# (z [b, z], keep) -> images [b, s, s, 3]
Draw = Callable[[Array, Keep], Array]


class Peak(NamedTuple):
  """The best match of an image and a caption.

  heat: score of each location's best frame; frame, row, column: the best place.
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

  The component of `heat > share * max` that touches the peak by sides or
  corners: 3x3 dilation of the peak until nothing is added. It always contains
  the peak, and only the peak if that is not above 0. It contains no NaN, unless
  all are NaN: then it is the first place. The first published attempt has 0.95.
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
  """Resamples a mask to another grid over the same image.

  A cell is set if it overlaps a set cell of `mask`. So a coarser mask never
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
  """Marks (1) the `count` units with the largest score, or all if fewer.

  Ties go to the first unit; NaN comes last.
  """
  place = jnp.argsort(jnp.argsort(-rank_score, axis=1), axis=1)
  return (place < count).astype(jnp.float32)


def unit_attributions(
  score_of_keep: Callable[[Keep], Float[Array, "b"]],
  shapes: dict[str, tuple[int, int, int, int]],
  region: Bool[Array, "b h w"],
) -> dict[str, Float[Array, "b c"]]:
  """Fall of the score if a unit is switched off in the region, to first order.

  One backward pass serves all units. A unit with activation a enters the image
  as keep * a, so the gradient of the score by keep at ones is a times its
  gradient by a: the attribution "activation times gradient". It is the fall of
  the score as keep goes from 1 to 0 at a place, and exact if the score is
  linear in the activations. The fall in the region sums over its places.

  Args:
    score_of_keep: score of each caption with its image drawn with a `Keep`.
      A row's score must depend only on that row of the multipliers.
    shapes: `(b, h, w, c)` of the layers to rank.
    region: the region, on any grid.

  Returns:
    The falls by layer, as rank scores for `top_units`.
  """
  ones = {name: jnp.ones(shape) for name, shape in shapes.items()}
  slopes = jax.grad(lambda keep: jnp.sum(score_of_keep(keep)))(ones)
  falls = {}
  for name, slope in slopes.items():
    inside = resize(region, *slope.shape[1:3])[..., None]
    falls[name] = jnp.sum(jnp.where(inside, slope, 0.0), axis=(1, 2))
  return falls


class Attempts(NamedTuple):
  """Attempts at an edit, weakest first; entry r of each field is attempt r's.

  counts: units to switch off.
  changes: least `change` of the image for the edit to count.
  shares: share of the peak that bounds the `region`.
  """

  counts: tuple[int, ...]
  changes: tuple[float, ...]
  shares: tuple[float, ...]


def published_attempts(count: int, first: int = 30) -> Attempts:
  """The published attempts: each edits more, and needs less change to count.

  Args:
    count: number of attempts, 1 to 10; beyond, shares would be negative.
    first: units of the weakest. Published: 140 for layer4, 30 for the others.

  Raises:
    ValueError: count is out of range.
  """
  if not 1 <= count <= 10:
    raise ValueError(f"{count} rungs: 1 to 10 are possible")
  return Attempts(
    tuple(first + 40 * r for r in range(count)),
    tuple((95 - 5 * r) / 100 for r in range(count)),
    tuple((95 - 10 * r) / 100 for r in range(count)),
  )


def change(
  edited: Float[Array, "b s s 3"],
  image: Float[Array, "b s s 3"],
  region: Bool[Array, "b h w"],
) -> Float[Array, "b"]:
  """Relative change in the region m: `|(edited - image) m| / |image m|`.

  Euclidean norms over the region's pixels, normalised as for the image tower:
  the published thresholds are on that scale. No gradient flows.
  """
  mask = resize(region, *image.shape[1:3])[..., None]

  def norm(x: Array) -> Array:
    inside = jnp.where(mask, x.astype(jnp.float32), 0.0)
    return jnp.sqrt(jnp.sum(jnp.square(inside), axis=(1, 2, 3)))

  edited, image = lax.stop_gradient((edited, image))
  return norm(edited - image) / jnp.maximum(norm(image), 1e-6)


def first_sufficient(
  changes: Float[Array, "k b"],
  threshold: float | Float[Array, ""] | Float[Array, "k"],
) -> tuple[Int[Array, "b"], Float[Array, "b"]]:
  """Index of the weakest edit whose change reaches its threshold, and weight 1.

  Index 0 and weight 0 if no edit does. A change of NaN reaches no threshold.
  """
  limits = jnp.broadcast_to(jnp.asarray(threshold), len(changes))
  enough = changes >= limits[:, None]
  return jnp.argmax(enough, axis=0), jnp.any(enough, axis=0).astype(jnp.float32)


def take(
  stack: Float[Array, "k b *rest"], attempt: Int[Array, "b"]
) -> Float[Array, "b *rest"]:
  """`stack[attempt[i], i]` for each i."""
  index = attempt.reshape(1, -1, *(1,) * (stack.ndim - 2))
  return jnp.take_along_axis(stack, index, axis=0)[0]


def gaussian_move(
  key: Key[Array, ""],
  z: Float[Array, "b z"],
  sigma: float | Float[Array, ""],
) -> Float[Array, "b z"]:
  """Adds Gaussian noise of standard deviation `sigma`."""
  return z + sigma * jax.random.normal(key, z.shape, z.dtype)


def chunk_move(
  key: Key[Array, ""],
  z: Float[Array, "b z"],
  size: int,
  strength: float | Float[Array, ""],
) -> Float[Array, "b z"]:
  """Moves one randomly drawn chunk of each hierarchical z (BigGAN).

  The chunk becomes `sqrt(1 - strength^2) * chunk + strength * fresh`, so that a
  standard normal z stays standard normal.

  Args:
    key: draws the chunk to move, and the fresh one.
    z: chunks side by side.
    size: length of a chunk.
    strength: from 0, no change, to 1, a fresh chunk.

  Raises:
    ValueError: size does not divide the length of z.
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
    weight: stacked weights of the layers that read z, which compute
      `weight @ z`.
    count: number of directions.

  Returns:
    Directions of length 1, strongest first, and their eigenvalues.
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
