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

UNITS = ("random", "cluster", "gradient")
LATENT = ("gaussian", "chunk", "direction")
KINDS = (*UNITS, *LATENT)


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


def units_off(
  kind: str,
  key: Key[Array, ""],
  layers: dict[str, tuple[int, int, int]],
  found: edits.Peak,
  region: Bool[Array, "b h w"],
  image_map: Float[Array, "b h w d"],
  score_of_keep: Callable[[edits.Keep], Float[Array, "b"]],
  known: Concepts | None,
  counts: tuple[int, ...],
  published: bool,
) -> list[dict[str, Float[Array, "b c"]]]:
  """Which units each rung switches off (1), by layer.

  The `counts[rung]` units that are fittest for it. Where `published`, chance
  has its part as in the paper: `random` takes each unit with even chances, anew
  for each rung, and `cluster` draws the concept of all rungs but the first.
  """
  b, rungs = len(image_map), range(len(counts))
  if kind == "random" and published:
    keys = jax.random.split(key, len(rungs))
    return [random_units(keys[rung], layers, b) for rung in rungs]
  if kind == "random":
    ranks = [random_ranks(key, layers, b)] * len(rungs)
  elif kind == "gradient":
    shapes = {name: (b, *shape) for name, shape in layers.items()}
    ranks = [edits.aimed(score_of_keep, shapes, region)] * len(rungs)
  else:
    features = image_map[jnp.arange(b), found.row, found.column]
    scores = concepts.assign(features, known.mean, known.std, known.centroids)
    best = jnp.argmax(scores, axis=1)
    chosen = [best] * len(rungs)
    if published:
      keys = jax.random.split(key, len(rungs))
      chosen[1:] = [concepts.sample(keys[rung], scores) for rung in rungs[1:]]
    ranks = [
      {name: known.units[name][one] for name in layers} for one in chosen
    ]
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


def move(
  kind: str,
  key: Key[Array, ""],
  draw: edits.Draw,
  z: Float[Array, "b z"],
  strengths: tuple[float, ...],
  chunk: int,
  directions: Float[Array, "n z"] | None,
) -> Float[Array, "k b s s 3"]:
  """Pictures of moved latents: one direction a row, each strength along it."""

  def moved(strength: Float[Array, ""]) -> Array:
    if kind == "gaussian":
      return edits.gaussian_move(key, z, strength)
    if kind == "chunk":
      return edits.chunk_move(key, z, chunk, strength)
    return edits.direction_move(key, z, directions, strength)

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
