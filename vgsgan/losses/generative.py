"""What autoencoders and GANs are trained by; pure functions.

Losses are float32, one an example. Logits are those of the discriminator's
D = sigmoid(logit), the probability that an example is real.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

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


def drop_one(
  key: Key[Array, ""], rows: int, share: float
) -> Bool[Array, "{rows} 2"]:
  """Which of two modalities each row keeps; never neither.

  Each is dropped in `share` of the rows.
  """
  place = jax.random.uniform(key, (rows,))
  dropped = jnp.stack([place < share, place >= 1 - share], axis=-1)
  return ~dropped


def averaged(
  step: Int[Array, ""], limit: float, average: Any, params: Any
) -> Any:
  """An exponential moving average of parameters, one step on.

  As short as the run so far, so that the start is soon forgotten, and as long
  as `limit` allows.
  """
  decay = jnp.minimum(limit, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, params)


def as_distributed(
  noise: Float[np.ndarray, "n z"], like: Float[np.ndarray, "m z"]
) -> Float[np.ndarray, "n z"]:
  """Standard normal rows, moved to the mean and the covariance of others."""
  values, vectors = np.linalg.eigh(
    np.atleast_2d(np.cov(np.float64(like), rowvar=False))
  )
  scaled = noise * np.sqrt(np.maximum(values, 0.0))
  return np.float32(like.mean(0) + scaled @ vectors.T)
