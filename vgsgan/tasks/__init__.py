"""Tasks: one module for each system, with the same interface.

A task's module has `build(config, mesh, splits) -> Task`; `NEEDS`, the sections
and fields of a config that it reads; and `check(config)`, which raises
UserError for wrong fields. The loop alone jits, shards, donates, saves and
logs.
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

# A config to start from, by the name of the task.
TASKS = {
  "grounding": "configs/stamps.py",
  "drawing": "configs/solids.py",
  "places": "configs/places.py",
  "gan": "configs/scenes_gan.py",
  "recognition": "configs/recogniser.py",
  "naming": "configs/namer.py",
  "inversion": "configs/inversion.py",
  "correspondence": "configs/correspondence.py",
  "classification": "configs/classification.py",
  "generation": "configs/generation.py",
  "idea": "configs/generation.py:idea-vae-gan",
}
# Fields that every task reads.
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
  """Checks a config, before data are read.

  Raises:
    UserError: a field is missing or out of its range, a name is unknown, or
      fields contradict each other.
  """
  check_fields(config)
  forward.check(config.train)
  data.check(config.data)
  _module(config).check(config)


def check_fields(config: ml_collections.ConfigDict) -> None:
  """Checks that a config has its task's fields, in their ranges.

  Raises:
    UserError: a field is missing or out of its range.
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
  """Reads the config of a run.

  Raises:
    UserError: there is no such run, or its config is not that of a task.
  """
  config = ml_collections.ConfigDict(workdirs.read_config(workdir))
  try:
    check_fields(config)
  except UserError as error:
    raise UserError(f"{workdir / 'config.json'}: {error}") from error
  return config


def needs(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Sections and fields, dotted, that a config's task reads."""
  return (*_NEEDS, *_module(config).NEEDS)


def check_batch(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for a batch of one pair, which has no negatives."""
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
  """Builds the task that `config.task` names; raises what `check` raises.

  Evaluation batches are at most as large as the largest evaluated split.
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
  """Rows of the largest evaluated split, rounded up to full devices."""
  rows = [len(split) for name, split in splits.items() if name != "train"]
  rows.append(config.eval.get("samples", 1))
  return -(-max(rows) // mesh.size) * mesh.size
