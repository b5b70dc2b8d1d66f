"""Compiles a training step for devices that need not be there.

    python -m vgsgan.main --mode=compile --config=configs/drawing.py:random \\
      --config.data.generator=configs/scenes_gan.py:published \\
      --topology=v5e:16x16 --config.train.batch=2048 --config.eval.batch=256

Ahead of time, for a slice of TPUs (with libtpu, of the `tpu` extra, and no TPU)
or without --topology for the devices of this machine. It is the step that the
trainer would compile; nothing runs and no data set is read, but for the number
of classes of `classification`. Of several topologies, separated by commas, the
first has `config.train.batch` and all have its share a device. A generator that
is not trained yet can be named by its config, as above.

What is printed is told in `vgsgan.tools.compile.footprint`.
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
    UserError: what does not fit into a device's memory or over the mesh, a
      topology that is unknown, or libtpu is missing.
  """
  if workdir is not None:
    with files.explain_os_errors(workdir):
      workdir.mkdir(parents=True, exist_ok=True)
  say = terminal.Terminal()
  found, runs = [], list(arms.first_runs(config))
  for arm, one in runs:
    with arms.named(arm):
      tasks.check(one)
  for arm, one in runs:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
      use_untrained(one.data, pathlib.Path(folder) / "generator.npz")
      for name, devices, batch in slices(topology, one.train.batch):
        one.train.batch = batch
        where = name or f"{len(devices)} x {devices[0].device_kind}"
        with say.status(f"compiling {arm} for {where}".replace("  ", " ")):
          row = {"arm": arm, "topology": name, **figures(one, devices)}
        print("\n".join(report(row)), flush=True)
        rows.append(row)
        if workdir is not None:
          jsonfiles.write_json(workdir / "compile.json", found + rows)
    if len(rows) > 1:
      print("\n".join(["", *table(rows)]), flush=True)
    found += rows
  if workdir is not None:
    say.info(f"wrote {workdir / 'compile.json'}")
  return 0


def slices(
  topology: str | None, batch: int
) -> Iterator[tuple[str, list[jax.Device], int]]:
  """Each topology, its devices and its global batch.

  Without one it is '' with the devices that are here.

  Raises:
    UserError: there is nothing between two commas; as of `devices_of`.
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
  """Where `data.generator` is a config, writes a generator of zeros of it.

  Args:
    data: `data.generator` becomes `path`.
    path: of the file.

  Returns:
    Whether it is.

  Raises:
    UserError: the config is of no GAN.
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
  """The chips of a slice of TPUs, or their cores, to compile for alone.

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
      f"--topology={topology}: {first_line(error)}; name chips and "
      "sides, such as v5e:2x4, v6e:16x16 or v5p:4x4x4"
    ) from error
  return list(found.devices)


def figures(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device]
) -> dict[str, Any]:
  """What `report` prints, as JSON; raises as `run` does."""
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
