"""MaxSim on an NVIDIA GPU: Pallas kernels, by way of Triton.

Scores are pooled in registers: no product is written to memory. Both gradients
are matrix products with the sparse gradient by the products, its *shares*. A
kernel writes these for some of a's and b's items at a time, in the precision of
the operands, and the library's matrix product reads them: registers hold no
sum over whole vectors, and forming the products anew for every part of these
would cost more than writing.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

from vgsgan.kernels import tiled

# Shares that may exist at once (bfloat16: 128 MiB).
TILE = 2**26
ROWS = 256  # Of a's vectors whose products are formed at once, at most.
COLUMNS = 64  # Of b's, at most.
DEPTH = 128  # Bytes of a vector that are read at once.
# A side of a product is 16 at least.
LEAST = 16


def sums(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  interpret: bool = False,
) -> Float[Array, "m n"]:
  """`maxsim.plain`; `interpret` runs the kernel without a GPU."""
  operands = _operands(a, a_valid, b, b_valid)
  return _call(_sums_kernel, operands, (len(a), len(b)), jnp.float32, interpret)


def gradients(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  slope: Float[Array, "m n"],
  interpret: bool = False,
) -> tuple[Float[Array, "m i d"], Float[Array, "n j d"]]:
  """The gradients by a and b of `sum(slope * plain(a, ..., b, ...))`."""
  by_a, by_b = tiled.gradients(
    TILE,
    functools.partial(_shares, interpret=interpret),
    *_operands(a, a_valid, b, b_valid),
    slope,
  )
  return by_a[:, : a.shape[1], : a.shape[2]], by_b[
    :, : b.shape[1], : b.shape[2]
  ]


def _operands(a, a_valid, b, b_valid):
  """Padded, so that blocks are whole and their sides powers of two."""

  def padded(x, valid, most):
    block = _block(x.shape[1], most)
    depth = DEPTH // x.dtype.itemsize
    rows, channels = -x.shape[1] % block, -x.shape[2] % depth
    x = tiled.masked(x, valid)
    x = jnp.pad(x, [(0, 0), (0, rows), (0, channels)])
    return x, jnp.pad(valid, [(0, 0), (0, rows)])

  return *padded(a, a_valid, ROWS), *padded(b, b_valid, COLUMNS)


def _block(length: int, most: int) -> int:
  return min(most, max(LEAST, pl.next_power_of_2(length)))


def _shares(a, a_valid, b, b_valid, slope, interpret):
  """The gradient by the products, `[m i, n j]`, as the operands are."""
  (m, i), (n, j) = a_valid.shape, b_valid.shape
  return _call(
    _shares_kernel,
    (a, a_valid, b, b_valid, slope),
    (m * i, n * j),
    a.dtype,
    interpret,
  )


def _call(kernel, operands, shape, dtype, interpret) -> Array:
  """Runs `kernel` for every pair of items, for its block of the result."""
  a, _, b, _, *slope = operands
  (m, i, d), (n, j, _) = a.shape, b.shape
  out = jax.eval_shape(lambda x: lax.full_like(x, 0, dtype, shape), a)
  by_pair = lambda n, m: (m, n)  # noqa: E731
  in_specs = [
    pl.BlockSpec((None, i, d), lambda n, m: (m, 0, 0)),
    pl.BlockSpec((None, i), lambda n, m: (m, 0)),
    pl.BlockSpec((None, j, d), lambda n, m: (n, 0, 0)),
    pl.BlockSpec((None, j), lambda n, m: (n, 0)),
  ]
  in_specs += [pl.BlockSpec((1, 1), by_pair) for _ in slope]
  return pl.pallas_call(
    functools.partial(kernel, _block(i, ROWS), _block(j, COLUMNS)),
    grid=(n, m),
    in_specs=in_specs,
    out_specs=pl.BlockSpec((shape[0] // m, shape[1] // n), by_pair),
    out_shape=out,
    compiler_params=triton.CompilerParams(num_warps=8, num_stages=3),
    cost_estimate=pl.CostEstimate(
      flops=2 * m * i * n * j * d,
      bytes_accessed=a.nbytes + b.nbytes + out.size * out.dtype.itemsize,
      transcendentals=0,
    ),
    interpret=interpret,
    name=f"maxsim{kernel.__name__.removesuffix('_kernel')}",
  )(*operands)


def _sums_kernel(
  rows, columns, a_ref, a_valid_ref, b_ref, b_valid_ref, out_ref
):
  def column(k, total):
    at = pl.ds(k * columns, columns)

    def row(r, best):
      own = pl.ds(r * rows, rows)
      products = _products(a_ref, a_valid_ref, b_ref, own, at)
      return jnp.maximum(best, jnp.max(products, axis=0))

    best = jnp.full((columns,), -jnp.inf, jnp.float32)
    best = lax.fori_loop(0, a_ref.shape[0] // rows, row, best)
    return total + jnp.sum(jnp.where(b_valid_ref[at], best, 0.0))

  total = lax.fori_loop(0, b_ref.shape[0] // columns, column, jnp.float32(0))
  out_ref[0, 0] = total


def _shares_kernel(
  rows, columns, a_ref, a_valid_ref, b_ref, b_valid_ref, slope_ref, out_ref
):
  parts = a_ref.shape[0] // rows

  def column(k, _):
    at = pl.ds(k * columns, columns)
    slope = jnp.where(b_valid_ref[at], slope_ref[0, 0], 0.0)

    def products(r):
      own = pl.ds(r * rows, rows)
      return _products(a_ref, a_valid_ref, b_ref, own, at)

    def count(r, found):
      best, number = found
      own = products(r)
      higher = jnp.maximum(best, jnp.max(own, axis=0))
      equal = jnp.sum((own == higher).astype(jnp.float32), axis=0)
      return higher, jnp.where(higher > best, 0.0, number) + equal

    def write(r, found, own=None):
      best, share = found
      own = products(r) if own is None else own
      # Among NaNs is no best: the gradient is to be NaN as well.
      others = jnp.where(best == best, 0.0, jnp.nan)
      own = jnp.where(own == best, share, others).astype(out_ref.dtype)
      out_ref[pl.ds(r * rows, rows), at] = own
      return found

    if parts == 1:
      own = products(0)
      best = jnp.max(own, axis=0)
      number = jnp.sum((own == best).astype(jnp.float32), axis=0)
      write(0, (best, slope / number), own)
      return 0
    lowest = jnp.full((columns,), -jnp.inf, jnp.float32)
    found = lowest, jnp.zeros_like(lowest)
    best, number = lax.fori_loop(0, parts, count, found)
    lax.fori_loop(0, parts, write, (best, slope / number))
    return 0

  lax.fori_loop(0, b_ref.shape[0] // columns, column, 0)


def _products(a_ref, a_valid_ref, b_ref, own, at):
  """Products of some of a pair's vectors; -inf where a's are not valid."""
  exact = a_ref.dtype == jnp.float32
  depth = DEPTH // a_ref.dtype.itemsize

  def deeper(k, total):
    channels = pl.ds(k * depth, depth)
    return total + lax.dot_general(
      a_ref[own, channels],
      b_ref[at, channels],
      (((1,), (1,)), ((), ())),
      precision=lax.Precision.HIGHEST if exact else None,
      preferred_element_type=jnp.float32,
    )

  zero = jnp.zeros((own.size, at.size), jnp.float32)
  total = lax.fori_loop(0, a_ref.shape[1] // depth, deeper, zero)
  return jnp.where(a_valid_ref[own][:, None], total, -jnp.inf)
