"""Compares two runs: metric lines, results and parameters."""

import itertools
import json
import pathlib
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from vgsgan.tools.drill import runs
from vgsgan.tools.drill.runs import FailedError
from vgsgan.train.checkpoints import integrity

# Metrics of a run's speed, which are not compared.
_TIMINGS = ("step_seconds", "examples_per_second", "input_share")
# Allows for other orders of sums in ten steps of Adam.
TOLERANCE = 2e-3


def require_equal(run: pathlib.Path, undisturbed: pathlib.Path) -> None:
  """Checks that two runs are equal, bit for bit.

  Raises:
    FailedError: the first difference.
  """
  mine, its = _lines(run), _lines(undisturbed)
  for line, other in zip(mine, its, strict=False):
    if line != other:
      raise FailedError(f"metric line {line} instead of {other}")
  if len(mine) != len(its):
    raise FailedError(f"{len(mine)} metric lines instead of {len(its)}")
  mine, its = arrays(run), arrays(undisturbed)
  for name in _same_names(mine, its):
    if mine[name].tobytes() != its[name].tobytes():
      raise FailedError(f"{name} differs from the undisturbed run")
  if _results(run) != _results(undisturbed):
    raise FailedError("results.json differs from the undisturbed run")


def require_close(run: pathlib.Path, undisturbed: pathlib.Path) -> float:
  """Checks that two runs differ by rounding alone; returns the difference.

  It is the largest relative difference of the logged losses, and of each
  network's parameters as one vector.

  Raises:
    FailedError: it is larger than `TOLERANCE`, or something is missing.
  """
  mine, its = (
    {x["step"]: x["loss"] for x in _lines(folder) if x["split"] == "train"}
    for folder in (run, undisturbed)
  )
  if list(mine) != list(its):
    raise FailedError(f"steps {list(mine)} are logged instead of {list(its)}")
  far = {f"loss {k}": abs(mine[k] / its[k] - 1) for k in its}
  far |= apart(arrays(run), arrays(undisturbed))
  for name, share in far.items():
    if not share <= TOLERANCE:  # NaN fails, too.
      raise FailedError(f"{name} is {share:.2g} off the undisturbed run")
  if _results(run).keys() != _results(undisturbed).keys():
    raise FailedError("results.json has other entries")
  return max(far.values())


def apart(
  mine: dict[str, np.ndarray], its: dict[str, np.ndarray]
) -> dict[str, float]:
  """Differences of each network's parameters, as shares of their length."""
  names = [n for n in _same_names(mine, its) if n.startswith("params/")]
  far = {}
  for network, group in itertools.groupby(names, lambda n: n.split("/")[1]):
    own = list(group)
    a, b = (np.concatenate([x[n].ravel() for n in own]) for x in (mine, its))
    length = max(np.linalg.norm(b), np.finfo(b.dtype).tiny)
    far[f"params/{network}"] = float(np.linalg.norm(a - b) / length)
  return far


def _lines(run: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {k: v for k, v in line.items() if k not in _TIMINGS}
    for line in runs.metrics(run)
    if line["split"] != "compile"
  ]


def _results(run: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads((run / "results.json").read_text())
  except (OSError, ValueError) as error:
    raise FailedError(f"results.json: {error}") from error


def arrays(run: pathlib.Path, last: int = runs.STEPS) -> dict[str, np.ndarray]:
  """The arrays in the checkpoint of step `last`, by path."""
  steps = runs.complete(run)
  if not steps or steps[-1] != last:
    raise FailedError(f"the checkpoints in the end are {steps}")
  path = (run / "checkpoints" / str(steps[-1]) / "state").absolute()
  with ocp.StandardCheckpointer() as reader:
    return integrity.by_name(reader.restore(path))


def _same_names(mine: dict[str, Any], its: dict[str, Any]) -> list[str]:
  if differ := sorted(mine.keys() ^ its.keys()):
    raise FailedError(f"the state has another {differ[0]}")
  return sorted(mine)
