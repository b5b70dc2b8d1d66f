"""Checkpoints: written in the background, checked when they are read.

Orbax writes the arrays and keeps the processes together. Added to it here:

- all that it does for a save is done beside the training, of a copy on the
  devices, by threads that let the training go first;
- a record beside the arrays (JSON: the caller's `meta`, the score, and each
  array's shape, dtype and CRC-32), because Orbax takes flipped bytes for
  weights, and names no parameter when the model is another one;
- which checkpoint is the best, read from that record: Orbax's own metrics
  file stops it from opening the folder at all once it is damaged;
- messages a person can act on.

Each step is an ordinary checkpoint: Orbax's `CheckpointManager` reads it, or
its `StandardCheckpointer` the folder `STEP/state`, as a tree by names.

The folder must be one that every process sees, in a file system that can
rename; buckets are used through a mount.
"""

import contextlib
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, SupportsFloat

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from vgsgan.common.errors import UserError
from vgsgan.parallel import processes
from vgsgan.train.checkpoints import folders, reader
from vgsgan.train.checkpoints.integrity import (
  DamagedError,
  describe,
  refusal,
  seal,
)
from vgsgan.train.checkpoints.writing import (
  KeepBest,
  Manager,
  agree,
  copy,
  everyone,
  not_raised_again,
  on_host,
  read_scores,
  step_aside,
)


class Checkpoints:
  """The checkpoints of one run. Every process makes every call.

  Args:
    folder: where steps are kept, one folder each; made if missing.
    keep: how many of the latest steps to keep, besides the best.
    best: the metric that says which step is best; None keeps only the latest.
    larger_is_better: False for losses and ranks.

  Raises:
    UserError: the folder cannot be made or written.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    keep: int = 2,
    best: str | None = None,
    larger_is_better: bool = True,
  ):
    self.folder = pathlib.Path(folder).absolute()
    self._best = best
    self._sign = 1.0 if larger_is_better else -1.0
    self._replacing = True  # a run killed while replacing may have left one
    self._writing: futures.Future | None = None
    self._writer = futures.ThreadPoolExecutor(1, initializer=step_aside)
    self._restorer = reader.Restorer()
    for logger in ("absl", "asyncio"):
      logging.getLogger(logger).addFilter(not_raised_again)
    policies = ocp.checkpoint_managers
    with self._explained():
      self.folder.mkdir(parents=True, exist_ok=True)
      self._settle()
      self._scored = KeepBest(
        read_scores(self.folder, self.steps(), self._sign)
      )
      self._manager = Manager(
        self.folder,
        options=ocp.CheckpointManagerOptions(
          create=False,
          cleanup_tmp_directories=True,  # half-written ones of a killed run
          # Opening reads nothing of a step that may be damaged.
          lightweight_initialize=True,
          preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(keep), self._scored]
          ),
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            active_processes=everyone()
          ),
        ),
      )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc: Any) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Steps written completely, ascending. Orbax renames a step when whole."""
    return folders.steps(self.folder)

  def latest_step(self) -> int | None:
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """The step with the best score, None before the first evaluation.

    Waits for a save under way, which may be better and end the best so far.
    """
    self.wait()
    return self._scored.best(self.steps())

  def save(
    self,
    step: int,
    state: Any,
    meta: Mapping[str, Any],
    metrics: Mapping[str, SupportsFloat] | None = None,
  ) -> None:
    """Starts to save a copy of the state.

    A step may be saved again, say with metrics after its evaluation: the old
    one stays on disk until the new one is whole.

    Args:
      step: the number of updates behind the state.
      state: a tree of sharded arrays; may be donated when this returns.
      meta: JSON; what else is needed to go on.
      metrics: holds the metric `best`; None if the step is not evaluated.

    Raises:
      UserError: the save before this one could not be written, or the metrics
        hold no `best`.
    """
    score = self._score(metrics)
    self.wait()
    self._writing = self._writer.submit(
      self._write, step, copy(state), meta, score
    )

  def _write(
    self,
    step: int,
    state: Any,
    meta: Mapping[str, Any],
    score: float | None,
  ) -> None:
    with (
      processes.together(),  # Of several, all hear of it at once.
      self._explained(),
      jax.transfer_guard("allow"),
    ):
      # On the host once, for the checksums and for Orbax.
      state = jax.tree.map(on_host, state)
      arrays = describe(state, True)
      record = seal({"meta": meta, "score": score, "arrays": arrays})
      # Not `steps()`: a process that looked late would find it already gone.
      if step in self._manager.all_steps():
        self._set_aside("replaced", step)
        self._replacing = True
      self._scored.scores.pop(step, None)
      if score is not None:
        self._scored.scores[step] = self._sign * score
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(record)
        ),
        force=True,  # when to save is the trainer's decision alone
      )

  def restore_latest(
    self,
    abstract_state: Any,
    warn: Callable[[str], Any] = absl_logging.warning,
  ) -> tuple[Any, Any] | None:
    """Reads the newest checkpoint that is whole.

    Damaged ones that are newer are reported and moved to `damaged/`, so that
    their steps can be saved again.

    Args:
      abstract_state: a tree of `jax.ShapeDtypeStruct` with shardings, of this
        run's devices, which need not be those of the run that saved.
      warn: called with one line for each damaged checkpoint.

    Returns:
      (state, meta), or None if there is no checkpoint.

    Raises:
      UserError: none is whole, or the newest whole one is of another model.
    """
    self.wait()
    processes.require_same(
      self.latest_step() or 0,
      f"the newest checkpoint in {self.folder}",
      "the folder must be one that all of them share",
    )
    damaged = []
    for step in reversed(self.steps()):
      try:
        found = self._restorer.read(self.folder / str(step), abstract_state)
      except DamagedError as error:
        warn(f"checkpoint {self.folder / str(step)} is damaged: {error}")
        damaged.append(step)
        continue
      # Only now: if none is whole, the next start must fail as well rather
      # than find an empty folder and begin anew.
      for step in damaged:
        self._set_aside("damaged", step)
      return found
    if damaged:
      raise UserError(
        f"every checkpoint in {self.folder} is damaged (steps"
        f" {sorted(damaged)}); put back a copy, or give another --workdir to"
        " start anew"
      )
    return None

  def restore_best(
    self,
    abstract_state: Any,
    warn: Callable[[str], Any] = absl_logging.warning,
  ) -> tuple[int, Any, Any] | None:
    """Reads the best checkpoint that is whole; see `restore_latest`.

    Returns:
      (step, state, meta), or None if no whole checkpoint is evaluated.
    """
    while (step := self.best_step()) is not None:
      try:
        found = self._restorer.read(self.folder / str(step), abstract_state)
        return (step, *found)
      except DamagedError as error:
        warn(f"checkpoint {self.folder / str(step)} is damaged: {error}")
        self._set_aside("damaged", step)
        self._scored.scores.pop(step)
    return None

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, Any]:
    """Reads one step; see `restore_latest`.

    Raises:
      UserError: it is missing, damaged or of another model.
    """
    self.wait()
    if step not in self.steps():
      raise UserError(
        f"no checkpoint of step {step} in {self.folder};"
        f" there are {self.steps() or 'none'}"
      )
    try:
      return self._restorer.read(self.folder / str(step), abstract_state)
    except DamagedError as error:
      raise UserError(
        f"checkpoint {self.folder / str(step)} is damaged: {error};"
        f" choose another of the steps {self.steps()}"
      ) from error

  def wait(self) -> None:
    """Returns when what was saved is on disk.

    Raises:
      UserError: it could not be written.
    """
    writing, self._writing = self._writing, None
    with processes.waiting("saving"):
      if writing is not None:
        writing.result()
      with self._explained():
        self._manager.wait_until_finished()
        self._settle()

  def close(self) -> None:
    """Waits, then lets go of Orbax's threads."""
    # Orbax may have another complaint of a full disk than that of the wait.
    with self._explained():
      try:
        self.wait()
      finally:
        self._writer.shutdown()
        self._manager.close()
        self._restorer.close()

  def _score(self, metrics: Mapping[str, SupportsFloat] | None) -> float | None:
    if metrics is None or self._best is None:
      return None
    if self._best not in metrics:
      raise UserError(
        f"the best checkpoint is to be chosen by {self._best!r}, which the"
        f" evaluation does not give; choose one of {sorted(metrics)}"
      )
    score = float(metrics[self._best])
    return score if math.isfinite(score) else None

  def _set_aside(self, why: str, step: int) -> None:
    if jax.process_index() == 0:
      folders.set_aside(self.folder, why, step)
    agree(f"set aside {why} {step}")
    self._manager.reload()

  def _settle(self) -> None:
    """Ends a replacement: drops the old step if the new is whole, or undoes."""
    if not self._replacing:
      return
    if jax.process_index() == 0:
      folders.settle(self.folder)
    agree("settled replaced checkpoints")
    self._replacing = False

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns what the file system refuses into one line for the user."""
    try:
      yield
    except UserError:
      raise
    except Exception as error:
      reason = refusal(error)
      if reason is None:
        raise
      with contextlib.suppress(OSError):
        if jax.process_index() == 0:
          folders.settle(self.folder)
      steps = self.steps() if self.folder.is_dir() else []
      last = f"step {steps[-1]}" if steps else "none"
      raise UserError(
        f"cannot save a checkpoint in {self.folder}: {reason}; the last good"
        f" checkpoint is {last}; mend this (free some space?) and start again"
      ) from error
