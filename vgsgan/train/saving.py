"""Saves the state of a run: when due, and whenever the loop ends."""

import contextlib
from typing import Any, NoReturn

import jax
import numpy as np

from vgsgan.common.errors import UserError
from vgsgan.parallel import preemption
from vgsgan.train import evaluation
from vgsgan.train.runs import Run
from vgsgan.train.state import TrainState
from vgsgan.train.task import Metrics


class NonFiniteError(UserError):
  """The loss or the gradient became infinite or not a number."""


def check_finite(run: Run, step: int, metrics: Metrics) -> None:
  """Stops a run whose loss or gradient is not finite, before it is saved.

  The gradient's update is already in the state, while the loss shows it only at
  the next step: so both are checked.

  Raises:
    NonFiniteError: one is not finite; a file names the records of the batch.
  """
  figures = {
    k: float(jax.device_get(metrics[k])) for k in ("loss", "grad_norm")
  }
  if all(map(np.isfinite, figures.values())):
    return
  run.saved.wait()
  ids = run.record_ids(step)
  path = run.workdir / f"nonfinite-{step}.json"
  run.log.write_json(path, {"step": step, **figures, "records": ids})
  good = run.saved.latest_step()
  raise NonFiniteError(
    f"at step {step} the loss is {figures['loss']} and the gradient's norm "
    f"{figures['grad_norm']}; last good checkpoint: "
    f"{'none' if good is None else f'step {good}'} in {run.saved.folder}; "
    f"the batch's records are in {path} ({ids[0]}, ...)"
  )


def save(
  run: Run,
  state: TrainState,
  step: int,
  evaluated: bool,
  results: dict[str, Any] | None = None,
) -> None:
  """Starts to save the state, with its results on validation if it has any."""
  meta = {"evaluated": bool(evaluated), **run.position(step)}
  metrics = None
  if results is not None:
    meta["validation"] = evaluation.to_record(run, results)
    metrics = {"selection": run.task.select(results)}
  run.saved.save(step, state, meta, metrics)


def save_once(run: Run, state: TrainState, step: int) -> None:
  """Saves the state unless its step is saved, and waits until it is on disk."""
  run.saved.wait()  # A save in progress does not count as the latest step yet.
  if run.saved.latest_step() != step:
    save(run, state, step, evaluated=True)
    run.saved.wait()


def leave(run: Run, state: TrainState, step: int, evaluated: bool) -> NoReturn:
  """Saves the state and leaves the loop.

  Args:
    run: the run.
    state: after `step` updates.
    step: the number of updates.
    evaluated: False if an evaluation was due; the next start catches up on it.

  Raises:
    Interrupted: always.
  """
  with run.log.status("saving"):
    save(run, state, step, evaluated)
    run.saved.wait()
  raise preemption.Interrupted(f"saved step {step}")


def evaluate_and_save(run: Run, state: TrainState, step: int) -> None:
  """Evaluates on validation and saves the results with the state.

  Raises:
    Interrupted: the run was asked to leave; the state is saved.
  """
  try:
    results = evaluation.validate(run, state, step)
  except preemption.Interrupted:
    leave(run, state, step, evaluated=False)
  except Exception:
    # Keep the steps since the last save. A save needs all processes, and the
    # others may be elsewhere.
    if jax.process_count() == 1:
      with contextlib.suppress(UserError, jax.errors.JaxRuntimeError):
        save(run, state, step, evaluated=False)
        run.saved.wait()
    raise
  save(run, state, step, evaluated=True, results=results)
