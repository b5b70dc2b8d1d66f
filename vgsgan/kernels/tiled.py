"""MaxSim by tiles in plain JAX: for CPUs, and GPUs that `gpu` does not serve.

The loops are `lax` loops, in which matrix products are as fast as outside.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Shares = Callable[[Array, Array, Array, Array, Array], Array]


def counts(m: int, i: int, n: int, j: int, tile: int) -> tuple[int, int]:
  """Numbers of parts into which a's m and b's n items are cut.

  Two parts form at most `tile` products, or have one item each. They have about
  as many rows as columns, which reads least per product.
  """
  rows = _part(m, math.sqrt(tile) / i)
  columns = _part(n, tile / (rows * i * j))
  return -(-m // rows), -(-n // columns)


def _part(items: int, most: float) -> int:
  """Items per part, near `most`; equal parts avoid a padded copy."""
  most = min(items, max(1, int(most)))
  whole = [k for k in range(most // 2 + 1, most + 1) if items % k == 0]
  return max(whole, default=most)


def sums(
  tile: int,
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
) -> Float[Array, "m n"]:
  """Equals `maxsim.plain`, with at most `tile` products at a time."""
  return sums_and_best(tile, a, a_valid, b, b_valid)[0]


def sums_and_best(
  tile: int,
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
) -> tuple[Float[Array, "m n"], Int[Array, "x y mx ny j"]]:
  """`sums`, and for each vector of b the index of its best vector in an item.

  The indices are cut into x by y tiles, as `gradients` takes them; -1 for ties
  and for NaN, which has no best.
  """
  (m, i), (n, j) = a_valid.shape, b_valid.shape
  m_parts, n_parts = counts(m, i, n, j, tile)
  a_parts = _split(a, m_parts), _split(a_valid, m_parts)
  b_parts = _split(b, n_parts), _split(b_valid, n_parts)

  def row(a_part):
    return lax.map(lambda b_part: _pooled(*a_part, *b_part), b_parts)

  out, best = lax.map(row, a_parts)
  out = jnp.swapaxes(out, 1, 2)
  return out.reshape(out.shape[0] * out.shape[1], -1)[:m, :n], best


def gradients(
  tile: int,
  shares: Shares,
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  slope: Float[Array, "m n"],
  best: Int[Array, "x y mx ny j"] | None = None,
) -> tuple[Float[Array, "m i d"], Float[Array, "n j d"]]:
  """The gradients by a and b of `sum(slope * plain(a, ..., b, ...))`.

  Args:
    tile: number of products to form at a time.
    shares: maps (a, a_valid, b, b_valid, slope) of two parts to the gradient by
      their products, `[m i, n j]`.
    a: vectors of m items.
    a_valid: mask of a's vectors.
    b: vectors of n items.
    b_valid: mask of b's vectors.
    slope: the gradient by the sums.
    best: as from `sums_and_best`. Where each vector of b has a single best, no
      product is formed again: its slope goes to that vector.
  """
  (m, i), (n, j) = a_valid.shape, b_valid.shape
  m_parts, n_parts = counts(m, i, n, j, tile)
  a_parts = _split(a, m_parts), _split(a_valid, m_parts)
  b_parts = _split(b, n_parts), _split(b_valid, n_parts)
  slope = jax.vmap(lambda x: _split(x.T, n_parts))(_split(slope, m_parts))

  def row(b_slope, part):
    (a, a_valid), slope, best = part
    a_slope, b_slope = _row_gradients(
      shares, (masked(a, a_valid), a_valid), b_parts, slope, best, b_slope
    )
    return b_slope, a_slope.astype(a.dtype)

  shape = n_parts, b_parts[0].shape[1] * j, b.shape[-1]
  zero = lax.full_like(b, 0, jnp.float32, shape)
  b_slope, a_slope = lax.scan(row, zero, (a_parts, slope, best))
  b_slope = b_slope.reshape(-1, *b.shape[1:])[:n].astype(b.dtype)
  return a_slope.reshape(-1, *a.shape[1:])[:m], b_slope


def _row_gradients(shares, a_part, b_parts, slope, best, b_slope):
  """Gradients of one part of a with each of b's; b's are added to `b_slope`."""

  def pair(slopes, part):
    (b, b_valid), slope, k, best = part
    b_part = masked(b, b_valid), b_valid
    more = _pair_gradients(shares, a_part, b_part, slope.T, best)
    return (slopes[0] + more[0], slopes[1].at[k].add(more[1])), None

  zero = lax.full_like(_flat(a_part[0]), 0, jnp.float32)
  parts = b_parts, slope, jnp.arange(len(b_slope)), best
  return lax.scan(pair, (zero, b_slope), parts)[0]


def _pair_gradients(shares, a_part, b_part, slope, best):
  """Gradients of two parts, flat; products are formed only where needed."""
  a = a_part[0]

  def by_products(b, b_valid, slope, _):
    share = shares(*a_part, b, b_valid, slope)
    return _dot(share, _flat(b)), _dot(share.T, _flat(a))

  if best is None:
    return by_products(*b_part, slope, None)
  unclear = jnp.any((best < 0) & b_part[1])
  alone = functools.partial(_by_best, a)
  return lax.cond(unclear, by_products, alone, *b_part, slope, best)


def masked(x: Float[Array, "m i d"], valid: Bool[Array, "m i"]) -> Array:
  """Replaces vectors that are not valid by zeros."""
  return jnp.where(valid[..., None], x, 0)


def shares(a, a_valid, b, b_valid, slope):
  """The gradient by the products: ties for the best share its slope."""
  products = _products(a, a_valid, b)
  best = products == jnp.max(products, axis=1, keepdims=True)
  number = jnp.sum(best, axis=1, dtype=jnp.float32)
  slope = jnp.where(b_valid, slope[..., None], 0.0).reshape(number.shape)
  # NaN has no best product: its gradient is NaN.
  others = jnp.where(number > 0, 0.0, jnp.nan)
  share = jnp.where(best, (slope / number)[:, None], others[:, None])
  return share.reshape(-1, share.shape[-1])


def _by_best(a, b, b_valid, slope, best):
  """Flat gradients of two parts, if each vector of b has a single best."""
  weight = jnp.where(b_valid, slope[..., None], 0.0)

  def item(b_slope, part):
    a, weight, best = part
    weight, best = weight.reshape(-1, 1), jnp.maximum(best.reshape(-1), 0)
    a_slope = lax.full_like(a, 0, jnp.float32).at[best].add(weight * _flat(b))
    return b_slope + weight * a[best], a_slope

  zero = lax.full_like(_flat(b), 0, jnp.float32)
  b_slope, a_slope = lax.scan(item, zero, (a, weight, best))
  return _flat(a_slope), b_slope


def _pooled(a, a_valid, b, b_valid):
  a, b = masked(a, a_valid), masked(b, b_valid)
  products = _products(a, a_valid, b)
  top = jnp.max(products, axis=1)
  equal = products == top[:, None]
  place = lax.broadcasted_iota(jnp.int32, products.shape, 1)
  best = jnp.sum(jnp.where(equal, place, 0), axis=1)
  best = jnp.where(jnp.sum(equal, axis=1) == 1, best, -1)
  best = best.astype(jnp.int16 if a.shape[1] < 2**15 else jnp.int32)
  top, best = (x.reshape(len(a), *b_valid.shape) for x in (top, best))
  return jnp.sum(jnp.where(b_valid, top, 0.0), axis=-1), best


def _products(a, a_valid, b):
  """All products of two parts, `[m, i, n j]`; -inf where a is not valid."""

  def in_float32(a, b):
    return _dot(a.astype(jnp.float32), b.astype(jnp.float32))

  # A CPU has no faster product for bfloat16.
  products = lax.platform_dependent(
    _flat(a), _flat(b).T, cpu=in_float32, default=_dot
  )
  products = products.reshape(*a_valid.shape, -1)
  return jnp.where(a_valid[..., None], products, -jnp.inf)


def _dot(x, y):
  return jnp.matmul(
    x,
    y,
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def _flat(x: Array) -> Array:
  return x.reshape(-1, x.shape[-1])


def _split(x: Array, parts: int) -> Array:
  """Cuts `[m, ...]` into `[parts, m / parts, ...]`, padded with zeros."""
  size = -(-len(x) // parts)
  fill = parts * size - len(x)
  if fill:
    x = jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))
  return x.reshape(parts, size, *x.shape[1:])
