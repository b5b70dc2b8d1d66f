"""Convolutions of oneDNN in JAX programs for a CPU.

XLA's own take 1.3 to 4 times as long there, most for the kernel's gradient:
`docs/performance_log.md`. All derivatives of a convolution are convolutions, so
one primitive, linear in both of its arguments, computes one of three kinds:

  output: the output, from images and a kernel;
  input: the images' gradient, from the output's gradient and the kernel;
  kernel: the kernel's gradient, from the images and the output's gradient.

On one CPU device the primitive is lowered to oneDNN's call. On several, if it
was traced in the context of their mesh, each device calls oneDNN for its own
rows. Otherwise (accelerators, several devices without that context, as in
evaluation, rows that they cannot share, `vmap`, `shard_map`) it becomes the
plain form that the caller gave, or a derivative of that form.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from vgsgan.kernels.convolution import library

Plain = Callable[[Any, Any], Any]

PRIMITIVE = core.Primitive("onednn_conv2d")


def conv2d(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k c f"], plain: Plain
) -> Float[Array, "b h w f"]:
  """A convolution of stride 1, zero padded to the same size, in float32.

  Call it only if `library.ready()`.

  Args:
    x: images, [b, h, w, c].
    kernel: [k, k, c, f], its side k odd.
    plain: `plain(x, kernel)` computes the same without oneDNN.

  Returns:
    [b, h, w, f].
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.manual_axes or 0 in (*x.shape, *kernel.shape):
    return plain(x, kernel)
  same = {"side": kernel.shape[0], "plain": plain, "mesh": mesh}
  return PRIMITIVE.bind(x, kernel, kind="output", **same)


def operations(equation: Any) -> float:
  """FLOPs of one convolution, of any kind (two per multiply-add)."""
  left, right = (x.aval.shape for x in equation.invars)
  side, kind = equation.params["side"], equation.params["kind"]
  pairs = left[-1] * right[-1 if kind != "input" else -2]
  return 2.0 * math.prod(left[:-1]) * side**2 * pairs


def _shape(left, right, kind: str, side: int) -> tuple[int, ...]:
  """Shape of the result, from the arguments."""
  if kind == "kernel":
    return (side, side, left.shape[-1], right.shape[-1])
  channels = right.shape[-1 if kind == "output" else -2]
  return (*left.shape[:-1], channels)


@PRIMITIVE.def_abstract_eval
def _abstract(left, right, *, kind, side, plain, mesh):
  del plain, mesh
  return jax.core.ShapedArray(_shape(left, right, kind, side), left.dtype)


@PRIMITIVE.def_impl
def _run(left, right, **params):
  return _jitted(**params)(left, right)


@functools.lru_cache
def _jitted(**params):
  return jax.jit(functools.partial(PRIMITIVE.bind, **params))


def _plainly(left, right, *, kind: str, side: int, plain: Plain, mesh):
  """Computes the primitive by the plain form and its derivatives."""
  del mesh
  if kind == "output":
    return plain(left, right)
  zeros = jnp.zeros(_shape(left, right, kind, side), left.dtype)
  if kind == "input":
    return jax.vjp(lambda x: plain(x, right), zeros)[1](left)[0]
  return jax.vjp(lambda kernel: plain(left, kernel), zeros)[1](right)[0]


def _by_left(ct, left, right, *, kind, **same):
  """The gradient by the first argument."""
  del left
  if kind == "kernel":  # `ct` has the kernel's shape, `left` the images'.
    return PRIMITIVE.bind(right, ct, kind="input", **same)
  other = "input" if kind == "output" else "output"
  return PRIMITIVE.bind(ct, right, kind=other, **same)


def _by_right(ct, left, right, *, kind, **same):
  """The gradient by the second argument."""
  del right
  if kind == "kernel":  # `ct` has the kernel's shape, `right` the output's.
    return PRIMITIVE.bind(left, ct, kind="output", **same)
  images, output = (left, ct) if kind == "output" else (ct, left)
  return PRIMITIVE.bind(images, output, kind="kernel", **same)


ad.defbilinear(PRIMITIVE, _by_left, _by_right)


def _batched(arguments, axes, **params):
  """Maps the plain form under `vmap`."""
  plainly = functools.partial(_plainly, **params)
  return jax.vmap(plainly, axes)(*arguments), 0


batching.primitive_batchers[PRIMITIVE] = _batched

_lower_plainly = mlir.lower_fun(_plainly, multiple_results=False)


def _lower_for_cpu(ctx, left, right, *, kind, side, plain, mesh):
  context = ctx.module_context.axis_context
  devices = getattr(context, "num_devices", None)  # None inside `shard_map`.
  if devices == 1:
    return jax.ffi.ffi_lowering(library.TARGETS[kind])(ctx, left, right)
  if devices == mesh.size and ctx.avals_in[0].shape[0] % devices == 0:
    return _lower_by_rows(ctx, left, right, kind=kind, side=side, mesh=mesh)
  return _lower_plainly(
    ctx, left, right, kind=kind, side=side, plain=plain, mesh=mesh
  )


def _by_rows(left, right, *, kind: str, side: int, mesh: AbstractMesh):
  """Convolves each device's rows; XLA would gather them for a custom call."""

  def convolved(left, right):
    shape = _shape(left, right, kind, side)
    y = jax.ffi.ffi_call(
      library.TARGETS[kind], jax.ShapeDtypeStruct(shape, left.dtype)
    )(left, right)
    return jax.lax.psum(y, mesh.axis_names) if kind == "kernel" else y

  rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
  return jax.shard_map(
    convolved,
    mesh=mesh,
    in_specs=(rows, rows if kind == "kernel" else whole),
    out_specs=whole if kind == "kernel" else rows,
    check_vma=False,  # A custom call does not declare how its result varies.
  )(left, right)


_lower_by_rows = mlir.lower_fun(_by_rows, multiple_results=False)
mlir.register_lowering(PRIMITIVE, _lower_plainly)
mlir.register_lowering(PRIMITIVE, _lower_for_cpu, platform="cpu")
