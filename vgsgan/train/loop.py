"""The training loop: restore, step, log, evaluate, save, leave when asked.

A step's duties have a fixed order, so that an interrupted run equals an
uninterrupted one:

1. update;
2. check that the loss is finite, before anything is written;
3. log;
4. evaluate;
5. save, with the results of the evaluation. A run that leaves before a due
   evaluation notes it in the checkpoint, and the next start evaluates first.
"""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from vgsgan import data
from vgsgan.common import memory
from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data import pipeline
from vgsgan.data.records import Records
from vgsgan.kernels import convolution
from vgsgan.parallel import mesh, preemption, processes
from vgsgan.train import evaluation, logbook, workdirs
from vgsgan.train.checkpoints import manager
from vgsgan.train.runs import (
  Run,
  abstract_state,
  fresh,
  require_run,
  require_same,
)
from vgsgan.train.saving import (
  check_finite,
  evaluate_and_save,
  leave,
  save,
  save_once,
)
from vgsgan.train.state import TrainState
from vgsgan.train.step import compile_step, shardings_of
from vgsgan.train.task import Batch, Metrics, Task

TRANSFER_GUARDS = ("allow", "log", "disallow")

Build = Callable[[ml_collections.ConfigDict, Mesh, dict[str, Records]], Task]

_param_norm = jax.jit(optax.global_norm)


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  mode: str,
  build: Build,
) -> int:
  """Trains and evaluates, or evaluates only.

  Args:
    config: of a task that `build` knows, already checked.
    workdir: folder of the run; a run that is there goes on.
    mode: `train` or `eval`.
    build: makes the task from the config, the devices and the splits.

  Returns:
    The exit status: 0, or 128 plus the number of the signal that ended it.
  """
  devices = check(config, mode)
  require_run(workdir, config, mode)
  first = processes.first()
  with logbook.Logbook(workdir, enabled=first) as log, workdirs.alone(workdir):
    log.info(mesh.described(devices))
    with log.status("opening the data set", processes.PREPARE_SECONDS):
      splits = data.load(config.data)
      processes.meet("opened the data set")
    processes.require_same(*convolution.kind())
    task = build(config, devices, splits)
    saved = manager.Checkpoints(
      workdir / "checkpoints",
      keep=config.train.keep,
      best="selection",
    )
    stop = preemption.Preemption()
    current = Run(config, workdir, task, splits, devices, log, saved, stop)
    try:
      with (
        processes.together(preemption.Interrupted),
        jax.transfer_guard(config.transfer_guard),
        memory.explain_oom(memory.TRAINING),
      ):
        if mode == "train":
          train(current)
        evaluation.finish(current, anew=mode == "eval")
    except preemption.Interrupted as left:
      log.warn(f"{left}; the same command goes on from here")
      return stop.exit_code
    finally:
      saved.close()
      stop.uninstall()
  return 0


def check(config: ml_collections.ConfigDict, mode: str) -> Mesh:
  """Makes the mesh of a run and checks the config against it.

  This comes before data are prepared or anything is compiled.

  Raises:
    UserError: a field of the config does not fit the devices.
  """
  check_one_of("transfer_guard", config.transfer_guard, TRANSFER_GUARDS)
  devices = mesh.make_mesh(model=config.mesh.model)
  if mode == "train":
    parts = config.train.accumulate
    mesh.check_batch(config.train.batch, devices, "train.batch", parts)
  mesh.check_batch(config.eval.batch, devices, "eval.batch")
  return devices


def train(run: Run) -> None:
  """Trains up to `config.train.steps`."""
  config = run.config
  state, meta = restore(run)
  step = int(jax.device_get(state.step))
  workdirs.keep_config(run.workdir, config, run.log)
  run.log.rewind(step)
  ended = step >= config.train.steps
  if not meta["evaluated"] or (ended and run.saved.best_step() is None):
    evaluate_and_save(run, state, step)
  if ended:
    return
  stream = pipeline.TrainStream(
    run.splits["train"],
    run.task.transform,
    config.train.batch,
    mesh.local_rows(config.train.batch),
    config.seed,
    meta["examples"],
    config.train.steps - step,
  )
  workers, threads = config.data.num_workers, config.data.num_threads
  with contextlib.closing(pipeline.batches(stream, workers, threads)) as host:
    take_steps(run, state, step, pipeline.DeviceBatches(host, run.mesh))


def restore(run: Run) -> tuple[TrainState, dict[str, Any]]:
  """Restores the newest good checkpoint and its record, or a fresh state."""
  with run.log.status("restoring"):
    restored = run.saved.restore_latest(abstract_state(run), run.log.warn)
  if restored is None:
    with run.log.status("initialising"):
      shardings = shardings_of(abstract_state(run))
      init = jax.jit(lambda: fresh(run), out_shardings=shardings)
      return init(), {"evaluated": True, **run.position(0)}
  state, meta = restored
  step = int(jax.device_get(state.step))
  require_same(run, step, meta)
  run.log.info(f"going on from step {step}")
  return state, meta


def take_steps(
  run: Run, state: TrainState, step: int, batches: pipeline.DeviceBatches
) -> None:
  """Trains from `step` to the last step, with the batches that follow it."""
  with run.log.status("reading the first batch"):
    batch = batches.next(None)
  update = compile_step(run, state, batch, step)
  run.stop.install()  # Until here, leaving at once loses nothing.
  clock, unchecked = pipeline.Timer(batches), None
  phases = {first for first in run.task.phases if first > step}
  with run.log.bar("train", step, run.config.train.steps) as bar:
    while True:
      if step in phases:
        update = compile_step(run, state, batch, step)
        clock.reset(step)
      state = between(run, state, step)

      # --- step
      processes.moved("training")
      state, metrics = update(state, batch)
      step += 1

      # --- check, a step late: the host never waits for the step in flight
      if unchecked:
        check_finite(run, *unchecked)
      unchecked = (step, metrics)
      due = run.due(step)
      if any(due):
        check_finite(run, *unchecked)

      # --- log, evaluate, save, leave
      if due.log:
        log_step(run, state, step, metrics, clock)
      bar.update(step)
      if due.leave:
        leave(run, state, step, evaluated=not due.evaluate)
      elif due.evaluate:
        evaluate_and_save(run, state, step)
      elif due.save:
        save(run, state, step, evaluated=True)
      if step == run.config.train.steps:
        return

      # --- next batch
      if due.evaluate or due.save:
        clock.reset(step)
      batch = next_batch(run, batches, state, step, metrics)


def between(run: Run, state: TrainState, step: int) -> TrainState:
  """Calls the task's `between`, which may change the state, if it has one."""
  if not run.task.between:
    return state
  try:
    with jax.set_mesh(run.mesh):
      changed = run.task.between(state, step, run.stop.check)
    if changed is state:
      return state
    return jax.jit(lambda x: x, out_shardings=shardings_of(state))(changed)
  except preemption.Interrupted:
    save_once(run, state, step)
    raise preemption.Interrupted(f"saved step {step}") from None


def log_step(
  run: Run,
  state: TrainState,
  step: int,
  metrics: Metrics,
  clock: pipeline.Timer,
) -> None:
  """Writes a step's metrics, the norm of its parameters and the times."""
  # Outside the update: inside, XLA would copy all parameters.
  metrics = metrics | {"param_norm": _param_norm(state.params)}
  figures = {k: float(v) for k, v in jax.device_get(metrics).items()}
  times = clock.read(step, run.config.train.batch)
  run.log.write(step, "train", figures | times)


def next_batch(
  run: Run,
  batches: pipeline.DeviceBatches,
  state: TrainState,
  step: int,
  metrics: Metrics,
) -> Batch:
  """Reads the next batch; saves the state if the data cannot be read."""
  try:
    return batches.next(metrics["loss"])
  except UserError:
    # A save needs all processes, and the others may be elsewhere.
    if jax.process_count() == 1:
      check_finite(run, step, metrics)
      save_once(run, state, step)
    raise
