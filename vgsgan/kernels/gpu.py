"""MaxSim on an NVIDIA GPU: Pallas kernels for Mosaic.

They serve GPUs with Hopper's matrix unit and vectors in 16 bits. `tiled` serves
other GPUs, and float32, whose products this unit does not form exactly.

An instance takes `ROWS` of b's vectors and up to `COLUMNS` of one item's of a,
forms their products in registers and pools them there. The gradients are matrix
products with the sparse gradient by the products, the *shares*. A kernel forms
the products again and writes the shares of some items at a time, in the
precision of the operands. The library's matrix product reads them, since
registers cannot hold a sum over whole vectors.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Bool, Float

from vgsgan.kernels import tiled

HOPPER = 9  # Its compute capability.
# Shares that may exist at once (bfloat16: 32 MiB), or products of `tiled`.
TILE = 2**24
ROWS = 64  # b's vectors that the matrix unit takes at once.
COLUMNS = 128  # Largest number of a's vectors in an instance.
# Numbers in 128 bytes, the row of shared memory that the matrix unit reads. As
# many channels are read at once, and columns are a multiple of it.
SIDE = 64
STAGES = 4  # Reads in flight while products are formed.
LAYOUT = plgpu.TilingTransform((8, SIDE)), plgpu.SwizzleTransform(128)


def sums(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  interpret=None,
) -> Float[Array, "m n"]:
  """`maxsim.plain`; `interpret` runs the kernel without a GPU."""
  if not serves(a, interpret):
    return tiled.sums(TILE, a, a_valid, b, b_valid)
  best, _ = _best(_operands(a, a_valid, b, b_valid), interpret)
  best = best[:, : b_valid.size].reshape(len(a), *b_valid.shape)
  return jnp.sum(jnp.where(b_valid, best, 0.0), axis=-1)


def gradients(
  a: Float[Array, "m i d"],
  a_valid: Bool[Array, "m i"],
  b: Float[Array, "n j d"],
  b_valid: Bool[Array, "n j"],
  slope: Float[Array, "m n"],
  interpret=None,
) -> tuple[Float[Array, "m i d"], Float[Array, "n j d"]]:
  """The gradients by a and b of `sum(slope * plain(a, ..., b, ...))`."""
  shares = tiled.shares
  if serves(a, interpret):
    shares = functools.partial(_shares, interpret=interpret)
  return tiled.gradients(TILE, shares, a, a_valid, b, b_valid, slope)


def serves(a: Array, interpret=None) -> bool:
  """True if the kernels serve such vectors on this machine's GPU."""
  # Without a GPU JAX compiles for Hopper.
  version = getattr(jax.local_devices()[0], "compute_capability", HOPPER)
  hopper = interpret is not None or int(float(version)) == HOPPER
  return hopper and a.dtype.itemsize == 2


def _operands(a, a_valid, b, b_valid):
  """Padded operands: a with channels first, its mask, and b's flat vectors."""
  channels = -a.shape[2] % SIDE
  parts, columns = _blocks(a.shape[1])
  more = parts * columns - a.shape[1]
  a = tiled.masked(a, a_valid).swapaxes(1, 2)
  a = jnp.pad(a, [(0, 0), (0, channels), (0, more)])
  a_valid = jnp.pad(a_valid, [(0, 0), (0, more)]).astype(jnp.float32)
  b = tiled.masked(b, b_valid).reshape(-1, b.shape[2])
  return a, a_valid, jnp.pad(b, [(0, -len(b) % ROWS), (0, channels)])


def _blocks(length: int) -> tuple[int, int]:
  """Divides an item of `a` into blocks: their number and their columns."""
  columns = min(COLUMNS, pl.cdiv(length, SIDE) * SIDE)
  return pl.cdiv(length, columns), columns


def _best(operands, interpret):
  """Best product of each item with each vector of b, and the number of ties."""
  a, a_valid, b = operands
  parts, columns = _blocks(a_valid.shape[1])
  out = _like(a, (len(a), parts, len(b)), jnp.float32)
  scratch = [
    *(plgpu.SMEM((size,), jnp.float32) for size in (columns, ROWS, ROWS)),
    plgpu.Barrier(),
  ]
  best, number = _call(_best_kernel, operands, [out, out], scratch, interpret)
  highest = jnp.max(best, axis=1)
  number = jnp.where(best == highest[:, None], number, 0.0)
  return highest, jnp.sum(number, axis=1)


def _shares(a, a_valid, b, b_valid, slope, interpret):
  """The gradient by the products, `[m i, n j]`, in the operands' dtype."""
  operands = _operands(a, a_valid, b, b_valid)
  best, number = _best(operands, interpret)
  weight = jnp.where(b_valid, slope[..., None], 0.0).reshape(len(a), -1)
  fill = best.shape[1] - weight.shape[1]
  weight = jnp.pad(weight, [(0, 0), (0, fill)]) / number
  parts, columns = _blocks(a.shape[1])
  shape = best.shape[1], len(a), parts * columns
  (out,) = _call(
    _shares_kernel,
    (*operands, best, weight),
    [_like(a, shape, a.dtype)],
    [
      *(plgpu.SMEM((size,), jnp.float32) for size in (columns, ROWS, ROWS)),
      plgpu.SMEM((ROWS, columns), a.dtype, transforms=LAYOUT),
      plgpu.Barrier(num_arrivals=3),
    ],
    interpret,
  )
  out = out[: b_valid.size, :, : a.shape[1]]
  return out.reshape(len(out), -1).T


def _like(x, shape, dtype):
  """The type of an array that varies over the same mesh axes as x."""
  return jax.eval_shape(lambda x: lax.full_like(x, 0, dtype, shape), x)


def _call(kernel, operands, outs, scratch, interpret) -> list[Array]:
  """Runs `kernel` for every block of rows, item, and block of its columns."""
  a, a_valid, b, *_ = operands
  parts, _ = _blocks(a_valid.shape[1])
  return plgpu.kernel(
    kernel,
    out_type=outs,
    scratch_types=scratch,
    # CUDA limits all but the last to below 2**16.
    grid=(len(a), parts, len(b) // ROWS),
    grid_names=("item", "part", "rows"),
    compiler_params=plgpu.CompilerParams(
      lowering_semantics=plgpu.LoweringSemantics.Warpgroup
    ),
    interpret=interpret,
  )(*operands)


def _best_kernel(
  a_ref, valid_ref, b_ref, best_ref, number_ref, valid, best, number, barrier
):
  rows, item, part, own = _place(valid.shape[0])
  plgpu.copy_gmem_to_smem(valid_ref.at[item, own], valid, barrier)
  products = _products(a_ref.at[item, :, own], b_ref.at[rows])
  plgpu.barrier_wait(barrier)
  products = _masked(products, valid)
  highest = jnp.max(products, axis=1)
  equal = products == _wide(highest, products)
  best[...] = highest
  number[...] = jnp.sum(jnp.where(equal, 1.0, 0.0), axis=1)
  plgpu.commit_smem()
  plgpu.copy_smem_to_gmem(best, best_ref.at[item, part, rows])
  plgpu.copy_smem_to_gmem(number, number_ref.at[item, part, rows])
  plgpu.wait_smem_to_gmem(0)


def _shares_kernel(
  a_ref,
  valid_ref,
  b_ref,
  best_ref,
  weight_ref,
  out_ref,
  valid,
  best,
  weight,
  out,
  barrier,
):
  rows, item, _, own = _place(valid.shape[0])
  plgpu.copy_gmem_to_smem(valid_ref.at[item, own], valid, barrier)
  plgpu.copy_gmem_to_smem(best_ref.at[item, rows], best, barrier)
  plgpu.copy_gmem_to_smem(weight_ref.at[item, rows], weight, barrier)
  products = _products(a_ref.at[item, :, own], b_ref.at[rows])
  plgpu.barrier_wait(barrier)
  products = _masked(products, valid)
  best, weight = best[...], weight[...]
  # NaN has no best product: its gradient is NaN.
  others = jnp.where(best == best, 0.0, jnp.nan)
  best, weight, others = (_wide(x, products) for x in (best, weight, others))
  share = jnp.where(products == best, weight, others)
  out[...] = share.astype(out.dtype)
  plgpu.commit_smem()
  plgpu.copy_smem_to_gmem(out, out_ref.at[rows, item, own])
  plgpu.wait_smem_to_gmem(0)


def _place(columns):
  """The rows, item, part and columns of a program."""
  part = lax.axis_index("part")
  rows = pl.ds(lax.axis_index("rows") * ROWS, ROWS)
  return rows, lax.axis_index("item"), part, pl.ds(part * columns, columns)


def _products(a_ref, b_ref):
  """Products of b's vectors, one below the other, and a's, side by side."""
  (rows, depth), (_, columns) = b_ref.shape, a_ref.shape
  spec = functools.partial(plgpu.BlockSpec, transforms=LAYOUT, delay_release=1)

  def products(total):
    def deeper(_, b_part, a_part):
      plgpu.wgmma(total, b_part, a_part)
      plgpu.wgmma_wait(1)

    plgpu.emit_pipeline(
      deeper,
      grid=(depth // SIDE,),
      in_specs=[
        spec((rows, SIDE), lambda k: (0, k)),
        spec((SIDE, columns), lambda k: (k, 0)),
      ],
      max_concurrent_steps=STAGES,
    )(b_ref, a_ref)
    return total[...]

  return pl.run_scoped(products, plgpu.ACC((rows, columns), jnp.float32))


def _masked(products, valid):
  """Puts -inf in the columns of vectors that are not valid."""
  valid = lax.broadcast_in_dim(valid[...], products.shape, [1])
  return jnp.where(valid > 0, products, -jnp.inf)


def _wide(x, products):
  """Broadcasts one number per row over all columns of `products`."""
  return lax.broadcast_in_dim(x, products.shape, [0])
