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
  """The one mode that was named."""
  known = ", ".join(MODES)
  if not names:
    raise UserError(f"name what to measure, one of {known}")
  if names[0] not in MODES:
    near = options.nearest(names[0], list(MODES))
    raise UserError(f"unknown mode {names[0]!r}: {near} (one of {known})")
  if len(names) > 1:
    raise UserError(f"unexpected argument {names[1]!r}; flags start with --")
  return names[0]


def with_config(argv: Sequence[str]) -> list[str]:
  """The program and its arguments, with a `--config` if they name none.

  As a flag's default its overrides would be applied, unchecked, on import.
  """
  names = {arg.lstrip("-").partition("=")[0] for arg in argv if arg[:1] == "-"}
  given = [] if "config" in names else ["--config=configs/stamps.py"]
  return [argv[0], *given, *argv[1:]]


def columns(
  measure: Measure, config: ml_collections.ConfigDict, repeat: int
) -> dict[str, dict]:
  """What is measured, by arm; by "" of a config that has none."""
  runs = list(arms.first_runs(config))  # Refuses before it measures.
  say, found = terminal.Terminal(), {}
  for name, one in runs:
    with say.status(f"measuring {name}".strip()):
      found[name] = measure(one, repeat)
  return found


def check_writable(path: pathlib.Path) -> None:
  """Refuses a file that could not be written, before it is measured for.

  Raises:
    UserError: its folder is not there or takes no files, or it is a folder.
  """
  try:
    with tempfile.TemporaryFile(dir=path.parent):
      pass
    reason = os.strerror(errno.EISDIR) if path.is_dir() else ""
  except OSError as error:
    reason = error.strerror or str(error)
  if reason:
    raise UserError(f"--json={path} cannot be written: {reason}")


def table(found: Mapping[str, dict]) -> list[str]:
  """Lines of a Markdown table: a row a figure, a column an arm."""
  flat = {arm: jsonfiles.flatten(figures) for arm, figures in found.items()}
  names = list(dict.fromkeys(name for one in flat.values() for name in one))
  rows = [
    ["", *flat],
    *([n, *(_short(one.get(n)) for one in flat.values())] for n in names),
  ]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  rows.insert(1, ["-" * width for width in widths])
  return [
    f"| {' | '.join(map(str.ljust, row, widths))} |".replace("|  |", "| |")
    for row in rows
  ]


def _short(value: float | None) -> str:
  """Four digits of a figure."""
  if value is None:
    return "-"
  return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> dict[str, str | int]:
  """What the figures were measured on, and when."""
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
  found = listed.exists() and re.search(
    r"^model name\s*: (.+)$", listed.read_text(), re.MULTILINE
  )
  return found[1] if found else platform.processor()
