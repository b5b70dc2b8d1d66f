"""Compiles a training step for devices that need not be there.

    python -m vgsgan.main --mode=compile --config=configs/drawing.py:random \\
      --topology=v5e:16x16 --config.train.batch=2048

Ahead of time, for a slice of TPUs (with libtpu, of the `tpu` extra, and no TPU)
or without --topology for the devices of this machine. It is the step that the
trainer would compile; nothing runs and no data set is read, but for the number
of classes of `classification`. Of several topologies, separated by commas, the
first has `config.train.batch` and all have its share a chip. A generator that
is not trained yet can be named by its config:
`--config.data.generator=configs/scenes_gan.py:published`.

What is printed of each update of the curriculum is what one chip has: memory,
operations, and what it sends. The least that it has to send is

* of each collective that the program itself asks for, what a ring algorithm
  sends (`hlo.sent`): for a contrastive loss a gather of one modality's maps and
  its reduce-scatter, an exchange of blocks of scores and another of their
  gradients, and scalars;
* and for P bytes of parameters over n chips one reduction of the gradients,
  2 (n - 1) / n P, or where k chips share one copy (`config.mesh.model`) one
  gather and one reduce-scatter of 2 (k - 1) / k P, and the reduction of the
  share, 2 (n / k - 1) / (n / k) P / k.

Statistics of batch normalisation, which come on top, are small.
"""

import importlib.util
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from vgsgan import (
  chips,
  comparing,
  data,
  hlo,
  jsonfiles,
  mesh,
  options,
  programs,
  tasks,
  trainer,
)
from vgsgan.compile_report import report, table
from vgsgan.data import blank
from vgsgan.errors import UserError
from vgsgan.options import check_at_least
from vgsgan.state import TrainState
from vgsgan.worlds import pretrained

Shapes = dict[str, jax.ShapeDtypeStruct]

# libtpu is to ask nobody for a TPU, to let others use it at the same time (of
# its lock file it makes one an error), and to say only what matters.
LIBTPU = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_LOG_DIR": "disabled",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def run(
  config: ml_collections.ConfigDict,
  topology: str | None,
  workdir: pathlib.Path | None,
) -> int:
  """Compiles, prints, and keeps the figures as `compile.json` in the workdir.

  Args:
    config: of the run.
    topology: `v5e:16x16`, or several, or None for what is here.
    workdir: None to keep nothing.

  Returns:
    The exit status, 0.

  Raises:
    UserError: what does not fit into a chip's memory or over the mesh, a
      topology that is unknown, or libtpu is missing.
  """
  check_at_least("train.steps", config.train.steps, 1)
  found = []
  for arm, one in arms(config):
    rows = []
    for name, devices, batch in slices(topology, one.train.batch):
      one.train.batch = batch
      with tempfile.TemporaryDirectory() as folder:
        use_untrained(one.data, pathlib.Path(folder) / "generator.npz")
        row = {"arm": arm, "topology": name, **figures(one, devices)}
      print("\n".join(report(row)), flush=True)
      rows.append(row)
    if len(rows) > 1:
      print("\n".join(["", *table(rows)]), flush=True)
    found += rows
  if workdir is not None:
    workdir.mkdir(parents=True, exist_ok=True)
    jsonfiles.write_json(workdir / "compile.json", found)
  return 0


def arms(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
  """The config, or each arm of one that compares, with its name."""
  if "compare" not in config:
    yield "", ml_collections.ConfigDict(config.to_dict())
    return
  for name, seed, one in comparing.arms(config):
    if seed == config.compare.seeds[0]:
      yield name, one


def slices(
  topology: str | None, batch: int
) -> Iterator[tuple[str, list[jax.Device], int]]:
  """Each topology, its devices and its global batch."""
  share = None
  for name in (topology or "").split(","):
    devices = devices_of(name.strip()) if name.strip() else jax.devices()
    share = share or batch / len(devices)
    yield name.strip(), devices, round(share * len(devices))


def use_untrained(data: ml_collections.ConfigDict, path: pathlib.Path) -> None:
  """Where `data.generator` is a config, writes a generator of zeros of it.

  Args:
    data: `data.generator` becomes `path`.
    path: of the file.
  """
  name, _, argument = data.get("generator", "").partition(":")
  if not name.endswith(".py"):
    return
  gan = options.load(pathlib.Path(name), argument).gan.to_dict()
  pretrained.save_untrained(path, gan)
  data.generator = str(path)


def devices_of(topology: str) -> list[jax.Device]:
  """The chips of a slice of TPUs, to compile for alone.

  Raises:
    UserError: libtpu is missing, or does not know the topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      '--topology needs libtpu: pip install "vgsgan[tpu]", or from a clone '
      'pip install -e ".[tpu]"; no TPU is needed'
    )
  for name, value in LIBTPU.items():
    os.environ.setdefault(name, value)
  if not jax.config.jax_platforms:
    jax.config.update("jax_platforms", "cpu")  # A TPU here may have its user.
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except Exception as error:  # Whatever the plugin raises.
    raise UserError(
      f"--topology={topology}: {_line(error)}; name chips and sides, such as "
      "v5e:2x4, v6e:16x16 or v5p:4x4x4"
    ) from error
  return list(found.devices)


def figures(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device]
) -> dict[str, Any]:
  """What `report` prints, as JSON; raises as `run` does."""
  grid = mesh.make_mesh(model=config.mesh.model, devices=devices)
  mesh.check_batch(config.train.batch, grid, "train.batch")
  labelled = config.task == "classification"
  splits = data.load(config.data) if labelled else blank.splits(config.data)
  task = tasks.build(config, grid, splits)
  state, batch = abstract(config, task, splits["train"][0], grid)
  return {
    "chip": devices[0].device_kind,
    "chips": len(devices),
    "model": config.mesh.model,
    "batch": config.train.batch,
    "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
    "steps": [
      {"first": first, **step_figures(task.step_at(first), state, batch, grid)}
      for first in (0, *sorted(task.later))
    ],
  }


def abstract(
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  record: dict[str, Any],
  grid: Mesh,
) -> tuple[TrainState, Shapes]:
  """Shapes and places of a task's state and batch."""
  key = jax.random.key(config.seed)
  state = mesh.abstract(jax.eval_shape(task.init, key), grid)
  example = task.transform(record, np.random.default_rng(0))
  place = mesh.over_data(grid)
  batch = {
    name: jax.ShapeDtypeStruct(
      (config.train.batch, *np.shape(x)), np.asarray(x).dtype, sharding=place
    )
    for name, x in example.items()
  }
  return state, batch


def step_figures(
  update: tasks.Step, state: TrainState, batch: Shapes, grid: Mesh
) -> dict[str, Any]:
  """Of one update, a chip: bytes, operations, collectives and their least."""
  traced = trainer.jit_step(update, state, grid).trace(state, batch)
  compiled = compile_or_say(traced)
  memory = compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  cost = compiled.cost_analysis() or {}
  least = sum(x.sent for x in programs.collectives(traced.jaxpr, grid.size))
  found = {
    "memory": {
      "arguments": memory.argument_size_in_bytes,
      "outputs": memory.output_size_in_bytes,
      "shared": memory.alias_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "peak": held + memory.temp_size_in_bytes - memory.alias_size_in_bytes,
      "of": chips.memory_of(grid.devices.flat[0], grid.size),
    },
    "flops": {
      "matrix": programs.flops(traced.jaxpr, grid.size),
      "compiled": cost.get("flops", 0.0),
    },
    "bytes_accessed": cost.get("bytes accessed", 0.0),
    "collectives": summary(hlo.collectives(compiled.as_text())),
    "least_sent": least + gradient_bytes(state, grid),
  }
  found["sent"] = sum(x["sent"] for x in found["collectives"])
  check_memory(found["memory"])
  kind = grid.devices.flat[0].device_kind
  if kind in chips.CHIPS:
    found["estimate"] = chips.estimate(found, chips.CHIPS[kind])
  return found


def compile_or_say(traced: Any) -> jax.stages.Compiled:
  """Compiles; what the compiler refuses is one line."""
  try:
    return traced.lower().compile()
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    line = _line(error)
    if "RESOURCE_EXHAUSTED" in line:
      raise _too_large(line.partition("RESOURCE_EXHAUSTED: ")[2]) from error
    raise UserError(f"the step cannot be compiled: {line}") from error


def check_memory(memory: Mapping[str, Any]) -> None:
  """Refuses a step that needs more than there is, as far as that is known."""
  if memory["of"] and memory["peak"] > memory["of"]:
    peak, there = memory["peak"] / 1e9, memory["of"] / 1e9
    raise _too_large(f"a device needs {peak:.2f} GB and has {there:.2f} GB")


def _too_large(how: str) -> UserError:
  return UserError(
    f"out of memory: {how.rstrip('. ')}; lower --config.train.batch, take more "
    "devices, or split what is trained over some with --config.mesh.model"
  )


def _line(error: Exception) -> str:
  """The first line of an error that says something."""
  lines = [x.strip() for x in str(error).splitlines() if x.strip()]
  return re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__


def gradient_bytes(state: TrainState, grid: Mesh) -> float:
  """The least a chip sends to reduce the gradients, and to gather parameters.

  Args:
    state: shapes and places.
    grid: the mesh they lie on.
  """
  total, everyone, sharing = 0.0, grid.size, grid.shape["model"]
  for x in jax.tree.leaves(state.params):
    size = x.size * x.dtype.itemsize
    if x.sharding.is_fully_replicated:
      total += hlo.sent("all-reduce", size, everyone)
    else:
      total += 2 * hlo.sent("all-gather", size, sharing)
      total += hlo.sent("all-reduce", size / sharing, everyone // sharing)
  return total


def summary(found: Sequence[hlo.Collective]) -> list[dict[str, Any]]:
  """Collectives by kind and number of devices, with their bytes in a step."""
  groups = sorted({(x.kind, x.devices) for x in found})
  rows = []
  for kind, devices in groups:
    those = [x for x in found if (x.kind, x.devices) == (kind, devices)]
    rows.append(
      {
        "kind": kind,
        "devices": devices,
        "count": sum(x.times for x in those),
        "bytes": sum(x.times * x.payload for x in those),
        "sent": sum(x.sent for x in those),
      }
    )
  return rows
