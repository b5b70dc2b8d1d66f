"""Finds latents of images that no generator drew, so that they can be edited.

An encoder guesses the latent, a few steps of least squares improve the guess,
and a gate rejects images that the generator cannot draw. This is the hybrid of
a network and an optimisation of Zhu et al., "Generative Visual Manipulation on
the Natural Image Manifold" (ECCV 2016).

All are pure functions with fixed shapes, and rows are independent.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.data import features

# Weight of the mean square of a latent, relative to the square of the error.
PRIOR = 1e-3
_TINY = 1e-12


class Inverted(NamedTuple):
  """The result of the search for each image.

  Attributes:
    latent: the latent.
    drawn: the image that the generator draws from it.
    error: see `relative_error`.
  """

  latent: Float[Array, "b z"]
  drawn: Float[Array, "b s s 3"]
  error: Float[Array, "b"]


class Latents(NamedTuple):
  """Latents of a batch of images, for edits.

  Attributes:
    z: the latent of each image.
    counts: 1 where `z` may be edited, else 0.
    missed: the images less the drawings of `z`; None if the images were drawn
      from `z`.
    metrics: figures of the search.
  """

  z: Float[Array, "b z"]
  counts: Float[Array, "b"]
  missed: Float[Array, "b s s 3"] | None
  metrics: dict[str, Array]


def misfit(
  drawn: Float[Array, "b s s 3"], images: Float[Array, "b s s 3"]
) -> Float[Array, "b"]:
  """The square of `relative_error`."""
  return _energy(drawn - images) / jnp.maximum(_contrast(images), _TINY)


def relative_error(
  drawn: Float[Array, "b s s 3"], images: Float[Array, "b s s 3"]
) -> Float[Array, "b"]:
  """|drawn - image| / |image - its mean colour|, norms over all pixels.

  0 for the image itself; 1 is no better than a blank sheet of its mean colour.
  Invariant to the scale and offset of the pixels.
  """
  return jnp.sqrt(misfit(drawn, images))


def gate(error: Float[Array, "b"], limit: float) -> Float[Array, "b"]:
  """1 where the error is at most `limit`, and 0 elsewhere and for NaN."""
  return (jnp.isfinite(error) & (error <= limit)).astype(jnp.float32)


def invert(
  draw: Callable[[Array], Array],
  encode: Callable[[Array], Array],
  images: Float[Array, "b s s 3"],
  steps: int,
  prior: float = PRIOR,
) -> Inverted:
  """Searches latents whose drawings resemble the images.

  From the encoder's guess, conjugate gradients lower `error^2 + prior *
  mean(z^2)`: Polak-Ribiere directions, and along each the Gauss-Newton step,
  which is the best one for a linear generator, so there is no rate to choose.
  For a linear generator, as many steps as a latent has numbers reach the
  minimum.

  Args:
    draw: latents [b, z] to images, each row independently.
    encode: images to latents, each row independently.
    images: the images, on the scale of `draw`.
    steps: number of steps; each costs about four times as much as drawing.
    prior: weight of the latents' mean square.

  Returns:
    For each row the result of least error among the guess and all steps.
  """
  z = encode(images)
  # |drawn - image|^2 + weight |z|^2 has the same minimum.
  weight = (prior / z.shape[1] * _contrast(images))[:, None]
  best, slope, direction = None, None, None
  for _ in range(steps):
    drawn, push = jax.linearize(draw, z)
    best = _better(best, z, drawn, images)
    (pulled,) = jax.linear_transpose(push, z)(images - drawn)
    before, slope = slope, pulled - weight * z
    if before is None:
      direction = slope
    else:
      turn = _dot(slope, slope - before) / (_dot(before, before) + _TINY)
      direction = slope + jnp.maximum(turn, 0.0) * direction
    bend = _energy(push(direction))[:, None]
    bend = bend + weight * _dot(direction, direction)
    z = z + _dot(slope, direction) / (bend + _TINY) * direction
  return _better(best, z, draw(z), images)


def search(
  draw: Callable[[Array], Array],
  encode: Callable[[Array], Array],
  images: Float[Array, "b s s 3"],
  steps: int,
  limit: float,
) -> Latents:
  """`invert` and `gate`, without gradient.

  Rejected rows have z 0 and missed 0, so that no NaN goes on. Metrics:
  `inverted`, the accepted share, and `inversion_error`, the median error.
  """
  inverted = invert(draw, encode, images, steps)
  counts = gate(inverted.error, limit)
  z = jnp.where(counts[:, None] > 0, inverted.latent, 0.0)
  missed = images - inverted.drawn
  missed = jnp.where(counts[:, None, None, None] > 0, missed, 0.0)
  metrics = {
    "inverted": jnp.mean(counts),
    "inversion_error": jnp.nanmedian(inverted.error),
  }
  return Latents(*jax.lax.stop_gradient((z, counts, missed, metrics)))


def complete(
  drawn: Float[Array, "n s s 3"], missed: Float[Array, "b s s 3"]
) -> Float[Array, "n s s 3"]:
  """Adds to edited drawings what the unedited ones missed of their images.

  The result is `image + (edited - drawn)`, rounded to 8 bits. So an image and
  its edit differ only by the edit, not by the error of the search.

  Args:
    drawn: pixels in [0, 1] of n / b edits of each image, side by side.
    missed: `Latents.missed`.
  """
  each = len(drawn) // len(missed)
  return features.quantize(drawn + jnp.repeat(missed, each, axis=0))


def _better(best: Inverted | None, z, drawn, images) -> Inverted:
  """Keeps, row by row, the result of less error; NaN loses to a number."""
  new = Inverted(z, drawn, relative_error(drawn, images))
  if best is None:
    return new
  take = (new.error < best.error) | jnp.isnan(best.error)

  def select(new, best):
    return jnp.where(take.reshape(-1, *(1,) * (new.ndim - 1)), new, best)

  return jax.tree.map(select, new, best)


def _energy(x: Float[Array, "b s s 3"]) -> Float[Array, "b"]:
  return jnp.sum(jnp.square(x), axis=(1, 2, 3))


def _contrast(images: Float[Array, "b s s 3"]) -> Float[Array, "b"]:
  return _energy(images - jnp.mean(images, axis=(1, 2), keepdims=True))


def _dot(a: Float[Array, "b z"], b: Float[Array, "b z"]) -> Array:
  return jnp.sum(a * b, axis=1, keepdims=True)
