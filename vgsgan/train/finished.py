"""Reads finished runs: their results, and the best of their checkpoints."""

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
  """The results of a run, with the `step` that they are of.

  Raises:
    UserError: it is not finished, or its results are none of a run.
  """
  path = workdir / "results.json"
  found = jsonfiles.read_json(path)
  if not isinstance(found, dict) or not isinstance(found.get("step"), int):
    raise UserError(
      f"{path} holds no results: remove it and run --mode=eval "
      f"--workdir={workdir}"
    )
  return found


@contextlib.contextmanager
def opened(workdir: pathlib.Path) -> Iterator[manager.Checkpoints]:
  """The checkpoints of a run, which none may be using meanwhile.

  Raises:
    UserError: another run is using it.
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
    UserError: no whole checkpoint was evaluated, or another run is using it.
  """
  shapes = jax.eval_shape(init, jax.random.key(0))
  abstract = mesh.abstract(shapes, devices)
  with opened(workdir) as saved:
    found = saved.restore_best(abstract)
  if found is None:
    raise UserError(
      f"no evaluated checkpoint in {workdir / 'checkpoints'}: train it first"
    )
  return found[0], found[1]
