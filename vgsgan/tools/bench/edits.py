"""Measures the cost of edits: the last update of a curriculum and the first.

The first is usually `regular`. Both run on the same batch and update the same
state. `time_over_flops` is 1 if edits cost as much time as their matrix
products and convolutions; growing regions and the eigenvectors of `direction`
are not among these. Work between steps (`edits.refresh_every`) is excluded.
"""

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.tools.bench import timing
from vgsgan.tools.bench.case import Case, Training


def measure(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """Times the first and the last update of `config`, in turns."""
  case = Case(config)
  first, last = case.task.step, case.last_update()
  if first is last:
    raise UserError(
      "the training has one kind of step, there are no edits to compare: name "
      "a config that has, such as --config=configs/solids.py:chunk"
    )
  training = Training(case.state(), case.batch())
  updates = {
    name: case.compile(update, training.state, training.batch)
    for name, update in (("first", first), ("edited", last))
  }
  timers = {name: training.timer(update) for name, update in updates.items()}
  flops = {name: update.flops for name, update in updates.items()}
  return figures(timing.medians(timers, repeat), flops)


def figures(median: dict[str, float], flops: dict[str, float]) -> dict:
  """Figures from the seconds and the FLOPs of `first` and `edited`."""
  time_ratio = median["edited"] / median["first"]
  flops_ratio = flops["edited"] / flops["first"]
  return {
    "first_step_seconds": median["first"],
    "first_step_gflop": flops["first"] / 1e9,
    "edited_step_seconds": median["edited"],
    "edited_step_gflop": flops["edited"] / 1e9,
    "edited_over_first": {
      "time": time_ratio,
      "flops": flops_ratio,
      "time_over_flops": time_ratio / flops_ratio,
    },
  }
