"""Memory, FLOPs and communication per device of a compiled training step.

A device is a chip, or one of its cores where JAX has a device for each. The
least that it has to send is

* for each collective that the program asks for, the bytes of a ring algorithm
  (`costs.sent`): a contrastive loss has a gather of one modality's maps and its
  reduce-scatter, an exchange of blocks of scores and another of their
  gradients, and scalars;
* for P bytes of parameters over n devices, one reduction of the gradients,
  2 (n - 1) / n P; if k devices share one copy (`config.mesh.model`), one gather
  and one reduce-scatter, together 2 (k - 1) / k P, and the reduction of each
  share, 2 (n / k - 1) / (n / k) P / k.

Statistics of batch normalisation are small and not counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan.common.errors import UserError, first_line
from vgsgan.common.memory import too_large
from vgsgan.parallel import mesh
from vgsgan.tools.compile import chips, hlo
from vgsgan.train import costs, keys
from vgsgan.train.state import TrainState
from vgsgan.train.step import jit_step
from vgsgan.train.task import Step, Task

Shapes = dict[str, jax.ShapeDtypeStruct]


def abstract(
  config: ml_collections.ConfigDict,
  task: Task,
  record: dict[str, Any],
  grid: Mesh,
) -> tuple[TrainState, Shapes]:
  """Shapes and shardings of a task's state and batch."""
  key = keys.of(config.seed, "init")
  state = mesh.abstract(jax.eval_shape(task.init, key), grid)
  example = task.transform(record, np.random.default_rng(0))
  sharding = mesh.batch_sharding(grid)
  batch = {
    name: jax.ShapeDtypeStruct(
      (config.train.batch, *np.shape(x)), np.asarray(x).dtype, sharding=sharding
    )
    for name, x in example.items()
  }
  return state, batch


def figures(
  update: Step, state: TrainState, batch: Shapes, grid: Mesh
) -> dict[str, Any]:
  """Memory, FLOPs and communication per device of one update."""
  traced = jit_step(update, state, grid).trace(state, batch)
  compiled = compile_or_explain(traced)
  memory = compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  cost = compiled.cost_analysis() or {}
  devices = list(grid.devices.flat)
  program = traced.jaxpr, grid.size, devices[0].platform
  least = sum(x.sent for x in costs.collectives(*program))
  step = {
    "memory": {
      "arguments": memory.argument_size_in_bytes,
      "outputs": memory.output_size_in_bytes,
      "shared": memory.alias_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "peak": held + memory.temp_size_in_bytes - memory.alias_size_in_bytes,
      "of": chips.memory_of(devices),
    },
    "flops": {
      "matrix": costs.flops(*program),
      "bfloat16": costs.bfloat16_flops(*program),
      "compiled": cost.get("flops", 0.0),
    },
    "bytes_accessed": cost.get("bytes accessed", 0.0),
    "collectives": summary(hlo.collectives(compiled.as_text())),
    "least_sent": least + gradient_bytes(state, grid),
  }
  step["sent"] = sum(x["sent"] for x in step["collectives"])
  check_memory(step["memory"])
  published = chips.published(devices)
  if published:
    step["estimate"] = chips.estimate(step, published)
  return step


def compile_or_explain(traced: Any) -> jax.stages.Compiled:
  """Compiles; raises UserError with one line if the compiler refuses."""
  try:
    return traced.lower().compile()
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    reason = first_line(error)
    if "RESOURCE_EXHAUSTED" in reason:
      raise too_large(reason) from error
    raise UserError(f"the step cannot be compiled: {reason}") from error


def check_memory(memory: Mapping[str, Any]) -> None:
  """Raises UserError if a step needs more memory than the device has."""
  if memory["of"] and memory["peak"] > memory["of"]:
    peak, there = memory["peak"] / 1e9, memory["of"] / 1e9
    raise too_large(f"a device needs {peak:.2f} GB and has {there:.2f} GB")


def gradient_bytes(state: TrainState, grid: Mesh) -> float:
  """The least bytes a device sends to reduce gradients and gather parameters.

  Args:
    state: shapes and shardings.
    grid: their mesh.
  """
  total, everyone, sharing = 0.0, grid.size, grid.shape["model"]
  for x in jax.tree.leaves(state.params):
    size = x.size * x.dtype.itemsize
    if x.sharding.is_fully_replicated:
      total += costs.sent("all-reduce", size, everyone)
    else:
      total += 2 * costs.sent("all-gather", size, sharing)
      total += costs.sent("all-reduce", size / sharing, everyone // sharing)
  return total


def summary(collectives: Sequence[costs.Collective]) -> list[dict[str, Any]]:
  """Groups collectives by kind and devices, with their bytes in a step."""
  groups = sorted({(x.kind, x.devices) for x in collectives})
  rows = []
  for kind, devices in groups:
    group = [x for x in collectives if (x.kind, x.devices) == (kind, devices)]
    rows.append(
      {
        "kind": kind,
        "devices": devices,
        "count": sum(x.times for x in group),
        "bytes": sum(x.times * x.payload for x in group),
        "sent": sum(x.sent for x in group),
      }
    )
  return rows
