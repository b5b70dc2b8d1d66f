"""Latents of pictures that no one drew, so that edits work on any picture.

An encoder guesses the latent, a few steps of least squares mend the guess, and
a gate lets through what the generator can draw: Zhu et al., "Generative Visual
Manipulation on the Natural Image Manifold" (ECCV 2016), whose hybrid of a
network and an optimisation this is.

All are pure functions with fixed shapes, and each row is by itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.data import features

# Weight of the mean square of a latent beside the square of the error.
PRIOR = 1e-3
_TINY = 1e-12


class Inverted(NamedTuple):
  """What was found for each picture.

  Attributes:
    latent: to draw it from.
    drawn: what the generator draws from that.
    error: see `relative_error`.
  """

  latent: Float[Array, "b z"]
  drawn: Float[Array, "b s s 3"]
  error: Float[Array, "b"]


class Latents(NamedTuple):
  """What the pictures of a batch are drawn from, to be edited.

  Attributes:
    z: of each picture.
    counts: 1 where `z` may be edited, else 0.
    missed: the pictures less what is drawn from `z`; None where that is
      nothing, since they were drawn from it.
    metrics: of the search.
  """

  z: Float[Array, "b z"]
  counts: Float[Array, "b"]
  missed: Float[Array, "b s s 3"] | None
  metrics: dict[str, Array]


def misfit(
  drawn: Float[Array, "b s s 3"], pictures: Float[Array, "b s s 3"]
) -> Float[Array, "b"]:
  """The square of `relative_error`."""
  return _energy(drawn - pictures) / jnp.maximum(_contrast(pictures), _TINY)


def relative_error(
  drawn: Float[Array, "b s s 3"], pictures: Float[Array, "b s s 3"]
) -> Float[Array, "b"]:
  """|drawn - picture| / |picture - its mean colour|, norms over all pixels.

  0 is the picture itself, and 1 no better than a blank sheet of the right
  colour. The scale and offset of the pixels make no difference.
  """
  return jnp.sqrt(misfit(drawn, pictures))


def gate(error: Float[Array, "b"], limit: float) -> Float[Array, "b"]:
  """1 where the error is at most `limit`, and 0 elsewhere and for NaN."""
  return (jnp.isfinite(error) & (error <= limit)).astype(jnp.float32)


def invert(
  draw: Callable[[Array], Array],
  encode: Callable[[Array], Array],
  pictures: Float[Array, "b s s 3"],
  steps: int,
  prior: float = PRIOR,
) -> Inverted:
  """Latents whose pictures come near these.

  From the encoder's guess on, conjugate gradients lower `error^2 + prior *
  mean(z^2)`: directions after Polak and Ribiere, and along each the step that
  would be the best if the generator were linear (its Jacobian, as Gauss and
  Newton have it), so there is no rate to choose. If the generator is linear,
  as many steps as a latent has numbers find the minimum.

  Args:
    draw: latents [b, z] to pictures, each row by itself.
    encode: pictures to latents, likewise.
    pictures: on the scale of those that are drawn, whatever that is.
    steps: how many; each costs about four times what drawing does.
    prior: how much large latents are shunned.

  Returns:
    Of the guess and all steps, what has the least error in each row.
  """
  z = encode(pictures)
  # |drawn - picture|^2 + weight |z|^2 has the same minimum.
  weight = (prior / z.shape[1] * _contrast(pictures))[:, None]
  best, slope, direction = None, None, None
  for _ in range(steps):
    drawn, push = jax.linearize(draw, z)
    best = _better(best, z, drawn, pictures)
    (pulled,) = jax.linear_transpose(push, z)(pictures - drawn)
    before, slope = slope, pulled - weight * z
    if before is None:
      direction = slope
    else:
      turn = _dot(slope, slope - before) / (_dot(before, before) + _TINY)
      direction = slope + jnp.maximum(turn, 0.0) * direction
    bend = _energy(push(direction))[:, None]
    bend = bend + weight * _dot(direction, direction)
    z = z + _dot(slope, direction) / (bend + _TINY) * direction
  return _better(best, z, draw(z), pictures)


def search(
  draw: Callable[[Array], Array],
  encode: Callable[[Array], Array],
  pictures: Float[Array, "b s s 3"],
  steps: int,
  limit: float,
) -> Latents:
  """`invert` and `gate`, without gradient.

  What is not let through has z 0 and misses nothing, so that numbers remain
  numbers. Metrics: `inverted`, the share let through, and `inversion_error`,
  the median.
  """
  found = invert(draw, encode, pictures, steps)
  counts = gate(found.error, limit)
  z = jnp.where(counts[:, None] > 0, found.latent, 0.0)
  missed = pictures - found.drawn
  missed = jnp.where(counts[:, None, None, None] > 0, missed, 0.0)
  metrics = {
    "inverted": jnp.mean(counts),
    "inversion_error": jnp.nanmedian(found.error),
  }
  return Latents(*jax.lax.stop_gradient((z, counts, missed, metrics)))


def complete(
  drawn: Float[Array, "n s s 3"], missed: Float[Array, "b s s 3"]
) -> Float[Array, "n s s 3"]:
  """Edited drawings with what the unedited ones missed of their pictures.

  `picture + (edited - drawn)`, in 8 bits again. So a picture differs from its
  edit by the edit alone, and no error of the search tells the two apart.

  Args:
    drawn: pixels in [0, 1] of n / b edits of each picture, side by side.
    missed: `Latents.missed`.
  """
  each = len(drawn) // len(missed)
  return features.quantize(drawn + jnp.repeat(missed, each, axis=0))


def _better(best: Inverted | None, z, drawn, pictures) -> Inverted:
  """Row by row the one of less error; a number before NaN."""
  new = Inverted(z, drawn, relative_error(drawn, pictures))
  if best is None:
    return new
  take = (new.error < best.error) | jnp.isnan(best.error)

  def choose(one, other):
    return jnp.where(take.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

  return jax.tree.map(choose, new, best)


def _energy(x: Float[Array, "b s s 3"]) -> Float[Array, "b"]:
  return jnp.sum(jnp.square(x), axis=(1, 2, 3))


def _contrast(pictures: Float[Array, "b s s 3"]) -> Float[Array, "b"]:
  return _energy(pictures - jnp.mean(pictures, axis=(1, 2), keepdims=True))


def _dot(a: Float[Array, "b z"], b: Float[Array, "b z"]) -> Array:
  return jnp.sum(a * b, axis=1, keepdims=True)
