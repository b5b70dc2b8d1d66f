"""Measures the cost of a save for the training that goes on meanwhile.

A turn makes some steps without a save, and as many with one: the first of these
starts it, and the others run while it is written. Stalls are shares of a step:
0.05 is a step that takes 5 % longer. The checkpoints go to the folder for
temporary files (TMPDIR), so its disk is part of the measurement.
"""

import itertools
import math
import pathlib
import tempfile
import time

import jax
import ml_collections
import numpy as np

from vgsgan.tools.bench import timing
from vgsgan.tools.bench.case import Case, Training
from vgsgan.train.checkpoints import manager

FEWEST, MOST = 4, 100  # Steps in a turn.


def measure(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """Times steps of `config` with and without a save under way, in turns."""
  case = Case(config)
  training = Training(case.state(), case.batch())
  step = training.timer(
    case.compile(case.last_update(), training.state, training.batch)
  )
  numbers, calls = itertools.count(1), []
  with (
    tempfile.TemporaryDirectory() as folder,
    manager.Checkpoints(
      pathlib.Path(folder) / "checkpoints", keep=config.train.keep
    ) as saved,
  ):

    def save() -> float:
      began = time.perf_counter()
      saved.save(next(numbers), training.state, {})
      calls.append(time.perf_counter() - began)
      return calls[-1]

    def alone() -> float:
      return save() + timing.seconds(saved.wait)

    whole = timing.medians({"save": alone}, 3)["save"]
    # The steps of a turn take about as long as the write, which they overlap.
    count = min(max(FEWEST, math.ceil(whole / step()) + 1), MOST)
    calls.clear()
    plain, saving = [], []
    for _ in range(repeat):
      plain.append([step() for _ in range(count)])
      saving.append([save() + step(), *(step() for _ in range(count - 1))])
      saved.wait()
  size = sum(x.nbytes for x in jax.tree.leaves(training.state))
  return {
    "state_megabytes": size / 1e6,
    "save_call_seconds": float(np.median(calls)),
    "alone_until_on_disk_seconds": whole,
    **figures(np.array(plain), np.array(saving)),
  }


def figures(plain: np.ndarray, saving: np.ndarray) -> dict:
  """Figures from the seconds of steps [repetition, step]."""
  median = float(np.median(plain))

  def stall(pick) -> float:
    longer = [
      pick(row) / pick(base) for row, base in zip(saving, plain, strict=True)
    ]
    return float(np.median(longer)) - 1

  return {
    "steps_in_a_turn": plain.shape[1],
    "step_seconds": median,
    "stall": {
      # The step in which the save starts, with the call itself.
      "first_step": float(np.median(saving[:, 0])) / median - 1,
      "slowest_later_step": stall(lambda row: max(row[1:])),
      "mean_of_all_steps": stall(np.mean),
    },
  }
