"""What a model of speech and pictures knows of single words; for `drawing`.

The attribute test and the semantic test of "Learning Words by Drawing Images"
(CVPR 2019), on the splits that Audio CLEVRGAN has for them: see
`evals.attributes`.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from vgsgan.data.builders.scenes import encode
from vgsgan.data.records import Record, Records
from vgsgan.evals import attributes
from vgsgan.evals.retrieval import score_blocks
from vgsgan.losses import scores
from vgsgan.tasks.grounding_evaluation import Reader
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll


@dataclasses.dataclass(frozen=True)
class Negatives:
  """Records with their k-th negative in the place of their picture."""

  records: Records
  k: int

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Record:
    record = self.records[index]
    return record | {"image": encode(record["negatives"][self.k])}


def evaluate(
  reader: Reader,
  state: TrainState,
  splits: dict[str, Records],
  poll: Poll,
) -> dict[str, Any]:
  """Both tests, on the splits `probe`, `words` and `semantic`."""
  return {
    "attributes": attribute_test(reader, state, splits, poll),
    "semantic": semantic_test(reader, state, splits["semantic"], poll),
  }


def attribute_test(
  reader: Reader,
  state: TrainState,
  splits: dict[str, Records],
  poll: Poll,
) -> dict[str, Any]:
  """Single words, spoken alone, against pictures with and without them."""
  spoken, probe = list(splits["words"]), list(splits["probe"])
  words = reader.read(state, spoken, poll)
  images = reader.read(state, probe, poll)["images"]
  rows = score_blocks(
    reader.score,
    images,
    words["speech"],
    words["valid"],
    reader.config.eval.block,
    by_speech=True,
  )
  return attributes.attribute_test(
    np.concatenate([row for _, row in rows]),
    [record["caption"].decode() for record in spoken],
    np.array([record["held_out"] for record in spoken]),
    np.stack([record["attributes"] for record in probe]),
    np.stack([record["masks"].mean((1, 2)) for record in probe]),
  )


def semantic_test(
  reader: Reader, state: TrainState, records: Records, poll: Poll
) -> dict[str, Any]:
  """Captions against their picture and others that differ in one attribute."""
  changed = np.stack([records[i]["changed"] for i in range(len(records))])
  paired = jax.jit(lambda *maps: scores.paired(reader.score, *maps))

  def score(of: Records) -> np.ndarray:
    found = reader.read(state, of, poll)
    maps = found["images"], found["speech"], found["valid"]
    return jax.device_get(paired(*jax.device_put(maps)))

  negatives = [score(Negatives(records, k)) for k in range(changed.shape[1])]
  return attributes.semantic_test(
    score(records), np.stack(negatives, axis=1), changed
  )
