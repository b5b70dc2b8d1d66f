"""Reads whole splits with a model of pairs, and ranks what was read."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan.data import pipeline
from vgsgan.evals.retrieval import relevance, retrieval
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Poll

# Of pictures [b, h, w, d] and speech [b, t, d], and its valid frames [b, t].
Maps = tuple[jax.Array, jax.Array, jax.Array]


@runtime_checkable
class Model(Protocol):
  """What is asked of a model: `grounding.Grounding` is one."""

  config: ml_collections.ConfigDict
  score: Callable[..., jax.Array]

  def encode(self, state: TrainState, batch: Batch) -> Maps: ...


def collect(
  encode: Callable[[TrainState, Batch], Maps],
  state: TrainState,
  host: Iterator[pipeline.Example],
  mesh: Mesh,
  poll: Poll,
) -> dict[str, np.ndarray]:
  """Maps and ids of a whole split, on every process.

  `encode` returns its maps and the batch's ids replicated, so that every
  process ends with the same arrays. Of the records of one picture only the
  first gives its map: the gallery is pictures, not pairs.

  Returns:
    A row a recording: `speech`, `valid`, `speech_id`, `image_id`; a row a
    picture: `images`, `gallery` (its `image_id`).
  """
  parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
  seen: set[int] = set()
  for local in host:
    poll()
    batch = mesh_lib.shard(local, mesh)
    (image_map, speech_map, valid), ids = jax.device_get(encode(state, batch))
    real = ids["real"]
    rows = {"speech": speech_map, "valid": valid} | ids
    for name, values in rows.items():
      parts[name].append(values[real])
    for row in np.flatnonzero(real):
      image_id = int(ids["image_id"][row])
      if image_id not in seen:
        seen.add(image_id)
        parts["images"].append(image_map[row : row + 1])
        parts["gallery"].append(ids["image_id"][row : row + 1])
  return {name: np.concatenate(values) for name, values in parts.items()}


def by_language(records: pipeline.Records) -> dict[str, np.ndarray]:
  """Which records are in which language."""
  languages = np.array([records[i]["language"] for i in range(len(records))])
  return {name.decode(): languages == name for name in np.unique(languages)}


def mean_recall_at_10(results: dict[str, Any]) -> float:
  """What DAVEnet chooses its best epoch by."""
  directions = ("speech_to_image", "image_to_speech")
  return sum(results[name]["R@10"]["value"] for name in directions) / 2


class Reader:
  """Encodes splits and ranks them; compiled once for all of a run."""

  def __init__(self, model: Model, transform: pipeline.Transform, mesh: Mesh):
    ids = ("real", "image_id", "speech_id")

    def encode(state, batch):
      return model.encode(state, batch), {name: batch[name] for name in ids}

    self.config = model.config
    self.transform = transform
    self.mesh = mesh
    self.encode = jax.jit(encode, out_shardings=mesh_lib.replicated(mesh))
    self.score = jax.jit(model.score)

  def read(
    self, state: TrainState, records: pipeline.Records, poll: Poll
  ) -> dict[str, np.ndarray]:
    """What `collect` finds in some records."""
    rows = self.config.eval.batch
    stream = pipeline.EvalStream(
      records, self.transform, rows, mesh_lib.local_rows(rows)
    )
    host: Iterable = pipeline.batches(stream, 0, self.config.data.num_threads)
    return collect(self.encode, state, iter(host), self.mesh, poll)

  def retrieval(
    self,
    found: dict[str, np.ndarray],
    groups: dict[str, np.ndarray],
    poll: Poll,
  ) -> dict[str, Any]:
    """Both directions over what was read; see `evals.retrieval`."""
    return retrieval(
      self.score,
      found["images"],
      found["speech"],
      found["valid"],
      relevance(found["speech_id"], found["image_id"], found["gallery"]),
      groups,
      self.config.eval.block,
      poll,
    )
