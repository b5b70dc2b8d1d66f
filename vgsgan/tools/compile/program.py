"""Compiles a training step, also for devices that are not on this machine.

    python -m vgsgan.main --mode=compile --config=configs/drawing.py:random \\
      --config.data.generator=configs/scenes_gan.py:published \\
      --topology=v5e:16x16 --config.train.batch=2048 --config.eval.batch=256

With --topology it compiles for a slice of TPUs, which needs libtpu (the extra
`tpu`) and no TPU; without, for the devices of this machine. It compiles the
same step as the loop. Nothing runs, and no data set is read, except for the
number of classes of `classification`. Several topologies are separated by
commas: the first gets `config.train.batch`, and all get the same batch per
device. A generator that is not trained yet can be named by its config, as
above.

`vgsgan.tools.compile.footprint` describes the figures.
"""

import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
from jax.experimental import topologies

from vgsgan import data, tasks
from vgsgan.common import files, jsonfiles, options
from vgsgan.common.errors import UserError, first_line
from vgsgan.data import blank
from vgsgan.models import pretrained
from vgsgan.parallel import mesh
from vgsgan.tools.compare import arms
from vgsgan.tools.compile import footprint
from vgsgan.tools.compile.report import report, table
from vgsgan.train import terminal

# These keep libtpu from looking for a TPU, from failing at another process's
# lock file, and from printing more than errors.
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
  """Compiles, prints the figures, and writes them as `compile.json`.

  Args:
    config: of the run.
    topology: `v5e:16x16`, or several; None for the devices of this machine.
    workdir: folder of `compile.json`; None writes nothing.

  Returns:
    The exit status, 0.

  Raises:
    UserError: the step does not fit a device's memory or the mesh, a topology
      is unknown, or libtpu is missing.
  """
  if workdir is not None:
    with files.explain_os_errors(workdir):
      workdir.mkdir(parents=True, exist_ok=True)
  say = terminal.Terminal()
  written, runs = [], list(arms.first_runs(config))
  for arm, arm_config in runs:
    with arms.named(arm):
      tasks.check(arm_config)
  for arm, arm_config in runs:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
      use_untrained(arm_config.data, pathlib.Path(folder) / "generator.npz")
      for name, devices, batch in slices(topology, arm_config.train.batch):
        arm_config.train.batch = batch
        where = name or f"{len(devices)} x {devices[0].device_kind}"
        with say.status(f"compiling {arm} for {where}".replace("  ", " ")):
          row = {"arm": arm, "topology": name, **figures(arm_config, devices)}
        print("\n".join(report(row)), flush=True)
        rows.append(row)
        if workdir is not None:
          jsonfiles.write_json(workdir / "compile.json", written + rows)
    if len(rows) > 1:
      print("\n".join(["", *table(rows)]), flush=True)
    written += rows
  if workdir is not None:
    say.info(f"wrote {workdir / 'compile.json'}")
  return 0


def slices(
  topology: str | None, batch: int
) -> Iterator[tuple[str, list[jax.Device], int]]:
  """Yields each topology, its devices and its global batch.

  Without a topology it yields '' and the devices of this machine.

  Raises:
    UserError: a topology is empty, or `devices_of` raises it.
  """
  names = [name.strip() for name in (topology or "").split(",")]
  if topology and "" in names:
    raise UserError(
      f"--topology={topology}: name a topology before and after each comma, "
      "such as v5e:2x4,v5e:4x4"
    )
  share = None
  for name in names:
    devices = devices_of(name) if name else jax.devices()
    share = share or batch / len(devices)
    yield name, devices, round(share * len(devices))


def use_untrained(data: ml_collections.ConfigDict, path: pathlib.Path) -> bool:
  """Writes a generator of zeros if `data.generator` names a config.

  Args:
    data: `data.generator` becomes `path`.
    path: the file to write.

  Returns:
    True if `data.generator` named a config.

  Raises:
    UserError: the config is not that of a GAN.
  """
  name, colon, argument = data.get("generator", "").partition(":")
  if not name.endswith(".py"):
    return False
  config = options.load(options.config_file(name), argument if colon else None)
  if "gan" not in config:
    raise UserError(
      f"config.data.generator={data.generator!r} has no config.gan, so it is "
      "not a generator's: name one that has, such as configs/scenes_gan.py"
    )
  pretrained.save_untrained(path, config.gan.to_dict())
  data.generator = str(path)
  return True


def devices_of(topology: str) -> list[jax.Device]:
  """The chips of a slice of TPUs, or their cores, for compiling only.

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
    jax.config.update("jax_platforms", "cpu")  # A TPU here may be in use.
  try:
    description = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    )
  except Exception as error:  # The plugin's types of errors are unknown.
    raise UserError(
      f"--topology={topology}: {first_line(error)}; name chips and "
      "sides, such as v5e:2x4, v6e:16x16 or v5p:4x4x4"
    ) from error
  return list(description.devices)


def figures(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device]
) -> dict[str, Any]:
  """The figures that `report` prints; raises what `run` raises."""
  grid = mesh.make_mesh(model=config.mesh.model, devices=devices)
  parts = config.train.accumulate
  mesh.check_batch(config.train.batch, grid, "train.batch", parts)
  mesh.check_batch(config.eval.batch, grid, "eval.batch")
  labelled = config.task == "classification"
  splits = data.load(config.data) if labelled else blank.splits(config)
  task = tasks.build(config, grid, splits)
  state, batch = footprint.abstract(config, task, splits["train"][0], grid)
  steps = [
    {"first": first}
    | footprint.figures(task.step_after(first), state, batch, grid)
    for first in (0, *sorted(task.phases))
  ]
  return {
    "chip": devices[0].device_kind,
    "devices": len(devices),
    "model": config.mesh.model,
    "batch": config.train.batch,
    "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
    "steps": steps,
  }
