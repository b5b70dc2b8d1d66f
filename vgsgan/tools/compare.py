"""Several runs of one config that differ in a few fields; table and bars."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from vgsgan import data, tasks
from vgsgan.common import files, jsonfiles, ranges
from vgsgan.common.errors import UserError, one_line
from vgsgan.common.options import check_one_of, nearest
from vgsgan.parallel import processes
from vgsgan.tools import bars
from vgsgan.train import finished, loop, runs, terminal, workdirs

_NONE = "–"  # In the place of a figure that a row lacks.


def arms(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, int, ml_collections.ConfigDict]]:
  """(name, seed, config) of each run that `config.compare` describes.

  Raises:
    UserError: there are none, or an arm sets what is no field, or no value of
      its type.
  """
  check_compare(config.compare)
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
        reason = one_line(error)
        raise UserError(f"config.compare.arms.{name}: {reason}") from error
      yield name, seed, one


@contextlib.contextmanager
def named(arm: str) -> Iterator[None]:
  """Around what is refused of an arm's config; '' is of no arm."""
  try:
    yield
  except UserError as error:
    if not arm:
      raise
    raise UserError(f"config.compare.arms.{arm}: {error}") from error


def first_runs(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
  """(name, config) of each arm with the first seed alone.

  Of a config that compares nothing it is itself, copied, under no name.
  """
  if "compare" not in config:
    yield "", ml_collections.ConfigDict(config.to_dict())
    return
  runs = list(arms(config))
  yield from ((name, one) for name, seed, one in runs if seed == runs[0][1])


def check_compare(compare: ml_collections.ConfigDict) -> None:
  """Refuses a comparison without arms, seeds or columns, or of wrong ones.

  Raises:
    UserError: with the field.
  """
  for field in ("seeds", "arms", "columns"):
    if field not in compare or not len(compare[field]):
      raise UserError(f"config.compare.{field} is empty: name at least one")
  if not ranges.Each(ranges.SEED).holds(compare.seeds):
    raise UserError(
      f"config.compare.seeds={compare.seeds!r} must be "
      f"{ranges.Each(ranges.SEED)}"
    )
  if len(set(compare.seeds)) < len(compare.seeds):
    raise UserError(f"config.compare.seeds={compare.seeds}: one is there twice")


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

  What is finished is not run again, so the same command goes on. The table is
  kept as `table.md` and `table.json`, and those of its columns that
  `config.compare.bars` names as `bars.svg`. A row is an arm, or what
  `config.compare.rows` makes of them; see `summary`. Figures are shares, shown
  in per cent, but for the columns that `config.compare.numbers` names.

  Returns:
    The exit status: that of the first run that was interrupted, or 0.

  Raises:
    UserError: `bars` names what is no column, or as `arms` and `summary` say.
  """
  check_compare(config.compare)
  columns = dict(config.compare.columns)
  drawn = tuple(config.compare.get("bars", ()))
  for name in drawn:
    check_one_of("compare.bars", name, tuple(columns))
  numbers = tuple(config.compare.get("numbers", ()))
  for name in numbers:
    check_one_of("compare.numbers", name, tuple(columns))
  rows = tuple(config.compare.get("rows", ()))
  for _, arm, _ in rows:
    check_one_of("compare.rows", arm, tuple(config.compare.arms))
  results: dict[str, list[dict[str, Any]]] = {}
  tested: dict[str, Any] = {}
  # All at once: a mistake in the last arm shows before the first has run.
  every = list(arms(config))
  done = set()
  for name, seed, one in every:
    folder = workdir / f"{name}-{seed}"
    with named(name):
      tasks.check(one)
      loop.check(one, mode)
    if mode == "train" and (folder / "results.json").exists():
      _require_same(folder, one)
      done.add(folder)
    else:
      runs.require_run(folder, one, mode)
  for name, seed, one in every:
    folder = workdir / f"{name}-{seed}"
    if folder not in done:
      if processes.first():
        print(f"{folder}:", flush=True)
      status = loop.run(one, folder, mode, tasks.build)
      if status:
        return status
    read = finished.results_of(folder)
    _require_same_source(folder, one, read, tested)
    # Refuses before the other runs.
    if not rows:
      for path in columns.values():
        _figure(read, path)
    _check_rows(read, [row for row in rows if row[1] == name], columns)
    results.setdefault(name, []).append(read)
    if len(results) == len(config.compare.arms):
      summary(results, columns, rows)
  found = summary(results, columns, rows)
  if not processes.first():
    return 0
  lines = table(found, numbers)
  jsonfiles.write_json(workdir / "table.json", found)
  files.replace(workdir / "table.md", "\n".join([*lines, ""]).encode())
  if drawn:
    files.replace(workdir / "bars.svg", bars.svg(found, drawn).encode())
  print("\n".join(lines), flush=True)
  made = ["table.md", "table.json", *(["bars.svg"] if drawn else [])]
  terminal.Terminal().info(
    f"all is in {workdir}: {', '.join(made)}, and a folder for each run"
  )
  return 0


def _require_same(
  folder: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Refuses a finished run of another config."""
  made = workdirs.read_config(folder)
  for line in workdirs.differences(made, config):
    raise UserError(
      f"{folder} is finished, with another {line}; use another --workdir"
    )


def _require_same_source(
  folder: pathlib.Path,
  config: ml_collections.ConfigDict,
  results: dict[str, Any],
  tested: dict[str, Any],
) -> None:
  """Refuses runs on equal data whose source has changed between them.

  Args:
    folder: of the run.
    config: of the run.
    results: of the run; runs of before do not name what they have read.
    tested: what runs before it have read, by their data; added to.
  """
  now = results.get("prepared")
  if not now:
    return
  key = jsonfiles.dumps(data.identity(config.data))
  if tested.setdefault(key, now) != now:
    raise UserError(
      f"{folder} has read {', '.join(now)} and a run before it "
      f"{', '.join(tested[key])}: the source of the data has changed between; "
      "use another --workdir"
    )


def _check_rows(
  results: dict[str, Any],
  rows: Sequence[tuple[str, str, str]],
  columns: Mapping[str, str],
) -> None:
  """Refuses a row whose part of the results is not there."""
  for row, _, part in rows:
    paths = [
      p.replace("{part}", part) for p in columns.values() if "{part}" in p
    ]
    if part and not any(_has(results, path) for path in paths):
      raise UserError(
        f"config.compare.rows: there is no {part!r} in the results for {row!r}"
      )


def summary(
  results: Mapping[str, list[dict[str, Any]]],
  columns: Mapping[str, str],
  rows: Sequence[tuple[str, str, str]] = (),
) -> dict[str, Any]:
  """Figures of each arm over its seeds.

  Args:
    results: contents of `results.json`, a list an arm.
    columns: the path of a figure in them, by heading.
    rows: (name, arm, part) of each row, where one run has the figures of
      several systems: `part` stands in for `{part}` in the paths; '' of a row
      without such figures. Those of paths without `{part}` are in the first
      row of an arm alone. Without rows every arm is one.

  Returns:
    `{"arms": {name: {"seeds": n, "figures": {heading: figure}}}, "chance":
    {heading: mean over all rows}}`, all as shares of 1. A figure is `{"mean",
    "std", "values", "chance"}`, `std` over n - 1 and None of one seed, `chance`
    the mean of the row's own; None for a figure that a row lacks. And `real`,
    like `chance`, for the figures that say what the real would have.

  Raises:
    UserError: a run lacks a figure, or all do, or what is there is none.
  """
  table_rows = rows or [(name, name, "") for name in results]
  arms: dict[str, Any] = {}
  seen: set[str] = set()
  for row, arm, part in table_rows:
    figures: dict[str, Any] = {}
    for head, path in columns.items():
      again = arm in seen and "{part}" not in path
      path = path.replace("{part}", part)
      if again or (rows and not _has(results[arm][0], path)):
        figures[head] = None
        continue
      several = [_figure(one, path) for one in results[arm]]
      figures[head] = _spread([one["value"] for one in several])
      for known in ("chance", "real"):
        if known in several[0]:
          figures[head][known] = _mean([one[known] for one in several])
    arms[row] = {"seeds": len(results[arm]), "figures": figures}
    seen.add(arm)
  found: dict[str, Any] = {"arms": arms, "chance": {}, "real": {}}
  for head, path in columns.items():
    there = [arm["figures"][head] for arm in arms.values()]
    there = [figure for figure in there if figure is not None]
    if not there:
      raise UserError(f"config.compare.columns: no row has the figure {path!r}")
    for known in ("chance", "real"):
      values = [figure[known] for figure in there if known in figure]
      if values:
        found[known][head] = _mean(values)
  return {name: part for name, part in found.items() if part}


def _has(results: dict[str, Any], path: str) -> bool:
  node: Any = results
  for name in path.split("."):
    if not isinstance(node, dict) or name not in node:
      return False
    node = node[name]
  return True


def _mean(values: list[float | int]) -> float:
  """Averages figures; the mean of equal ones is that value, to the last bit."""
  return float(values[0] if len({*values}) == 1 else np.mean(values))


def _spread(values: list[float]) -> dict[str, Any]:
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {"mean": float(np.mean(values)), "std": std, "values": values}


def table(found: Mapping[str, Any], numbers: Sequence[str] = ()) -> list[str]:
  """Lines of Markdown from `summary`: a row an arm.

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


def _figure(results: dict[str, Any], path: str) -> dict[str, float]:
  node: Any = results
  for name in path.split("."):
    if not isinstance(node, dict) or name not in node:
      raise UserError(
        f"config.compare.columns: there is no figure {path!r} in the results"
      )
    node = node[name]
  if not isinstance(node, dict) or not {"value", "chance"} <= node.keys():
    raise UserError(
      f"config.compare.columns: {path!r} is no figure with a value and its "
      "chance"
    )
  return node
