"""Checkpoints come back bit for bit, on any number of devices and processes."""

import json
import os
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from tests.saved_states import (
  abstract,
  assert_same,
  make_state,
  sharding,
)
from vgsgan.common.errors import UserError
from vgsgan.train.checkpoints import folders, manager, writing
from vgsgan.train.checkpoints.integrity import describe, seal
from vgsgan.train.checkpoints.manager import Checkpoints
from vgsgan.train.state import TrainState


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_a_state_is_restored_on_other_devices(saved_folder, devices):
  with Checkpoints(saved_folder, best="r") as saved:
    state, meta = saved.restore_latest(abstract(make_state(0), devices))
    assert meta == {"at": 2}
    assert_same(state, make_state(2, devices))
    assert state.params["half"].sharding.num_devices == devices
    state, meta = saved.restore(1, abstract(make_state(0), devices))
    assert_same(state, make_state(1, devices))
    assert (saved.latest_step(), saved.best_step()) == (2, 1)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
  with Checkpoints(tmp_path / "new") as saved:
    assert saved.restore_latest(abstract(make_state(0))) is None
    assert saved.latest_step() is None and saved.best_step() is None
    with pytest.raises(UserError, match=r"no checkpoint of step 3 in .*none"):
      saved.restore(3, abstract(make_state(0)))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
  step = jax.jit(
    lambda s: s.replace(params=jax.tree.map(lambda x: x + 1, s.params)),
    donate_argnums=0,
  )
  with Checkpoints(tmp_path / "c") as saved:
    state = make_state(4)
    saved.save(1, state, {})
    for _ in range(3):
      state = step(state)
    jax.block_until_ready(state)
    restored, _ = saved.restore_latest(abstract(make_state(0)))
  assert_same(restored, make_state(4))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is not tried")
def test_the_saving_thread_has_a_low_priority(tmp_path, monkeypatch):
  found = []

  def describing(*args):
    found.append(priority())
    return describe(*args)

  def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

  before = priority()
  monkeypatch.setattr(manager, "describe", describing)
  with Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), {})
  assert found == [writing.NICE]
  assert priority() == before


def test_checkpoints_keep_the_latest_and_the_best(tmp_path):
  state = make_state(0)
  scores = {1: 0.2, 2: None, 3: 0.9, 4: 0.3, 5: None, 6: float("nan"), 7: 0.4}
  with Checkpoints(tmp_path / "c", keep=2, best="r") as saved:
    for step, score in scores.items():
      saved.save(step, state, {}, None if score is None else {"r": score})
    saved.wait()
    assert saved.steps() == [3, 6, 7]
    assert saved.best_step() == 3
  with Checkpoints(tmp_path / "c", keep=1, best="r") as saved:
    assert saved.best_step() == 3  # known from the disk
    saved.save(8, state, {}, {"r": np.float32(0.95)})
    saved.wait()
    assert saved.steps() == [8]
    with pytest.raises(UserError, match=r"chosen by 'r'.*\['loss'\]"):
      saved.save(9, state, {}, {"loss": 1.0})


def test_the_best_score_may_be_the_smallest(tmp_path):
  options = {"keep": 1, "best": "loss", "larger_is_better": False}
  with Checkpoints(tmp_path / "c", **options) as saved:
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0]):
      saved.save(step, make_state(0), {}, {"loss": loss})
    saved.wait()
    assert (saved.best_step(), saved.steps()) == (1, [1, 3])
  with Checkpoints(tmp_path / "c", **options) as saved:  # As read again.
    assert saved.best_step() == 1
    saved.save(4, make_state(0), {}, {"loss": 1.5})
    saved.wait()
    assert (saved.best_step(), saved.steps()) == (1, [1, 4])


def test_steps_are_ordered_as_numbers(tmp_path):
  for name in ("9", "100", "10", "2", "11.orbax-checkpoint-tmp"):
    (tmp_path / name).mkdir()
  assert folders.steps(tmp_path) == [2, 9, 10, 100]


def test_a_step_set_aside_replaces_no_other(tmp_path):
  folder = tmp_path / "checkpoints"
  for content in ("first", "second", "third"):
    (folder / "7").mkdir(parents=True)
    (folder / "7" / "data").write_text(content)
    folders.set_aside(folder, "damaged", 7)
    assert not (folder / "7").exists()
  kept = [path.read_text() for path in (tmp_path / "damaged").glob("*/data")]
  assert sorted(kept) == ["first", "second", "third"]


def test_orbax_does_not_look_for_preemption(tmp_path, monkeypatch):
  polled = []
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", polled.append
  )
  with Checkpoints(tmp_path / "c") as saved:
    saved.save(1, make_state(0), {})
  assert not polled


# Orbax alone.


def trained_state() -> TrainState:
  """With what optimisers and networks keep besides arrays."""
  params = {
    "audio": {"conv_0": {"kernel": jnp.arange(6.0)}},
    "image": {"scale": jnp.float32(3), "half": jnp.ones((2, 1), jnp.bfloat16)},
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda _: 0.1))
  _, opt_state = tx.update(params, tx.init(params), params)
  return TrainState(jnp.int32(1), params, {"image": {}}, opt_state)


def test_orbax_alone_reads_the_tree(tmp_path):
  state, folder = trained_state(), tmp_path / "c"
  with Checkpoints(folder) as saved:
    saved.save(7, state, {"at": 7})
  adam = state.opt_state[1][0]
  named = {
    "step": state.step,
    "params": state.params,
    "batch_stats": {"image": {}},
    "opt_state": [
      None,  # No state: optax.EmptyState.
      [
        {"count": adam.count, "mu": adam.mu, "nu": adam.nu},
        None,
        {"count": state.opt_state[1][2].count},
      ],
    ],
  }
  with ocp.StandardCheckpointer() as reader:
    alone = reader.restore(folder / "7" / "state")
  with ocp.CheckpointManager(folder) as manager:
    managed = manager.restore(7)["state"]
  for tree in (alone, managed):
    assert jax.tree.structure(tree) == jax.tree.structure(named)
    for x, y in zip(*map(jax.tree.leaves, (tree, named)), strict=True):
      # NumPy's, so that no devices like those of the run are needed.
      assert isinstance(x, np.ndarray)
      assert (x.shape, x.dtype, x.tobytes()) == (
        y.shape,
        y.dtype,
        np.asarray(y).tobytes(),
      )


def test_nodes_without_arrays_are_restored(tmp_path):
  state = trained_state()
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(2)),
    state,
  )
  with Checkpoints(tmp_path) as saved:
    saved.save(1, state, {})
    restored, _ = saved.restore_latest(shapes)
  assert_same(restored, state)
  assert restored.params["image"]["scale"].sharding == sharding(2)


def test_joined_arrays_of_an_earlier_version_are_refused(saved_folder):
  path = saved_folder / "2" / "meta" / "metadata"
  record = json.loads(path.read_text())
  del record["crc32"]
  record["packed"] = {"float32": [["params/dense/kernel", [512, 5]]]}
  path.write_text(json.dumps(seal(record)))
  with pytest.raises(
    UserError, match=r"/2 was saved by an earlier version .* another --workdir"
  ) as error:
    Checkpoints(saved_folder)
  assert "\n" not in str(error.value)
  assert sorted(os.listdir(saved_folder)) == ["1", "2"]


# Saving a step again.


def test_a_step_is_saved_again_with_metrics(saved_folder):
  with Checkpoints(saved_folder, best="r") as saved:
    saved.save(2, make_state(3), {"at": "again"}, {"r": 0.7})
    assert saved.restore_latest(abstract(make_state(0)))[1] == {"at": "again"}
    assert saved.best_step() == 2
  assert sorted(os.listdir(saved_folder.parent)) == ["checkpoints"]


def test_a_kill_while_saving_again_keeps_the_old_step(saved_folder):
  old = saved_folder.with_name("replaced") / "2"
  old.parent.mkdir()
  os.rename(saved_folder / "2", old)  # as it is until the new one is whole
  (saved_folder / "2.orbax-checkpoint-tmp").mkdir()
  with Checkpoints(saved_folder, best="r") as saved:
    state, _ = saved.restore_latest(abstract(make_state(0)))
    assert_same(state, make_state(2))
  assert not old.exists()
  assert sorted(os.listdir(saved_folder)) == ["1", "2"]


# Another model.


def test_another_width_names_the_parameter(saved_folder):
  with Checkpoints(saved_folder) as saved:
    with pytest.raises(UserError) as error:
      saved.restore_latest(abstract(make_state(0, width=6)))
  line = str(error.value)
  assert "params/dense/kernel is float32[512, 5] there and" in line
  assert "float32[512, 6] here (3 of 5 arrays differ)" in line
  assert str(saved_folder.parent / "config.json") in line and "\n" not in line
  assert sorted(os.listdir(saved_folder)) == ["1", "2"]  # nothing was moved


def test_another_tree_or_dtype_is_refused(saved_folder):
  state = make_state(0)
  half = jax.tree.map(lambda x: x, state)
  half.params["half"] = half.params["half"].astype(jnp.float32)
  more = state.replace(opt_state={**state.opt_state, "nu": state.step})
  less = state.replace(opt_state={})
  with Checkpoints(saved_folder) as saved:
    for other, line in [
      (half, r"params/half is bfloat16\[512, 5\] there and float32\[512, 5\]"),
      (more, r"opt_state/nu is missing there and int32\[\] here \(1 of 6"),
      (less, r"opt_state/mu is float32\[512, 5\] there and missing here"),
    ]:
      with pytest.raises(UserError, match=line):
        saved.restore_latest(abstract(other))


# Several processes.

WORKER = """
import pathlib, sys, time, jax, numpy as np
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
sys.path[:0] = ["tests"]
from jax.experimental import multihost_utils
import saved_states as t
from vgsgan.train.checkpoints.manager import Checkpoints
goes_on = pathlib.Path(folder).with_name("goes_on")
with Checkpoints(folder, best="r") as saved:
  # The first need not wait for the second, which is late.
  while rank == 1 and not goes_on.exists():
    time.sleep(0.1)
  saved.save(1, t.make_state(1), {"at": 1}, {"r": 0.5})
  goes_on.touch()
  saved.save(2, t.make_state(2), {"at": 2})
  saved.save(2, t.make_state(3), {"at": 3}, {"r": 0.1})
  saved.wait()
  # What the second alone cannot read, neither believes.
  read = saved._restorer._orbax.restore
  def damaged(path, **given):
    if "2" in pathlib.Path(path).parts:
      raise ValueError("a chunk is damaged")
    return read(path, **given)
  if rank == 1:
    saved._restorer._orbax.restore = damaged
  state, meta = saved.restore_latest(t.abstract(t.make_state(0)))
  assert meta == {"at": 1}, meta
  saved._restorer._orbax.restore = read
  saved.save(2, t.make_state(3), {"at": 3}, {"r": 0.1})
  saved.wait()
  if rank == 0:
    (saved.folder / "2" / "meta" / "metadata").unlink()
  multihost_utils.sync_global_devices("damaged")
  state, meta = saved.restore_latest(t.abstract(t.make_state(0)))
  assert meta == {"at": 1}, meta
  assert saved.steps() == [1] and saved.best_step() == 1
  saved.save(2, t.make_state(2), {"at": 2})
print("done", int(state.step.addressable_data(0)))
"""


def test_two_processes_save_and_restore(tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
  }
  folder = tmp_path / "checkpoints"
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, str(rank), port, str(folder)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(2)
  ]
  try:
    outputs = [worker.communicate(timeout=600) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
      worker.communicate()
  for worker, (out, err) in zip(workers, outputs, strict=True):
    assert worker.returncode == 0, err[-3000:]
    assert out.endswith("done 1\n")  # after Gloo's lines
  with Checkpoints(folder) as saved:  # on one process and fewer devices
    state, meta = saved.restore_latest(abstract(make_state(0), 2))
  assert meta == {"at": 2}
  assert_same(state, make_state(2, 2))
