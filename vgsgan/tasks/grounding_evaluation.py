"""Encodes whole splits with a model of pairs, and ranks them."""

import collections
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan.data.records import Records, Transform
from vgsgan.evals.retrieval import relevance, retrieval
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Poll

# Maps of images [b, h, w, d] and speech [b, t, d], and valid frames [b, t].
Maps = tuple[jax.Array, jax.Array, jax.Array]


@runtime_checkable
class Model(Protocol):
  """The interface of a model, such as `grounding.Grounding`."""

  config: ml_collections.ConfigDict
  score: Callable[..., jax.Array]

  def encode(self, state: TrainState, batch: Batch) -> Maps: ...


def collect(
  batches: Iterable[tuple[Maps, dict[str, np.ndarray]]],
) -> dict[str, np.ndarray]:
  """Joins maps and ids of a whole split.

  The gallery has images, not pairs: an image with several recordings gives its
  map once.

  Args:
    batches: maps, and `image_id` and `speech_id` of their rows.

  Returns:
    A row a recording: `speech`, `valid`, `speech_id`, `image_id`; a row an
    image: `images`, `gallery` (its `image_id`).
  """
  parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
  gallery: set[int] = set()
  for (image_maps, speech_maps, valid), ids in batches:
    for name, rows in {"speech": speech_maps, "valid": valid, **ids}.items():
      parts[name].append(rows)
    for row, image_id in enumerate(ids["image_id"].tolist()):
      if image_id not in gallery:
        gallery.add(image_id)
        parts["images"].append(image_maps[row : row + 1])
        parts["gallery"].append(ids["image_id"][row : row + 1])
  return {name: np.concatenate(rows) for name, rows in parts.items()}


def by_language(records: Records) -> dict[str, np.ndarray]:
  """Masks of the records in each language, by language."""
  languages = np.array([records[i]["language"] for i in range(len(records))])
  return {name.decode(): languages == name for name in np.unique(languages)}


def mean_recall_at_10(results: dict[str, Any]) -> float:
  """The mean R@10 of both directions, by which DAVEnet chooses its epoch."""
  directions = ("speech_to_image", "image_to_speech")
  return sum(results[name]["R@10"]["value"] for name in directions) / 2


class Reader:
  """Encodes splits and ranks them; compiled once for all of a run."""

  def __init__(self, model: Model, transform: Transform, mesh: Mesh):
    def encode(state, batch):
      ids = {name: batch[name] for name in ("image_id", "speech_id")}
      return model.encode(state, batch), ids

    self.config = model.config
    self.encode = Predictor(encode, transform, model.config, mesh)
    self.score = jax.jit(model.score)

  def read(
    self, state: TrainState, records: Records, poll: Poll
  ) -> dict[str, np.ndarray]:
    """Encodes some records; see `collect`."""
    return collect(self.encode.batches(state, records, poll))

  def retrieval(
    self,
    maps: dict[str, np.ndarray],
    groups: dict[str, np.ndarray],
    poll: Poll,
  ) -> dict[str, Any]:
    """Figures of both directions over the result of `read`.

    See `evals.retrieval`.
    """
    return retrieval(
      self.score,
      maps["images"],
      maps["speech"],
      maps["valid"],
      relevance(maps["speech_id"], maps["image_id"], maps["gallery"]),
      groups,
      self.config.eval.block,
      poll,
    )
