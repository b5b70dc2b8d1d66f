"""What the benchmark counts: FLOPs of two phases, worked by hand."""

import dataclasses

import jax
import jax.numpy as jnp
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
from vgsgan import bench, data, mesh, tasks
from vgsgan.state import TrainState

SIDE = 64


@dataclasses.dataclass(frozen=True)
class Products:
  """An update of `count` products of SIDE x SIDE matrices."""

  count: int

  def __call__(self, state, rows):
    x = state.params["x"] + rows["x"][0]
    for _ in range(self.count):
      # Of the result before, or they would be one.
      x = x @ state.params["x"]
    return state.replace(params={"x": x}), {"loss": x[0, 0]}


def task_of(**fields):
  def none(*_):
    raise NotImplementedError

  def init(key):
    del key
    return TrainState(jnp.int32(0), {"x": jnp.eye(SIDE)}, {}, {})

  return tasks.Task(
    transform=lambda record, rng: {"x": record},
    init=init,
    step=Products(2),
    evaluate=none,
    select=none,
    selection="",
    **fields,
  )


def measured(monkeypatch, task):
  config = load("quickstart").get_config("infonce")
  config.train.update({"batch": 2, "steps": 9})
  splits = {"train": [np.float32(i) * np.ones(3, "f4")[:1] for i in range(5)]}
  make_mesh = mesh.make_mesh
  monkeypatch.setattr(bench, "MATMUL", 8)
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: make_mesh(1, model))
  monkeypatch.setattr(data, "load", lambda config: splits)
  monkeypatch.setattr(tasks, "build", lambda *args: task)
  return bench.measure(config, 3)


def test_the_first_and_the_last_step_are_measured_side_by_side(monkeypatch):
  # The last phase of the 9 steps: not one that ended before, nor one to come.
  task = task_of(later={3: Products(1), 6: Products(10), 9: Products(20)})
  found = measured(monkeypatch, task)
  product = 2 * SIDE**3 / 1e9
  # The additions to each are a few thousandths of a product.
  assert found["step_gflop"] == pytest.approx(10 * product, rel=0.01)
  assert found["first_step_gflop"] == pytest.approx(2 * product, rel=0.01)
  ratios = found["edited_over_first"]
  assert ratios["flops"] == pytest.approx(5, rel=0.01)


def test_figures_by_hand(monkeypatch):
  # 2 * 1000^3 FLOPs in half a second: 4 GFLOP a second.
  monkeypatch.setattr(bench, "MATMUL", 1000)
  seconds = {"step": 2.0, "matmul": 0.5, "input": 0.5}
  plain = {
    "step_seconds": 2.0,
    "examples_per_second": 4.0,
    "step_gflop": 6.0,
    "matmul_peak_gflop_per_second": 4.0,
    # 6 GFLOP would take 1.5 s.
    "step_over_matmul_time": pytest.approx(4 / 3),
    "input_seconds_one_thread": 0.5,
    "input_over_step": 0.25,
  }
  assert bench.figures(8, seconds, {"step": 6e9}) == plain
  found = bench.figures(
    8, seconds | {"first": 0.8}, {"step": 6e9, "first": 2e9}
  )
  assert found == plain | {
    "first_step_seconds": 0.8,
    "first_step_gflop": 2.0,
    "edited_over_first": {
      "time": 2.5,
      "flops": 3.0,
      "time_over_flops": pytest.approx(5 / 6),
    },
  }


def test_a_training_of_one_phase_has_one_step(monkeypatch):
  found = measured(monkeypatch, task_of())
  assert found["step_gflop"] == pytest.approx(2 * 2 * SIDE**3 / 1e9, rel=0.01)
  assert not [name for name in found if "first" in name]


def test_without_edits_a_phase_pays_nothing_for_those_to_come(
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
