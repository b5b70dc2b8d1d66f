"""Weights in one file: what comes back, and what is no such file."""

import zipfile

import numpy as np
import pytest

from vgsgan.common.errors import UserError
from vgsgan.models import weights


def tree():
  rng = np.random.default_rng(0)
  return {
    "params": {
      "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)},
      "bias": np.zeros(4, np.float32),
      "huge": np.array([1e6, 1.0], np.float32),
      "count": np.int32(7),
    },
    "batch_stats": {"mean": rng.normal(size=5).astype(np.float32)},
  }


META = {"config": {"seed": 3}, "figures": {"color": 0.99}, "command": "pythön"}


def test_a_saved_tree_and_meta_are_read_back(tmp_path):
  path = tmp_path / "weights.npz"
  weights.save_params(path, tree(), META)
  found, meta = weights.load_params(path)
  assert meta == META
  before, after = weights.flatten(tree()), weights.flatten(found)
  assert before.keys() == after.keys()
  for name, value in before.items():
    assert after[name].dtype == value.dtype
    assert after[name].shape == value.shape
    np.testing.assert_allclose(after[name], value, rtol=1e-3)
  # What float16 cannot hold is kept as it is.
  np.testing.assert_array_equal(after["params/huge"], before["params/huge"])


def test_the_file_holds_half_precision_and_no_pickle(tmp_path):
  path = tmp_path / "weights.npz"
  large = np.random.default_rng(0).normal(size=20000).astype(np.float32)
  weights.save_params(path, {"large": large}, {})
  assert path.stat().st_size < 0.6 * large.nbytes
  with zipfile.ZipFile(path) as file:
    assert sorted(file.namelist()) == ["large.npy", "meta.json.npy"]


def refused(path):
  with pytest.raises(UserError) as error:
    weights.load_params(path)
  assert "\n" not in str(error.value)
  assert str(path) in str(error.value)


def test_another_file_is_refused_in_one_line(tmp_path):
  path = tmp_path / "weights.npz"
  refused(path)
  path.write_bytes(b"")
  refused(path)
  path.write_bytes(b"no archive")
  refused(path)
  np.savez(path, a=np.zeros(3))
  refused(path)
  np.savez(path, a=np.array([{}], object))
  refused(path)
  np.save(tmp_path / "x.npy", np.zeros(3))
  refused(tmp_path / "x.npy")
  refused(tmp_path)


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
  path = tmp_path / "weights.npz"
  weights.save_params(path, tree(), META)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  refused(path)
  # Flipped bytes anywhere are found by the archive's own checksums, or are in
  # a part of it that nothing depends on.
  rng = np.random.default_rng(0)
  for place in rng.integers(0, len(whole), 200):
    flipped = bytearray(whole)
    flipped[place] ^= 0xFF
    path.write_bytes(flipped)
    try:
      found, _ = weights.load_params(path)
    except UserError as error:
      assert "\n" not in str(error)
      continue
    before, after = weights.flatten(tree()), weights.flatten(found)
    for name, value in before.items():
      np.testing.assert_allclose(after[name], value, rtol=1e-3)


def test_an_unwritable_folder_is_refused_in_one_line(tmp_path):
  with pytest.raises(UserError, match="cannot write"):
    weights.save_params(tmp_path / "none" / "weights.npz", tree(), META)
