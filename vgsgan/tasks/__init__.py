"""Tasks: one file a system, all of the same shape.

A task's module has `build(config, mesh, splits) -> Task`. The trainer alone
jits, shards, donates, saves and logs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from vgsgan.data import pipeline
from vgsgan.options import check_one_of
from vgsgan.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

TASKS = ("grounding",)


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
  """

  transform: pipeline.Transform
  init: Callable[[jax.Array], TrainState]
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  evaluate: Callable[[TrainState, str, Callable[[], None]], dict[str, Any]]
  select: Callable[[dict[str, Any]], float]
  selection: str


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, pipeline.Records],
) -> Task:
  """The task that `config.task` names."""
  check_one_of("task", config.task, TASKS)
  from vgsgan.tasks import grounding

  return grounding.build(config, mesh, splits)
