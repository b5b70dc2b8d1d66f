"""A run: what its parts share, its state, and its position in the data."""

import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections

from vgsgan import (
  checkpoints,
  data,
  jsonfiles,
  logbook,
  mesh,
  preemption,
  tasks,
)
from vgsgan.data import pipeline
from vgsgan.errors import UserError
from vgsgan.state import TrainState
from vgsgan.tasks import keys


@dataclasses.dataclass
class Run:
  """What the parts of one run share."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  task: tasks.Task
  splits: dict[str, Any]
  mesh: Any
  log: logbook.Logbook
  saved: checkpoints.Checkpoints
  stop: preemption.Preemption

  def position(self, step: int) -> dict[str, Any]:
    """The pipeline's position after `step` batches, as it is saved."""
    return {
      "examples": step * self.config.train.batch,
      "seed": self.config.seed,
      "data": data.identity(self.config.data),
      "prepared": data.prepared(self.splits["train"]),
    }

  def record_ids(self, step: int) -> list[str]:
    """The records of the global batch that made `step`."""
    batch, records = self.config.train.batch, self.splits["train"]
    positions = range((step - 1) * batch, step * batch)
    n, seed = len(records), self.config.seed
    rows = [pipeline.record_at(p, n, seed) for p in positions]
    return [str(records[row]["id"], "utf8") for row in rows]

  def due(self, step: int, every: int) -> bool:
    """Whether a duty of every so many steps falls on this one; 0 is never."""
    last = step == self.config.train.steps
    return last or (every > 0 and step % every == 0)


def fresh(this: Run) -> TrainState:
  """The state before the first step; to be traced, not run as it is."""
  return this.task.init(keys.of(this.config.seed, "init"))


def abstract_state(this: Run) -> TrainState:
  """Shapes and places of the state, without computing it."""
  shapes = jax.eval_shape(lambda: fresh(this))
  return mesh.abstract(shapes, this.mesh)


def require_same(this: Run, step: int, meta: dict[str, Any], name: str) -> None:
  """Refuses a checkpoint of other data, or of another order of it."""
  now = {name: this.position(step)[name]}
  was = {name: meta.get(name, now[name])}  # Runs of before have not all.
  for line in jsonfiles.differences(was, now):
    raise UserError(
      f"the checkpoint of step {step} has another {line}; use the config of "
      f"{this.workdir}/config.json or another --workdir"
    )
