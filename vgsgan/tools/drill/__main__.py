"""Breaks a run at random moments and checks that it recovers.

    python -m vgsgan.tools.drill --count=100 --workdir=runs/drill

A drill kills the run, ends it, fills its disk or damages its files, starts it
again, and compares its files with those of an undisturbed run. Runs use the
CPU. Writes drills.jsonl (a line a drill), drills.json (the counts) and the
folders of the drills that failed. The exit status is 1 if any did.
"""

import collections
import dataclasses
import json
import pathlib
import random
import shutil
import sys
import time
from typing import Any

import jax
import tqdm
from absl import flags, logging

from vgsgan.common import commands, files, jsonfiles, options
from vgsgan.common.errors import UserError, one_line
from vgsgan.tools.drill import faults, runs
from vgsgan.tools.drill.moments import Drill

ATTEMPTS = 5  # A run may end before the moment of its fault.


class Undisturbed:
  """The runs to compare with, by their processes; each runs at first use."""

  def __init__(self, place: runs.Place):
    self.place = place
    self.workdirs: dict[int, pathlib.Path] = {}

  def __call__(self, processes: int) -> pathlib.Path:
    if processes not in self.workdirs:
      folder = self.place.folder / f"undisturbed-{processes}"
      place = dataclasses.replace(self.place, folder=folder)
      with runs.Start(place, processes=processes) as start:
        if any(codes := start.ended(2 * runs.START_SECONDS)):
          reason = " ".join(start.lines()).removeprefix("vgsgan: ")
          raise UserError(
            f"the run fails without any drill, with {codes}: "
            f"{reason or f'see {start.logs[0]}'}"
          )
      self.workdirs[processes] = place.workdir
    return self.workdirs[processes]


def drilled(
  place: runs.Place, number: int, kind: str, seed: int, undisturbed: Undisturbed
) -> dict[str, Any]:
  """Makes one drill, and repeats it if the run ended before the fault."""
  began, why, facts = time.monotonic(), "", {}
  for attempt in range(ATTEMPTS):
    folder = place.folder / f"drill-{number}-{kind}-{attempt}"
    here = dataclasses.replace(place, folder=folder)
    chance = random.Random(f"{seed} {number} {attempt}")
    try:
      facts = faults.KINDS[kind](Drill(here, chance, undisturbed))
    except runs.MissedError:
      why = f"the moment was missed {ATTEMPTS} times"
      shutil.rmtree(folder)
      continue
    except Exception as error:  # Any error fails this drill alone.
      reason = (
        error
        if isinstance(error, runs.FailedError)
        else one_line(error, named=True)
      )
      why = f"{reason}; kept in {folder}"
      break
    why = ""
    shutil.rmtree(folder)
    break
  seconds = round(time.monotonic() - began, 1)
  return (
    {"number": number, "kind": kind, "ok": not why}
    | ({"why": why} if why else {})
    | facts
    | {"took": seconds}
  )


def counts(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Counts drills, failures and the largest figures of each kind."""
  kinds = collections.defaultdict(list)
  for result in results:
    kind = result["kind"]
    kinds["devices" if kind.startswith("devices") else kind].append(result)
  return {
    kind: {
      "drills": len(group),
      "failed": sum(not x["ok"] for x in group),
      "most_steps_redone": max(x.get("redone", 0) for x in group),
      "noticed": sum(x.get("noticed", False) for x in group),
      "half_written": sum(x.get("half_written", 0) > 0 for x in group),
      "most_seconds_to_follow": max(x.get("seconds", 0) for x in group),
      "largest_difference": max(x.get("off", 0) for x in group),
    }
    for kind, group in kinds.items()
  }


def table(kinds: dict[str, dict[str, Any]]) -> str:
  """A table for people, with a line for each kind."""
  lines = [f"{'kind':22}{'drills':>8}{'failed':>8}  steps done again, at most"]
  for kind, row in kinds.items():
    lines.append(
      f"{kind:22}{row['drills']:8}{row['failed']:8}{row['most_steps_redone']:6}"
    )
  total = [sum(x[k] for x in kinds.values()) for k in ("drills", "failed")]
  return "\n".join([*lines, f"{'all':22}{total[0]:8}{total[1]:8}"])


def define_flags(values: flags.FlagValues) -> None:
  options.define_path(values, "workdir", None, "A new folder (needed).")
  flags.DEFINE_integer("count", 100, "Number of drills.", 1, None, values)
  flags.DEFINE_integer(
    "seed", 0, "Seed of the random moments.", flag_values=values
  )
  flags.DEFINE_list(
    "kinds",
    [],
    f"Faults: {', '.join(faults.KINDS)}; all if empty.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "config",
    "configs/recogniser.py:smoke",
    "Config of the run; --config.FIELD=VALUE overrides a field.",
    values,
  )


def main(argv: list[str]) -> int:
  given = flags.FLAGS
  passed = [x for x in argv[1:] if x.startswith("--config.")]
  if other := [x for x in argv[1:] if x not in passed]:
    raise UserError(f"unexpected argument {other[0]!r}; --help lists the flags")
  if not given.workdir:
    raise UserError("--workdir is missing: name a folder to drill in")
  for kind in given.kinds:
    if kind not in faults.KINDS:
      near = options.nearest(kind, list(faults.KINDS))
      raise UserError(f"--kinds={kind} is unknown: {near}")
  folder = pathlib.Path(given.workdir).absolute()
  with files.explain_os_errors(folder):
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
      # Files of earlier drills would be taken for those of a run.
      raise UserError(f"{folder} is not empty: name a new --workdir")
  place = runs.Place(
    folder, given.config, tuple(passed), folder / "data", folder / "cache"
  )
  undisturbed = Undisturbed(place)
  undisturbed(1)  # This prepares the data as well.
  logging.set_verbosity(logging.ERROR)
  jax.config.update("jax_platforms", "cpu")
  results = []
  kinds = given.kinds or list(faults.KINDS)
  bar = tqdm.tqdm(list(faults.plan(given.count, kinds)), unit="drill")
  for number, kind in enumerate(bar):
    bar.set_description(kind)
    result = drilled(place, number, kind, given.seed, undisturbed)
    results.append(result)
    with open(folder / "drills.jsonl", "a") as file:
      file.write(f"{json.dumps(result)}\n")
    if not result["ok"]:
      tqdm.tqdm.write(f"{kind}: {result['why']}", file=sys.stderr)
    report = {"seed": given.seed, "kinds": counts(results)}
    jsonfiles.write_json(folder / "drills.json", report)
  print(table(counts(results)))
  return int(any(not x["ok"] for x in results))


if __name__ == "__main__":  # `--config.FIELD=VALUE` is passed on to the runs.
  commands.start(main, define_flags, unknown_flags=True)
