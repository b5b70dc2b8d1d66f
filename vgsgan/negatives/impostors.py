"""Drawn impostors: which edit each picture of a batch gets.

Puts the pieces of `edits` together, for one batch and inside the compiled
step: where the word is, what is changed there and how much, and which of the
drawn strengths stands as the hard negative ("Learning Words by Drawing
Images", CVPR 2019, and the latent moves that the project adds).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vgsgan.negatives import concepts, edits


class Concepts(NamedTuple):
  """What the published clusters say; made between steps, see `concepts`.

  Attributes:
    mean, std: of image features over the data.
    centroids: groups of embedding dimensions.
    units: for each editable layer, how well each unit covers each concept.
  """

  mean: Float[Array, "d"]
  std: Float[Array, "d"]
  centroids: Float[Array, "k d"]
  units: dict[str, Float[Array, "k c"]]


def by_rung(one: Callable[[int], Any], rungs: int) -> Any:
  """Trees of arrays [b, ...] of all rungs, as [b * rungs, ...].

  The rungs of a row lie side by side, so that a batch split over devices
  stays where it is.
  """
  trees = [one(rung) for rung in range(rungs)]

  def together(*arrays):
    stacked = jnp.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])

  return jax.tree.map(together, *trees)


def by_row(pictures: Float[Array, "bk s s 3"], rungs: int) -> Array:
  """The inverse, for pictures: [rungs, b, s, s, 3]."""
  shape = (-1, rungs, *pictures.shape[1:])
  return jnp.moveaxis(pictures.reshape(shape), 1, 0)


class Attempt(NamedTuple):
  """Everything that units are chosen by, for one batch.

  Attributes:
    key: of the random draws.
    layers: (height, width, units) of each editable layer.
    peak: where image and caption match best.
    region: the places around it.
    image_map: features of the images.
    score_of_keep: score of each caption with its image drawn with a `Keep`.
    concepts: clusters; None before there are any.
    counts: units to switch off, by rung.
    published: chance has its part as in the paper.
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


# Units that each rung switches off (1), by layer.
Units = list[dict[str, Float[Array, "b c"]]]


def random_off(at: Attempt) -> Units:
  """Any units; published: each with even chances, anew for each rung."""
  b, rungs = len(at.image_map), len(at.counts)
  if at.published:
    return [
      random_units(key, at.layers, b) for key in jax.random.split(at.key, rungs)
    ]
  return _top([random_ranks(at.key, at.layers, b)] * rungs, at.counts)


def gradient_off(at: Attempt) -> Units:
  """The units without which the caption's score falls most."""
  b = len(at.image_map)
  shapes = {name: (b, *shape) for name, shape in at.layers.items()}
  ranks = edits.aimed(at.score_of_keep, shapes, at.region)
  return _top([ranks] * len(at.counts), at.counts)


def cluster_off(at: Attempt) -> Units:
  """The units that cover the concept of the place best.

  Published: the concept of all rungs but the first is drawn by chance.
  """
  known, peak, rungs = at.concepts, at.peak, range(len(at.counts))
  features = at.image_map[jnp.arange(len(at.image_map)), peak.row, peak.column]
  scores = concepts.assign(features, known.mean, known.std, known.centroids)
  chosen = [jnp.argmax(scores, axis=1) for _ in rungs]
  if at.published:
    keys = jax.random.split(at.key, len(rungs))
    chosen[1:] = [concepts.sample(keys[rung], scores) for rung in rungs[1:]]
  ranks = [
    {name: known.units[name][concept] for name in at.layers}
    for concept in chosen
  ]
  return _top(ranks, at.counts)


# By kind, the units that are switched off where the word is.
UNITS = {"random": random_off, "cluster": cluster_off, "gradient": gradient_off}


def _top(
  ranks: list[dict[str, Float[Array, "b c"]]], counts: tuple[int, ...]
) -> Units:
  """The `counts[rung]` fittest units of each layer."""
  return [
    {name: edits.top_units(rank, count) for name, rank in of_rung.items()}
    for of_rung, count in zip(ranks, counts, strict=True)
  ]


def random_ranks(
  key: Key[Array, ""], layers: dict[str, tuple[int, int, int]], b: int
) -> dict[str, Float[Array, "b c"]]:
  """Uniform numbers for each unit, so that the first few are any."""
  return {
    name: jax.random.uniform(jax.random.fold_in(key, i), (b, units))
    for i, (name, (_, _, units)) in enumerate(layers.items())
  }


def random_units(
  key: Key[Array, ""], layers: dict[str, tuple[int, int, int]], b: int
) -> dict[str, Float[Array, "b c"]]:
  """Each unit of each layer with even chances, as published."""
  return {
    name: (rank < 0.5).astype(jnp.float32)
    for name, rank in random_ranks(key, layers, b).items()
  }


def switch_off(
  draw: edits.Draw,
  z: Float[Array, "b z"],
  units: list[dict[str, Float[Array, "b c"]]],
  layers: dict[str, tuple[int, int, int]],
  regions: list[Bool[Array, "b h w"]],
) -> Float[Array, "k b s s 3"]:
  """Pictures with `units[r]` off in `regions[r]`."""

  def keep(rung: int) -> edits.Keep:
    return {
      name: edits.keep_mask(
        chosen, edits.resize(regions[rung], *layers[name][:2])
      )
      for name, chosen in units[rung].items()
    }

  rungs = len(units)
  pictures = draw(jnp.repeat(z, rungs, axis=0), by_rung(keep, rungs))
  return by_row(pictures, rungs)


def gaussian(key, z, strength, chunk, directions):
  """Adds noise to all numbers of the latent."""
  return edits.gaussian_move(key, z, strength)


def chunk(key, z, strength, chunk, directions):
  """Draws a part of one chunk of the latent anew."""
  return edits.chunk_move(key, z, chunk, strength)


def direction(key, z, strength, chunk, directions):
  """Moves the latent along one of the generator's own directions."""
  return edits.direction_move(key, z, directions(), strength)


# By kind, the moves of the whole latent.
LATENT = {"gaussian": gaussian, "chunk": chunk, "direction": direction}
KINDS = (*UNITS, *LATENT)


def move(
  kind: str,
  key: Key[Array, ""],
  draw: edits.Draw,
  z: Float[Array, "b z"],
  strengths: tuple[float, ...],
  chunk: int,
  directions: Callable[[], Float[Array, "n z"]],
) -> Float[Array, "k b s s 3"]:
  """Pictures of moved latents: one direction a row, each strength along it."""

  def moved(strength: Float[Array, ""]) -> Array:
    return LATENT[kind](key, z, strength, chunk, directions)

  # The same random numbers for all strengths: they are drawn once.
  several = jax.vmap(moved, out_axes=1)(jnp.asarray(strengths))
  return by_row(draw(several.reshape(-1, z.shape[1]), {}), len(strengths))


def choose(
  pictures: Float[Array, "k b s s 3"],
  original: Float[Array, "b s s 3"],
  regions: list[Bool[Array, "b h w"]],
  changes: tuple[float, ...] | Float[Array, "k"],
) -> tuple[Float[Array, "b s s 3"], Float[Array, "b"], dict[str, Array]]:
  """The weakest edit of each picture that changes its region enough.

  Returns:
    Pictures, the original where no edit is enough; weights, 0 there and else
    1; and for the metrics the mean change and rung of those that count.
  """
  found = jnp.stack(
    [
      edits.change(picture, original, region)
      for picture, region in zip(pictures, regions, strict=True)
    ]
  )
  rung, weight = edits.weakest_enough(found, jnp.asarray(changes))
  # The original, not a picture that may not be finite: it has to be encoded.
  chosen = jnp.where(
    weight[:, None, None, None] > 0, edits.take(pictures, rung), original
  )
  count = jnp.maximum(jnp.sum(weight), 1.0)
  return (
    chosen,
    weight,
    {
      "change": jnp.sum(weight * edits.take(found, rung)) / count,
      "rung": jnp.sum(weight * rung) / count,
      "region": jnp.mean(regions[0].astype(jnp.float32)),
    },
  )
