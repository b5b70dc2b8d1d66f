"""Runs the arms of a config, and writes their table and bars."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from vgsgan import data, tasks
from vgsgan.common import files, jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.parallel import processes
from vgsgan.tools.compare import bars, tables
from vgsgan.tools.compare.arms import Arm, arms, check_compare, named
from vgsgan.train import finished, loop, runs, terminal, workdirs


class Layout(NamedTuple):
  """The table of a comparison.

  Attributes:
    columns: paths of figures in the results, by heading.
    rows: see `tables.summary`.
    numbers: headings of figures that are not shares.
    bars: headings of figures to draw as bars.
  """

  columns: Mapping[str, str]
  rows: Sequence[tables.Row]
  numbers: Sequence[str]
  bars: Sequence[str]


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, mode: str
) -> int:
  """Runs every arm with every seed in its own folder, and prints the table.

  Finished runs do not run again, so the same command resumes a comparison. The
  table is written as `table.md` and `table.json`, and the columns in
  `config.compare.bars` as `bars.svg`. Figures are shares, in per cent, except
  for the columns in `config.compare.numbers`.

  Returns:
    The exit status: that of an interrupted run, or 0.

  Raises:
    UserError: `config.compare` or an arm is wrong, a finished run has another
      config, or the results lack a figure.
  """
  layout = _layout(config.compare)
  every = list(arms(config))
  finished_runs = _check_runs(every, workdir, mode)
  results: dict[str, list[tables.Results]] = {}
  prepared: dict[str, Any] = {}
  for arm in every:
    folder = _folder(workdir, arm)
    if folder not in finished_runs:
      if processes.first():
        print(f"{folder}:", flush=True)
      if status := loop.run(arm.config, folder, mode, tasks.build):
        return status
    read = finished.results_of(folder)
    _require_same_source(folder, arm.config, read, prepared)
    _check_results(read, arm.name, layout)
    results.setdefault(arm.name, []).append(read)
    if len(results) == len(config.compare.arms):
      # This finds a column that no row has, before the next seed runs.
      tables.summary(results, layout.columns, layout.rows)
  if processes.first():
    _write(
      workdir, tables.summary(results, layout.columns, layout.rows), layout
    )
  return 0


def _folder(workdir: pathlib.Path, arm: Arm) -> pathlib.Path:
  return workdir / f"{arm.name}-{arm.seed}"


def _layout(compare: ml_collections.ConfigDict) -> Layout:
  """Reads the layout from `config.compare`; UserError for unknown names."""
  check_compare(compare)
  columns, rows = dict(compare.columns), tuple(compare.get("rows", ()))
  headings = {
    name: tuple(compare.get(name, ())) for name in ("bars", "numbers")
  }
  for field, names in headings.items():
    for name in names:
      check_one_of(f"compare.{field}", name, tuple(columns))
  for _, arm, _ in rows:
    check_one_of("compare.rows", arm, tuple(compare.arms))
  return Layout(columns, rows, **headings)


def _check_runs(
  every: Sequence[Arm], workdir: pathlib.Path, mode: str
) -> set[pathlib.Path]:
  """Raises UserError for a mistake in any arm, before the first one runs.

  Returns:
    The folders of finished runs.
  """
  done = set()
  for arm in every:
    folder = _folder(workdir, arm)
    with named(arm.name):
      tasks.check(arm.config)
      loop.check(arm.config, mode)
    if mode == "train" and (folder / "results.json").exists():
      _require_same(folder, arm.config)
      done.add(folder)
    else:
      runs.require_run(folder, arm.config, mode)
  return done


def _require_same(
  folder: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Raises UserError for a finished run of another config."""
  before = workdirs.read_config(folder)
  for line in workdirs.differences(before, config):
    raise UserError(
      f"{folder} is finished, with another {line}; use another --workdir"
    )


def _require_same_source(
  folder: pathlib.Path,
  config: ml_collections.ConfigDict,
  results: dict[str, Any],
  prepared: dict[str, Any],
) -> None:
  """Raises UserError if the source of the data changed between two runs.

  Args:
    folder: of the run.
    config: of the run.
    results: of the run; the key `prepared` names the data it has read.
    prepared: the data that earlier runs have read, by their configs; updated.
  """
  now = results.get("prepared")
  if not now:
    return
  key = jsonfiles.dumps(data.identity(config.data))
  if prepared.setdefault(key, now) != now:
    raise UserError(
      f"{folder} has read {', '.join(now)} and a run before it "
      f"{', '.join(prepared[key])}: the source of the data has changed "
      "between; use another --workdir"
    )


def _check_results(results: tables.Results, arm: str, layout: Layout) -> None:
  """Checks that results have their figures, before the other arms run.

  Raises:
    UserError: without rows, a figure is missing; with rows, a row's part is.
  """
  if not layout.rows:
    for path in layout.columns.values():
      tables.figure(results, path)
  for row, of, part in layout.rows:
    paths = tables.paths_of(layout.columns, part, whole_arm=False).values()
    if of == arm and part and not any(tables.has(results, x) for x in paths):
      raise UserError(
        f"config.compare.rows: there is no {part!r} in the results for {row!r}"
      )


def _write(
  workdir: pathlib.Path, summary: dict[str, Any], layout: Layout
) -> None:
  """Writes and prints the table, and writes the bars."""
  text = "\n".join([*tables.table(summary, layout.numbers), ""])
  jsonfiles.write_json(workdir / "table.json", summary)
  files.replace(workdir / "table.md", text.encode())
  written = ["table.md", "table.json"]
  if layout.bars:
    drawing = bars.svg(summary, layout.bars)
    files.replace(workdir / "bars.svg", drawing.encode())
    written.append("bars.svg")
  print(text, end="", flush=True)
  terminal.Terminal().info(
    f"all is in {workdir}: {', '.join(written)}, and a folder for each run"
  )
