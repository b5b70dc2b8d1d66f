"""The drill of faults: a short one for real, and what it would not miss."""

import collections
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

from tests import quick_xla
from vgsgan.tools.drill import __main__ as drill
from vgsgan.tools.drill import compare, faults, runs
from vgsgan.tools.drill.moments import Drill
from vgsgan.train.checkpoints.manager import Checkpoints

ROOT = pathlib.Path(__file__).parents[1]


def test_a_short_drill_passes(tmp_path):
  kinds = ("kill-saving", "damaged-data", "kill-one-of-two")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vgsgan.tools.drill", "--count=3"),
      *(f"--kinds={','.join(kinds)}", f"--workdir={tmp_path}"),
      *("--config.data.num_train=24", "--config.data.num_validation=8"),
      "--config.data.num_test=8",
    ],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": quick_xla.FLAGS},
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-3000:]
  counts = json.loads((tmp_path / "drills.json").read_text())["kinds"]
  found = {k: (v["drills"], v["failed"]) for k, v in counts.items()}
  assert found == dict.fromkeys(kinds, (1, 0))
  assert not list(tmp_path.glob("drill-*"))
  assert "kill-saving" in done.stdout


def leave(folder, weight=1.0, loss=0.5, steps=runs.STEPS, small=1.0, **results):
  """What a run leaves, as far as the drill looks at it."""
  folder.mkdir()
  lines = [
    {"step": step, "split": "train", "loss": loss, "step_seconds": step / 7}
    for step in range(1, steps + 1)
  ]
  text = "".join(f"{json.dumps(line)}\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)
  (folder / "results.json").write_text(json.dumps({"figure": 1} | results))
  with Checkpoints(folder / "checkpoints") as saved:
    params = {"w": jnp.array([weight, 3.0]), "b": jnp.array(small)}
    saved.save(steps, {"params": params, "step": jnp.int32(steps)}, {})
  return folder


def test_a_difference_of_one_bit_is_found(tmp_path):
  one = leave(tmp_path / "one")
  compare.require_equal(leave(tmp_path / "same"), one)
  for name, fields, said in (
    ("weight", {"weight": 1.0 + 2**-23}, "params/w differs"),
    ("loss", {"loss": 0.5000001}, "metric line"),
    ("results", {"figure": 2}, "results.json differs"),
    ("short", {"steps": runs.STEPS - 1}, "metric lines instead of"),
  ):
    with pytest.raises(runs.FailedError, match=said):
      compare.require_equal(leave(tmp_path / name, **fields), one)


def test_rounding_is_no_difference(tmp_path):
  one = leave(tmp_path / "one")
  near = leave(tmp_path / "near", weight=1.0001, loss=0.50001)
  assert 0 < compare.require_close(near, one) < 1e-4
  for said, fields in (
    ("params/w", {"weight": 1.1}),
    ("params/b", {"small": 1.004}),  # 0.1 % of all of them.
    ("params/b", {"small": math.nan}),
    ("loss", {"loss": 0.51}),
  ):
    with pytest.raises(runs.FailedError, match=said):
      folder = tmp_path / f"{fields}"
      compare.require_close(leave(folder, **fields), one)


@pytest.fixture
def place(tmp_path):
  return runs.Place(tmp_path, "c", (), tmp_path / "data", tmp_path / "cache")


def test_a_failed_drill_is_counted_and_its_folder_stays(place, monkeypatch):
  def lost(drill):
    drill.place.folder.mkdir()
    raise runs.FailedError("step 4 is lost")

  monkeypatch.setitem(faults.KINDS, "kill-training", lost)
  one = drill.drilled(place, 3, "kill-training", 0, drill.Undisturbed(place))
  assert not one["ok"] and one["why"].startswith("step 4 is lost; kept in ")
  assert len(list(place.folder.glob("drill-3-kill-training-*"))) == 1
  kinds = drill.counts([one, {"kind": "kill-training", "ok": True}])
  assert kinds["kill-training"]["drills"] == 2
  assert kinds["kill-training"]["failed"] == 1
  assert "kill-training" in drill.table(kinds)


@pytest.mark.parametrize("code", [143, -15, 1])
@pytest.mark.parametrize("files", [[], ["metrics.jsonl"], ["results.json"]])
def test_exit_statuses_after_sigterm(place, monkeypatch, code, files):
  """143; by the signal itself where there is nothing to save."""

  class Left(runs.Start):
    def __init__(self, place):
      self.processes, self.completed = [], set()
      leave(place.workdir)
      for file in {"metrics.jsonl", "results.json"} - set(files):
        (place.workdir / file).unlink()

    def send(self, number):
      pass

    def ended(self, limit):
      return [code]

  monkeypatch.setattr(faults, "Start", Left)
  monkeypatch.setattr(Drill, "training", lambda drill, start: None)
  monkeypatch.setattr(Drill, "again", lambda drill, start: {"redone": 0})
  monkeypatch.setattr(Drill, "same", lambda drill: None)
  drill = Drill(place, random.Random(0), lambda processes: place.workdir)
  if code == 143 or (code == -15 and files != ["metrics.jsonl"]):
    assert faults.terminate("training")(drill) == {"redone": 0}
  else:
    with pytest.raises(runs.FailedError, match=f"left with {code}"):
      faults.terminate("training")(drill)


@pytest.mark.parametrize(
  ("fault", "codes"),
  [
    (faults.terminate("training"), [143]),
    (faults.terminate_one_of_two, [143, 143]),
    (faults.devices(1, 2), [143]),
  ],
)
def test_a_run_that_is_asked_to_leave_loses_no_step(
  place, monkeypatch, fault, codes
):
  class Left(runs.Start):
    def __init__(self, place, **how):
      self.processes, self.completed = [], set()

    def send(self, *signal):
      pass

    def ended(self, limit):
      return codes

  redone = {"redone": 0}
  monkeypatch.setattr(faults, "Start", Left)
  monkeypatch.setattr(Drill, "training", lambda *_: None)
  monkeypatch.setattr(Drill, "again", lambda *_, **how: dict(redone))
  monkeypatch.setattr(Drill, "same", lambda *_: None)
  monkeypatch.setattr(compare, "require_close", lambda *_: 0.0)
  drill = Drill(place, random.Random(0), lambda processes: place.workdir)
  assert fault(drill)["redone"] == 0
  redone["redone"] = 1
  with pytest.raises(runs.FailedError, match="1 steps were done again"):
    fault(drill)


def test_an_error_in_a_drill_is_a_failure(place, monkeypatch):
  def broken(drill):
    raise FileExistsError("run")

  monkeypatch.setitem(faults.KINDS, "kill-training", broken)
  one = drill.drilled(place, 0, "kill-training", 0, drill.Undisturbed(place))
  assert not one["ok"] and one["why"].startswith("FileExistsError: run")


@pytest.mark.parametrize(
  "args, said",
  [
    (["--count=abc"], "--count"),
    (["--count=0"], "--count"),
    (["--kinds=full-disc"], "--kinds=full-disc is unknown: did you mean 'full"),
    (["--config.train.stepz=3"], "did you mean 'steps'"),
    (["more"], "unexpected argument 'more'"),
    ([], "is not empty"),
  ],
)
def test_mistakes_are_one_line(tmp_path, args, said):
  (tmp_path / "drills.jsonl").touch()
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vgsgan.tools.drill", f"--workdir={tmp_path}"),
      *("--config=configs/recogniser.py:smoke", *args),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith("vgsgan: ") and said in line


def test_a_missed_drill_is_repeated(place, monkeypatch):
  moments = []

  def late(drill):
    drill.place.folder.mkdir()
    moments.append(drill.chance.random())
    if len(moments) < 3:
      raise runs.MissedError
    return {"redone": 1}

  monkeypatch.setitem(faults.KINDS, "kill-training", late)
  one = drill.drilled(place, 0, "kill-training", 0, drill.Undisturbed(place))
  assert one["ok"] and one["redone"] == 1 and len(set(moments)) == 3
  monkeypatch.setattr(drill, "ATTEMPTS", 2)
  moments.clear()
  assert (
    "missed"
    in drill.drilled(place, 1, "kill-training", 0, drill.Undisturbed(place))[
      "why"
    ]
  )


def test_a_lost_checkpoint_is_a_failure(place):
  """A start that was seen to complete step 4, of which 2 is left."""
  start = object.__new__(runs.Start)
  start.completed = {2, 4}
  (place.workdir / "checkpoints/2").mkdir(parents=True)
  drill = Drill(place, random.Random(0), lambda processes: place.workdir)
  with pytest.raises(runs.FailedError, match="step 4 is lost"):
    drill.again(start)
  shutil.rmtree(place.workdir)


def test_a_hundred_drills_have_their_shares():
  kinds = collections.Counter(faults.plan(100, list(faults.KINDS)))
  assert kinds.total() == 100 and set(kinds) == set(faults.KINDS)
  for kind, share in faults.SHARES.items():
    assert abs(kinds[kind] - share) <= 1
  assert sum("devices" in kind for kind in faults.KINDS) == 4 * 3
