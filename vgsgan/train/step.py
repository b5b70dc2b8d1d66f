"""Compiles updates: donates the state, fixes every sharding, keeps NaN."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vgsgan.parallel import mesh
from vgsgan.train import costs, forward
from vgsgan.train.runs import Run
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Step

# Turns off kernels of YNNPACK, which XLA uses for some sums and maxima on CPUs.
# Their maximum of NaN and 0 is 0, so that a network with NaN would seem to
# train.
_KEEP_NAN = {"xla_cpu_experimental_ynn_fusion_type": ""}


def shardings_of(tree: Any) -> Any:
  """The sharding of each array of a tree."""
  return jax.tree.map(lambda x: x.sharding, tree)


def jit_step(update: Step, state: TrainState, devices: Mesh) -> Any:
  """Jits an update whose new state has the shardings of the old one.

  Args:
    update: the update.
    state: arrays, or shapes, with their shardings; donated.
    devices: the mesh of the run.
  """
  shardings, replicated = shardings_of(state), mesh.replicated(devices)

  def sharded(state: TrainState, batch: Batch):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      return update(forward.replicate_networks(state), batch)

  return jax.jit(
    sharded,
    in_shardings=(shardings, mesh.batch_sharding(devices)),
    out_shardings=(shardings, replicated),
    donate_argnums=0,
    compiler_options=_compiler_options(devices.devices.flat[0].platform),
  )


def compile_step(run: Run, state: TrainState, batch: Batch, step: int) -> Any:
  """Compiles the update that follows `step`, and records time and FLOPs."""
  update = run.task.step_after(step)
  with run.log.status("compiling the step") as timer:
    traced = jit_step(update, state, run.mesh).trace(state, batch)
    compiled = traced.lower().compile()
  platform = run.mesh.devices.flat[0].platform
  flops = costs.flops(traced.jaxpr, run.mesh.size, platform)
  figures = {"seconds": timer.seconds, "flops": flops}
  run.log.write(step, "compile", figures, shown={})  # The status shows it.
  return compiled


@functools.cache
def _compiler_options(platform: str) -> dict[str, str]:
  """Options of XLA for a step; versions without YNNPACK need none."""
  if platform != "cpu":
    return {}
  lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), np.float32))
  try:
    lowered.compile(compiler_options=_KEEP_NAN)
  except jax.errors.JaxRuntimeError:  # This version lacks the option.
    return {}
  return _KEEP_NAN
