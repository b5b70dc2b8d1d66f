"""Tasks: one file a system, all of the same shape.

A task's module has `build(config, mesh, splits) -> Task`; `NEEDS`, the sections
and fields of a config that it reads; and `check(config)`, which refuses what it
cannot be made of. The trainer alone jits, shards, donates, saves and logs.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan import data
from vgsgan.common import ranges
from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data import pipeline
from vgsgan.train import forward
from vgsgan.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Poll = Callable[[], None]

# By name, a config to start from.
TASKS = {
  "grounding": "configs/stamps.py",
  "drawing": "configs/quickstart.py",
  "gan": "configs/scenes_gan.py",
  "recognition": "configs/recogniser.py",
  "inversion": "configs/inversion.py",
  "correspondence": "configs/correspondence.py",
  "classification": "configs/classification.py",
  "generation": "configs/generation.py",
  "idea": "configs/generation.py:idea-vae-gan",
}
# What all of them need.
_NEEDS = (
  "seed",
  "transfer_guard",
  "mesh",
  "train",
  "eval.batch",
  "data.dataset",
  "data.num_workers",
  "data.num_threads",
)


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


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what no task can be made of, before data are read for it.

  Raises:
    UserError: as of `check_fields`, or a name is unknown, or fields contradict
      each other.
  """
  check_fields(config)
  forward.check(config.train)
  data.check(config.data)
  _module(config).check(config)


def check_fields(config: ml_collections.ConfigDict) -> None:
  """Refuses a config that is none of a task.

  Raises:
    UserError: it lacks a field, or one of them is out of its range.
  """
  ranges.require(config, ("task",), "{field} is missing: name a task")
  ranges.check(config)
  check_one_of("task", config.task, tuple(TASKS))
  ranges.require(
    config,
    needs(config),
    f"config.task={config.task!r} needs {{field}}, which this config has not: "
    f"start from {TASKS[config.task]}",
  )


def needs(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Sections and fields, dotted, that the task of a config reads."""
  return (*_NEEDS, *_module(config).NEEDS)


def check_batch(config: ml_collections.ConfigDict) -> None:
  """Refuses a batch of one pair, which has no other to be told from."""
  if config.train.batch < 2:
    raise UserError(
      f"config.train.batch={config.train.batch} must be 2 at least: a pair is "
      "told from the others of its batch"
    )


def _module(config: ml_collections.ConfigDict) -> Any:
  return importlib.import_module(f"vgsgan.tasks.{config.task}")


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, pipeline.Records],
) -> Task:
  """The task that `config.task` names; raises as `check` does.

  Batches of evaluation are no larger than what is evaluated.
  """
  check(config)
  config = config.copy_and_resolve_references()
  config.eval.batch = min(
    config.eval.batch, _most_evaluated(config, mesh, splits)
  )
  return _module(config).build(config, mesh, splits)


def _most_evaluated(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, pipeline.Records],
) -> int:
  """Rows of the largest split that is evaluated, for every device as many."""
  rows = [len(split) for name, split in splits.items() if name != "train"]
  rows.append(config.eval.get("samples", 1))
  return -(-max(rows) // mesh.size) * mesh.size
