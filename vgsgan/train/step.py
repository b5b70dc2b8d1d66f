"""Compiles updates: state donated, every place explicit, NaN kept."""

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

# No kernels of YNNPACK, which XLA takes for some sums and maxima on CPUs: there
# the larger of NaN and 0 is 0, and a network whose numbers are none would train
# on as if nothing were wrong.
_NAN_STAYS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def places_of(tree: Any) -> Any:
  """The sharding of each array of a tree."""
  return jax.tree.map(lambda x: x.sharding, tree)


def jit_step(update: Step, state: TrainState, devices: Mesh) -> Any:
  """Jits an update whose new state lies where the old one does.

  Args:
    update: to be compiled.
    state: arrays, or shapes, with their shardings; donated.
    devices: of the run.
  """
  places, everywhere = places_of(state), mesh.replicated(devices)

  def placed(state: TrainState, batch: Batch):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      return update(forward.whole_networks(state), batch)

  return jax.jit(
    placed,
    in_shardings=(places, mesh.over_data(devices)),
    out_shardings=(places, everywhere),
    donate_argnums=0,
    compiler_options=_compiler_options(devices.devices.flat[0].platform),
  )


def compile_step(run: Run, state: TrainState, batch: Batch, step: int) -> Any:
  """Compiles the update that comes after `step`, and records time and FLOPs."""
  update = run.task.step_at(step)
  with run.log.status("compiling the step") as took:
    traced = jit_step(update, state, run.mesh).trace(state, batch)
    compiled = traced.lower().compile()
  platform = run.mesh.devices.flat[0].platform
  flops = costs.flops(traced.jaxpr, run.mesh.size, platform)
  figures = {"seconds": took.seconds, "flops": flops}
  run.log.write(step, "compile", figures, shown={})  # The status has said it.
  return compiled


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
