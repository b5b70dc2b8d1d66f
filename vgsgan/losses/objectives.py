"""Objectives over the pairs of a batch, for `vgsgan.losses.contrastive`.

Each applies losses of `vgsgan.losses.primitives` in both directions: an image
is ranked over captions (or sounds), and a caption over images. Losses are
float32, one per pair.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from vgsgan.losses.primitives import (
  NEGATIVES,
  check_pair_negatives,
  margin_rank,
  pair_bce,
  soft_ce,
)

# The kinds of `drawn` that use edits; `info_nce` uses them as well.
EDITED = ("edited", "both")
DRAWN = ("regular", "hard", *EDITED)

# CLIP's bound on 1 / temperature (Radford et al., 2021, section 2.5).
MAX_LOGIT_SCALE = 100.0

# The published bound on each of the two parts of 'both', for each pair.
CLAMP = 5.0


class Edited(NamedTuple):
  """Scores of anchors with edited versions of their own partners.

  weight: 1 where the edit counts, else 0. A score of weight 0 has no effect,
    even if it is NaN or infinite.
  """

  scores: Float[Array, "q"]
  weight: Float[Array, "q"]


class Rows(NamedTuple):
  """Anchors of one direction, and the candidates that each is ranked over.

  noise: uniform numbers for sampled negatives.
  edited: one more impostor, an edited version of the partner; None for none.
  """

  positive: Float[Array, "q"]
  scores: Float[Array, "q n"]
  impostors: Bool[Array, "q n"]
  noise: Float[Array, "q n"] | None = None
  edited: Edited | None = None


# (image anchors over captions, caption anchors over images) -> [q], the loss of
# each pair, both directions together.
Objective = Callable[[Rows, Rows], Array]


def correspondence(negatives: str) -> Objective:
  """`pair_bce` as an objective: do an image and a sound belong together?

  Each direction counts half, so that partners and impostors weigh the same, as
  if both were drawn equally often ("Look, Listen and Learn", ICCV 2017,
  section 2). Edits are ignored.
  """
  check_pair_negatives(negatives)

  def pairs(forward, backward):
    return 0.5 * sum(
      pair_bce(
        rows.positive, rows.scores, rows.impostors, negatives, rows.noise
      )
      for rows in (forward, backward)
    )

  return pairs


def triplet(negatives: Sequence[str], margin: float = 1.0) -> Objective:
  """Sum of `margin_rank` over the kinds of negatives, as an objective.

  ('sampled',) is DAVEnet's loss; ('sampled', 'hardest') is `negatives_hard` of
  "Learning Words by Drawing Images" (CVPR 2019), both with margin 1;
  ('sampled', 'semi_hard') is ResDAVEnet-VQ's. Edits are ignored.
  """
  unknown = sorted(set(negatives) - set(NEGATIVES))
  if unknown or not negatives:
    raise ValueError(
      f"negatives {tuple(negatives)}: one or more of {NEGATIVES} are needed"
    )

  def pairs(forward, backward):
    return sum(
      _rank(rows, margin, kind)
      for rows in (forward, backward)
      for kind in negatives
    )

  return pairs


def drawn(kind: str, margin: float = 1.0) -> Objective:
  """A loss of "Learning Words by Drawing Images" (CVPR 2019), as an objective.

  With image I, its caption A, the edited image E and score S:
    'regular': a sampled impostor in each direction;
    'hard': regular + the hardest impostor in each direction;
    'edited': regular + the edit's hinge `max(0, margin + S(E, A) - S(I, A))`;
    'both': regular + (the hardest caption's hinge + the larger of the hardest
      image's and the edit's); each of the two parts is at most `CLAMP` a pair.

  The hinge of an edit that does not count is 0. Published with margin 1, as
  `regular`, `negatives_hard`, `negatives_edited` and `negatives_both`. An
  edited caption, which is not published, has the same part in the other
  direction.

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

  def hinge(rows):
    positive = rows.positive.astype(jnp.float32)
    scores, counts = counting(rows.edited)
    return jnp.where(counts, jax.nn.relu(margin + scores - positive), 0.0)

  def hardest(rows):
    loss = _rank(rows, margin, "hardest")
    if rows.edited is None:
      return loss
    _, counts = counting(rows.edited)
    return jnp.where(counts, jnp.maximum(loss, hinge(rows)), loss)

  def pairs(forward, backward):
    edits = [rows for rows in (forward, backward) if rows.edited is not None]
    if not edits:
      raise ValueError(f"the loss {kind!r} needs edits")
    if kind == "edited":
      return regular(forward, backward) + sum(map(hinge, edits))
    return jnp.minimum(regular(forward, backward), CLAMP) + jnp.minimum(
      hardest(forward) + hardest(backward), CLAMP
    )

  return pairs


def info_nce(log_scale: Float[Array, ""]) -> Objective:
  """InfoNCE with a learnable temperature, as an objective.

  Each direction counts half, so that the sum over both is CLIP's symmetric
  loss. At chance it is ln(1 + impostors of a row). An edited image is one more
  impostor of its caption, an edited caption one of its image.

  Args:
    log_scale: log(1 / temperature), clipped at `MAX_LOGIT_SCALE`. The gradient
      passes the clip; otherwise a scale above it could never come back. Let the
      update step clip the parameter itself, as CLIP does.
  """
  excess = jax.nn.relu(log_scale - jnp.log(MAX_LOGIT_SCALE))
  scale = jnp.exp(log_scale - lax.stop_gradient(excess))

  def direction(rows):
    scores, impostors = rows.scores, rows.impostors
    if rows.edited is not None:
      column, counts = (x[:, None] for x in counting(rows.edited))
      scores = jnp.concatenate([scores, column], axis=1)
      impostors = jnp.concatenate([impostors, counts], axis=1)
    logits = scale * jnp.concatenate([rows.positive[:, None], scores], axis=1)
    first = jnp.arange(logits.shape[1]) == 0
    targets = jnp.broadcast_to(first.astype(jnp.float32), logits.shape)
    allowed = jnp.pad(impostors, ((0, 0), (1, 0)), constant_values=True)
    return 0.5 * soft_ce(logits, targets, allowed)

  def pairs(forward, backward):
    return direction(forward) + direction(backward)

  return pairs


def _rank(rows: Rows, margin: float, kind: str) -> Array:
  return margin_rank(
    rows.positive, rows.scores, rows.impostors, margin, kind, rows.noise
  )


def counting(edited: Edited) -> tuple[Array, Array]:
  """Float32 scores, 0 for edits that do not count, and the edits' mask."""
  counts = edited.weight > 0
  return jnp.where(counts, edited.scores, 0.0).astype(jnp.float32), counts
