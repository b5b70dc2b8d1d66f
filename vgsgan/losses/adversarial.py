"""What the two networks of a GAN are trained by; pure functions.

The hinge loss and orthogonal regularisation of BigGAN (Brock, Donahue and
Simonyan, ICLR 2019), the gradient penalty R1 (Mescheder et al., ICML 2018), and
what goes into a generator.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgsgan.worlds.attributes import ATTRIBUTES


def hinge(real: Float[Array, "b"], drawn: Float[Array, "b"]) -> Array:
  """The discriminator's loss: real scores over 1, drawn ones under -1."""
  return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + drawn))


def orthogonality(params: Any) -> Float[Array, ""]:
  """Sum over weights of the squared cosines-to-be between their columns.

  `|W^T W o (1 - I)|^2` (BigGAN, section 3.1): the diagonal is left free.
  """

  def penalty(weight):
    if weight.ndim < 2:
      return 0.0
    matrix = weight.reshape(-1, weight.shape[-1])
    wide = matrix.shape[1] > matrix.shape[0]
    # |W^T W|^2 = |W W^T|^2: the smaller of the two, less W^T W's diagonal.
    factors = (matrix, matrix.T) if wide else (matrix.T, matrix)
    # Near orthogonality next to nothing is left of the difference below.
    gram = jnp.matmul(*factors, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(jnp.square(matrix), axis=0)
    return jnp.sum(jnp.square(gram)) - jnp.sum(jnp.square(lengths))

  return sum(map(penalty, jax.tree.leaves(params)))


def words_present(attributes: Int[Array, "b n 4"]) -> Float[Array, "b 15"]:
  """Which of WORDS are true of some object of each scene."""
  parts = [
    jnp.any(attributes[..., i, None] == jnp.arange(len(words)), axis=1)
    for i, words in enumerate(ATTRIBUTES.values())
  ]
  return jnp.concatenate(parts, axis=-1).astype(jnp.float32)


def truncated(key: Array, shape: tuple[int, ...], limit: float) -> Array:
  """Normal numbers, drawn again where they exceed the limit; 0: no limit."""
  if not limit:
    return jax.random.normal(key, shape)
  return jax.random.truncated_normal(key, -limit, limit, shape)


def penalty_r1(score: Callable, images: Float[Array, "b s s 3"]) -> Array:
  """Mean squared gradient of the score at real pictures."""
  slope = jax.grad(lambda x: jnp.sum(score(x)))(images)
  return jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3)))
