"""Scores each device's images with all audio, inside a `shard_map`.

Each device holds b of B pairs; audio maps are `[b, t, d]` of s bytes a number.
Besides its own maps and the b x B scores, value and gradients take per device

  gather  `3 s B t d` bytes: all maps, the masked maps, and their gradient. One
          all_gather and its reduce-scatter in two steps: the fewest messages.
  ring    `2 (s + 4) b t d` bytes, independent of B: a neighbour's maps and the
          maps in transit, and the same for their float32 gradient. The maps go
          round twice, the second time with their gradient: `(2 s + 4) B t d`
          bytes are sent, in as many turns as there are devices.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import layout
from jaxtyping import Array, Bool, Float

Score = Callable[..., Array]
# The mesh axis, or axes, over which the batch is split.
Axis = str | tuple[str, ...]


def gather(
  score: Score,
  axis: Axis,
  images: Float[Array, "b h w d"],
  audio: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
) -> Float[Array, "b n"]:
  """Scores a device's own images with all audio, in the batch's order."""
  all_valid = lax.all_gather(valid, axis, tiled=True)
  return score(images, _gather(axis, audio), all_valid)


def ring(
  score: Score,
  axis: Axis,
  images: Float[Array, "b h w d"],
  audio: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
) -> Float[Array, "b n"]:
  """Like `gather`, but passes audio maps from device to device."""
  pure, params = jax.closure_convert(score, images, audio, valid)
  return _ring(pure, axis, images, audio, valid, params)


EXCHANGES = {"gather": gather, "ring": ring}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(axis, maps):
  return lax.all_gather(maps, axis, tiled=True)


def _gather_forward(axis, maps):
  return _gather(axis, maps), None


def _gather_backward(axis, _, slope):
  return (reduce_scatter(slope, axis),)


_gather.defvjp(_gather_forward, _gather_backward)


def reduce_scatter(
  x: Float[Array, "n ..."], axis: Axis
) -> Float[Array, "b ..."]:
  """Sums `x` over all devices; each device keeps its own rows.

  The devices form a table of r rows and c columns. A first reduce-scatter runs
  within columns, a second within rows. Each device sends
  `(r - 1) / r + (c - 1) / (r c)` of the array, which equals the `(n - 1) / n`
  of one reduce-scatter over all n. XLA for TPU (libtpu 0.0.42) turns that
  single one into an all-reduce and a slice where the chips are more than a
  ring, which sends twice as much. It does the same wherever the leading
  dimension does not lead in memory, hence `_in_order`.

  Args:
    x: the same rows of every device.
    axis: the mesh axis or axes.
  """
  n = lax.axis_size(axis)
  r = next(r for r in range(math.isqrt(n - 1) + 1, n + 1) if n % r == 0)
  c = n // r
  columns = [list(range(i, n, c)) for i in range(c)]
  rows = [list(range(i, i + c)) for i in range(0, n, c)]
  x = x.reshape(r, c, -1, *x.shape[1:])
  for groups in (columns, rows):
    if len(groups[0]) > 1:
      x = lax.psum_scatter(_in_order(x), axis, axis_index_groups=groups)
    else:
      x = x[0]
  return x


def _in_order(x: Array) -> Array:
  """Asks for a memory layout in the order of the dimensions."""
  order = layout.Layout(major_to_minor=tuple(range(x.ndim)))
  return layout.with_layout_constraint(x, order)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(score, axis, images, audio, valid, params):
  def turn(held, _):
    return _pass_on(held, axis), score(images, *held, *params)

  # A loop, so that XLA cannot hold the maps of later turns at the same time.
  devices = lax.axis_size(axis)
  _, blocks = lax.scan(turn, (audio, valid), length=devices)
  blocks = jnp.swapaxes(blocks[_turns(axis)], 0, 1)
  return blocks.reshape(len(images), -1)


def _ring_forward(score, axis, *args):
  return _ring(score, axis, *args), args


def _ring_backward(score, axis, saved, slope):
  # The maps go round again: keeping them would hold the whole batch's.
  images, audio, valid, params = saved
  slope = slope.reshape(len(images), -1, len(audio)).swapaxes(0, 1)

  def turn(carry, slope):
    (audio, valid), sums = carry

    def own(images, audio, params):
      return score(images, audio, valid, *params)

    _, pull = jax.vjp(own, images, audio, params)
    images_sum, audio_sum, params_sum = jax.tree.map(jnp.add, sums, pull(slope))
    held = _pass_on((audio, valid), axis)
    return (held, (images_sum, _pass_on(audio_sum, axis), params_sum)), None

  inputs = images, audio, params
  zeros = jax.tree.map(lambda x: lax.full_like(x, 0, jnp.float32), inputs)
  start = (audio, valid), zeros
  (_, sums), _ = lax.scan(turn, start, slope[_turns(axis)])
  images, audio, params = jax.tree.map(
    lambda x, like: x.astype(like.dtype), sums, inputs
  )
  return images, audio, None, params


_ring.defvjp(_ring_forward, _ring_backward)


def _pass_on(x, axis):
  """Sends `x` to the next device; after one turn per device it is back."""
  devices = lax.axis_size(axis)
  steps = [(i, (i + 1) % devices) for i in range(devices)]
  return lax.ppermute(x, axis, steps)


def _turns(axis):
  """Device whose maps arrive in each turn; this order is its own inverse."""
  devices = lax.axis_size(axis)
  return (lax.axis_index(axis) - jnp.arange(devices)) % devices
