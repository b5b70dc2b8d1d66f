"""Losses of autoencoders and GANs; pure functions.

Float32, one an example, but for those of BigGAN at the end: the hinge loss and
orthogonal regularisation (Brock, Donahue and Simonyan, ICLR 2019) and the
gradient penalty R1 (Mescheder et al., ICML 2018). Logits are those of the
discriminator's D = sigmoid(logit), the probability that an example is real.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vgsgan.losses import primitives


def squared_error(
  one: Float[Array, "b *rest"], other: Float[Array, "b *rest"]
) -> Float[Array, "b"]:
  """Mean squared difference over all numbers of an example."""
  gap = jnp.square(one.astype(jnp.float32) - other.astype(jnp.float32))
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
  """-log D of what was drawn: the generator maximises log D(G(z)).

  Goodfellow et al. (NIPS 2014), section 3: its gradient is largest where the
  discriminator is sure, at the start, where that of `minimax` vanishes.
  """
  return jax.nn.softplus(-drawn.astype(jnp.float32))


def minimax(drawn: Float[Array, "b"]) -> Float[Array, "b"]:
  """log(1 - D) of what was drawn: the generator's part of the game's value."""
  return -jax.nn.softplus(drawn.astype(jnp.float32))


GENERATOR_LOSSES = {"non_saturating": non_saturating, "minimax": minimax}


def discriminator(
  real: Float[Array, "b"],
  *unreal: Float[Array, "b ..."],
  impostors: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b"]:
  """-log D(real) - log(1 - D(unreal)) (Goodfellow et al., equation 1).

  What is unreal may be of several kinds, which together count as much as the
  real: of pairs, those that were drawn and real ones that do not match (Reed et
  al., "Generative Adversarial Text to Image Synthesis", ICML 2016, section 4).
  Of one kind there may be several logits a row, of which the mean is taken.

  Args:
    real: logits of what is real.
    *unreal: logits of what is not, a kind each.
    impostors: which logits of the last kind count; None for all.
  """
  kinds = [x.reshape(len(x), -1) for x in unreal]
  counts = [jnp.ones(x.shape, bool) for x in kinds]
  if impostors is not None:
    counts[-1] = impostors
  told = [
    primitives.pair_bce(real, *kind) for kind in zip(kinds, counts, strict=True)
  ]
  return sum(told) / len(told)


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


def penalty_r1(score: Callable, images: Float[Array, "b s s 3"]) -> Array:
  """Mean squared gradient of the score at real pictures."""
  slope = jax.grad(lambda x: jnp.sum(score(x)))(images)
  return jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3)))
