"""Summarises figures of several arms over their seeds, in a table.

A figure has a path in a run's results, such as `splits.test.words.all`. If one
run has the figures of several systems, a row of the table names its part, which
replaces `{part}` in the paths.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgsgan.common.errors import UserError

_NONE = "–"  # The cell of a missing figure.
_REFERENCES = ("chance", "real")  # References that a figure may have.

Results = dict[str, Any]  # The contents of `results.json`.
Row = tuple[str, str, str]  # The names of a row, its arm and its part.


def summary(
  results: Mapping[str, list[Results]],
  columns: Mapping[str, str],
  rows: Sequence[Row] = (),
) -> dict[str, Any]:
  """Averages figures of each row over the seeds of its arm.

  Args:
    results: the results of each arm's runs, one for each seed.
    columns: the path of a figure, by heading.
    rows: the rows of the table. If empty, each arm has one, and no figure may
      be missing. A path without `{part}` belongs to the arm, so only the arm's
      first row has its figure.

  Returns:
    `{"arms": {name: {"seeds": n, "figures": {heading: figure}}}, "chance":
    {heading: mean over all rows}}`, all as shares of 1. A figure is `{"mean",
    "std", "values", "chance"}`, or None if missing; `std` is over n - 1, and
    None for one seed; `chance` is the mean over the row's seeds. Figures with a
    value of real data have `real`, like `chance`.

  Raises:
    UserError: a run or every run lacks a figure, or a path has no figure.
  """
  means: dict[str, Any] = {}
  with_row: set[str] = set()
  for name, arm, part in rows or [(name, name, "") for name in results]:
    paths = paths_of(columns, part, whole_arm=arm not in with_row)
    with_row.add(arm)
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
  """Paths of a row's figures by heading: of its part, or of the whole arm."""
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
  figures = [figure(run, path) for run in results]
  values = [x["value"] for x in figures]
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {"mean": float(np.mean(values)), "std": std, "values": values} | {
    name: _mean([x[name] for x in figures])
    for name in _REFERENCES
    if name in figures[0]
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
    for name in _REFERENCES:
      if values := [x[name] for x in figures if name in x]:
        references.setdefault(name, {})[head] = _mean(values)
  return references


def figure(results: Results, path: str) -> dict[str, float]:
  """Reads the figure at a path of a run's results.

  Raises:
    UserError: nothing is there, or something else than a figure.
  """
  if not has(results, path):
    raise UserError(
      f"config.compare.columns: there is no figure {path!r} in the results"
    )
  part = _at(results, path)
  if not isinstance(part, dict) or not {"value", "chance"} <= part.keys():
    raise UserError(
      f"config.compare.columns: {path!r} is no figure with a value and its "
      "chance"
    )
  return part


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
  """Averages figures; equal ones give exactly their value."""
  return float(values[0] if len({*values}) == 1 else np.mean(values))


def table(
  averages: Mapping[str, Any], numbers: Sequence[str] = ()
) -> list[str]:
  """Formats a summary as lines of Markdown.

  Figures are in per cent, except those with headings in `numbers`. Chance, and
  the values of real data, have one row if all arms agree, and else one for each
  arm.
  """
  heads = list(averages["chance"])
  scales = {
    head: (1.0, ".3g") if head in numbers else (100.0, ".1f") for head in heads
  }
  lines = [
    "| arm | seeds | " + " | ".join(heads) + " |",
    "|---|---|" + "---|" * len(heads),
  ]
  for name, arm in averages["arms"].items():
    cells = " | ".join(_cell(arm["figures"][h], *scales[h]) for h in heads)
    lines.append(f"| {name} | {arm['seeds']} | {cells} |")
  for reference in ("real", "chance"):
    for name, cells in _references(averages["arms"], reference, scales).items():
      lines.append(f"| {name} | | {' | '.join(cells)} |")
  return lines


def _references(
  arms: Mapping[str, Any],
  reference: str,
  scales: Mapping[str, tuple[float, str]],
) -> dict[str, list[str]]:
  """Cells of `chance` or `real`, in one row or in one for each arm."""
  rows = {}
  for name, arm in arms.items():
    figures = {head: figure or {} for head, figure in arm["figures"].items()}
    rows[f"{reference}, {name}"] = [
      _cell({"mean": figures[head][reference], "std": None}, *scale)
      if reference in figures[head]
      else _NONE
      for head, scale in scales.items()
    ]
  columns = [{*cells} - {_NONE} for cells in zip(*rows.values(), strict=True)]
  if all(len(cells) <= 1 for cells in columns):
    rows = {reference: ["".join(cells) or _NONE for cells in columns]}
  return {name: row for name, row in rows.items() if {*row} != {_NONE}}


def _cell(figure: Mapping[str, Any] | None, scale: float, form: str) -> str:
  if figure is None:
    return _NONE
  mean = format(scale * figure["mean"], form)
  if figure["std"] is None:
    return mean
  return f"{mean} ± {format(scale * figure['std'], form)}"
