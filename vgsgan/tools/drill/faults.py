"""Faults of a run, one function a kind.

Each starts a run, disturbs it at a random moment, and gives the same command
again. Three things must hold: no complete checkpoint is lost; no steps before
the last complete save are done again; and in the end the run has the same files
as the undisturbed one.
"""

import contextlib
import dataclasses
import pathlib
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from vgsgan.tools.drill import compare, runs
from vgsgan.tools.drill.moments import Drill, Facts
from vgsgan.tools.drill.runs import FailedError, MissedError, Start

# Limit after SIGTERM or a failure, for the current step, a save and the exit.
LEAVE_SECONDS = 120.0
_LOST = (-signal.SIGABRT, 128 + signal.SIGABRT)
_LEFT = 128 + signal.SIGTERM


MOMENTS = ("training", "evaluating", "saving")


def kill(moment: str) -> Callable[[Drill], Facts]:
  """Kills a run with SIGKILL."""

  def fault(drill: Drill) -> Facts:
    with Start(drill.place) as first:
      getattr(drill, moment)(first)
      first.send(signal.SIGKILL)
      first.ended(LEAVE_SECONDS)
    facts = {"half_written": len(runs.unfinished(drill.workdir))}
    facts |= drill.again(first)
    drill.same()
    return facts

  return fault


def terminate(moment: str) -> Callable[[Drill], Facts]:
  """Sends SIGTERM: the run saves and leaves with 143.

  If there is nothing to save, it may end at once.
  """

  def fault(drill: Drill) -> Facts:
    with Start(drill.place) as first:
      getattr(drill, moment)(first)
      first.send(signal.SIGTERM)
      (code,) = first.ended(LEAVE_SECONDS)
    if code == 0:
      raise MissedError
    if code != _LEFT and not (code == -signal.SIGTERM and _idle(drill.workdir)):
      raise FailedError(f"left with {code}")
    facts = drill.again(first)
    _require_saved(facts)
    drill.same()
    return facts

  return fault


def _require_saved(facts: Facts) -> None:
  """Checks that a run that was asked to leave has saved its last step."""
  if facts["redone"]:
    raise FailedError(f"{facts['redone']} steps were done again")


def _idle(workdir: pathlib.Path) -> bool:
  """Tells whether a run has nothing to save: no step yet, or its results."""
  return not runs.reached(workdir) or (workdir / "results.json").exists()


def kill_one_of_two(drill: Drill) -> Facts:
  """Kills one of two processes: the other reports it within a minute."""
  which = drill.chance.randrange(2)
  with Start(drill.place, processes=2) as first:
    getattr(drill, drill.chance.choice(MOMENTS))(first)
    first.send(signal.SIGKILL, which)
    began = time.monotonic()
    codes = first.ended(runs.LOST_SECONDS)
    took = time.monotonic() - began
    other, said = codes[1 - which], first.lines(1 - which)
    if other == 0:
      raise MissedError  # It did not need the other process any more.
    # Another program passes on what C++ said (lost_lines), maybe a bit later.
    while not said and time.monotonic() < began + runs.LOST_SECONDS:
      time.sleep(0.1)
      said = first.lines(1 - which)
  if other not in _LOST or len(said) != 1:
    raise FailedError(f"the other process left with {other} and said {said}")
  facts = drill.again(first, processes=2) | {"seconds": round(took, 1)}
  drill.same(2)
  return facts


def terminate_one_of_two(drill: Drill) -> Facts:
  """Sends SIGTERM to one of two processes: both save one step and leave."""
  with Start(drill.place, processes=2) as first:
    drill.training(first, 1)
    first.send(signal.SIGTERM, drill.chance.randrange(2))
    codes = first.ended(LEAVE_SECONDS)
  if codes == [0, 0]:
    raise MissedError
  if codes != [_LEFT, _LEFT]:
    raise FailedError(f"the processes left with {codes}")
  facts = drill.again(first, processes=2)
  _require_saved(facts)
  drill.same(2)
  return facts


def full_disk(drill: Drill) -> Facts:
  """Fills the disk during a save, then frees space for the next start."""
  facts = {"how": "a small tmpfs"}
  drill.workdir.mkdir(parents=True)
  mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(drill.workdir)]
  if subprocess.run(mount, capture_output=True).returncode:
    return full_by_limit(drill)
  filler = drill.workdir / "filler"
  spare = drill.chance.randrange(200_000)
  try:
    with Start(drill.place) as first:
      drill.training(first, 1)
      codes = first.ended(LEAVE_SECONDS, lambda: _fill(filler, spare))
    filler.unlink(missing_ok=True)
    if codes == [0]:
      raise MissedError
    _require_line(first, codes, "space")
    facts |= drill.again(first)
    drill.same()
  except FailedError:
    shutil.copytree(drill.workdir, drill.place.folder / "disk")
    raise
  finally:
    subprocess.run(["umount", "-l", str(drill.workdir)], check=True)
  return facts


def full_by_limit(drill: Drill) -> Facts:
  """Limits the size of files instead, if nothing can be mounted."""
  with Start(drill.place) as first:
    drill.training(first, 1)
    pid, size = first.processes[0].pid, drill.chance.randrange(200, 20_000)
    with contextlib.suppress(ProcessLookupError):
      resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))
    codes = first.ended(LEAVE_SECONDS)
  if codes == [0]:
    raise MissedError
  _require_line(first, codes, "File too large")
  facts = {"how": "a limit on the size of files"} | drill.again(first)
  drill.same()
  return facts


def _fill(filler: pathlib.Path, spare: int) -> None:
  """Fills the disk but for `spare` bytes, also those freed meanwhile."""
  free = shutil.disk_usage(filler.parent).free
  if free > spare:
    with contextlib.suppress(OSError), open(filler, "ab", buffering=0) as file:
      file.write(bytes(free - spare))


def _require_line(start: Start, codes: list[int], word: str) -> None:
  said = start.lines()
  if codes != [2] or len(said) != 1 or word not in said[0]:
    raise FailedError(f"left with {codes} and said {said}")


def truncated(drill: Drill) -> Facts:
  """Truncates a file of the newest checkpoint."""
  with Start(drill.place) as first:
    drill.training(first, 2 * runs.SAVE_EVERY)
    first.send(signal.SIGKILL)
    first.ended(LEAVE_SECONDS)
  steps = runs.complete(drill.workdir)
  if len(steps) < 2:
    raise MissedError
  newest = drill.workdir / "checkpoints" / str(steps[-1])
  files = sorted(x for x in newest.rglob("*") if x.is_file())
  file = drill.chance.choice(files)
  size = drill.chance.randrange(file.stat().st_size)
  with open(file, "r+b") as opened:
    opened.truncate(size)
  with Start(drill.place) as second:
    codes = second.ended()
  noticed = f"{newest} is damaged" in second.output()
  expected = steps[-2] if noticed else steps[-1]
  if any(codes) or second.resumed() != expected:
    raise FailedError(
      f"{file.relative_to(newest)} cut to {size} bytes: left with {codes}, "
      f"went on from {second.resumed()}"
    )
  drill.same()
  return {"noticed": noticed}


def damaged_data(drill: Drill) -> Facts:
  """Changes bytes of a data file: the next start refuses or ignores them."""
  data = drill.place.folder / "data"
  shutil.copytree(drill.place.data, data)
  drill.place = dataclasses.replace(drill.place, data=data)
  with Start(drill.place) as first:
    drill.training(first, 1)
    first.send(signal.SIGKILL)
    first.ended(LEAVE_SECONDS)
  file = drill.chance.choice(sorted(data.rglob("*.array_record*")))
  whole = file.read_bytes()
  bad = bytearray(whole)
  for _ in range(drill.chance.randint(1, 8)):
    bad[drill.chance.randrange(len(bad))] ^= drill.chance.randrange(1, 256)
  file.write_bytes(bad)
  with Start(drill.place) as second:
    codes = second.ended()
  noticed = codes != [0]
  if noticed:
    _require_line(second, codes, str(data))
  file.write_bytes(whole)
  facts = drill.again(first) | {"noticed": noticed}
  drill.same()
  return facts


def devices(before: int, after: int) -> Callable[[Drill], Facts]:
  """Saves on `before` devices and resumes on `after`."""

  def fault(drill: Drill) -> Facts:
    with Start(drill.place, devices=before) as first:
      drill.training(first, 1)
      first.send(signal.SIGTERM)
      codes = first.ended(LEAVE_SECONDS)
    if codes == [0]:
      raise MissedError
    if codes != [_LEFT]:
      raise FailedError(f"left with {codes}")
    facts = drill.again(first, devices=after)
    _require_saved(facts)
    far = compare.require_close(drill.workdir, drill.undisturbed(1))
    return facts | {"off": float(f"{far:.2g}")}

  return fault


KINDS: dict[str, Callable[[Drill], Facts]] = {
  **{f"kill-{moment}": kill(moment) for moment in MOMENTS},
  **{f"term-{moment}": terminate(moment) for moment in MOMENTS},
  "kill-one-of-two": kill_one_of_two,
  "term-one-of-two": terminate_one_of_two,
  "full-disk": full_disk,
  "truncated-checkpoint": truncated,
  "damaged-data": damaged_data,
  **{
    f"devices-{a}-to-{b}": devices(a, b)
    for a in (1, 2, 4, 8)
    for b in (1, 2, 4, 8)
    if a != b
  },
}
# Drills of each kind in a hundred; every pair of devices has one.
SHARES = {
  "kill-training": 12,
  "kill-evaluating": 8,
  "kill-saving": 14,
  "term-training": 8,
  "term-evaluating": 6,
  "term-saving": 6,
  "kill-one-of-two": 8,
  "term-one-of-two": 4,
  "full-disk": 8,
  "truncated-checkpoint": 6,
  "damaged-data": 8,
}


def plan(count: int, kinds: list[str]) -> Iterator[str]:
  """Yields the kinds of `count` drills, mixed by their shares."""
  owed = {kind: 0.0 for kind in kinds}
  total = sum(SHARES.get(kind, 1) for kind in kinds)
  for _ in range(count):
    for kind in kinds:
      owed[kind] += SHARES.get(kind, 1) / total
    kind = max(owed, key=owed.__getitem__)
    owed[kind] -= 1
    yield kind
