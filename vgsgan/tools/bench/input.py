"""Measures the input pipeline against the step.

Batches are read with the config's `data.num_threads` and `data.num_workers` and
put on the devices, for about a second in a turn. Nothing is read while a step
is timed, because on a CPU the two would share its cores. The share of time that
a run waits for input is `input_share` in its `metrics.jsonl`.
"""

import ml_collections

from vgsgan.tools.bench import timing
from vgsgan.tools.bench.case import Case, Training

SECONDS = 1.0  # Approximate time for reading in a turn.
FEWEST, MOST = 4, 256  # Batches in a turn.


class Reader:
  """Reads batches of a training.

  Attributes:
    count: number of batches that it times in a turn.
  """

  def __init__(self, case: Case):
    self._case = case
    self._first = 0
    threads, workers = (
      case.config.data.num_threads,
      case.config.data.num_workers,
    )
    # Batches that may be ready when the clock starts; they are read before.
    self._ahead = max(1, workers) * max(2, 2 * threads) + 2
    self.count = FEWEST
    each = min(self.seconds() for _ in range(2))
    self.count = min(max(FEWEST, round(SECONDS / each)), MOST)

  def seconds(self) -> float:
    """Times one batch; a timer."""
    batches = self._case.batches(self._first, self._ahead + self.count)
    self._first += self._ahead + self.count
    for _ in range(self._ahead):
      batches.next(None)

    def read() -> list:
      return [batches.next(None) for _ in range(self.count)]

    return timing.seconds(read) / self.count


def measure(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """Measures batches per second of the pipeline, and of the step."""
  case = Case(config)
  training = Training(case.state(), case.batch())
  update = case.compile(case.last_update(), training.state, training.batch)
  reader = Reader(case)
  median = timing.medians(
    {"step": training.timer(update), "input": reader.seconds}, repeat
  )
  return {
    "threads": config.data.num_threads,
    "workers": config.data.num_workers,
    "batches_per_second": 1 / median["input"],
    "steps_per_second": 1 / median["step"],
    "input_over_appetite": median["step"] / median["input"],
  }
