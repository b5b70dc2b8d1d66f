"""Drawn impostors: makes and selects an edit for each image of a batch.

Combines the pieces of `edits` inside the compiled step: selects units or moves
latents, draws every attempt, and selects the one that serves as hard negative
("Learning Words by Drawing Images", CVPR 2019; the latent moves are this
project's).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vgsgan.negatives import concepts, edits


class Concepts(NamedTuple):
  """The published clusters, computed between steps; see `concepts`.

  Attributes:
    mean, std: mean and deviation of image features over the data.
    centroids: groups of embedding dimensions.
    units: overlap of each concept with each unit, by editable layer.
  """

  mean: Float[Array, "d"]
  std: Float[Array, "d"]
  centroids: Float[Array, "k d"]
  units: dict[str, Float[Array, "k c"]]


def interleave(make: Callable[[int], Any], attempts: int) -> Any:
  """Joins the trees of arrays [b, ...] of all attempts as [b * attempts, ...].

  The attempts of a row lie side by side, so that no row of a batch that is
  split over devices leaves its device.
  """
  trees = [make(attempt) for attempt in range(attempts)]

  def join(*arrays):
    stacked = jnp.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])

  return jax.tree.map(join, *trees)


def by_attempt(images: Float[Array, "bk s s 3"], attempts: int) -> Array:
  """The inverse of `interleave`, for images: [attempts, b, s, s, 3]."""
  shape = (-1, attempts, *images.shape[1:])
  return jnp.moveaxis(images.reshape(shape), 1, 0)


class EditContext(NamedTuple):
  """The inputs of unit selection, for one batch.

  Attributes:
    key: for random choices.
    layers: (height, width, units) of each editable layer.
    peak: the best match of each image and caption.
    region: the places around it.
    image_map: features of the images.
    score_of_keep: score of each caption with its image drawn with a `Keep`.
    concepts: clusters; None if none are computed yet.
    counts: units to switch off, by attempt.
    published: whether choices are random where the paper's are.
  """

  key: Key[Array, ""]
  layers: dict[str, tuple[int, int, int]]
  peak: edits.Peak
  region: Bool[Array, "b h w"]
  image_map: Float[Array, "b h w d"]
  score_of_keep: Callable[[edits.Keep], Float[Array, "b"]]
  concepts: Concepts | None
  counts: tuple[int, ...]
  published: bool


# Units that each attempt switches off (1), by layer.
Units = list[dict[str, Float[Array, "b c"]]]


def select_random(context: EditContext) -> Units:
  """Selects random units.

  Published: each unit with probability 1/2, independently in each attempt.
  """
  b, attempts = len(context.image_map), len(context.counts)
  if context.published:
    keys = jax.random.split(context.key, attempts)
    return [random_units(key, context.layers, b) for key in keys]
  ranks = random_ranks(context.key, context.layers, b)
  return _top([ranks] * attempts, context.counts)


def select_by_gradient(context: EditContext) -> Units:
  """Selects the units without which the caption's score falls most."""
  b = len(context.image_map)
  shapes = {name: (b, *shape) for name, shape in context.layers.items()}
  ranks = edits.unit_attributions(context.score_of_keep, shapes, context.region)
  return _top([ranks] * len(context.counts), context.counts)


def select_by_concept(context: EditContext) -> Units:
  """Selects the units that best cover the concept at the peak.

  Published: attempts after the first sample the concept.
  """
  clusters, peak = context.concepts, context.peak
  row = jnp.arange(len(context.image_map))
  features = context.image_map[row, peak.row, peak.column]
  scores = concepts.assign(
    features, clusters.mean, clusters.std, clusters.centroids
  )
  attempts = range(len(context.counts))
  chosen = [jnp.argmax(scores, axis=1) for _ in attempts]
  if context.published:
    keys = jax.random.split(context.key, len(attempts))
    chosen[1:] = [concepts.sample(keys[r], scores) for r in attempts[1:]]
  ranks = [
    {name: clusters.units[name][concept] for name in context.layers}
    for concept in chosen
  ]
  return _top(ranks, context.counts)


# Selects the units to switch off in the region of the word, by kind.
UNITS = {
  "random": select_random,
  "cluster": select_by_concept,
  "gradient": select_by_gradient,
}


def _top(
  ranks: list[dict[str, Float[Array, "b c"]]], counts: tuple[int, ...]
) -> Units:
  """The `counts[r]` highest ranked units of each layer, for attempt r."""
  return [
    {name: edits.top_units(rank, count) for name, rank in layers.items()}
    for layers, count in zip(ranks, counts, strict=True)
  ]


def random_ranks(
  key: Key[Array, ""], layers: dict[str, tuple[int, int, int]], b: int
) -> dict[str, Float[Array, "b c"]]:
  """Uniform random rank scores for each unit of each layer."""
  return {
    name: jax.random.uniform(jax.random.fold_in(key, i), (b, units))
    for i, (name, (_, _, units)) in enumerate(layers.items())
  }


def random_units(
  key: Key[Array, ""], layers: dict[str, tuple[int, int, int]], b: int
) -> dict[str, Float[Array, "b c"]]:
  """Selects each unit of each layer with probability 1/2, as published."""
  return {
    name: (rank < 0.5).astype(jnp.float32)
    for name, rank in random_ranks(key, layers, b).items()
  }


def ablate_units(
  draw: edits.Draw,
  z: Float[Array, "b z"],
  units: list[dict[str, Float[Array, "b c"]]],
  layers: dict[str, tuple[int, int, int]],
  regions: list[Bool[Array, "b h w"]],
) -> Float[Array, "k b s s 3"]:
  """Draws images with `units[r]` switched off in `regions[r]`."""

  def keep(attempt: int) -> edits.Keep:
    return {
      name: edits.keep_mask(
        chosen, edits.resize(regions[attempt], *layers[name][:2])
      )
      for name, chosen in units[attempt].items()
    }

  attempts = len(units)
  images = draw(jnp.repeat(z, attempts, axis=0), interleave(keep, attempts))
  return by_attempt(images, attempts)


LATENT = ("gaussian", "chunk", "direction")  # Moves of the whole latent.
KINDS = (*UNITS, *LATENT)


def move_latents(
  kind: str,
  key: Key[Array, ""],
  draw: edits.Draw,
  z: Float[Array, "b z"],
  strengths: tuple[float, ...],
  chunk: int,
  directions: Callable[[], Float[Array, "n z"]],
) -> Float[Array, "k b s s 3"]:
  """Draws moved latents: one direction per row, each strength along it."""

  moves = {
    "gaussian": lambda by: edits.gaussian_move(key, z, by),
    "chunk": lambda by: edits.chunk_move(key, z, chunk, by),
    "direction": lambda by: edits.direction_move(key, z, directions(), by),
  }
  # All strengths use the same random numbers.
  latents = jax.vmap(moves[kind], out_axes=1)(jnp.asarray(strengths))
  return by_attempt(draw(latents.reshape(-1, z.shape[1]), {}), len(strengths))


def select_edit(
  images: Float[Array, "k b s s 3"],
  original: Float[Array, "b s s 3"],
  regions: list[Bool[Array, "b h w"]],
  changes: tuple[float, ...] | Float[Array, "k"],
) -> tuple[Float[Array, "b s s 3"], Float[Array, "b"], dict[str, Array]]:
  """Selects the weakest edit of each image that changes its region enough.

  Args:
    images: k edits of each image, weakest first.
    original: the unedited images, on the same scale.
    regions: the region of each attempt.
    changes: the least `edits.change` of each attempt.

  Returns:
    Images, the original if no edit is enough; weights, 0 for these and else 1;
    metrics: mean change and attempt (`rung`) of the edits that count, and the
    mean share of the first region.
  """
  measured = jnp.stack(
    [
      edits.change(image, original, region)
      for image, region in zip(images, regions, strict=True)
    ]
  )
  attempt, weight = edits.first_sufficient(measured, jnp.asarray(changes))
  # The original has to be finite since it is encoded; a rejected edit may not.
  chosen = jnp.where(
    weight[:, None, None, None] > 0, edits.take(images, attempt), original
  )
  count = jnp.maximum(jnp.sum(weight), 1.0)
  return (
    chosen,
    weight,
    {
      "change": jnp.sum(weight * edits.take(measured, attempt)) / count,
      "rung": jnp.sum(weight * attempt) / count,
      "region": jnp.mean(regions[0].astype(jnp.float32)),
    },
  )
