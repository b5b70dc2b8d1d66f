"""The one loop: restore, step, log, evaluate, save, leave when asked.

The order in which a step's duties are done is what makes an interrupted run
equal an uninterrupted one:

1. update;
2. check that the loss is finite, before anything is kept;
3. log;
4. evaluate;
5. save, with what the evaluation found. A save on the way out, before the
   evaluation that was due, says so, and the evaluation is made up for first.
"""

import contextlib
import functools
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from vgsgan import data, tasks
from vgsgan.common import memory
from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.data import pipeline
from vgsgan.data.clock import Clock
from vgsgan.kernels import onednn_library
from vgsgan.parallel import mesh, preemption, processes
from vgsgan.train import costs, evaluation, forward, logbook, workdirs
from vgsgan.train.checkpoints import manager
from vgsgan.train.runs import (
  Run,
  abstract_state,
  fresh,
  require_run,
  require_same,
)
from vgsgan.train.state import TrainState

TRANSFER_GUARDS = ("allow", "log", "disallow")


class NonFiniteError(UserError):
  """The loss or the gradient became infinite or not a number."""


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, mode: str
) -> int:
  """Trains and evaluates, or evaluates only; returns the exit status."""
  devices = checked(config, mode)
  require_run(workdir, config, mode)
  first = processes.first()
  with logbook.Logbook(workdir, enabled=first) as log, workdirs.alone(workdir):
    log.info(mesh.described(devices))
    with log.status("opening the data set", processes.PREPARE_SECONDS):
      splits = data.load(config.data)
      processes.meet("opened the data set")
    processes.require_same(
      int(onednn_library.ready()),
      "whether oneDNN convolves (0 or 1)",
      "give all of them the extra onednn and a C++ compiler, or none",
    )
    task = tasks.build(config, devices, splits)
    saved = manager.Checkpoints(
      workdir / "checkpoints",
      keep=config.train.keep,
      best="selection",
    )
    stop = preemption.Preemption()
    this = Run(config, workdir, task, splits, devices, log, saved, stop)
    try:
      with (
        processes.together(preemption.Interrupted),
        jax.transfer_guard(config.transfer_guard),
        memory.enough(memory.TRAINING),
      ):
        if mode == "train":
          train(this)
        evaluation.finish(this, anew=mode == "eval")
    except preemption.Interrupted as left:
      log.warn(f"{left}; the same command goes on from here")
      return stop.exit_code
    finally:
      saved.close()
      stop.uninstall()
  return 0


def checked(config: ml_collections.ConfigDict, mode: str) -> Mesh:
  """The devices of a run, once nothing is wrong with its config.

  Before data are prepared or anything is compiled.

  Raises:
    UserError: something is.
  """
  tasks.check(config)
  check_one_of("transfer_guard", config.transfer_guard, TRANSFER_GUARDS)
  devices = mesh.make_mesh(model=config.mesh.model)
  if mode == "train":
    parts = config.train.accumulate
    mesh.check_batch(config.train.batch, devices, "train.batch", parts)
  mesh.check_batch(config.eval.batch, devices, "eval.batch")
  return devices


def start(this: Run) -> tuple[TrainState, dict[str, Any]]:
  """The newest good checkpoint, or a fresh state."""
  with this.log.status("restoring"):
    restored = this.saved.restore_latest(abstract_state(this), this.log.warn)
  if restored is None:
    with this.log.status("initialising"):
      places = places_of(abstract_state(this))
      init = jax.jit(lambda: fresh(this), out_shardings=places)
      return init(), {"evaluated": True, **this.position(0)}
  state, meta = restored
  step = int(jax.device_get(state.step))
  require_same(this, step, meta)
  this.log.info(f"going on from step {step}")
  return state, meta


def train(this: Run) -> None:
  """Trains up to `config.train.steps`."""
  config, log = this.config, this.log
  state, meta = start(this)
  step = int(jax.device_get(state.step))
  workdirs.keep_config(this.workdir, config, log)
  log.rewind(step)
  ended = step >= config.train.steps
  if not meta["evaluated"] or (ended and this.saved.best_step() is None):
    evaluate_and_save(this, state, step)
  if ended:
    return
  stream = pipeline.TrainStream(
    this.splits["train"],
    this.task.transform,
    config.train.batch,
    mesh.local_rows(config.train.batch),
    config.seed,
    meta["examples"],
    config.train.steps - step,
  )
  workers, threads = config.data.num_workers, config.data.num_threads
  with contextlib.closing(pipeline.batches(stream, workers, threads)) as host:
    take_steps(this, state, step, pipeline.DeviceBatches(host, this.mesh))


def take_steps(
  this: Run, state: TrainState, step: int, batches: pipeline.DeviceBatches
) -> None:
  """Trains from `step` on, with the batches that follow it."""
  config, log = this.config, this.log
  with log.status("reading the first batch"):
    batch = batches.next(None)
  update = compile_step(this, state, batch)
  # Not earlier: until here there is nothing that leaving at once would lose.
  this.stop.install()
  param_norm = jax.jit(optax.global_norm)
  clock, began = Clock(batches), step
  pending: tuple[int, tasks.Metrics] | None = None
  with log.bar("train", step, config.train.steps) as bar:
    while True:
      if step in this.task.later and step != began:
        update = compile_step(this, state, batch)
        clock.reset(step)
      state = between(this, state, step)
      processes.moved("training")
      state, metrics = update(state, batch)
      step += 1
      if pending:
        # A step late, so that the host never waits for the step in flight.
        check_finite(this, *pending)
      pending = (step, metrics)
      log_now = this.due(step, config.train.log_every)
      evaluate_now = this.due(step, config.train.eval_every)
      save_now = this.due(step, config.train.save_every)
      leave = this.stop.reached()
      if log_now or evaluate_now or save_now or leave:
        check_finite(this, *pending)
      if log_now:
        # Not in the update, in which XLA would copy all parameters for it.
        metrics = metrics | {"param_norm": param_norm(state.params)}
        figures = {k: float(v) for k, v in jax.device_get(metrics).items()}
        log.write(step, "train", figures | clock.read(step, config.train.batch))
      bar.update(step)
      if evaluate_now and not leave:
        evaluate_and_save(this, state, step)
      elif save_now or leave:
        save(this, state, step, evaluated=not evaluate_now)
      if leave:
        with log.status("saving"):
          this.saved.wait()
        raise preemption.Interrupted(f"saved step {step}")
      if step == config.train.steps:
        break
      if evaluate_now or save_now:
        clock.reset(step)
      batch = next_batch(this, batches, state, step, metrics)


def next_batch(
  this: Run,
  batches: pipeline.DeviceBatches,
  state: TrainState,
  step: int,
  metrics: tasks.Metrics,
) -> tasks.Batch:
  """The next batch; where data cannot be read any more, the step is saved."""
  try:
    return batches.next(metrics["loss"])
  except UserError:
    # Of several processes the others may not be here.
    if jax.process_count() == 1:
      check_finite(this, step, metrics)
      this.saved.wait()
      if this.saved.latest_step() != step:
        save(this, state, step, evaluated=True)
        this.saved.wait()
    raise


def between(this: Run, state: TrainState, step: int) -> TrainState:
  """What the task does between two updates, if it does anything."""
  if not this.task.between:
    return state
  try:
    with jax.set_mesh(this.mesh):
      changed = this.task.between(state, step, this.stop.check)
    if changed is state:
      return state
    return jax.jit(lambda x: x, out_shardings=places_of(state))(changed)
  except preemption.Interrupted:
    this.saved.wait()  # Or what is just being saved would not be found.
    if this.saved.latest_step() != step:
      save(this, state, step, evaluated=True)
    this.saved.wait()
    raise preemption.Interrupted(f"saved step {step}") from None


def places_of(tree: Any) -> Any:
  """Where each array of a tree lies, or is to lie."""
  return jax.tree.map(lambda x: x.sharding, tree)


# No kernels of YNNPACK, which XLA takes for some sums and maxima on CPUs: there
# the larger of NaN and 0 is 0, and a network whose numbers are none would train
# on as if nothing were wrong.
_NAN_STAYS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def _compiler_options(platform: str) -> dict[str, str]:
  """Options of XLA for a step; its versions without YNNPACK need none."""
  if platform != "cpu":
    return {}
  lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), np.float32))
  try:
    lowered.compile(compiler_options=_NAN_STAYS)
  except jax.errors.JaxRuntimeError:  # There is no such option.
    return {}
  return _NAN_STAYS


def jit_step(update: tasks.Step, state: TrainState, devices: Mesh) -> Any:
  """An update, its state donated and its places explicit.

  Args:
    update: to be compiled.
    state: arrays, or shapes, that lie where the new state is to lie.
    devices: of the run.
  """
  places, everywhere = places_of(state), mesh.replicated(devices)

  def placed(state: TrainState, batch: tasks.Batch):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      return update(forward.whole_networks(state), batch)

  return jax.jit(
    placed,
    in_shardings=(places, mesh.over_data(devices)),
    out_shardings=(places, everywhere),
    donate_argnums=0,
    compiler_options=_compiler_options(devices.devices.flat[0].platform),
  )


def compile_step(this: Run, state: TrainState, batch: tasks.Batch) -> Any:
  """Compiles the next update ahead of its step, and records the time."""
  step = int(jax.device_get(state.step))
  update = this.task.step_at(step)
  with this.log.status("compiling the step") as took:
    traced = jit_step(update, state, this.mesh).trace(state, batch)
    compiled = traced.lower().compile()
  platform = this.mesh.devices.flat[0].platform
  flops = costs.flops(traced.jaxpr, this.mesh.size, platform)
  figures = {"seconds": took.seconds, "flops": flops}
  this.log.write(step, "compile", figures, shown={})  # The status has said it.
  return compiled


def check_finite(this: Run, step: int, metrics: tasks.Metrics) -> None:
  """Stops a run whose loss or gradient is no number, before it is kept.

  The gradient too: its update is in the state already, while the loss shows
  it only a step later.
  """
  found = {k: float(jax.device_get(metrics[k])) for k in ("loss", "grad_norm")}
  if all(map(np.isfinite, found.values())):
    return
  this.saved.wait()
  ids = this.record_ids(step)
  path = this.workdir / f"nonfinite-{step}.json"
  this.log.write_json(path, {"step": step, **found, "records": ids})
  good = this.saved.latest_step()
  raise NonFiniteError(
    f"at step {step} the loss is {found['loss']} and the gradient's norm "
    f"{found['grad_norm']}; last good checkpoint: "
    f"{'none' if good is None else f'step {good}'} in {this.saved.folder}; "
    f"the batch's records are in {path} ({ids[0]}, ...)"
  )


def save(
  this: Run,
  state: TrainState,
  step: int,
  evaluated: bool,
  results: dict[str, Any] | None = None,
) -> None:
  """Starts to save the state, with its results on validation if it has any."""
  meta = {"evaluated": bool(evaluated), **this.position(step)}
  metrics = None
  if results is not None:
    meta["validation"] = evaluation.kept(this, results)
    metrics = {"selection": this.task.select(results)}
  this.saved.save(step, state, meta, metrics)


def evaluate_and_save(this: Run, state: TrainState, step: int) -> None:
  """Evaluates on validation and saves the results with the state."""
  try:
    results = evaluation.validate(this, state, step)
  except preemption.Interrupted:
    save(this, state, step, evaluated=False)
    this.saved.wait()
    raise preemption.Interrupted(f"saved step {step}") from None
  except Exception:
    # Or the steps since the last save would be lost with it. Of several
    # processes the others may not be here.
    if jax.process_count() == 1:
      with contextlib.suppress(UserError, jax.errors.JaxRuntimeError):
        save(this, state, step, evaluated=False)
        this.saved.wait()
    raise
  save(this, state, step, evaluated=True, results=results)
