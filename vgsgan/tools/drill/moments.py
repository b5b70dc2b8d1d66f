"""A drill: its random moment, the next start, and the checks after it."""

import dataclasses
import pathlib
import random
import time
from collections.abc import Callable
from typing import Any

from vgsgan.tools.drill import compare, runs
from vgsgan.tools.drill.runs import FailedError, Place, Start

Facts = dict[str, Any]
# Steps that may be done again: a save ends some steps after it began.
_AGAIN = 2 * runs.SAVE_EVERY
_BREATH = 0.3  # Seconds, about one or two steps.


@dataclasses.dataclass
class Drill:
  """One drill.

  Attributes:
    place: the run's folder and command.
    chance: random numbers for its moment.
    undisturbed: number of processes -> workdir of the run to compare with.
  """

  place: Place
  chance: random.Random
  undisturbed: Callable[[int], pathlib.Path]

  @property
  def workdir(self) -> pathlib.Path:
    return self.place.workdir

  def training(self, start: Start, first: int = 0) -> None:
    """Waits for a random moment of training, from step `first` on."""
    step = self.chance.randrange(first, runs.STEPS)
    if step:
      start.until(lambda: runs.reached(self.workdir) >= step)
    else:
      words = ("opening", "restoring", "initialising", "compiling")
      word = self.chance.choice(words)
      start.until(lambda: word in start.output())
    time.sleep(self.chance.uniform(0, _BREATH))

  def evaluating(self, start: Start) -> None:
    """Waits for a random moment of one of the evaluations."""
    number = self.chance.randint(1, runs.STEPS // runs.EVAL_EVERY + 2)
    begun = "evaluating on "
    start.until(
      lambda: (
        sum(
          line.startswith(begun) and line.endswith("...")
          for line in start.output().splitlines()
        )
        >= number
      )
    )
    time.sleep(self.chance.uniform(0, _BREATH))

  def saving(self, start: Start) -> None:
    """Waits for a random moment of a save that runs in the background."""
    step = self.chance.randrange(1, runs.STEPS + 1)
    start.until(lambda: max(runs.unfinished(self.workdir), default=0) >= step)
    time.sleep(self.chance.uniform(0, 0.02))

  def again(self, start: Start, **how: int) -> Facts:
    """Runs the same command to the end; checks the step it resumes from."""
    on_disk, reached = runs.complete(self.workdir), runs.reached(self.workdir)
    newest = max(on_disk, default=0)
    last = max(start.completed, default=0)
    if newest < last:
      raise FailedError(f"step {last} is lost: {on_disk} are there")
    with Start(self.place, **how) as second:
      second_codes = second.ended()
    if any(second_codes):
      raise FailedError(f"the next start left with {second_codes}")
    if second.resumed() < newest:
      raise FailedError(f"went on from {second.resumed()}, not from {newest}")
    redone = max(0, reached - second.resumed())
    if redone > _AGAIN:
      raise FailedError(f"{redone} steps were done again")
    return {"resumed": second.resumed(), "redone": redone}

  def same(self, processes: int = 1) -> None:
    compare.require_equal(self.workdir, self.undisturbed(processes))
