"""Tests a model's knowledge of single words, for `drawing`.

These are the attribute test and the semantic test of "Learning Words by Drawing
Images" (CVPR 2019), on their splits of Audio CLEVRGAN; see `evals.attributes`.
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
from vgsgan.tasks.grounding_evaluation import Reader, by_language
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll


@dataclasses.dataclass(frozen=True)
class Negatives:
  """Records with their k-th negative in the place of their image."""

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
  """Runs both tests, on the splits `probe`, `words` and `semantic`."""
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
  """Ranks images with and without a word by single spoken words."""
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
  """Scores captions with their image and with images of another attribute."""
  changed = np.stack([records[i]["changed"] for i in range(len(records))])
  paired = jax.jit(lambda *maps: scores.paired(reader.score, *maps))

  def score(pairs: Records) -> np.ndarray:
    rows = reader.read(state, pairs, poll)
    maps = rows["images"], rows["speech"], rows["valid"]
    return jax.device_get(paired(*jax.device_put(maps)))

  negatives = [score(Negatives(records, k)) for k in range(changed.shape[1])]
  return attributes.semantic_test(
    score(records), np.stack(negatives, axis=1), changed
  )


def groups(records: Records) -> dict[str, np.ndarray]:
  """Groups of recordings: by voice if one is held out, else by language."""
  if "held_out" in records[0]:
    return by_voice(records)
  return by_language(records) if "language" in records[0] else {}


def by_voice(records: Records) -> dict[str, np.ndarray]:
  """Masks of the records with a training voice, and with the held-out one."""
  held_out = np.array([records[i]["held_out"] for i in range(len(records))])
  voices = {"training_voices": ~held_out, "held_out_voice": held_out}
  return {name: rows for name, rows in voices.items() if rows.any()}
