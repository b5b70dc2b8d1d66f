"""Checkpoints: written in the background, checked when they are read.

Orbax writes the arrays and keeps the processes together. Added to it here:

- threads of low priority save a copy on the devices, while training goes on;
- a record beside the arrays (JSON: the caller's `meta`, the score, and each
  array's shape, dtype and CRC-32), because Orbax reads flipped bytes as
  weights, and names no parameter if the model is another one;
- which checkpoint is the best, read from that record: Orbax's own metrics
  file stops it from opening the folder at all once it is damaged;
- messages a person can act on.

Each step is an ordinary checkpoint. Orbax's `CheckpointManager` reads it, and
its `StandardCheckpointer` reads the folder `STEP/state`, as a tree by names.

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
  drop_orbax_tracebacks,
  everyone,
  on_host,
  read_scores,
  step_aside,
)


class Checkpoints:
  """The checkpoints of one run. Every process makes every call.

  Args:
    folder: where steps are kept, one folder each; made if missing.
    keep: number of the latest steps to keep, besides the best.
    best: the metric that decides the best step; None keeps only the latest.
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
    self._replacing = True  # A killed run may have left a replaced step.
    self._writing: futures.Future | None = None
    self._writer = futures.ThreadPoolExecutor(1, initializer=step_aside)
    self._restorer = reader.Restorer()
    for logger in ("absl", "asyncio"):
      logging.getLogger(logger).addFilter(drop_orbax_tracebacks)
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
          cleanup_tmp_directories=True,  # Killed runs leave half-written ones.
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
    """Lists completely written steps, ascending."""
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
      meta: JSON; further state for going on.
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
      processes.together(),  # If one process fails, all end.
      self._explained(),
      jax.transfer_guard("allow"),
    ):
      # Copies to the host once, for the checksums and for Orbax.
      state = jax.tree.map(on_host, state)
      arrays = describe(state, True)
      record = seal({"meta": meta, "score": score, "arrays": arrays})
      # Not `steps()`: another process may already have moved the folder.
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
        force=True,  # The trainer alone decides when to save.
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
        restored = self._restorer.read(self.folder / str(step), abstract_state)
      except DamagedError as error:
        warn(f"checkpoint {self.folder / str(step)} is damaged: {error}")
        damaged.append(step)
        continue
      # Not earlier: if no step is whole, the next start must fail too, and not
      # find an empty folder and start from step 0.
      for step in damaged:
        self._set_aside("damaged", step)
      return restored
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
        restored = self._restorer.read(self.folder / str(step), abstract_state)
        return (step, *restored)
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
    """Waits until all saves are on disk.

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
    """Waits, then ends Orbax's threads."""
    # Closing Orbax may raise a second error about a full disk.
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
    """Finishes a replacement, see `folders.settle`."""
    if not self._replacing:
      return
    if jax.process_index() == 0:
      folders.settle(self.folder)
    agree("settled replaced checkpoints")
    self._replacing = False

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns errors of the file system into one line for the user."""
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
