"""Losses over scores: margin ranking, soft and pairwise cross-entropy.

Conventions: a row is an anchor; `positive [q]` is its score with its partner,
`scores [q, n]` its scores with n candidates, `impostors [q, n]` marks the
candidates it may be ranked against. Losses are float32, one per row.
`vgsgan.losses.objectives` combines them over the pairs of a batch.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

NEGATIVES = ("sampled", "semi_hard", "hardest", "all")
PAIR_NEGATIVES = ("sampled", "all")


def margin_rank(
  positive: Float[Array, "q"],
  scores: Float[Array, "q n"],
  impostors: Bool[Array, "q n"],
  margin: float | int | Float[Array, ""],
  negatives: str,
  noise: Float[Array, "q n"] | None = None,
) -> Float[Array, "q"]:
  """Hinge `max(0, margin + impostor - positive)` of each row.

  Args:
    positive: score of each anchor with its partner.
    scores: scores of each anchor with the candidates.
    impostors: the candidates that may stand as impostors.
    margin: in units of the score.
    negatives: which impostors count:
      'sampled': one drawn at random, the allowed one with the largest `noise`
        (DAVEnet, Harwath et al., 2018);
      'semi_hard': the best that scores strictly below the positive (FaceNet,
        Schroff et al., 2015, section 3.2; for speech and images ResDAVEnet-VQ,
        Harwath et al., 2020);
      'hardest': the best;
      'all': the mean of all hinges.
    noise: uniform numbers for 'sampled'. The caller draws them, so that the
      draw does not depend on how many devices the rows are spread over.

  Returns:
    `[q]`; 0 for a row without any allowed impostor.

  Raises:
    ValueError: unknown `negatives`, or 'sampled' without noise.
  """
  if negatives not in NEGATIVES:
    raise ValueError(f"unknown negatives {negatives!r}: use one of {NEGATIVES}")
  positive = positive.astype(jnp.float32)[:, None]
  scores = jnp.where(impostors, scores, 0.0).astype(jnp.float32)
  if negatives == "all":
    hinge = jax.nn.relu(margin + scores - positive)
    count = jnp.sum(impostors, axis=1, dtype=jnp.float32)
    total = jnp.sum(jnp.where(impostors, hinge, 0.0), axis=1)
    return total / jnp.maximum(count, 1.0)
  order = scores
  if negatives == "sampled":
    if noise is None:
      raise ValueError("negatives 'sampled' need noise: pass a key")
    order = noise
  if negatives == "semi_hard":
    # Not `scores < positive`: it would drop NaN, and a diverged model would
    # show a loss of 0.
    impostors = impostors & ~(scores >= positive)
  order = lax.stop_gradient(jnp.where(impostors, order, -jnp.inf))
  chosen = jnp.argmax(order, axis=1, keepdims=True)
  impostor = jnp.take_along_axis(scores, chosen, axis=1)
  hinge = jax.nn.relu(margin + impostor - positive)[:, 0]
  return jnp.where(jnp.any(impostors, axis=1), hinge, 0.0)


def soft_ce(
  logits: Float[Array, "q n"],
  targets: Float[Array, "q n"],
  allowed: Bool[Array, "q n"] | None = None,
) -> Float[Array, "q"]:
  """Cross-entropy with soft targets: `-sum(targets * log_softmax(logits))`.

  Args:
    logits: any float type; the sums are float32.
    targets: non-negative weights; they are not normalised to sum to 1.
    allowed: True for columns that take part. The others are left out of the
      denominator; their targets and logits have no effect, even if NaN.

  Returns:
    `[q]` in nats; 0 for a row without any allowed column.
  """
  logits = logits.astype(jnp.float32)
  targets = targets.astype(jnp.float32)
  if allowed is None:
    allowed = jnp.ones(logits.shape, bool)
  # A row without columns would give log(0): its gradient is NaN even if masked.
  empty = ~jnp.any(allowed, axis=1, keepdims=True)
  masked = jnp.where(allowed, logits, jnp.where(empty, 0.0, -jnp.inf))
  log_total = jax.nn.logsumexp(masked, axis=1, keepdims=True)
  # A weight of 0 on a logit of -inf counts as 0, not NaN.
  counts = allowed & (targets != 0)
  surprise = log_total - jnp.where(counts, logits, 0.0)
  return jnp.sum(jnp.where(counts, targets * surprise, 0.0), axis=1)


def pair_bce(
  positive: Float[Array, "q"],
  scores: Float[Array, "q n"],
  impostors: Bool[Array, "q n"],
  negatives: str = "all",
  noise: Float[Array, "q n"] | None = None,
  nu: float = 1.0,
) -> Float[Array, "q"]:
  """Binary cross-entropy between partners and impostors, from pair logits.

  `softplus(log nu - positive) + mean softplus(impostor - log nu)`: with nu = 1
  the two-way softmax of L3-Net, AVE-Net and AVOL-Net, and of a discriminator.

  Args:
    positive: logit of each anchor with its partner.
    scores: logits of each anchor with the candidates.
    impostors: the candidates that may stand as impostors.
    negatives: 'sampled', one drawn at random as in `margin_rank`, or 'all'.
    noise: uniform numbers for 'sampled'.
    nu: assumed number of impostors per partner, in the odds.

  Returns:
    `[q]` in nats, 2 ln 2 for logits of 0; a row without any allowed impostor
    has the partner's term only.

  Raises:
    ValueError: unknown `negatives`, or 'sampled' without noise.
  """
  check_pair_negatives(negatives)
  shift = jnp.log(nu)
  partner = jax.nn.softplus(shift - positive.astype(jnp.float32))
  scores = jnp.where(impostors, scores, 0.0).astype(jnp.float32)
  each = jnp.where(impostors, jax.nn.softplus(scores - shift), 0.0)
  if negatives == "sampled":
    if noise is None:
      raise ValueError("negatives 'sampled' need noise: pass a key")
    order = jnp.where(impostors, noise, -jnp.inf)
    chosen = jnp.argmax(order, axis=1, keepdims=True)
    return partner + jnp.take_along_axis(each, chosen, axis=1)[:, 0]
  count = jnp.maximum(jnp.sum(impostors, axis=1, dtype=jnp.float32), 1.0)
  return partner + jnp.sum(each, axis=1) / count


def check_pair_negatives(negatives: str) -> None:
  """Raises ValueError unless `negatives` is one of PAIR_NEGATIVES."""
  if negatives not in PAIR_NEGATIVES:
    raise ValueError(
      f"unknown negatives {negatives!r}: use one of {PAIR_NEGATIVES}"
    )
