"""Losses of autoencoders and GANs; pure functions.

Losses are float32, one per example. The last three are scalars: the hinge loss
and orthogonal regularisation of BigGAN (Brock, Donahue and Simonyan, ICLR 2019)
and the gradient penalty R1 (Mescheder et al., ICML 2018). The discriminator's
D = sigmoid(logit) is the probability that an example is real.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vgsgan.losses import primitives


def squared_error(
  x: Float[Array, "b *rest"], y: Float[Array, "b *rest"]
) -> Float[Array, "b"]:
  """Mean squared difference over all numbers of an example."""
  gap = jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32))
  return jnp.mean(gap.reshape(len(gap), -1), axis=1)


def kl_divergence(
  mean: Float[Array, "b z"], log_variance: Float[Array, "b z"]
) -> Float[Array, "b"]:
  """KL(N(mean, variance) | N(0, I)) in nats.

  Half the sum of variance + mean^2 - 1 - log variance (Kingma and Welling,
  ICLR 2014, appendix B).
  """
  mean, log_variance = (x.astype(jnp.float32) for x in (mean, log_variance))
  terms = jnp.exp(log_variance) + jnp.square(mean) - 1.0 - log_variance
  return 0.5 * jnp.sum(terms, axis=-1)


def non_saturating(drawn: Float[Array, "b"]) -> Float[Array, "b"]:
  """-log D of generated examples: the generator maximises log D(G(z)).

  Goodfellow et al. (NIPS 2014), section 3: its gradient is largest where the
  discriminator is sure, as early in training; there that of `minimax` vanishes.
  """
  return jax.nn.softplus(-drawn.astype(jnp.float32))


def minimax(drawn: Float[Array, "b"]) -> Float[Array, "b"]:
  """log(1 - D) of generated examples: the generator's term of the game."""
  return -jax.nn.softplus(drawn.astype(jnp.float32))


GENERATOR_LOSSES = {"non_saturating": non_saturating, "minimax": minimax}


def discriminator(
  real: Float[Array, "b"],
  *unreal: Float[Array, "b ..."],
  impostors: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b"]:
  """-log D(real) - log(1 - D(unreal)) (Goodfellow et al., equation 1).

  Unreal examples may be of several kinds, for pairs generated ones and real
  ones that do not match (Reed et al., "Generative Adversarial Text to Image
  Synthesis", ICML 2016, section 4). All kinds together weigh as much as the
  real examples. Several logits of one kind in a row are averaged.

  Args:
    real: logits of real examples.
    *unreal: logits of unreal examples, one array per kind.
    impostors: True for the logits of the last kind that count; None for all.
  """
  kinds = [x.reshape(len(x), -1) for x in unreal]
  counts = [jnp.ones(x.shape, bool) for x in kinds]
  if impostors is not None:
    counts[-1] = impostors
  losses = [
    primitives.pair_bce(real, *kind) for kind in zip(kinds, counts, strict=True)
  ]
  return sum(losses) / len(losses)


def hinge(real: Float[Array, "b"], drawn: Float[Array, "b"]) -> Array:
  """Discriminator loss that pushes real scores above 1, drawn ones below -1."""
  return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + drawn))


def orthogonality(params: Any) -> Float[Array, ""]:
  """Sum over weights of the squared dot products between their columns.

  `|W^T W o (1 - I)|^2` (BigGAN, section 3.1): column lengths are left free.
  """

  def penalty(weight):
    if weight.ndim < 2:
      return 0.0
    matrix = weight.reshape(-1, weight.shape[-1])
    wide = matrix.shape[1] > matrix.shape[0]
    # |W^T W|^2 = |W W^T|^2: the smaller of the two, less W^T W's diagonal.
    factors = (matrix, matrix.T) if wide else (matrix.T, matrix)
    # Near orthogonality the difference below cancels: it needs all digits.
    gram = jnp.matmul(*factors, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(jnp.square(matrix), axis=0)
    return jnp.sum(jnp.square(gram)) - jnp.sum(jnp.square(lengths))

  return sum(map(penalty, jax.tree.leaves(params)))


def penalty_r1(score: Callable, images: Float[Array, "b s s 3"]) -> Array:
  """Mean squared gradient of the score at real images."""
  slope = jax.grad(lambda x: jnp.sum(score(x)))(images)
  return jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3)))
