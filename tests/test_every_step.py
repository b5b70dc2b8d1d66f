"""The step of every task with less kept for its gradient, as the plain one."""

import jax
import numpy as np
import pytest

from tests import every_task, stamps_fixture
from vgsgan import tasks
from vgsgan.parallel import mesh
from vgsgan.tools.bench.case import Case


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("steps")
  stamps_fixture.make(folder / "source", n_stamps=16)
  every_task.prepare(folder)
  return folder


def updated(config, remat):
  """The loss of a step, and what the optimiser has noted of its gradients."""
  config = config.copy_and_resolve_references()
  config.train.remat = remat
  case = Case(config)
  state, batch = case.state(), case.batch()
  state, metrics = case.compile(case.task.step, state, batch).run(state, batch)
  return metrics["loss"], jax.device_get(state.opt_state)


def by_network(tree):
  """What an optimiser has noted, its counts apart, as one vector a network."""
  found = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    names = [step.key for step in path if hasattr(step, "key")]
    if np.issubdtype(leaf.dtype, np.floating):
      found.setdefault(names[0], []).append(np.ravel(leaf))
  return {name: np.concatenate(some) for name, some in found.items()}


# A whole run of grounding is compared in test_trainer.
@pytest.mark.parametrize("task", sorted({*tasks.TASKS} - {"grounding"}))
def test_remat_changes_nothing(folder, task, monkeypatch):
  one = mesh.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(mesh, "make_mesh", lambda **_: one)
  with every_task.made(folder, task) as config:
    loss, noted = updated(config, remat=False)
    other_loss, other = updated(config, remat=True)
  np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
  mine, its = by_network(noted), by_network(other)
  assert mine.keys() == its.keys() and mine
  for name, vector in mine.items():
    off = np.linalg.norm(vector - its[name])
    assert off <= 1e-4 * np.linalg.norm(vector), name
