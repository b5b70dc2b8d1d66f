"""Losses over scores: margin ranking, soft cross-entropy, and the contrastive
loss that uses either over the pairs of a whole, possibly sharded, batch.

Conventions: a row is an anchor; `positive [q]` is its score with its partner,
`scores [q, n]` its scores with n candidates, `impostors [q, n]` says which of
them it may be ranked against. Losses are float32, one a row.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

NEGATIVES = ("sampled", "semi_hard", "hardest", "all")

# CLIP's bound on 1 / temperature (Radford et al., 2021, section 2.5).
MAX_LOGIT_SCALE = 100.0

# (positive [q], scores [q, n], impostors [q, n], noise [q, n] or None) -> [q]
Objective = Callable[[Array, Array, Array, Array | None], Array]


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
  ('sampled', 'semi_hard') is ResDAVEnet-VQ's.
  """
  unknown = sorted(set(negatives) - set(NEGATIVES))
  if unknown or not negatives:
    raise ValueError(
      f"negatives {tuple(negatives)}: one or more of {NEGATIVES} are needed"
    )

  def rows(positive, scores, impostors, noise):
    return sum(
      margin_rank(positive, scores, impostors, margin, kind, noise)
      for kind in negatives
    )

  return rows


def info_nce(log_scale: Float[Array, ""]) -> Objective:
  """InfoNCE with a learnable temperature, as an objective.

  Each direction counts half, so that the sum over both is CLIP's symmetric
  loss. At chance it is ln(1 + impostors of a row).

  Args:
    log_scale: log(1 / temperature), clipped at `MAX_LOGIT_SCALE`. The gradient
      passes the clip, or a scale that once overshot could never come back; let
      the update step clip the parameter itself, as CLIP does.
  """
  excess = jax.nn.relu(log_scale - jnp.log(MAX_LOGIT_SCALE))
  scale = jnp.exp(log_scale - lax.stop_gradient(excess))

  def rows(positive, scores, impostors, noise):
    del noise
    logits = scale * jnp.concatenate([positive[:, None], scores], axis=1)
    first = jnp.arange(logits.shape[1]) == 0
    targets = jnp.broadcast_to(first.astype(jnp.float32), logits.shape)
    allowed = jnp.pad(impostors, ((0, 0), (1, 0)), constant_values=True)
    return 0.5 * soft_ce(logits, targets, allowed)

  return rows


def anchor_losses(
  scores: Float[Array, "q n"],
  offset: int | Int[Array, ""],
  same: Bool[Array, "q n"],
  noise: Float[Array, "q n"] | None,
  objective: Objective,
) -> tuple[Float[Array, "q"], dict[str, Array]]:
  """Losses of the anchors `offset ... offset + q - 1` of a batch of n.

  Args:
    scores: of these anchors with all n candidates.
    offset: place of the first anchor in the batch; anchor i's partner is
      candidate i.
    same: candidates that are no impostors: the partner, and true matches.
    noise: uniform numbers for sampled negatives.
    objective: `triplet(...)` or `info_nce(...)`.

  Returns:
    `[q]` losses, and sums over these anchors for the metrics.
  """
  own = (offset + jnp.arange(scores.shape[0]))[:, None]
  positive = jnp.take_along_axis(scores, own, axis=1)[:, 0]
  impostors = ~same
  losses = objective(positive, scores, impostors, noise)
  positive, scores = lax.stop_gradient((positive, scores))
  best = jnp.max(jnp.where(impostors, scores, -jnp.inf), axis=1)
  sums = {
    "anchors": jnp.sum(jnp.ones_like(positive)),
    "correct": jnp.sum(positive > best, dtype=jnp.float32),
    "positive": jnp.sum(positive),
    "impostor": jnp.sum(jnp.where(impostors, scores, 0.0)),
    "impostors": jnp.sum(impostors, dtype=jnp.float32),
  }
  return losses, sums


def contrastive(
  image_map: Float[Array, "b h w d"],
  audio_map: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
  image_id: Int[Array, "b"],
  speech_id: Int[Array, "b"],
  *,
  score: Callable[[Array, Array, Array], Array],
  objective: Objective,
  key: PRNGKeyArray | None = None,
  mesh: Mesh | None = None,
  axis: str = "data",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Contrastive loss of b pairs, each against the whole global batch.

  Row i of the maps is a pair. Images are ranked against captions and captions
  against images; the loss is the sum of the two directions' means. Pairs that
  share the image or the speech are never each other's impostors.

  With a mesh, the arguments are global arrays split over `axis`. Each device
  gathers all audio and scores its own images with it; blocks of scores are
  then exchanged, for its own captions with all images. So every pair is scored
  once and image maps stay put. Values and gradients are those without a mesh.

  Args:
    image_map: image features.
    audio_map: speech features.
    valid: frames that are no padding.
    image_id: which image it is; equal for captions of one image.
    speech_id: which recording it is.
    score: (images `[b, h, w, d]`, audio `[c, t, d]`, valid `[c, t]`) ->
      `[b, c]`, as in `scores.ALL_PAIRS`. It may close over parameters.
    objective: `triplet(...)` or `info_nce(...)`.
    key: for sampled negatives; the same key draws the same impostors on any
      number of devices.
    mesh: the devices; None for one.
    axis: the mesh axis that the batch is split over.

  Returns:
    The loss, and metrics: `image_to_speech` and `speech_to_image` (share of
    anchors whose partner beats every impostor; one without impostors counts),
    `positive` and `impostor` (mean scores; 0 without impostors). Float32
    scalars, equal on all devices. Take gradients of the loss as it is: no
    collective is to be added.

  Raises:
    ValueError: the mesh does not divide b, or sampling lacks a key.
  """
  b = image_map.shape[0]
  devices = 1 if mesh is None else mesh.shape[axis]
  if b % devices:
    raise ValueError(
      f"{devices} devices cannot share a batch of {b}: not a multiple"
    )
  split = devices > 1
  noise = None if key is None else jax.random.uniform(key, (2, b, b))

  def gather(x: Array) -> Array:
    return lax.all_gather(x, axis, tiled=True) if split else x

  def island(images, audio, valid, image_id, speech_id, noise):
    same = image_id[:, None] == gather(image_id)
    same |= speech_id[:, None] == gather(speech_id)
    forward = score(images, gather(audio), gather(valid)).astype(jnp.float32)
    backward = forward
    if split:
      # [own images, all audio] -> [all images, own audio]
      backward = lax.all_to_all(forward, axis, 1, 0, tiled=True)
    offset = lax.axis_index(axis) * len(images) if split else 0
    results = [
      anchor_losses(
        rows, offset, same, None if noise is None else noise[i], objective
      )
      for i, rows in enumerate((forward, backward.T))
    ]
    loss = sum(jnp.mean(losses) for losses, _ in results)
    sums = [sums for _, sums in results]
    if split:
      # Inside the island: so its transpose gives whole gradients, once.
      loss, sums = lax.pmean(loss, axis), lax.psum(sums, axis)
    return loss, _metrics(*sums)

  if split:
    rows = P(axis)
    island = jax.shard_map(
      island,
      mesh=mesh,
      in_specs=(rows, rows, rows, rows, rows, P(None, axis)),
      out_specs=P(),
    )
  return island(image_map, audio_map, valid, image_id, speech_id, noise)


def _metrics(
  forward: dict[str, Array], backward: dict[str, Array]
) -> dict[str, Array]:
  count = jnp.maximum(forward["impostors"], 1.0)
  return {
    "image_to_speech": forward["correct"] / forward["anchors"],
    "speech_to_image": backward["correct"] / backward["anchors"],
    "positive": forward["positive"] / forward["anchors"],
    "impostor": forward["impostor"] / count,
  }
