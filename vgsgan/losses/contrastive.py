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
    scores: scores of these anchors with all n candidates.
    offset: place of the first anchor in the batch; anchor i's partner is
      candidate i.
    same: candidates that are not impostors: the partner, and true matches.
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
  """Marks pairs that share a label, and so are never each other's impostors.

  If no image and no caption has two labels, these include every match that
  evaluation counts as correct (`evals.retrieval`).

  Args:
    image_id: labels of the anchors' images.
    speech_id: labels of the anchors' captions.
    all_images: labels of the candidates' images; None for the anchors' own.
    all_speech: labels of the candidates' captions; None for the anchors' own.
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
  edited_audio: tuple[
    Float[Array, "b t d"], Bool[Array, "b t"], Float[Array, "b"]
  ]
  | None = None,
  partner: tuple[Float[Array, "b t d"], Bool[Array, "b t"]] | None = None,
  key: PRNGKeyArray | None = None,
  mesh: Mesh | None = None,
  exchange: str = "gather",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Contrastive loss of b pairs, each against the whole global batch.

  Row i of the maps is a pair. Images are ranked against captions and captions
  against images; the loss is the sum of the two directions' means. Pairs that
  share the image or the speech are never each other's impostors.

  With a mesh, the arguments are global arrays split over all its devices. Each
  device scores its own images with all audio, which it gathers or passes round.
  The devices then exchange blocks of scores, which gives each its own captions
  with all images. So every pair is scored once, and image maps are not sent.
  Values and gradients equal those without a mesh.

  Args:
    image_map: image features.
    audio_map: speech features.
    valid: True for frames, False for padding.
    image_id: label of the image; equal images have equal labels.
    speech_id: label of the recording; equal captions have equal labels.
    score: (images `[b, h, w, d]`, audio `[c, t, d]`, valid `[c, t]`) ->
      `[b, c]`, as in `scores.ALL_PAIRS`. It may close over parameters.
    objective: `triplet(...)`, `drawn(...)`, `info_nce(...)` or
      `correspondence(...)`.
    edited: features of an edited version of each image, and its weight: 1
      where the edit counts, else 0. Features of weight 0 have no effect on
      values or gradients.
    edited_audio: features of an edited version of each caption, its valid
      frames and its weight, likewise.
    partner: audio features and valid frames of each image's own caption. If
      given, `audio_map` is scored against other images only.
    key: for sampled negatives; the same key draws the same impostors on any
      number of devices.
    mesh: the devices; the batch is split over all its axes. None for one
      device.
    exchange: a name in `exchange.EXCHANGES`; that module states their memory.

  Returns:
    The loss, and metrics: `image_to_speech` and `speech_to_image` (share of
    anchors whose partner beats every impostor; an anchor without impostors
    counts), `positive` and `impostor` (mean scores; 0 without impostors). With
    edits also `edits` (share of pairs whose edit counts) and `edited` (share
    of these where the edit scores below the positive; 0 if no edit counts); of
    edited captions `caption_edits` and `caption_edited`.
    Float32 scalars, equal on all devices. The loss needs no further collective
    before its gradient is taken.

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
  edits = edited, edited_audio
  pairs = _Pairs(image_map, audio_map, valid, labels, noise, edits, partner)
  if devices == 1:
    loss, sums = _loss(pairs, _score_alone(pairs, score), score, objective)
    return loss, _metrics(sums)

  def device_loss(pairs: _Pairs):
    scored = _score_over(pairs, score, axis, exchange)
    loss, sums = _loss(pairs, scored, score, objective)
    # The mean is inside `shard_map`, whose transpose then sums gradients once.
    return lax.pmean(loss, axis), lax.psum(sums, axis)

  rows = P(axis)
  specs = _Pairs(rows, rows, rows, rows, P(None, axis), rows, rows)
  loss, sums = jax.shard_map(
    device_loss, mesh=mesh, in_specs=(specs,), out_specs=P()
  )(pairs)
  return loss, _metrics(sums)


class _Pairs(NamedTuple):
  """The arguments of `contrastive` for one device's pairs, or for all."""

  images: Any
  audio: Any
  valid: Any
  labels: Any  # image_id, speech_id
  noise: Any  # [2, b, n] for sampled negatives in both directions, or None.
  edits: Any  # `edited` and `edited_audio`.
  partner: Any


class _Scored(NamedTuple):
  """Scores of a device's anchors with all candidates, in both directions.

  images: own images, all audio.
  audio: own audio, all images.
  same: pairs that are not impostors.
  offset: place of the first pair in the batch.
  """

  images: Float[Array, "q n"]
  audio: Float[Array, "q n"]
  same: Bool[Array, "q n"]
  offset: int | Int[Array, ""]


def _score_alone(pairs: _Pairs, score: Callable) -> _Scored:
  """Scores all pairs on one device."""
  scores = score(pairs.images, pairs.audio, pairs.valid).astype(jnp.float32)
  return _Scored(scores, scores.T, same_pairs(*pairs.labels), 0)


def _score_over(
  pairs: _Pairs, score: Callable, axis: tuple[str, ...], exchange: str
) -> _Scored:
  """Scores a device's pairs with those of all devices, inside `shard_map`."""
  all_labels = [lax.all_gather(x, axis, tiled=True) for x in pairs.labels]
  score_all = functools.partial(EXCHANGES[exchange], score, axis)
  scores = score_all(pairs.images, pairs.audio, pairs.valid)
  scores = scores.astype(jnp.float32)
  # [own images, all audio] -> [all images, own audio]
  backward = lax.all_to_all(scores, axis, 1, 0, tiled=True)
  offset = lax.axis_index(axis) * len(pairs.images)
  same = same_pairs(*pairs.labels, *all_labels)
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
  directions = [
    rows._replace(edited=edited)
    for rows, edited in zip(directions, _edits(pairs, score), strict=True)
  ]
  loss = jnp.mean(objective(*directions))
  return loss, _sums(*directions)


def _edits(
  pairs: _Pairs, score: Callable
) -> tuple[Edited | None, Edited | None]:
  """Scores of images with edited captions, and of captions with edited images.

  The maps are masked too: a NaN in one would reach the partner's gradient.
  """
  images, captions = pairs.edits
  by_image = by_caption = None
  if captions is not None:
    maps, valid, weight = captions
    maps = jnp.where(weight[:, None, None] > 0, maps, 0)
    scored = paired(score, pairs.images, maps, valid)
    by_image = Edited(scored.astype(jnp.float32), weight)
  if images is not None:
    maps, weight = images
    maps = jnp.where(weight[:, None, None, None] > 0, maps, 0)
    scored = paired(score, maps, pairs.audio, pairs.valid)
    by_caption = Edited(scored.astype(jnp.float32), weight)
  return by_image, by_caption


def _sums(forward: Rows, backward: Rows) -> dict[str, Array]:
  """Sums over these pairs, from which `_metrics` computes means and shares."""
  forward, backward = lax.stop_gradient((forward, backward))

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
  for prefix, rows in (("caption_", forward), ("", backward)):
    if rows.edited is not None:
      scores, counts = counting(rows.edited)
      below = counts & (scores < rows.positive)
      sums[f"{prefix}edits"] = jnp.sum(counts, dtype=jnp.float32)
      sums[f"{prefix}edited"] = jnp.sum(below, dtype=jnp.float32)
  return sums


def _metrics(sums: dict[str, Array]) -> dict[str, Array]:
  """Computes means and shares from sums over all pairs."""
  counts = dict.fromkeys(sums, sums["pairs"])
  counts["impostor"] = jnp.maximum(sums["impostors"], 1.0)
  for name in {"edited", "caption_edited"} & sums.keys():
    counts[name] = jnp.maximum(sums[name.replace("edited", "edits")], 1.0)
  names = counts.keys() - {"pairs", "impostors"}
  return {name: sums[name] / counts[name] for name in sorted(names)}
