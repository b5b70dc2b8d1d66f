"""What the benchmarks count, by hand; what they refuse, in one line."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tests.test_drawing import (  # noqa: F401
  batch,
  generator,
  model_of,
  quick_to_compile,
  records,
  state_of,
)
from tests.test_options import load
from vgsgan import data, tasks
from vgsgan.common.errors import UserError
from vgsgan.parallel import mesh
from vgsgan.tools.bench import (
  checkpoint,
  command,
  edits,
  input,
  scores,
  step,
  timing,
)
from vgsgan.tools.bench.case import Case, Compiled
from vgsgan.train.state import TrainState
from vgsgan.train.task import Task

SIDE = 64


@dataclasses.dataclass(frozen=True)
class Products:
  """An update of `count` products of SIDE x SIDE matrices."""

  count: int
  dtype: type = jnp.float32

  def __call__(self, state, rows):
    x = state.params["x"] + rows["x"][0]
    for _ in range(self.count):
      # Of the result before, or they would be one.
      x = jnp.matmul(*(y.astype(self.dtype) for y in (x, state.params["x"])))
    x = x.astype(jnp.float32)
    return state.replace(params={"x": x}), {"loss": x[0, 0]}


def task_of(first=None, **fields):
  def none(*_):
    pytest.fail("not to be called")

  def init(key):
    del key
    return TrainState(jnp.int32(0), {"x": jnp.eye(SIDE)}, {}, {})

  return Task(
    transform=lambda record, rng: record,
    init=init,
    step=first or Products(2),
    evaluate=none,
    select=none,
    selection="",
    **fields,
  )


@pytest.fixture
def case_of(monkeypatch):
  """A config of this task, on one device and five records."""
  config = load("solids").get_config("infonce")
  config.train.update({"batch": 2, "steps": 9})
  rows = [{"x": np.float32(i) * np.ones(1, "f4")} for i in range(5)]
  make_mesh = mesh.make_mesh
  monkeypatch.setattr(timing, "CPU_SIDE", 8)
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: make_mesh(1, model))
  monkeypatch.setattr(data, "load", lambda config: {"train": rows})

  def case(task):
    monkeypatch.setattr(tasks, "build", lambda *args: task)
    return config

  return case


def times(count):
  """GFLOP of so many products."""
  return pytest.approx(2 * count * SIDE**3 / 1e9)


def test_the_step_is_the_last_of_the_training(case_of):
  # The last phase of the 9 steps: not one that ended before, nor one to come.
  later = {3: Products(1), 6: Products(10), 9: Products(20)}
  found = step.measure(case_of(task_of(phases=later)), 3)
  assert found["step_gflop"] == times(10)
  found = step.measure(case_of(task_of()), 3)
  assert found["step_gflop"] == times(2)


@dataclasses.dataclass(frozen=True)
class InALoop(Products):
  """The same, one after the other."""

  def __call__(self, state, rows):
    def turn(_, x):
      return jnp.matmul(x, state.params["x"])

    x = jax.lax.fori_loop(0, self.count, turn, state.params["x"])
    return state.replace(params={"x": x}), {"loss": x[0, 0]}


def test_a_loop_counts_as_often_as_it_turns(case_of):
  assert step.measure(case_of(task_of(InALoop(7))), 1)["step_gflop"] == times(7)


def test_parts_are_checked_before_they_divide_a_batch(case_of):
  config = case_of(task_of())
  config.train.accumulate = 0
  with pytest.raises(UserError, match=r"config.train.accumulate=0"):
    Case(config)


def test_scores_are_measured(monkeypatch):
  monkeypatch.setattr(timing, "CPU_SIDE", 8)
  monkeypatch.setattr(scores, "CASES", {"small": (2, 4, 3, 8)})
  (found,) = scores.measure(ml_collections.ConfigDict(), 2).values()
  # 2 * 2 * 2 pairs * 4 places * 3 frames * 8 channels.
  flops = found["fused_gflops"] * 1e9 * found["fused_ms"] / 1e3
  assert flops == pytest.approx(768)
  share = found["fused_gflops"] / found["peak_gflops"]
  assert found["fused_of_peak"] == pytest.approx(share)
  peak = found["peak_gflops"] * 1e9 * found["peak_ms"] / 1e3
  assert peak == pytest.approx(2 * 8**3)
  assert found["dense_over_fused"] == pytest.approx(
    found["dense_ms"] / found["fused_ms"]
  )
  assert found["cpu_dense_over_fused"] > 0


def test_the_peak_has_the_dtype_of_the_step(case_of):
  for dtype in (jnp.float32, jnp.bfloat16):
    found = step.measure(case_of(task_of(Products(2, dtype))), 1)
    named = [name for name in found if name.startswith("matmul")]
    assert named == [f"matmul_{dtype.__name__}_gflop_per_second"]


def test_figures_of_a_step_by_hand():
  product = timing.Matmul(jnp.float32, 1000)
  update = Compiled(None, 6e9, jnp.float32)
  # 2 * 1000^3 FLOPs in half a second: 4 GFLOP a second.
  median = {"step": 2.0, "matmul": 0.5}
  assert step.figures(8, update, product, median) == {
    "step_seconds": 2.0,
    "examples_per_second": 4.0,
    "step_gflop": 6.0,
    "step_gflop_per_second": 3.0,
    "matmul_float32_gflop_per_second": 4.0,
    "utilisation": 0.75,
  }


def test_the_first_and_the_last_step_are_compared(case_of):
  later = {3: Products(1), 6: Products(10), 9: Products(20)}
  found = edits.measure(case_of(task_of(phases=later)), 3)
  assert found["first_step_gflop"] == times(2)
  assert found["edited_step_gflop"] == times(10)
  with pytest.raises(UserError, match=r"no edits .*solids.py:chunk"):
    edits.measure(case_of(task_of()), 3)


def test_figures_of_edits_by_hand():
  found = edits.figures(
    {"first": 0.8, "edited": 2.0}, {"first": 2e9, "edited": 6e9}
  )
  assert found["edited_over_first"] == {
    "time": 2.5,
    "flops": 3.0,
    "time_over_flops": pytest.approx(5 / 6),
  }


def test_the_input_reads_batches_in_training_order(case_of, monkeypatch):
  case = Case(case_of(task_of()))
  seen = []
  next_batch = type(case.batches(0, 1)).next

  def noted(self, running):
    read = next_batch(self, running)
    seen.append(np.asarray(read["x"])[:, 0].tolist())
    return read

  monkeypatch.setattr(input, "MOST", input.FEWEST)
  monkeypatch.setattr(type(case.batches(0, 1)), "next", noted)
  reader = input.Reader(case)
  assert reader.seconds() > 0
  stream = case.stream(0, len(seen))
  want = [stream[i]["x"][:, 0].tolist() for i in range(8)]
  assert seen[:8] == want
  # Everything that was begun was read: nothing runs beside the steps.
  assert len(seen) == reader._first
  # Each epoch of 5 records reads all of them.
  flat = np.concatenate(seen)[: len(seen) * 2 // 5 * 5]
  assert np.array_equal(
    np.sort(flat.reshape(-1, 5)), np.tile(np.arange(5.0), (len(flat) // 5, 1))
  )


def test_the_input_is_compared_with_the_step(case_of):
  found = input.measure(case_of(task_of()), 2)
  assert found["input_over_appetite"] == pytest.approx(
    found["batches_per_second"] / found["steps_per_second"]
  )


def test_saves_are_real_and_removed(case_of, monkeypatch, tmp_path):
  monkeypatch.setattr(checkpoint.tempfile, "tempdir", str(tmp_path))
  kept = []
  closing = checkpoint.manager.Checkpoints.close

  def close(self):
    closing(self)
    kept.extend(self.steps())

  monkeypatch.setattr(checkpoint.manager.Checkpoints, "close", close)
  found = checkpoint.measure(case_of(task_of()), 2)
  # Four to warm up, a save each; then one in each of two turns.
  assert kept == [5, 6]
  assert not list(tmp_path.iterdir())
  assert found["state_megabytes"] == (4 * SIDE**2 + 4) / 1e6


def test_figures_of_stalls_by_hand():
  plain = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
  # Both turns start a save in twice and thrice the median, 1.5; of the later
  # steps one is a quarter slower.
  saving = np.array([[3.0, 1.25, 1.0, 1.0], [4.5, 2.0, 2.5, 2.0]])
  found = checkpoint.figures(plain, saving)
  assert found["step_seconds"] == 1.5
  assert found["stall"] == {
    "first_step": pytest.approx(1.5),
    "slowest_later_step": pytest.approx(0.25),
    "mean_of_all_steps": pytest.approx((6.25 / 4 + 11 / 8) / 2 - 1),
  }


def test_turns_alternate_and_skip_the_first():
  order = []

  def timer(name, values):
    values = iter(values)

    def call():
      order.append(name)
      return next(values)

    return call

  timers = {
    "a": timer("a", [9.0, 1.0, 5.0, 2.0]),
    "b": timer("b", [9.0, 3.0, 4.0, 8.0]),
  }
  assert timing.medians(timers, 3) == {"a": 2.0, "b": 4.0}
  assert order == ["a", "b"] * 4


def test_a_table_has_a_row_a_figure_and_a_column_an_arm():
  found = {
    "regular": {"step_seconds": 0.12345, "more": {"flops": 12345.6}},
    "chunk": {"step_seconds": 2.0},
  }
  assert command.table(found) == [
    "|              | regular | chunk |",
    "| ------------ | ------- | ----- |",
    "| step_seconds | 0.1235  | 2     |",
    "| more/flops   | 12346   | -     |",
  ]


def test_arms_are_measured_with_the_first_seed_alone():
  config = load("solids").get_config("")
  config.compare.seeds = (3, 4)
  seen = []

  def measure(one: ml_collections.ConfigDict, repeat: int) -> dict:
    seen.append((one.seed, one.edits.curriculum))
    return {"repeat": repeat}

  found = command.columns(measure, config, 7)
  assert found == {"regular": {"repeat": 7}, "edited": {"repeat": 7}}
  assert sorted(seen) == [(3, "regular@0"), (3, "regular@0,chunk@100")]


@pytest.mark.parametrize(
  ("argv", "said"),
  [
    (
      [],
      r"name what to measure, one of step, scores, input, edits, checkpoint",
    ),
    (["stepp"], r"'stepp': did you mean 'step'\? \(one of step, scores, input"),
    (["step", "more"], r"unexpected argument 'more'"),
  ],
)
def test_a_missing_or_wrong_mode_is_one_line(argv, said):
  with pytest.raises(UserError, match=said):
    command.chosen_mode(argv)


STUBBED = """
import runpy, sys
from vgsgan.tools.bench import command
command.MODES = {"step": lambda config, repeat: {
  "batch": config.train.batch, "repeat": repeat}}
runpy.run_module("vgsgan.tools.bench", run_name="__main__")
"""


def test_the_command_prints_a_table_and_writes_json(tmp_path):
  kept = tmp_path / "kept.json"

  def run(*arguments):
    return subprocess.run(
      [sys.executable, "-c", STUBBED, *arguments],
      capture_output=True,
      text=True,
      check=False,
    )

  ran = run("step", "--repeat=3", "--config.train.batch=7", f"--json={kept}")
  assert ran.returncode == 0, ran.stderr
  assert ran.stdout.splitlines()[2:] == ["| batch  | 7 |", "| repeat | 3 |"]
  record = json.loads(kept.read_text())
  assert record["figures"] == {"batch": 7, "repeat": 3}
  assert record["jax"] == jax.__version__ and record["cores"] >= 1
  refused = run("step", "--config.train.bacth=7")  # Of the config by default.
  assert (refused.returncode, refused.stdout) == (2, "")
  assert "has no field 'bacth'; did you mean 'batch'?" in refused.stderr
  assert len(refused.stderr.splitlines()) == 1
  refused = run("stp")
  assert refused.returncode == 2
  assert refused.stderr.startswith("vgsgan: unknown mode 'stp'")
  assert len(refused.stderr.splitlines()) == 1
  refused = run("step", f"--json={tmp_path / 'none' / 'kept.json'}")
  assert (refused.returncode, refused.stdout) == (2, "")
  said = f"vgsgan: --json={tmp_path}/none/kept.json cannot be written: "
  assert refused.stderr == f"{said}No such file or directory\n"


FULL = """
import runpy
import jax
from vgsgan.tools.bench import command
def full(config, repeat):
  raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 99 GiB")
command.MODES = {"step": full}
runpy.run_module("vgsgan.tools.bench", run_name="__main__")
"""


def test_too_large_a_step_is_one_line():
  ran = subprocess.run(
    [sys.executable, "-c", FULL, "step"], capture_output=True, text=True
  )
  assert ran.returncode == 2
  waiting, line = ran.stderr.splitlines()
  assert waiting == "measuring ..."
  assert line.startswith("vgsgan: out of memory: 99 GiB; lower --config")


def test_a_json_path_must_be_a_writable_file(tmp_path):
  command.check_writable(tmp_path / "kept.json")
  with pytest.raises(UserError, match="cannot be written: Is a directory"):
    command.check_writable(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_phase_without_edits_has_no_cost_of_edits(
  generator,  # noqa: F811
  batch,  # noqa: F811
):
  """The `regular` phase of an edited arm is the `regular` arm, word by word."""

  def lowered(loss, curriculum, kind="regular"):
    model = model_of(generator, loss=loss, curriculum=curriculum)
    step = jax.jit(model.phase_step(kind), donate_argnums=0)
    return step.lower(state_of(model), batch)

  for loss, plain in (("infonce", "infonce"), ("both", "regular")):
    waiting = lowered(loss, "regular@0,chunk@4")
    assert waiting.as_text() == lowered(plain, "regular@0").as_text()
    edited = lowered(loss, "regular@0,chunk@4", "chunk").cost_analysis()
    assert edited["flops"] > 1.5 * waiting.cost_analysis()["flops"]
