"""Losses over scores: margin ranking, soft cross-entropy, and objectives of
either over the pairs of a batch, for `vgsgan.contrastive`.

Conventions: a row is an anchor; `positive [q]` is its score with its partner,
`scores [q, n]` its scores with n candidates, `impostors [q, n]` says which of
them it may be ranked against. Losses are float32, one a row, or one a pair,
whose image and caption are both anchors.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

NEGATIVES = ("sampled", "semi_hard", "hardest", "all")
DRAWN = ("regular", "hard", "edited", "both")

# CLIP's bound on 1 / temperature (Radford et al., 2021, section 2.5).
MAX_LOGIT_SCALE = 100.0

# The published bound on each of the two parts of 'both', for each pair.
CLAMP = 5.0


class Rows(NamedTuple):
  """Anchors of one direction, and what each is ranked over.

  noise: uniform numbers for negatives that are drawn.
  """

  positive: Float[Array, "q"]
  scores: Float[Array, "q n"]
  impostors: Bool[Array, "q n"]
  noise: Float[Array, "q n"] | None = None


class Edited(NamedTuple):
  """Scores of captions with edited versions of their own images.

  weight: 0 where the edit does not count, else 1. There the score, NaN and
    infinities too, has no effect.
  """

  scores: Float[Array, "q"]
  weight: Float[Array, "q"]


# (image anchors over captions, caption anchors over images, edits) -> [q], the
# loss of each pair, both directions together.
Objective = Callable[[Rows, Rows, Edited | None], Array]


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
      'all': the mean of the hinges of all.
    noise: uniform numbers for 'sampled'. They come from outside so that the
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
    # Not `scores < positive`: NaN has to come through, or a diverged model
    # would show a loss of 0.
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
    targets: non-negative weights, used as they are (not made to sum to 1).
    allowed: columns that take part. The others leave the denominator, and
      their targets and logits, NaN and infinities too, have no effect.

  Returns:
    `[q]` in nats; 0 for a row without any allowed column.
  """
  logits = logits.astype(jnp.float32)
  targets = targets.astype(jnp.float32)
  if allowed is None:
    allowed = jnp.ones(logits.shape, bool)
  # A row without columns would be log(0), whose gradient is NaN even masked.
  empty = ~jnp.any(allowed, axis=1, keepdims=True)
  masked = jnp.where(allowed, logits, jnp.where(empty, 0.0, -jnp.inf))
  log_total = jax.nn.logsumexp(masked, axis=1, keepdims=True)
  # A weight of 0 on a logit of -inf is 0, and not NaN.
  counts = allowed & (targets != 0)
  surprise = log_total - jnp.where(counts, logits, 0.0)
  return jnp.sum(jnp.where(counts, targets * surprise, 0.0), axis=1)


def triplet(negatives: Sequence[str], margin: float = 1.0) -> Objective:
  """Sum of `margin_rank` over the kinds of negatives, as an objective.

  ('sampled',) is DAVEnet's loss; ('sampled', 'hardest') is `negatives_hard` of
  "Learning Words by Drawing Images" (CVPR 2019), both with margin 1;
  ('sampled', 'semi_hard') is ResDAVEnet-VQ's. Edits do not take part.
  """
  unknown = sorted(set(negatives) - set(NEGATIVES))
  if unknown or not negatives:
    raise ValueError(
      f"negatives {tuple(negatives)}: one or more of {NEGATIVES} are needed"
    )

  def pairs(forward, backward, edited=None):
    del edited
    return sum(
      _rank(rows, margin, kind)
      for rows in (forward, backward)
      for kind in negatives
    )

  return pairs


def drawn(kind: str, margin: float = 1.0) -> Objective:
  """A loss of "Learning Words by Drawing Images" (CVPR 2019), as an objective.

  Where I is the image, A its caption, E the edited image, and S the score:
    'regular': a sampled impostor in each direction;
    'hard': regular + the hardest impostor in each direction;
    'edited': regular + the edit's hinge `max(0, margin + S(E, A) - S(I, A))`;
    'both': regular, + (the hardest caption's hinge + the larger of the hardest
      image's and the edit's), each of the two parts at most `CLAMP` a pair.

  Where the edit does not count its hinge is 0. Published with margin 1, as
  `regular`, `negatives_hard`, `negatives_edited` and `negatives_both`.

  Raises:
    ValueError: `kind` is unknown; from the objective, if it lacks edits.
  """
  if kind == "hard":
    return triplet(("sampled", "hardest"), margin)
  regular = triplet(("sampled",), margin)
  if kind == "regular":
    return regular
  if kind not in DRAWN:
    raise ValueError(f"unknown loss {kind!r}: use one of {DRAWN}")

  def pairs(forward, backward, edited):
    if edited is None:
      raise ValueError(f"the loss {kind!r} needs edited images")
    positive = backward.positive.astype(jnp.float32)
    scores, counts = counting(edited)
    edit = jnp.where(counts, jax.nn.relu(margin + scores - positive), 0.0)
    if kind == "edited":
      return regular(forward, backward) + edit
    caption, image = (
      _rank(rows, margin, "hardest") for rows in (forward, backward)
    )
    image = jnp.where(counts, jnp.maximum(image, edit), image)
    return jnp.minimum(regular(forward, backward), CLAMP) + jnp.minimum(
      caption + image, CLAMP
    )

  return pairs


def info_nce(log_scale: Float[Array, ""]) -> Objective:
  """InfoNCE with a learnable temperature, as an objective.

  Each direction counts half, so that the sum over both is CLIP's symmetric
  loss. At chance it is ln(1 + impostors of a row). An edited image is one more
  impostor of its caption.

  Args:
    log_scale: log(1 / temperature), clipped at `MAX_LOGIT_SCALE`. The gradient
      passes the clip, or a scale that once overshot could never come back; let
      the update step clip the parameter itself, as CLIP does.
  """
  excess = jax.nn.relu(log_scale - jnp.log(MAX_LOGIT_SCALE))
  scale = jnp.exp(log_scale - lax.stop_gradient(excess))

  def direction(rows):
    logits = scale * jnp.concatenate(
      [rows.positive[:, None], rows.scores], axis=1
    )
    first = jnp.arange(logits.shape[1]) == 0
    targets = jnp.broadcast_to(first.astype(jnp.float32), logits.shape)
    allowed = jnp.pad(rows.impostors, ((0, 0), (1, 0)), constant_values=True)
    return 0.5 * soft_ce(logits, targets, allowed)

  def pairs(forward, backward, edited=None):
    if edited is not None:
      column, counts = (x[:, None] for x in counting(edited))
      backward = Rows(
        backward.positive,
        jnp.concatenate([backward.scores, column], axis=1),
        jnp.concatenate([backward.impostors, counts], axis=1),
      )
    return direction(forward) + direction(backward)

  return pairs


def _rank(rows: Rows, margin: float, kind: str) -> Array:
  return margin_rank(
    rows.positive, rows.scores, rows.impostors, margin, kind, rows.noise
  )


def counting(edited: Edited) -> tuple[Array, Array]:
  """Float32 scores of edits, 0 where they do not count, and where they do."""
  counts = edited.weight > 0
  return jnp.where(counts, edited.scores, 0.0).astype(jnp.float32), counts
