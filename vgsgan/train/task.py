"""The interface between a system and the training loop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vgsgan.data.records import Transform
from vgsgan.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Poll = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Task:
  """The interface between a task and the loop.

  Attributes:
    transform: makes a training example from a record.
    init: `key -> TrainState`, pure.
    step: `(state, batch) -> (state, metrics)`, pure; `metrics` has `loss` and
      `grad_norm`, which must stay finite, and other figures to log.
    evaluate: `(state, split, poll) -> results`: nested dict of figures, each
      with its chance. Calls `poll()` at every batch, which raises to leave.
    select: results of `validation` -> the figure that chooses the best
      checkpoint; larger is better.
    selection: that figure in words.
    phases: updates that replace `step`, by the step after which each begins.
    between: `(state, updates made, poll) -> state`, called before each update,
      for work that needs more than a batch; it must depend on its arguments
      alone.
    images: state -> uint8 images [h, w, 3] by name, written to the workdir at
      each evaluation on validation; None if the task has none.
  """

  transform: Transform
  init: Callable[[jax.Array], TrainState]
  step: Step
  evaluate: Callable[[TrainState, str, Poll], dict[str, Any]]
  select: Callable[[dict[str, Any]], float]
  selection: str
  phases: Mapping[int, Step] = dataclasses.field(default_factory=dict)
  between: Callable[[TrainState, int, Poll], TrainState] | None = None
  images: Callable[[TrainState], dict[str, np.ndarray]] | None = None

  def step_after(self, step: int) -> Step:
    """The update that follows `step` updates."""
    started = [first for first in self.phases if first <= step]
    return self.phases[max(started)] if started else self.step
