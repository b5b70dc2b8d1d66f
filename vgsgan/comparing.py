"""Several runs of one config that differ in a few fields, and their table."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from vgsgan import jsonfiles, trainer
from vgsgan.errors import UserError
from vgsgan.options import nearest


def arms(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, int, ml_collections.ConfigDict]]:
  """(name, seed, config) of each run that `config.compare` describes.

  Raises:
    UserError: an arm sets what is no field, or no value of its type.
  """
  compare = config.compare
  for seed in compare.seeds:
    for name, fields in compare.arms.items():
      one = ml_collections.ConfigDict(config.to_dict())
      del one.compare
      one.seed = seed
      _check_fields(name, one, fields)
      try:
        one.update(fields.to_dict())
      except (AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.compare.arms.{name}: {reason}") from error
      yield name, seed, one


def _check_fields(
  arm: str,
  config: ml_collections.ConfigDict,
  fields: ml_collections.ConfigDict,
  path: str = "config",
) -> None:
  """Refuses fields that the config has not: updating would add them."""
  for name, value in fields.items():
    if name not in config:
      raise UserError(
        f"config.compare.arms.{arm}: there is no field {path}.{name}; "
        f"{nearest(name, list(config))}"
      )
    both = config[name], value
    if all(isinstance(x, ml_collections.ConfigDict) for x in both):
      _check_fields(arm, *both, f"{path}.{name}")


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, mode: str
) -> int:
  """Runs every arm with every seed in a folder of its own; prints the table.

  What is finished is not run again, so the same command goes on.

  Returns:
    The exit status: that of the first run that was interrupted, or 0.
  """
  results: dict[str, list[dict[str, Any]]] = {}
  # All at once: a mistake in the last arm shows before the first has run.
  for name, seed, one in list(arms(config)):
    folder = workdir / f"{name}-{seed}"
    done = folder / "results.json"
    if mode == "train" and done.exists():
      _require_same(folder, one)
    else:
      print(f"{folder}:", flush=True)
      status = trainer.run(one, folder, mode)
      if status:
        return status
    results.setdefault(name, []).append(jsonfiles.read_json(done))
  lines = table(results, dict(config.compare.columns))
  jsonfiles.replace(workdir / "table.md", "\n".join([*lines, ""]).encode())
  print("\n".join(lines))
  return 0


def _require_same(
  folder: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Refuses a finished run of another config."""
  made = jsonfiles.read_json(folder / "config.json")
  for line in jsonfiles.differences(made, config.to_dict()):
    raise UserError(
      f"{folder} is finished, with another {line}; use another --workdir"
    )


def table(
  results: Mapping[str, list[dict[str, Any]]], columns: Mapping[str, str]
) -> list[str]:
  """Lines of Markdown: a row an arm, mean and deviation over its seeds.

  Args:
    results: contents of `results.json`, a list an arm.
    columns: the path of a figure in them, in percent, by heading.

  Raises:
    UserError: a run lacks a figure.
  """
  heads = list(columns)
  lines = [
    "| arm | seeds | " + " | ".join(heads) + " |",
    "|---|---|" + "---|" * len(heads),
  ]
  for name, of in results.items():
    cells = [
      _cell([_figure(one, columns[head])["value"] for one in of])
      for head in heads
    ]
    lines.append(f"| {name} | {len(of)} | " + " | ".join(cells) + " |")
  first = next(iter(results.values()))[0]
  chances = [_figure(first, columns[head])["chance"] for head in heads]
  cells = [f"{100 * chance:.1f}" for chance in chances]
  return [*lines, "| chance | | " + " | ".join(cells) + " |"]


def _cell(values: list[float]) -> str:
  mean = f"{100 * np.mean(values):.1f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def _figure(results: dict[str, Any], path: str) -> dict[str, float]:
  node: Any = results
  for name in path.split("."):
    if not isinstance(node, dict) or name not in node:
      raise UserError(
        f"config.compare.columns: there is no figure {path!r} in the results"
      )
    node = node[name]
  return node
