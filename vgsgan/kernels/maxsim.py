"""MaxSim of all pairs: sums each vector's best product with another set.

`out[m, n] = sum over valid j of (max over valid i of <a[m, i], b[n, j]>)`

is the matchmap of every pair, pooled (the name is ColBERT's: Khattab and
Zaharia, SIGIR 2020). MISA is MaxSim of an image's places for a clip's frames,
SIMA of a clip's frames for an image's places; `vgsgan.losses.scores` divides by
the counts.

The products of all pairs, `m i n j` numbers, are never held at once, as in
flash attention (Dao et al., NeurIPS 2022): they are formed and pooled tile by
tile. GPU and TPU form them again for the gradient, and keep only the arguments.
A CPU, which spends its time on the products, keeps the index of each best
vector, `m n j` small integers, and computes the gradient from these vectors. It
forms the products again for ties, or if there would be more than `KEPT`
indices. Besides arguments and results the memory is

  CPU: one tile of `TILE` products, as many shares for the gradient, and the
    indices;
  GPU: the best products, `m n j`; for the gradient, shares of `gpu.TILE`
    products. Kernels are for bfloat16 on Hopper; other GPUs and dtypes compute
    like a CPU, with tiles of `gpu.TILE` and without indices;
  TPU: none: tiles stay in the chip's vector memory.

Products accumulate in float32. Those of float32 vectors are formed in float32
on every platform (`Precision.HIGHEST`); a faster matrix unit needs bfloat16.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from vgsgan.kernels import gpu, tiled, tpu

# Products that may exist at once on a CPU (float32: 1 MiB). The size is
# measured: smaller matrix products are slower, larger tiles leave the cache.
TILE = 2**18
# Indices of best vectors that a CPU keeps at most (int16: 64 MiB).
KEPT = 2**25


def maxsim(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
) -> Float[Array, "m n"]:
  """Sums, over the valid vectors of `b[n]`, their best products with `a[m]`.

  Vectors that are not valid have no effect on values or gradients. Vectors that
  share a maximum share its gradient equally. Items of `a` or `b` without valid
  vectors give 0, without gradient. The result is float32 for any dtype.
  """
  (m, i), (n, j) = a_valid.shape, b_valid.shape
  # A single pair (maybe under vmap), or a single tile, needs no loop.
  if m == n == 1 or m * i * n * j <= TILE:
    sums = plain(a, a_valid, b, b_valid)
  else:
    sums = _fused(TILE, *_alike(a, a_valid, b, b_valid))
  # XLA's maximum on a CPU loses NaN among 4096 or more numbers.
  sums = sums + _diverged(a, a_valid)[:, None] + _diverged(b, b_valid)
  return jnp.where(jnp.any(a_valid, axis=1)[:, None], sums, 0.0)


def _diverged(x, valid):
  """NaN for items with a NaN in a valid vector, else 0."""
  nan = jnp.isnan(jnp.sum(x, axis=2, dtype=jnp.float32)) & valid
  return jnp.where(jnp.any(nan, axis=1), jnp.nan, jnp.float32(0))


def plain(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
) -> Float[Array, "m n"]:
  """The definition, to which kernels are compared: products, maximum, sum.

  -inf where `a[m]` has no valid vector.
  """
  products = jnp.einsum(
    "mid,njd->minj",
    tiled.masked(a, a_valid),
    tiled.masked(b, b_valid),
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  products = jnp.where(a_valid[:, :, None, None], products, -jnp.inf)
  return jnp.sum(jnp.where(b_valid, jnp.max(products, axis=1), 0.0), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(tile, a, a_valid, b, b_valid):
  """Equals `plain`, with the implementation of the target platform."""
  return lax.platform_dependent(
    a,
    a_valid,
    b,
    b_valid,
    tpu=tpu.sums,
    cuda=gpu.sums,
    default=functools.partial(tiled.sums, tile),
  )


def _forward(tile, *args):
  whole = functools.partial(tiled.sums_and_best, tile)
  if not _keeps(*args):
    return _fused(tile, *args), (args, None)
  empty = jax.eval_shape(whole, *args)[1]

  def without(sums):
    return lambda a, *others: (
      sums(a, *others),
      lax.full_like(a, 0, empty.dtype, empty.shape),
    )

  sums, best = lax.platform_dependent(
    *args, tpu=without(tpu.sums), cuda=without(gpu.sums), default=whole
  )
  return sums, (args, best)


def _keeps(a, a_valid, b, b_valid):
  """True if the indices of the best vectors are few enough to keep."""
  return len(a_valid) * b_valid.size <= KEPT


def _backward(tile, saved, slope):
  args, best = saved
  a_slope, b_slope = lax.platform_dependent(
    *args,
    slope,
    best,
    tpu=lambda *x: tpu.gradients(*x[:-1]),
    cuda=lambda *x: gpu.gradients(*x[:-1]),
    default=functools.partial(tiled.gradients, tile, tiled.shares),
  )
  return a_slope, None, b_slope, None


_fused.defvjp(_forward, _backward)


def _alike(*arrays: Array) -> list[Array]:
  """Makes arrays vary over the same mesh axes under `shard_map`.

  It is outside the custom gradient, so that the transpose of this cast sums the
  gradients of an argument that all devices share.
  """
  same = sum(lax.full_like(x, 0, jnp.int32, ()) for x in arrays) == 0
  return [lax.select(same, x, x) for x in arrays]
