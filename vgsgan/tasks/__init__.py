"""Tasks: one file a system, all of the same shape.

A task's module has `build(config, mesh, splits) -> Task`. The trainer alone
jits, shards, donates, saves and logs.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan.data import pipeline
from vgsgan.options import check_one_of
from vgsgan.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

TASKS = ("grounding", "gan", "recognition")


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
    pictures: state -> uint8 pictures [h, w, 3] by name, kept in the workdir
      whenever validation is evaluated; None where there is nothing to look at.
  """

  transform: pipeline.Transform
  init: Callable[[jax.Array], TrainState]
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  evaluate: Callable[[TrainState, str, Callable[[], None]], dict[str, Any]]
  select: Callable[[dict[str, Any]], float]
  selection: str
  pictures: Callable[[TrainState], dict[str, np.ndarray]] | None = None


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, pipeline.Records],
) -> Task:
  """The task that `config.task` names."""
  check_one_of("task", config.task, TASKS)
  module = importlib.import_module(f"vgsgan.tasks.{config.task}")
  return module.build(config, mesh, splits)
