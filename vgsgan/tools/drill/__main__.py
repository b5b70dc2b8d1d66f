"""Breaks a run at random moments and checks that it recovers.

    python -m vgsgan.tools.drill --count=100 --workdir=runs/drill

A drill kills the run, ends it, fills its disk or damages its files, starts it
again, and compares what it leaves with an undisturbed run. Runs use the CPU,
whatever devices there are. Writes drills.jsonl (a line a drill), drills.json
(the counts) and the folders of the drills that failed. The exit status is 1 if
any did.
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

ATTEMPTS = 5  # A run may be over before the moment of its fault.


class Undisturbed:
  """The runs to compare with, made when first asked for."""

  def __init__(self, place: runs.Place):
    self.place = place
    self.made: dict[int, pathlib.Path] = {}

  def __call__(self, processes: int) -> pathlib.Path:
    if processes not in self.made:
      folder = self.place.folder / f"undisturbed-{processes}"
      place = dataclasses.replace(self.place, folder=folder)
      with runs.Start(place, processes=processes) as start:
        if any(codes := start.ended(2 * runs.START_SECONDS)):
          said = " ".join(start.lines()).removeprefix("vgsgan: ")
          raise UserError(
            f"the run fails without any drill, with {codes}: "
            f"{said or f'see {start.logs[0]}'}"
          )
      self.made[processes] = place.workdir
    return self.made[processes]


def drilled(
  place: runs.Place, number: int, kind: str, seed: int, undisturbed: Undisturbed
) -> dict[str, Any]:
  """One drill, tried again if the run was too quick for it."""
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
    except Exception as error:  # Whatever it is, the next drills go on.
      said = (
        error
        if isinstance(error, runs.FailedError)
        else one_line(error, named=True)
      )
      why = f"{said}; kept in {folder}"
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


def counts(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Of each kind: drills, failures, most steps done again, longest."""
  kinds = collections.defaultdict(list)
  for one in found:
    kind = one["kind"]
    kinds["devices" if kind.startswith("devices") else kind].append(one)
  return {
    kind: {
      "drills": len(many),
      "failed": sum(not one["ok"] for one in many),
      "most_steps_redone": max(one.get("redone", 0) for one in many),
      "noticed": sum(one.get("noticed", False) for one in many),
      "half_written": sum(one.get("half_written", 0) > 0 for one in many),
      "most_seconds_to_follow": max(one.get("seconds", 0) for one in many),
      "largest_difference": max(one.get("off", 0) for one in many),
    }
    for kind, many in kinds.items()
  }


def table(kinds: dict[str, dict[str, Any]]) -> str:
  """For people: a line a kind."""
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
      # What drills left before, or is half done, would be taken for a run's.
      raise UserError(f"{folder} is not empty: name a new --workdir")
  place = runs.Place(
    folder, given.config, tuple(passed), folder / "data", folder / "cache"
  )
  undisturbed = Undisturbed(place)
  undisturbed(1)  # Prepares the data, too.
  logging.set_verbosity(logging.ERROR)
  jax.config.update("jax_platforms", "cpu")
  found = []
  kinds = given.kinds or list(faults.KINDS)
  bar = tqdm.tqdm(list(faults.plan(given.count, kinds)), unit="drill")
  for number, kind in enumerate(bar):
    bar.set_description(kind)
    one = drilled(place, number, kind, given.seed, undisturbed)
    found.append(one)
    with open(folder / "drills.jsonl", "a") as file:
      file.write(f"{json.dumps(one)}\n")
    if not one["ok"]:
      tqdm.tqdm.write(f"{kind}: {one['why']}", file=sys.stderr)
    report = {"seed": given.seed, "kinds": counts(found)}
    jsonfiles.write_json(folder / "drills.json", report)
  print(table(counts(found)))
  return int(any(not one["ok"] for one in found))


if __name__ == "__main__":  # `--config.FIELD=VALUE` is left, for the runs.
  commands.start(main, define_flags, unknown_flags=True)
