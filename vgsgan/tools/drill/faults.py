"""What can happen to a run, one function a kind.

Each makes a run, lets something happen to it at a random moment, and gives the
same command again. What must hold: no checkpoint that was complete is lost, at
most the steps since the last complete save are done again, and in the end the
run has left what the undisturbed one has.
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

# After SIGTERM or a failure: what is under way, a save, and leaving.
LEAVE_SECONDS = 120.0
_LOST = (-signal.SIGABRT, 128 + signal.SIGABRT)
_LEFT = 128 + signal.SIGTERM


MOMENTS = ("training", "evaluating", "saving")


def kill(moment: str) -> Callable[[Drill], Facts]:
  """`kill -9`."""

  def drill(this: Drill) -> Facts:
    with Start(this.place) as first:
      getattr(this, moment)(first)
      first.send(signal.SIGKILL)
      first.ended(LEAVE_SECONDS)
    facts = {"half_written": len(runs.unfinished(this.workdir))}
    facts |= this.again(first)
    this.same()
    return facts

  return drill


def terminate(moment: str) -> Callable[[Drill], Facts]:
  """SIGTERM: saves, and leaves with 143; where there is nothing to save, yet or
  any more, it may end at once."""

  def drill(this: Drill) -> Facts:
    with Start(this.place) as first:
      getattr(this, moment)(first)
      first.send(signal.SIGTERM)
      (code,) = first.ended(LEAVE_SECONDS)
    if code == 0:
      raise MissedError
    if code != _LEFT and not (code == -signal.SIGTERM and _idle(this.workdir)):
      raise FailedError(f"left with {code}")
    facts = this.again(first)
    _require_saved(facts)
    this.same()
    return facts

  return drill


def _require_saved(facts: Facts) -> None:
  """Who was asked to leave has saved its last step."""
  if facts["redone"]:
    raise FailedError(f"{facts['redone']} steps were done again")


def _idle(workdir: pathlib.Path) -> bool:
  """Whether a run has nothing to save: it has no step yet, or its results."""
  return not runs.reached(workdir) or (workdir / "results.json").exists()


def kill_one_of_two(this: Drill) -> Facts:
  """The other one says so in one line, within a minute."""
  which = this.chance.randrange(2)
  with Start(this.place, processes=2) as first:
    getattr(this, this.chance.choice(MOMENTS))(first)
    first.send(signal.SIGKILL, which)
    began = time.monotonic()
    codes = first.ended(runs.LOST_SECONDS)
    took = time.monotonic() - began
    other, said = codes[1 - which], first.lines(1 - which)
    if other == 0:
      raise MissedError  # It had nothing left to do with the other one.
    # Another program passes on what C++ said (lost_lines), maybe a bit later.
    while not said and time.monotonic() < began + runs.LOST_SECONDS:
      time.sleep(0.1)
      said = first.lines(1 - which)
  if other not in _LOST or len(said) != 1:
    raise FailedError(f"the other process left with {other} and said {said}")
  facts = this.again(first, processes=2) | {"seconds": round(took, 1)}
  this.same(2)
  return facts


def terminate_one_of_two(this: Drill) -> Facts:
  """Both save the same step and leave."""
  with Start(this.place, processes=2) as first:
    this.training(first, 1)
    first.send(signal.SIGTERM, this.chance.randrange(2))
    codes = first.ended(LEAVE_SECONDS)
  if codes == [0, 0]:
    raise MissedError
  if codes != [_LEFT, _LEFT]:
    raise FailedError(f"the processes left with {codes}")
  facts = this.again(first, processes=2)
  _require_saved(facts)
  this.same(2)
  return facts


def full_disk(this: Drill) -> Facts:
  """The disk fills up in a save; some space is freed, and it goes on."""
  facts = {"how": "a small tmpfs"}
  this.workdir.mkdir(parents=True)
  mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(this.workdir)]
  if subprocess.run(mount, capture_output=True).returncode:
    return full_by_limit(this)
  filler = this.workdir / "filler"
  spare = this.chance.randrange(200_000)
  try:
    with Start(this.place) as first:
      this.training(first, 1)
      codes = first.ended(LEAVE_SECONDS, lambda: _fill(filler, spare))
    filler.unlink(missing_ok=True)
    if codes == [0]:
      raise MissedError
    _require_line(first, codes, "space")
    facts |= this.again(first)
    this.same()
  except FailedError:
    shutil.copytree(this.workdir, this.place.folder / "disk")
    raise
  finally:
    subprocess.run(["umount", "-l", str(this.workdir)], check=True)
  return facts


def full_by_limit(this: Drill) -> Facts:
  """Where nothing may be mounted: no file may grow any more."""
  with Start(this.place) as first:
    this.training(first, 1)
    pid, size = first.processes[0].pid, this.chance.randrange(200, 20_000)
    with contextlib.suppress(ProcessLookupError):
      resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))
    codes = first.ended(LEAVE_SECONDS)
  if codes == [0]:
    raise MissedError
  _require_line(first, codes, "File too large")
  facts = {"how": "a limit on the size of files"} | this.again(first)
  this.same()
  return facts


def _fill(filler: pathlib.Path, spare: int) -> None:
  """Leaves no more than `spare` bytes, whatever was freed meanwhile."""
  free = shutil.disk_usage(filler.parent).free
  if free > spare:
    with contextlib.suppress(OSError), open(filler, "ab", buffering=0) as file:
      file.write(bytes(free - spare))


def _require_line(start: Start, codes: list[int], word: str) -> None:
  said = start.lines()
  if codes != [2] or len(said) != 1 or word not in said[0]:
    raise FailedError(f"left with {codes} and said {said}")


def truncated(this: Drill) -> Facts:
  """A file of the newest checkpoint is cut short."""
  with Start(this.place) as first:
    this.training(first, 2 * runs.SAVE_EVERY)
    first.send(signal.SIGKILL)
    first.ended(LEAVE_SECONDS)
  steps = runs.complete(this.workdir)
  if len(steps) < 2:
    raise MissedError
  newest = this.workdir / "checkpoints" / str(steps[-1])
  files = sorted(x for x in newest.rglob("*") if x.is_file())
  file = this.chance.choice(files)
  size = this.chance.randrange(file.stat().st_size)
  with open(file, "r+b") as opened:
    opened.truncate(size)
  with Start(this.place) as second:
    codes = second.ended()
  noticed = f"{newest} is damaged" in second.said()
  expected = steps[-2] if noticed else steps[-1]
  if any(codes) or second.resumed() != expected:
    raise FailedError(
      f"{file.relative_to(newest)} cut to {size} bytes: left with {codes}, "
      f"went on from {second.resumed()}"
    )
  this.same()
  return {"noticed": noticed}


def damaged_data(this: Drill) -> Facts:
  """Bytes of a data file are others at the next start: refused, or unread."""
  data = this.place.folder / "data"
  shutil.copytree(this.place.data, data)
  this.place = dataclasses.replace(this.place, data=data)
  with Start(this.place) as first:
    this.training(first, 1)
    first.send(signal.SIGKILL)
    first.ended(LEAVE_SECONDS)
  file = this.chance.choice(sorted(data.rglob("*.array_record*")))
  whole = file.read_bytes()
  bad = bytearray(whole)
  for _ in range(this.chance.randint(1, 8)):
    bad[this.chance.randrange(len(bad))] ^= this.chance.randrange(1, 256)
  file.write_bytes(bad)
  with Start(this.place) as second:
    codes = second.ended()
  noticed = codes != [0]
  if noticed:
    _require_line(second, codes, str(data))
  file.write_bytes(whole)
  facts = this.again(first) | {"noticed": noticed}
  this.same()
  return facts


def devices(before: int, after: int) -> Callable[[Drill], Facts]:
  """Saved on so many devices, and gone on with on others."""

  def drill(this: Drill) -> Facts:
    with Start(this.place, devices=before) as first:
      this.training(first, 1)
      first.send(signal.SIGTERM)
      codes = first.ended(LEAVE_SECONDS)
    if codes == [0]:
      raise MissedError
    if codes != [_LEFT]:
      raise FailedError(f"left with {codes}")
    facts = this.again(first, devices=after)
    _require_saved(facts)
    far = compare.require_close(this.workdir, this.undisturbed(1))
    return facts | {"off": float(f"{far:.2g}")}

  return drill


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
# How often each is drilled, of a hundred; the devices once each.
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
  """Kinds of `count` drills, in turn, by their shares."""
  owed = {kind: 0.0 for kind in kinds}
  total = sum(SHARES.get(kind, 1) for kind in kinds)
  for _ in range(count):
    for kind in kinds:
      owed[kind] += SHARES.get(kind, 1) / total
    kind = max(owed, key=owed.__getitem__)
    owed[kind] -= 1
    yield kind
