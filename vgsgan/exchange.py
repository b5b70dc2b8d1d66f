"""How the devices of a `shard_map` score their images with all audio.

Each holds b of B pairs; audio maps are `[b, t, d]` of s bytes a number. Beyond
the b x B scores a device holds at once, for value and gradients,

  gather  all audio maps and their gradient, `2 s B t d` bytes: one `all_gather`
          and its reduce-scatter, so the least time on any network;
  ring    its neighbour's maps and their float32 gradient besides its own, and
          those that are on their way, `2 (s + 4) b t d` bytes whatever B is.
          Maps go round twice, with their gradient the second time: more bytes
          are sent, by as many steps as there are devices, each of which can
          overlap with the scores of the maps at hand.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Score = Callable[..., Array]
# Of one mesh axis or of several that the batch is split over together.
Axis = str | tuple[str, ...]


def gather(
  score: Score,
  axis: Axis,
  images: Float[Array, "b h w d"],
  audio: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
) -> Float[Array, "b n"]:
  """Scores of a device's own images with all audio, in the batch's order."""
  everyone = functools.partial(lax.all_gather, axis_name=axis, tiled=True)
  return score(images, everyone(audio), everyone(valid))


def ring(
  score: Score,
  axis: Axis,
  images: Float[Array, "b h w d"],
  audio: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
) -> Float[Array, "b n"]:
  """As `gather`, with audio maps passed from device to device."""
  pure, params = jax.closure_convert(score, images, audio, valid)
  return _ring(pure, axis, images, audio, valid, params)


EXCHANGES = {"gather": gather, "ring": ring}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(score, axis, images, audio, valid, params):
  blocks = []
  for _ in range(lax.axis_size(axis)):
    # Not before the last scores are done: else all maps might come at once.
    coming = _pass_on((audio, valid), axis)
    block = score(images, audio, valid, *params)
    (audio, valid), block = lax.optimization_barrier((coming, block))
    blocks.append(block)
  blocks = jnp.stack(blocks)[_turns(axis)]
  return jnp.swapaxes(blocks, 0, 1).reshape(len(images), -1)


def _ring_forward(score, axis, *args):
  return _ring(score, axis, *args), args


def _ring_backward(score, axis, saved, slope):
  # Once more round: kept from the first time, the maps would be all of them.
  images, audio, valid, params = saved
  slope = slope.reshape(len(images), -1, len(audio)).swapaxes(0, 1)
  slope = slope[_turns(axis)]
  zeros = functools.partial(lax.full_like, fill_value=0, dtype=jnp.float32)
  by_images, by_params = jax.tree.map(zeros, (images, params))
  by_audio = zeros(audio)
  for turn in range(lax.axis_size(axis)):
    coming = _pass_on((audio, valid), axis)
    _, pull = jax.vjp(
      lambda images, audio, params, valid=valid: score(
        images, audio, valid, *params
      ),
      images,
      audio,
      params,
    )
    found = pull(slope[turn])
    by_images, by_audio, by_params = jax.tree.map(
      jnp.add, (by_images, by_audio, by_params), found
    )
    by_audio = _pass_on(by_audio, axis)
    (audio, valid), by_audio = lax.optimization_barrier((coming, by_audio))
  by_images, by_audio, by_params = jax.tree.map(
    lambda x, like: x.astype(like.dtype),
    (by_images, by_audio, by_params),
    (images, audio, params),
  )
  return by_images, by_audio, None, by_params


_ring.defvjp(_ring_forward, _ring_backward)


def _pass_on(x, axis):
  """To the next device. After as many times as there are, all are home."""
  devices = lax.axis_size(axis)
  steps = [(i, (i + 1) % devices) for i in range(devices)]
  return lax.ppermute(x, axis, steps)


def _turns(axis):
  """In which turn whose maps come by; in whose order what came in turn is."""
  devices = lax.axis_size(axis)
  return (lax.axis_index(axis) - jnp.arange(devices)) % devices
