"""Reads finished runs: their results and their best checkpoints."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.parallel import mesh
from vgsgan.train import workdirs
from vgsgan.train.checkpoints import manager
from vgsgan.train.state import TrainState


def results_of(workdir: pathlib.Path) -> dict[str, Any]:
  """Reads the results of a run; `step` is that of the evaluated checkpoint.

  Raises:
    UserError: the run is not finished, or the file holds no results.
  """
  path = workdir / "results.json"
  results = jsonfiles.read_json(path)
  if not isinstance(results, dict) or not isinstance(results.get("step"), int):
    raise UserError(
      f"{path} holds no results: remove it and run --mode=eval "
      f"--workdir={workdir}"
    )
  return results


@contextlib.contextmanager
def opened(workdir: pathlib.Path) -> Iterator[manager.Checkpoints]:
  """Opens the checkpoints of a run, and locks its workdir meanwhile.

  Raises:
    UserError: another process is using the workdir.
  """
  folder = workdir / "checkpoints"
  with (
    workdirs.alone(workdir),
    manager.Checkpoints(folder, best="selection") as saved,
  ):
    yield saved


def best(
  workdir: pathlib.Path,
  init: Callable[[jax.Array], TrainState],
  devices: Mesh,
) -> tuple[int, TrainState]:
  """The step and the state of a run's best checkpoint, on all devices.

  Raises:
    UserError: the run has no whole, evaluated checkpoint, or is in use.
  """
  shapes = jax.eval_shape(init, jax.random.key(0))
  abstract = mesh.abstract(shapes, devices)
  with opened(workdir) as saved:
    restored = saved.restore_best(abstract)
  if restored is None:
    raise UserError(
      f"no evaluated checkpoint in {workdir / 'checkpoints'}: train it first"
    )
  step, state, _ = restored
  return step, state
