"""Clusters the published concepts again between two updates.

"Learning Words by Drawing Images" (CVPR 2019): every few epochs the embedding
dimensions that fire together where a word meets its place are clustered, and
the generator's units are ranked by how well they cover each cluster.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vgsgan.data.records import Records
from vgsgan.negatives import concepts, edits, impostors
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train import forward
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Poll

# A place has a concept if its standardised features score at least this.
_THRESHOLD = 0.5


def observe(model: Any, state: TrainState, batch: Batch) -> dict[str, Any]:
  """Computes the features that are clustered into concepts, for one batch.

  The results are float32 for any `train.dtype`: numpy would sum in bfloat16.

  Returns:
    `points` [b, d], the product of image and speech features where they match
    best; `features` [b, h, w, d] of the images; `units`, the activations
    [b, h, w, c] of each editable layer.
  """
  state = forward.replicate_networks(state)
  image_map, speech_map, valid = model.encode(state, batch)
  peak = edits.peak(model.matchmap(image_map, speech_map), valid)
  rows = jnp.arange(len(image_map))
  image_map, speech_map = jnp.float32(image_map), jnp.float32(speech_map)
  best_place = image_map[rows, peak.row, peak.column]
  best_frame = speech_map[rows, peak.frame]
  weights = model.generator_params(state.params, state.batch_stats)
  variables = {"params": weights}
  variables["batch_stats"] = state.batch_stats["generator"]
  _, outputs = model.generator.apply(
    variables, batch["z"], train=False, mutable=["layers"]
  )
  units = {
    name: jnp.float32(outputs["layers"][f"{name}_output"][0])
    for name in model.layers
  }
  return {
    "points": best_place * best_frame,
    "features": image_map,
    "units": units,
  }


class Refresh:
  """Makes the concepts of the published edits at fixed steps."""

  def __init__(
    self, model: Any, records: Records, transform, mesh: mesh_lib.Mesh
  ):
    self.model = model
    self.use = model.config.edits
    self.mesh = mesh
    count = min(self.use.concept_pairs, len(records))
    first = (records[i] for i in range(count))
    self.records = [r for r in first if np.isfinite(r["z"]).all()]
    self.observe = Predictor(
      functools.partial(observe, model), transform, model.config, mesh
    )

  def due(self, step: int) -> bool:
    """True every `refresh_every` steps of a phase with cluster edits."""
    first, kind = max(
      (first, kind)
      for first, kind in self.model.phases.items()
      if first <= step
    )
    return kind == "cluster" and (step - first) % self.use.refresh_every == 0

  def __call__(self, state: TrainState, step: int, poll: Poll) -> TrainState:
    """The state with new concepts if they are due, else the same state."""
    if not self.due(step):
      return state
    clusters = jax.device_put(
      self.make(self.observe(state, self.records, poll)),
      mesh_lib.replicated(self.mesh),
    )
    return state.replace(batch_stats=state.batch_stats | {"concepts": clusters})

  def make(self, observed: dict[str, Any]) -> impostors.Concepts:
    """Clusters dimensions, and scores how well each unit covers each."""
    features = observed["features"]
    flat = features.reshape(-1, features.shape[-1])
    mean, std = flat.mean(0), flat.std(0)
    active = concepts.coactivation(observed["points"], self.use.quantile)
    clusters = concepts.clusters(active, self.use.concepts, self.use.least)
    scores = jax.device_get(
      concepts.assign(*jax.device_put((flat, mean, std, clusters.centroids)))
    )
    places = scores.reshape(*features.shape[:3], -1) > _THRESHOLD
    units = {
      name: concepts.unit_iou(maps, on_grid(places, *maps.shape[1:3]))
      for name, maps in observed["units"].items()
    }
    return impostors.Concepts(mean, std, clusters.centroids, units)


def on_grid(
  places: Bool[np.ndarray, "n h w k"], height: int, width: int
) -> Bool[np.ndarray, "n i j k"]:
  """Resamples maps of concepts to a layer's grid, by nearest places."""
  rows = (np.arange(height) * places.shape[1]) // height
  columns = (np.arange(width) * places.shape[2]) // width
  return places[:, rows][:, :, columns]
