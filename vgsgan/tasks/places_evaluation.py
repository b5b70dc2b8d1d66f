"""Tests knowledge of single words, for `places`; see `evals.pairs`."""

from typing import Any

import jax
import numpy as np

from vgsgan.data.records import Record, Records
from vgsgan.evals.pairs import pair_test, word_test
from vgsgan.evals.retrieval import score_blocks
from vgsgan.losses import scores
from vgsgan.tasks.grounding_evaluation import Reader
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll
from vgsgan.worlds.place_words import KINDS, NOUNS, VOCABULARY


def words(
  reader: Reader,
  state: TrainState,
  records: Records,
  alone: Records | None,
  poll: Poll,
) -> dict[str, Any]:
  """The test of pairs, and that of words spoken alone if there are any."""
  rows = reader.read(state, records, poll)
  two = [records[i] for i in range(len(records))]
  changed = np.array([record["changed"] for record in two])[::2]
  results = {
    "pairs": pair_test(_pair_scores(reader, rows), changed, KINDS, NOUNS)
  }
  if alone is None:
    return results
  spoken = [alone[i] for i in range(len(alone))]
  said = reader.read(state, spoken, poll)
  blocks = score_blocks(
    reader.score,
    rows["images"],
    said["speech"],
    said["valid"],
    reader.config.eval.block,
    by_speech=True,
  )
  table = np.concatenate([block for _, block in blocks])
  values = np.stack([record["attributes"] for record in two])
  values = values.reshape(len(changed), 2, -1)
  results["words"] = word_test(
    table.reshape(len(spoken), -1, 2),
    np.array([_word(record) for record in spoken]),
    np.array([record["held_out"] for record in spoken]),
    np.take_along_axis(values, changed[:, None, None], 2)[..., 0],
    changed,
    KINDS,
    NOUNS,
  )
  return results


def _pair_scores(reader: Reader, rows: dict[str, np.ndarray]) -> np.ndarray:
  """Scores [n, 2, 2] of both images of each pair (rows) with both captions."""
  paired = jax.jit(lambda *maps: scores.paired(reader.score, *maps))

  def score(order):
    maps = rows["images"][order], rows["speech"], rows["valid"]
    return jax.device_get(paired(*jax.device_put(maps))).reshape(-1, 2)

  order = np.arange(len(rows["speech"]))
  own, other = score(order), score(order ^ 1)
  first = np.stack([own[:, 0], other[:, 1]], -1)
  second = np.stack([other[:, 0], own[:, 1]], -1)
  return np.stack([first, second], 1)


def _word(record: Record) -> tuple[int, int]:
  """The kind of a word spoken alone, and its index."""
  kind = int(record["changed"])
  return kind, VOCABULARY[KINDS[kind]].index(record["caption"].decode())
