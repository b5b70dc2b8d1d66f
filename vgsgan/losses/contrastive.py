"""The contrastive loss over the pairs of a whole, possibly sharded, batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vgsgan.losses.exchange import EXCHANGES
from vgsgan.losses.objectives import Edited, Objective, Rows, counting
from vgsgan.losses.scores import paired


def anchor_rows(
  scores: Float[Array, "q n"],
  offset: int | Int[Array, ""],
  same: Bool[Array, "q n"],
  noise: Float[Array, "q n"] | None,
) -> Rows:
  """The anchors `offset ... offset + q - 1` of a batch of n.

  Args:
    scores: of these anchors with all n candidates.
    offset: place of the first anchor in the batch; anchor i's partner is
      candidate i.
    same: candidates that are no impostors: the partner, and true matches.
    noise: uniform numbers for sampled negatives.
  """
  own = (offset + jnp.arange(scores.shape[0]))[:, None]
  positive = jnp.take_along_axis(scores, own, axis=1)[:, 0]
  return Rows(positive, scores, ~same, noise)


def same_pairs(
  image_id: Int[Array, "q"],
  speech_id: Int[Array, "q"],
  all_images: Int[Array, "n"] | None = None,
  all_speech: Int[Array, "n"] | None = None,
) -> Bool[Array, "q n"]:
  """Pairs that are never impostors of each other: they share either label.

  Among them is all that evaluation counts as right (`evals.retrieval`), if the
  labels are such that neither an image nor a caption has two.

  Args:
    image_id: of the anchors' images.
    speech_id: of their captions.
    all_images: of the candidates' images; None for the anchors' own.
    all_speech: of the candidates' captions; likewise.
  """
  all_images = image_id if all_images is None else all_images
  all_speech = speech_id if all_speech is None else all_speech
  same = image_id[:, None] == all_images
  return same | (speech_id[:, None] == all_speech)


def contrastive(
  image_map: Float[Array, "b h w d"],
  audio_map: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
  image_id: Int[Array, "b"],
  speech_id: Int[Array, "b"],
  *,
  score: Callable[[Array, Array, Array], Array],
  objective: Objective,
  edited: tuple[Float[Array, "b h w d"], Float[Array, "b"]] | None = None,
  partner: tuple[Float[Array, "b t d"], Bool[Array, "b t"]] | None = None,
  key: PRNGKeyArray | None = None,
  mesh: Mesh | None = None,
  exchange: str = "gather",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Contrastive loss of b pairs, each against the whole global batch.

  Row i of the maps is a pair. Images are ranked against captions and captions
  against images; the loss is the sum of the two directions' means. Pairs that
  share the image or the speech are never each other's impostors.

  With a mesh, the arguments are global arrays split over all of it. Each device
  scores its own images with all audio, which it gathers or which is passed
  round; blocks of scores are then exchanged, for its own captions with all
  images. So every pair is scored once and image maps stay put. Values and
  gradients are those without a mesh.

  Args:
    image_map: image features.
    audio_map: speech features.
    valid: frames that are no padding.
    image_id: label of the image; equal where images are, as `same_pairs` asks.
    speech_id: label of the recording; equal where captions are.
    score: (images `[b, h, w, d]`, audio `[c, t, d]`, valid `[c, t]`) ->
      `[b, c]`, as in `scores.ALL_PAIRS`. It may close over parameters.
    objective: `triplet(...)`, `drawn(...)`, `info_nce(...)` or
      `correspondence(...)`.
    edited: features of an edited version of each image, and its weight: 0
      where the edit does not count, else 1. What stands where it does not
      count has no effect on values or gradients.
    partner: audio features, and their valid frames, of each pair's own: if
      given, `audio_map` stands against other images alone.
    key: for sampled negatives; the same key draws the same impostors on any
      number of devices.
    mesh: the devices, over all axes of which the batch is split; None for one.
    exchange: a name in `exchange.EXCHANGES`, where the memory of both stands.

  Returns:
    The loss, and metrics: `image_to_speech` and `speech_to_image` (share of
    anchors whose partner beats every impostor; one without impostors counts),
    `positive` and `impostor` (mean scores; 0 without impostors). With edits
    also `edits` (share of pairs whose edit counts) and `edited` (share of
    these where it scores below the positive; 0 without any). Float32 scalars,
    equal on all devices. Take gradients of the loss as it is: no collective is
    to be added.

  Raises:
    ValueError: the mesh does not divide b, or sampling lacks a key.
  """
  b = image_map.shape[0]
  devices, axis = (1, ()) if mesh is None else (mesh.size, mesh.axis_names)
  if b % devices:
    raise ValueError(
      f"{devices} devices cannot share a batch of {b}: not a multiple"
    )
  noise = None if key is None else jax.random.uniform(key, (2, b, b))
  labels = image_id, speech_id
  pairs = _Pairs(image_map, audio_map, valid, labels, noise, edited, partner)
  if devices == 1:
    loss, sums = _loss(pairs, _score_alone(pairs, score), score, objective)
    return loss, _metrics(sums)

  def of_device(pairs: _Pairs):
    scored = _score_over(pairs, score, axis, exchange)
    loss, sums = _loss(pairs, scored, score, objective)
    # Inside `shard_map`: so its transpose gives whole gradients, once.
    return lax.pmean(loss, axis), lax.psum(sums, axis)

  rows = P(axis)
  specs = _Pairs(rows, rows, rows, rows, P(None, axis), rows, rows)
  loss, sums = jax.shard_map(
    of_device, mesh=mesh, in_specs=(specs,), out_specs=P()
  )(pairs)
  return loss, _metrics(sums)


class _Pairs(NamedTuple):
  """The pairs of one device, or of all; arguments of `contrastive`."""

  images: Any
  audio: Any
  valid: Any
  labels: Any  # image_id, speech_id
  noise: Any  # [2, b, all] for sampled negatives of both directions, or None.
  edited: Any
  partner: Any


class _Scored(NamedTuple):
  """A device's anchors against all candidates, in both directions."""

  images: Float[Array, "q n"]  # Own images, all audio.
  audio: Float[Array, "q n"]  # Own audio, all images.
  same: Bool[Array, "q n"]  # Pairs that are no impostors.
  offset: int | Int[Array, ""]  # Place of the first pair in the batch.


def _score_alone(pairs: _Pairs, score: Callable) -> _Scored:
  """Scores all pairs where one device has them all."""
  scores = score(pairs.images, pairs.audio, pairs.valid).astype(jnp.float32)
  return _Scored(scores, scores.T, same_pairs(*pairs.labels), 0)


def _score_over(
  pairs: _Pairs, score: Callable, axis: tuple[str, ...], exchange: str
) -> _Scored:
  """Scores a device's pairs against those of all; inside `shard_map`."""
  everyone = [lax.all_gather(x, axis, tiled=True) for x in pairs.labels]
  score_all = functools.partial(EXCHANGES[exchange], score, axis)
  scores = score_all(pairs.images, pairs.audio, pairs.valid)
  scores = scores.astype(jnp.float32)
  # [own images, all audio] -> [all images, own audio]
  backward = lax.all_to_all(scores, axis, 1, 0, tiled=True)
  offset = lax.axis_index(axis) * len(pairs.images)
  same = same_pairs(*pairs.labels, *everyone)
  return _Scored(scores, backward.T, same, offset)


def _loss(
  pairs: _Pairs, scored: _Scored, score: Callable, objective: Objective
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """The mean loss of a device's pairs, and sums for the metrics."""
  noise = (None, None) if pairs.noise is None else pairs.noise
  directions = [
    anchor_rows(rows, scored.offset, scored.same, numbers)
    for rows, numbers in zip((scored.images, scored.audio), noise, strict=True)
  ]
  if pairs.partner is not None:
    own = paired(score, pairs.images, *pairs.partner).astype(jnp.float32)
    directions = [rows._replace(positive=own) for rows in directions]
  edited = None
  if pairs.edited is not None:
    maps, weight = pairs.edited
    # Not only the score: a NaN in the map would reach the speech's gradient.
    maps = jnp.where(weight[:, None, None, None] > 0, maps, 0)
    edit_score = paired(score, maps, pairs.audio, pairs.valid)
    edited = Edited(edit_score.astype(jnp.float32), weight)
  loss = jnp.mean(objective(*directions, edited))
  return loss, _sums(*directions, edited)


def _sums(
  forward: Rows, backward: Rows, edited: Edited | None
) -> dict[str, Array]:
  """What the metrics need, summed over these pairs."""
  forward, backward, edited = lax.stop_gradient((forward, backward, edited))

  def correct(rows: Rows) -> Array:
    masked = jnp.where(rows.impostors, rows.scores, -jnp.inf)
    return jnp.sum(rows.positive > jnp.max(masked, axis=1), dtype=jnp.float32)

  impostors = forward.impostors
  sums = {
    "pairs": jnp.sum(jnp.ones_like(forward.positive)),
    "image_to_speech": correct(forward),
    "speech_to_image": correct(backward),
    "positive": jnp.sum(forward.positive),
    "impostor": jnp.sum(jnp.where(impostors, forward.scores, 0.0)),
    "impostors": jnp.sum(impostors, dtype=jnp.float32),
  }
  if edited is not None:
    scores, counts = counting(edited)
    below = counts & (scores < backward.positive)
    sums["edits"] = jnp.sum(counts, dtype=jnp.float32)
    sums["edited"] = jnp.sum(below, dtype=jnp.float32)
  return sums


def _metrics(sums: dict[str, Array]) -> dict[str, Array]:
  """Shares and means, from the sums over all pairs."""
  counts = dict.fromkeys(sums, sums["pairs"])
  counts["impostor"] = jnp.maximum(sums["impostors"], 1.0)
  if "edits" in sums:
    counts["edited"] = jnp.maximum(sums["edits"], 1.0)
  named = counts.keys() - {"pairs", "impostors"}
  return {name: sums[name] / counts[name] for name in sorted(named)}
