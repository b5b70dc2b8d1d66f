"""A run: its shared parts, its state, and its position in the data."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from vgsgan import data
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.data import pipeline
from vgsgan.data.records import prepared_names
from vgsgan.parallel import mesh, preemption
from vgsgan.train import keys, logbook, workdirs
from vgsgan.train.checkpoints import folders, integrity, manager
from vgsgan.train.state import TrainState
from vgsgan.train.task import Task


class Due(NamedTuple):
  """The duties after a step."""

  log: bool
  evaluate: bool
  save: bool
  leave: bool


@dataclasses.dataclass
class Run:
  """State shared by the loop, the evaluation and the checkpoints of a run."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  task: Task
  splits: dict[str, Any]
  mesh: Any
  log: logbook.Logbook
  saved: manager.Checkpoints
  stop: preemption.Preemption

  def position(self, step: int) -> dict[str, Any]:
    """The pipeline's position after `step` batches, as a checkpoint has it."""
    prepared = prepared_names(self.splits["train"])
    return configured(self.config, step) | {"prepared": prepared}

  def record_ids(self, step: int) -> list[str]:
    """The ids of the records in the global batch of update `step`."""
    batch, records = self.config.train.batch, self.splits["train"]
    positions = range((step - 1) * batch, step * batch)
    n, seed = len(records), self.config.seed
    rows = [pipeline.record_at(p, n, seed) for p in positions]
    return [str(records[row]["id"], "utf8") for row in rows]

  def due(self, step: int) -> Due:
    """The duties after a step; all but leaving are due after the last one."""
    every, last = self.config.train, step == self.config.train.steps

    def falls(steps: int) -> bool:
      return last or (steps > 0 and step % steps == 0)

    return Due(
      log=falls(every.log_every),
      evaluate=falls(every.eval_every),
      save=falls(every.save_every),
      leave=self.stop.reached(),
    )


def fresh(run: Run) -> TrainState:
  """The state before the first step; call it under `jax.jit`."""
  return run.task.init(keys.of(run.config.seed, "init"))


def abstract_state(run: Run) -> TrainState:
  """Shapes, dtypes and shardings of the state, without computing it."""
  shapes = jax.eval_shape(lambda: fresh(run))
  return mesh.abstract(shapes, run.mesh)


def configured(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
  """The part of the position after `step` batches that the config sets."""
  return {
    "examples": step * config.train.batch,
    "seed": config.seed,
    "data": data.identity(config.data),
  }


def require_same(
  run: Run,
  step: int,
  meta: dict[str, Any],
  names: Sequence[str] = ("examples", "seed", "data", "prepared"),
) -> None:
  """Raises UserError if a checkpoint has other data, or another order."""
  now = run.position(step)
  _require(run.workdir, step, meta, {name: now[name] for name in names})


def require_run(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, mode: str
) -> None:
  """Raises UserError if a folder has another run, before data are prepared.

  This compares configs; `require_same` compares the data as well.

  Args:
    workdir: folder of the run, which need not exist.
    config: of this start.
    mode: `train`, or `eval`, which ignores the order of training data.
  """
  if not (workdir / "config.json").exists():
    return
  task = workdirs.read_config(workdir).get("task", config.task)
  if task != config.task:
    raise UserError(
      f"{workdir} has a run of {task!r}, and this config is of "
      f"{config.task!r}: use another --workdir"
    )
  for step in reversed(folders.steps(workdir / "checkpoints")):
    # `restore_latest` reports a damaged checkpoint and sets it aside.
    with contextlib.suppress(integrity.DamagedError):
      meta = integrity.read_record(workdir / "checkpoints" / str(step))["meta"]
      now = configured(config, step)
      names = now if mode == "train" else ("data",)
      _require(workdir, step, meta, {name: now[name] for name in names})
      return


def _require(
  workdir: pathlib.Path,
  step: int,
  meta: dict[str, Any],
  now: dict[str, Any],
) -> None:
  """Raises UserError if a checkpoint's position differs from `now`."""
  if now.keys() - meta.keys():
    raise UserError(
      f"{workdir} has a run of an earlier version of vgsgan, which this one "
      "cannot go on with: use another --workdir"
    )
  was = {name: meta[name] for name in now}
  for line in jsonfiles.differences(was, now):
    if line.startswith("examples:"):
      batch = was["examples"] / max(step, 1)
      line = f"train.batch: {batch:g} -> {now['examples'] // max(step, 1)}"
    raise UserError(
      f"the checkpoint of step {step} has another {line}; use the config of "
      f"{workdir}/config.json or another --workdir"
    )
