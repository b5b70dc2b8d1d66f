"""What is damaged, or cannot be written, is told and never believed."""

import contextlib
import errno
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess

import jax
import pytest

from tests.saved_states import (
  abstract,
  assert_same,
  files,
  garble,
  make_state,
)
from vgsgan.common.errors import UserError
from vgsgan.train.checkpoints.manager import Checkpoints

# Damage.

# Of several reads or writes that fail Orbax awaits one.
orbax_leaves_futures = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def truncate(path: pathlib.Path, seed: int) -> None:
  os.truncate(path, path.stat().st_size // 2)


def delete(path: pathlib.Path, seed: int) -> None:
  path.unlink()


def zero(path: pathlib.Path, seed: int) -> None:
  path.write_bytes(bytes(path.stat().st_size))


@orbax_leaves_futures
@pytest.mark.parametrize("damage", [truncate, delete, zero, garble])
def test_any_damaged_file_is_noticed_or_harmless(two_saved, tmp_path, damage):
  """Of every file of a step: the state is right, or the one before it is."""
  before = {}
  for seed, path in enumerate(files(two_saved / "2")):
    name = path.relative_to(two_saved / "2")
    folder = tmp_path / str(seed) / "checkpoints"
    shutil.copytree(two_saved, folder)
    damage(folder / "2" / name, seed)
    lines = []
    with Checkpoints(folder, best="r") as saved:
      state, meta = saved.restore_latest(abstract(make_state(0)), lines.append)
      assert_same(state, make_state(meta["at"]))
      before[str(name)] = meta["at"] == 1
      if meta["at"] == 1:
        assert len(lines) == 1 and "\n" not in lines[0]
        assert f"{folder}/2 is damaged: " in lines[0]
        assert (folder.parent / "damaged" / "2").is_dir()
      else:
        assert not lines
      saved.save(2, make_state(3), {"at": 3})  # the step is free again
      state, meta = saved.restore_latest(abstract(make_state(0)))
      assert_same(state, make_state(3))
  # These hold what cannot be done without: the arrays, and our record.
  assert before["meta/metadata"]
  assert any(v for k, v in before.items() if "/d/" in k)
  biggest = max(files(two_saved / "2"), key=lambda path: path.stat().st_size)
  assert before[str(biggest.relative_to(two_saved / "2"))]


@orbax_leaves_futures
def test_flipped_bytes_of_an_array_are_noticed(two_saved, saved_folder):
  """In each file of array data, one byte at a time."""
  big = [p for p in files(saved_folder / "2") if "ocdbt.process_0/d" in str(p)]
  whole = {path: path.read_bytes() for path in big}
  noticed = 0
  for seed in range(12):
    path = big[seed % len(big)]
    at = random.Random(seed).randrange(len(whole[path]))
    data = bytearray(whole[path])
    data[at] ^= 1 << (seed % 8)
    path.write_bytes(bytes(data))
    with Checkpoints(saved_folder) as saved:
      try:
        state, _ = saved.restore(2, abstract(make_state(0)))
        assert_same(state, make_state(2))
      except UserError as error:
        assert "is damaged" in str(error)
        noticed += 1
    path.write_bytes(whole[path])
  assert noticed


def test_a_wrong_number_in_the_record_is_noticed(saved_folder):
  path = saved_folder / "2" / "meta" / "metadata"
  record = json.loads(path.read_text())
  record["meta"]["at"] = 3
  path.write_text(json.dumps(record))
  with Checkpoints(saved_folder) as saved:
    assert saved.restore_latest(abstract(make_state(0)))[1] == {"at": 1}


def test_a_run_of_damaged_checkpoints_does_not_start_anew(saved_folder):
  for step in "12":
    (saved_folder / step / "meta" / "metadata").unlink()
  for _ in range(2):  # the second start as well
    with Checkpoints(saved_folder) as saved:
      with pytest.raises(UserError, match=r"every checkpoint .*\[1, 2\]"):
        saved.restore_latest(abstract(make_state(0)), lambda line: None)


# A full disk.


@contextlib.contextmanager
def file_limit(size: int):
  """No file of this process may grow beyond `size` bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@orbax_leaves_futures
@pytest.mark.parametrize("step", [2, 3])
def test_a_write_that_the_disk_refuses_gives_one_line(saved_folder, step):
  big = jax.tree.map(lambda x: x, make_state(2))
  big.params["big"] = jax.random.normal(jax.random.key(0), (50_000,))
  with file_limit(20_000):
    with pytest.raises(UserError) as error:
      with Checkpoints(saved_folder) as saved:
        saved.save(step, big, {})
        saved.wait()
  assert str(error.value).startswith(
    f"cannot save a checkpoint in {saved_folder}: File too large; the last good"
    " checkpoint is step 2;"
  )
  with Checkpoints(saved_folder) as saved:
    state, meta = saved.restore_latest(abstract(make_state(0)))
    assert meta == {"at": 2}
    assert_same(state, make_state(2))
    assert saved.steps() == [1, 2]
    saved.save(4, make_state(2), {})
  assert sorted(os.listdir(saved_folder)) == ["1", "2", "4"]  # no leavings


def test_a_disk_that_refuses_twice_gives_one_line(saved_folder, monkeypatch):
  def full():
    raise OSError(errno.ENOSPC, "of Orbax")

  with pytest.raises(UserError, match=r"No space left on device.*is step 2;"):
    with Checkpoints(saved_folder) as saved:
      monkeypatch.setattr(saved._manager, "wait_until_finished", full)
      monkeypatch.setattr(saved._manager, "close", full)


@orbax_leaves_futures
def test_a_full_disk_gives_one_line(tmp_path):
  mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(tmp_path)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("may not mount a small disk here")
  try:
    state = {"w": jax.random.normal(jax.random.key(0), (60_000,))}
    with pytest.raises(UserError, match=r"No space left on device.*is step 1;"):
      with Checkpoints(tmp_path / "c") as saved:
        for step in range(1, 4):
          saved.save(step, state, {})
          last = saved.steps()
          assert last in ([], [1])
  finally:
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)
