"""MaxSim on a TPU: Pallas kernels whose products never leave vector memory.

An instance takes a tile of a (whole items as rows) and a tile of b (whole items
as columns), forms their products and pools them in place. A kernel for each of
the two gradients forms the products again and sums in vector memory over the
tiles of the other operand: five matrix products for value and gradients.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from vgsgan.kernels.tiled import masked

LANES = 128
# Rows and columns of a tile of products, for 1024 channels in bfloat16. So many
# operations for each byte read match the ratio of current chips.
SIDE = 512
# Limit of vector memory: the default is too low if one item fills a tile.
VMEM_BYTES = 48 * 2**20


class Tiling(NamedTuple):
  """Numbers of tiles, items per tile and rows per item, for a (m) and b (n)."""

  m_tiles: int
  m_items: int
  m_length: int  # Padded, so that items begin at register boundaries.
  n_tiles: int
  n_items: int
  n_length: int


def sums(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  interpret: bool = False,
) -> Float[Array, "m n"]:
  """`maxsim.plain`; `interpret` runs the kernel without a TPU."""
  tiling = _tiling(a, b)
  m, k, _, n, s, _ = tiling
  block = pl.BlockSpec((1, 1, k, s), lambda m, n: (m, n, 0, 0))
  out = _call(
    _sums_kernel,
    tiling,
    _operands(tiling, a, a_valid, b, b_valid),
    out=((m, n, k, s), block),
    products=1,
    interpret=interpret,
  )
  return out.swapaxes(1, 2).reshape(m * k, n * s)[: len(a), : len(b)]


def gradients(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  slope: Float[Array, "m n"],
  interpret: bool = False,
) -> tuple[Float[Array, "m i d"], Float[Array, "n j d"]]:
  """The gradients by a and b of `sum(slope * plain(a, ..., b, ...))`."""
  tiling = _tiling(a, b)
  m, k, length, n, s, _ = tiling
  operands = _operands(tiling, a, a_valid, b, b_valid)
  slope = jnp.pad(slope, [(0, m * k - len(a)), (0, n * s - len(b))])
  operands += (slope.reshape(m, k, n, s).swapaxes(1, 2),)
  call = functools.partial(
    _call, tiling=tiling, operands=operands, products=2, interpret=interpret
  )
  shape = operands[0].shape
  block = pl.BlockSpec((1, *shape[1:]), lambda m, n: (m, 0, 0))
  by_a = call(_a_kernel, out=(shape, block))
  by_a = by_a[:, : k * length].reshape(m * k, length, -1)
  shape = operands[2].shape
  block = pl.BlockSpec((1, *shape[1:]), lambda n, m: (n, 0, 0))
  by_b = call(_b_kernel, out=(shape, block), n_first=True)
  by_b = by_b[:, : s * b.shape[1]].reshape(n * s, b.shape[1], -1)
  by_a, by_b = by_a[: len(a), : a.shape[1]], by_b[: len(b)]
  return by_a.astype(a.dtype), by_b.astype(b.dtype)


def _tiling(a: Array, b: Array) -> Tiling:
  (m, i, d), (n, j, _) = a.shape, b.shape
  side = max(LANES, SIDE * 2048 // max(2048, d * a.dtype.itemsize))
  # Registers have 8 rows of products: items begin at multiples of 8. A tile of
  # a in two bytes has a multiple of 16 rows.
  length = pl.cdiv(i, 8) * 8
  step = 1 if a.dtype.itemsize == 4 or length % 16 == 0 else 2
  m_items = min(pl.cdiv(m, step), max(1, side // (length * step))) * step
  columns = max(LANES, side * side // max(side, m_items * length))
  n_items = min(n, max(1, columns // j))
  return Tiling(
    pl.cdiv(m, m_items), m_items, length, pl.cdiv(n, n_items), n_items, j
  )


def _operands(tiling, a, a_valid, b, b_valid):
  """Tiles `[m_tiles, rows, d]` and `[n_tiles, columns, d]`, their masks."""
  (m, i, d), (n, j, _) = a.shape, b.shape
  a, b = masked(a, a_valid), masked(b, b_valid)
  more = tiling.m_tiles * tiling.m_items - m, tiling.m_length - i
  a = jnp.pad(a, [(0, more[0]), (0, more[1]), (0, 0)])
  a = a.reshape(tiling.m_tiles, -1, d)
  a_valid = jnp.pad(a_valid, [(0, more[0]), (0, more[1])])
  a_valid = a_valid.reshape(tiling.m_tiles, -1, 1)
  more = tiling.n_tiles * tiling.n_items - n
  columns = tiling.n_items * j
  fill = -columns % LANES
  b = jnp.pad(b, [(0, more), (0, 0), (0, 0)])
  b = jnp.pad(b.reshape(-1, columns, d), [(0, 0), (0, fill), (0, 0)])
  b_valid = jnp.pad(b_valid, [(0, more), (0, 0)]).reshape(-1, 1, columns)
  b_valid = jnp.pad(b_valid, [(0, 0), (0, 0), (0, fill)])
  masks = a_valid.astype(jnp.float32), b_valid.astype(jnp.float32)
  return a, masks[0], b, masks[1]


def _call(
  kernel, tiling, operands, out, products, interpret, n_first=False
) -> Array:
  """Runs `kernel` for every pair of tiles; a's are inner if `n_first`."""
  grid = tiling.m_tiles, tiling.n_tiles

  def spec(x, *which):
    rest = (0,) * (x.ndim - len(which))

    def index(*place):
      place = place[::-1] if n_first else place
      return (*(place[axis] for axis in which), *rest)

    return pl.BlockSpec((1,) * len(which) + x.shape[len(which) :], index)

  a, a_valid, b, b_valid, *slope = operands
  in_specs = [spec(a, 0), spec(a_valid, 0), spec(b, 1), spec(b_valid, 1)]
  in_specs += [spec(x, 0, 1) for x in slope]
  rows, columns, d = (
    a.shape[0] * a.shape[1],
    b.shape[0] * b.shape[1],
    a.shape[2],
  )
  reread = b.size * b.dtype.itemsize * grid[0]
  if n_first:
    reread = a.size * a.dtype.itemsize * grid[1]
  shape, block = out
  return pl.pallas_call(
    functools.partial(kernel, tiling),
    grid=grid[::-1] if n_first else grid,
    in_specs=in_specs,
    out_specs=block,
    out_shape=jax.eval_shape(
      lambda x: lax.full_like(x, 0, jnp.float32, shape), a
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"),
      vmem_limit_bytes=VMEM_BYTES,
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * rows * columns * d,
      bytes_accessed=a.nbytes + b.nbytes + reread,
      transcendentals=0,
    ),
    interpret=interpret,
    name=f"maxsim{kernel.__name__.removesuffix('_kernel')}",
  )(*operands)


def _sums_kernel(tiling, a_ref, a_valid_ref, b_ref, b_valid_ref, out_ref):
  products = _products(tiling, a_ref, a_valid_ref, b_ref)
  best = jnp.where(b_valid_ref[0] > 0, jnp.max(products, axis=1), 0.0)
  # A matrix product sums the columns of each item, which may begin anywhere.
  owner = _owner(tiling, best.shape[1])
  out_ref[0, 0] = _dot(best, owner, 1, 1)


def _a_kernel(
  tiling, a_ref, a_valid_ref, b_ref, b_valid_ref, slope_ref, out_ref
):
  share = _shares(tiling, a_ref, a_valid_ref, b_ref, b_valid_ref, slope_ref)
  _add(out_ref, _dot(share, b_ref[0], 1, 0))


def _b_kernel(
  tiling, a_ref, a_valid_ref, b_ref, b_valid_ref, slope_ref, out_ref
):
  share = _shares(tiling, a_ref, a_valid_ref, b_ref, b_valid_ref, slope_ref)
  _add(out_ref, _dot(share, a_ref[0], 0, 0))


def _shares(tiling, a_ref, a_valid_ref, b_ref, b_valid_ref, slope_ref):
  """The gradient by the products: ties for the best share its slope."""
  products = _products(tiling, a_ref, a_valid_ref, b_ref)
  best = products == jnp.max(products, axis=1, keepdims=True)
  best = best.astype(jnp.float32)
  number = jnp.sum(best, axis=1)
  slope = _dot(slope_ref[0, 0], _owner(tiling, best.shape[2]), 1, 0)
  slope = jnp.where(b_valid_ref[0] > 0, slope, 0.0)
  # NaN has no best product: its gradient is NaN.
  others = jnp.where(number > 0, 0.0, jnp.nan)[:, None]
  share = jnp.where(best > 0, (slope / number)[:, None], others)
  return share.reshape(-1, share.shape[2]).astype(a_ref.dtype)


def _products(tiling, a_ref, a_valid_ref, b_ref):
  """All products of two tiles, `[items of a, vectors, columns]`."""
  products = _dot(a_ref[0], b_ref[0], 1, 1)
  products = jnp.where(a_valid_ref[0] > 0, products, -jnp.inf)
  return products.reshape(tiling.m_items, tiling.m_length, -1)


def _owner(tiling, columns):
  """`[items of b, columns]`: 1 where the column belongs to the item."""
  shape = tiling.n_items, columns
  first = lax.broadcasted_iota(jnp.int32, shape, 0) * tiling.n_length
  place = lax.broadcasted_iota(jnp.int32, shape, 1)
  own = (place >= first) & (place < first + tiling.n_length)
  return own.astype(jnp.float32)


def _add(out_ref, more):
  @pl.when(pl.program_id(1) == 0)
  def _():
    out_ref[...] = jnp.zeros_like(out_ref)

  out_ref[0] += more


def _dot(x, y, x_axis, y_axis):
  exact = x.dtype == jnp.float32
  return lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    precision=lax.Precision.HIGHEST if exact else None,
    preferred_element_type=jnp.float32,
  )
