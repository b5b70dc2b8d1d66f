"""The interface between a system and the training loop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vgsgan.data import pipeline
from vgsgan.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Poll = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Task:
  """What a system is, to the trainer.

  Attributes:
    transform: makes a training example of a record.
    init: `key -> TrainState`, pure.
    step: `(state, batch) -> (state, metrics)`, pure; `metrics` has `loss` and
      `grad_norm`, which must stay finite, and what else is to be logged.
    evaluate: `(state, split, poll) -> results`: nested dict of figures, each
      with its chance. Calls `poll()` at every batch, which raises to leave.
    select: results of `validation` -> the figure that chooses the best
      checkpoint; larger is better.
    selection: that figure in words.
    later: updates that take over from `step` once so many have been made.
    between: `(state, updates made, poll) -> state`, called before each update,
      for what is computed from more than a batch now and then; it must depend
      on its arguments alone.
    pictures: state -> uint8 pictures [h, w, 3] by name, kept in the workdir
      whenever validation is evaluated; None where there is nothing to look at.
  """

  transform: pipeline.Transform
  init: Callable[[jax.Array], TrainState]
  step: Step
  evaluate: Callable[[TrainState, str, Poll], dict[str, Any]]
  select: Callable[[dict[str, Any]], float]
  selection: str
  later: Mapping[int, Step] = dataclasses.field(default_factory=dict)
  between: Callable[[TrainState, int, Poll], TrainState] | None = None
  pictures: Callable[[TrainState], dict[str, np.ndarray]] | None = None

  def step_at(self, step: int) -> Step:
    """The update that comes after so many."""
    started = [first for first in self.later if first <= step]
    return self.later[max(started)] if started else self.step
