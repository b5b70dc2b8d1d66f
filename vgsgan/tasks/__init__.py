"""Tasks: one file a system, all of the same shape.

A task's module has `build(config, mesh, splits) -> Task`; `NEEDS`, the sections
and fields of a config that it reads; and `check(config)`, which refuses what it
cannot be made of. The loop alone jits, shards, donates, saves and logs.
"""

import importlib
import pathlib
from typing import Any

import ml_collections
from jax.sharding import Mesh

from vgsgan import data
from vgsgan.common import ranges
from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data.records import Records
from vgsgan.train import forward, workdirs
from vgsgan.train.task import Task

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


def config_of(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """The config of a run.

  Raises:
    UserError: there is no such run, or its config is none of a run.
  """
  config = ml_collections.ConfigDict(workdirs.read_config(workdir))
  try:
    check_fields(config)
  except UserError as error:
    raise UserError(f"{workdir / 'config.json'}: {error}") from error
  return config


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
  splits: dict[str, Records],
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
  splits: dict[str, Records],
) -> int:
  """Rows of the largest split that is evaluated, for every device as many."""
  rows = [len(split) for name, split in splits.items() if name != "train"]
  rows.append(config.eval.get("samples", 1))
  return -(-max(rows) // mesh.size) * mesh.size
