"""The modes of `python -m vgsgan.tools.bench`, and tables of their figures."""

import datetime
import errno
import os
import pathlib
import platform
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence

import jax
import ml_collections

from vgsgan.common import jsonfiles, options
from vgsgan.common.errors import UserError
from vgsgan.tools.bench import checkpoint, edits, input, scores, step
from vgsgan.tools.compare import arms
from vgsgan.train import terminal

Measure = Callable[[ml_collections.ConfigDict, int], dict]

MODES: Mapping[str, Measure] = {
  "step": step.measure,
  "scores": scores.measure,
  "input": input.measure,
  "edits": edits.measure,
  "checkpoint": checkpoint.measure,
}


def chosen_mode(names: Sequence[str]) -> str:
  """The mode among the arguments; raises UserError if not exactly one."""
  listed = ", ".join(MODES)
  if not names:
    raise UserError(f"name what to measure, one of {listed}")
  if names[0] not in MODES:
    near = options.nearest(names[0], list(MODES))
    raise UserError(f"unknown mode {names[0]!r}: {near} (one of {listed})")
  if len(names) > 1:
    raise UserError(f"unexpected argument {names[1]!r}; flags start with --")
  return names[0]


def with_config(argv: Sequence[str]) -> list[str]:
  """Adds the default `--config` to the arguments if they have none.

  As the flag's default, its overrides would be applied on import, unchecked.
  """
  names = {arg.lstrip("-").partition("=")[0] for arg in argv if arg[:1] == "-"}
  given = [] if "config" in names else ["--config=configs/stamps.py"]
  return [argv[0], *given, *argv[1:]]


def columns(
  measure: Measure, config: ml_collections.ConfigDict, repeat: int
) -> dict[str, dict]:
  """Measures each arm of a config; the figures by arm, "" if it has none."""
  runs = list(arms.first_runs(config))  # Checks all arms before it measures.
  say, columns = terminal.Terminal(), {}
  for name, arm in runs:
    with say.status(f"measuring {name}".strip()):
      columns[name] = measure(arm, repeat)
  return columns


def check_writable(path: pathlib.Path) -> None:
  """Checks that a file can be written, before a measurement is made.

  Raises:
    UserError: its folder is missing or not writable, or it is a folder.
  """
  try:
    with tempfile.TemporaryFile(dir=path.parent):
      pass
    reason = os.strerror(errno.EISDIR) if path.is_dir() else ""
  except OSError as error:
    reason = error.strerror or str(error)
  if reason:
    raise UserError(f"--json={path} cannot be written: {reason}")


def table(columns: Mapping[str, dict]) -> list[str]:
  """Lines of a Markdown table: a row a figure, a column an arm."""
  flat = {arm: jsonfiles.flatten(figures) for arm, figures in columns.items()}
  names = list(dict.fromkeys(name for arm in flat.values() for name in arm))
  rows = [
    ["", *flat],
    *([n, *(_short(arm.get(n)) for arm in flat.values())] for n in names),
  ]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  rows.insert(1, ["-" * width for width in widths])
  return [
    f"| {' | '.join(map(str.ljust, row, widths))} |".replace("|  |", "| |")
    for row in rows
  ]


def _short(value: float | None) -> str:
  """A figure to four digits, or `-` if it is missing."""
  if value is None:
    return "-"
  return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> dict[str, str | int]:
  """The machine and the date of a measurement."""
  devices = jax.devices()
  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "jax": jax.__version__,
    "devices": len(devices),
    "device": devices[0].device_kind,
    "processor": processor(),
    "cores": len(os.sched_getaffinity(0)),
  }


def processor() -> str:
  """The name of the CPU."""
  listed = pathlib.Path("/proc/cpuinfo")
  match = listed.exists() and re.search(
    r"^model name\s*: (.+)$", listed.read_text(), re.MULTILINE
  )
  return match[1] if match else platform.processor()
