"""Figures of several arms over their seeds, and the table of them.

A figure is found in a run's results by a path, such as `splits.test.words.all`.
Where one run has the figures of several systems, a row of the table names its
part of them, which stands in for `{part}` in the paths.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgsgan.common.errors import UserError

_NONE = "–"  # In the place of a figure that a row lacks.
_KNOWN = ("chance", "real")  # References that a figure may have.

Results = dict[str, Any]  # The contents of `results.json`.
Row = tuple[str, str, str]  # The names of a row, its arm and its part.


def summary(
  results: Mapping[str, list[Results]],
  columns: Mapping[str, str],
  rows: Sequence[Row] = (),
) -> dict[str, Any]:
  """Averages figures of each row over the seeds of its arm.

  Args:
    results: those of each arm, a seed each.
    columns: the path of a figure, by heading.
    rows: those of the table; an arm each if empty, and then no figure may be
      missing. A path without `{part}` is the arm's, so only the first row of an
      arm has its figure.

  Returns:
    `{"arms": {name: {"seeds": n, "figures": {heading: figure}}}, "chance":
    {heading: mean over all rows}}`, all as shares of 1. A figure is `{"mean",
    "std", "values", "chance"}`, `std` over n - 1 and None of one seed, `chance`
    the mean of the row's own; None for a figure that a row lacks. And `real`,
    like `chance`, for the figures that say what the real would have.

  Raises:
    UserError: a run lacks a figure, or all do, or what is there is none.
  """
  means: dict[str, Any] = {}
  begun: set[str] = set()
  for name, arm, part in rows or [(name, name, "") for name in results]:
    paths = paths_of(columns, part, whole_arm=arm not in begun)
    begun.add(arm)
    if rows:
      paths = {
        h: path for h, path in paths.items() if has(results[arm][0], path)
      }
    figures = {
      head: _over_seeds(results[arm], paths.get(head)) for head in columns
    }
    means[name] = {"seeds": len(results[arm]), "figures": figures}
  return {"arms": means} | _references_over_rows(means, columns)


def paths_of(
  columns: Mapping[str, str], part: str, whole_arm: bool
) -> dict[str, str]:
  """Paths of a row's figures by heading; those of its part, or all."""
  return {
    head: path.replace("{part}", part)
    for head, path in columns.items()
    if whole_arm or "{part}" in path
  }


def _over_seeds(
  results: Sequence[Results], path: str | None
) -> dict[str, Any] | None:
  if path is None:
    return None
  figures = [figure(one, path) for one in results]
  values = [x["value"] for x in figures]
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {"mean": float(np.mean(values)), "std": std, "values": values} | {
    known: _mean([x[known] for x in figures])
    for known in _KNOWN
    if known in figures[0]
  }


def _references_over_rows(
  means: Mapping[str, Any], columns: Mapping[str, str]
) -> dict[str, dict[str, float]]:
  """Averages `chance` and `real` of each column over the rows that have it."""
  references: dict[str, dict[str, float]] = {}
  for head, path in columns.items():
    figures = [row["figures"][head] for row in means.values()]
    figures = [figure for figure in figures if figure is not None]
    if not figures:
      raise UserError(f"config.compare.columns: no row has the figure {path!r}")
    for known in _KNOWN:
      if values := [x[known] for x in figures if known in x]:
        references.setdefault(known, {})[head] = _mean(values)
  return references


def figure(results: Results, path: str) -> dict[str, float]:
  """Reads the figure at a path of a run's results.

  Raises:
    UserError: nothing is there, or no figure.
  """
  if not has(results, path):
    raise UserError(
      f"config.compare.columns: there is no figure {path!r} in the results"
    )
  found = _at(results, path)
  if not isinstance(found, dict) or not {"value", "chance"} <= found.keys():
    raise UserError(
      f"config.compare.columns: {path!r} is no figure with a value and its "
      "chance"
    )
  return found


def has(results: Results, path: str) -> bool:
  """Tells whether a run's results have anything at a path."""
  try:
    _at(results, path)
  except (KeyError, TypeError):
    return False
  return True


def _at(results: Results, path: str) -> Any:
  return functools.reduce(operator.getitem, path.split("."), results)


def _mean(values: list[float | int]) -> float:
  """Averages figures; the mean of equal ones is that value, to the last bit."""
  return float(values[0] if len({*values}) == 1 else np.mean(values))


def table(found: Mapping[str, Any], numbers: Sequence[str] = ()) -> list[str]:
  """Formats a summary as lines of Markdown.

  In per cent, but for the headings in `numbers`, which are no shares. Chance,
  and the figures of the real, have a row for all arms if it is the same for
  all, and else one for each.
  """
  heads = list(found["chance"])
  scales = {
    head: (1.0, ".3g") if head in numbers else (100.0, ".1f") for head in heads
  }
  lines = [
    "| arm | seeds | " + " | ".join(heads) + " |",
    "|---|---|" + "---|" * len(heads),
  ]
  for name, arm in found["arms"].items():
    cells = " | ".join(_cell(arm["figures"][h], *scales[h]) for h in heads)
    lines.append(f"| {name} | {arm['seeds']} | {cells} |")
  for known in ("real", "chance"):
    for name, cells in _references(found["arms"], known, scales).items():
      lines.append(f"| {name} | | {' | '.join(cells)} |")
  return lines


def _references(
  arms: Mapping[str, Any], known: str, scales: Mapping[str, tuple[float, str]]
) -> dict[str, list[str]]:
  """Cells of `chance` or `real`: under that name, or one row for each arm."""
  rows = {}
  for name, arm in arms.items():
    mine = {head: figure or {} for head, figure in arm["figures"].items()}
    rows[f"{known}, {name}"] = [
      _cell({"mean": mine[head][known], "std": None}, *scale)
      if known in mine[head]
      else _NONE
      for head, scale in scales.items()
    ]
  columns = [{*cells} - {_NONE} for cells in zip(*rows.values(), strict=True)]
  if all(len(cells) <= 1 for cells in columns):
    rows = {known: ["".join(cells) or _NONE for cells in columns]}
  return {name: row for name, row in rows.items() if {*row} != {_NONE}}


def _cell(figure: Mapping[str, Any] | None, scale: float, form: str) -> str:
  if figure is None:
    return _NONE
  mean = format(scale * figure["mean"], form)
  if figure["std"] is None:
    return mean
  return f"{mean} ± {format(scale * figure['std'], form)}"
