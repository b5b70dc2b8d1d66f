"""MaxSim by tiles in plain JAX: what runs on a CPU.

The loops are `lax` loops: matrix products in them are as fast as outside.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Shares = Callable[[Array, Array, Array, Array, Array], Array]


def counts(m: int, i: int, n: int, j: int, tile: int) -> tuple[int, int]:
  """How many parts to take of a's m and b's n items.

  So that the products of two parts are `tile` at most, or of one item each,
  and about as many rows as columns: that is the least to read for a product.
  """
  rows = min(m, max(1, round(math.sqrt(tile) / i)))
  columns = min(n, max(1, tile // (rows * i * j)))
  rows = min(m, max(1, tile // (columns * i * j)))
  return -(-m // rows), -(-n // columns)


def sums(
  tile: int,
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
) -> Float[Array, "m n"]:
  """`maxsim.plain`, with at most `tile` products at a time."""
  (m, i), (n, j) = a_valid.shape, b_valid.shape
  m_parts, n_parts = counts(m, i, n, j, tile)
  a_parts = _split(a, m_parts), _split(a_valid, m_parts)
  b_parts = _split(b, n_parts), _split(b_valid, n_parts)

  def row(a_part):
    return lax.map(lambda b_part: _sums(*a_part, *b_part), b_parts)

  out = jnp.swapaxes(lax.map(row, a_parts), 1, 2)
  return out.reshape(out.shape[0] * out.shape[1], -1)[:m, :n]


def gradients(
  tile: int,
  shares: Shares,
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  slope: Float[Array, "m n"],
) -> tuple[Float[Array, "m i d"], Float[Array, "n j d"]]:
  """The gradients by a and b of `sum(slope * plain(a, ..., b, ...))`.

  Args:
    tile: how many products to form at a time.
    shares: gives the gradient by the products of two parts, `[m i, n j]`, from
      (a, a_valid, b, b_valid, slope) of these.
    a: vectors of m items.
    a_valid: which count.
    b: vectors of n items.
    b_valid: which count.
    slope: the gradient by the sums.
  """
  (m, i), (n, j) = a_valid.shape, b_valid.shape
  m_parts, n_parts = counts(m, i, n, j, tile)
  a_parts = _split(a, m_parts), _split(a_valid, m_parts)
  b_parts = _split(b, n_parts), _split(b_valid, n_parts)
  by_a = jnp.swapaxes(_split(slope.T, n_parts), 1, 2)

  def column(a_slope, part):
    b_part, slope = part
    columns = _flat(b_part[0])

    def pair(b_slope, part):
      a_part, slope = part
      share = shares(*a_part, *b_part, slope)
      return (
        b_slope + _dot(share.T, _flat(a_part[0])),
        _dot(share, columns),
      )

    zero = lax.full_like(columns, 0, jnp.float32)
    b_slope, a_new = lax.scan(pair, zero, (a_parts, _split(slope, m_parts)))
    return a_slope + a_new, b_slope

  flat = m_parts, a_parts[0].shape[1] * i, a.shape[-1]
  zero = lax.full_like(a, 0, jnp.float32, flat)
  a_slope, b_slope = lax.scan(column, zero, (b_parts, by_a))
  a_slope = a_slope.reshape(-1, *a.shape[1:])[:m].astype(a.dtype)
  return a_slope, b_slope.reshape(-1, *b.shape[1:])[:n].astype(b.dtype)


def shares(a, a_valid, b, b_valid, slope):
  """The gradient by the products: each best's slope, split among its equals."""
  products = _products(a, a_valid, b)
  best = products == jnp.max(products, axis=1, keepdims=True)
  number = jnp.sum(best, axis=1, dtype=jnp.float32)
  slope = jnp.where(b_valid, slope[..., None], 0.0).reshape(number.shape)
  share = jnp.where(best, (slope / number)[:, None], 0.0)
  return share.reshape(-1, share.shape[-1])


def _sums(a, a_valid, b, b_valid):
  best = jnp.max(_products(a, a_valid, b), axis=1)
  best = best.reshape(len(a), *b_valid.shape)
  return jnp.sum(jnp.where(b_valid, best, 0.0), axis=-1)


def _products(a, a_valid, b):
  """All products of two parts, `[m, i, n j]`; -inf where a's are not valid."""
  # In float32 also of bfloat16: a CPU has no faster product for these.
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  products = _dot(_flat(a), _flat(b).T).reshape(*a_valid.shape, -1)
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
  """`[m, ...]` as `[parts, m / parts, ...]`; zeros fill the last part up."""
  size = -(-len(x) // parts)
  fill = parts * size - len(x)
  if fill:
    x = jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))
  return x.reshape(parts, size, *x.shape[1:])
