"""Files are replaced whole, and locks change and follow nothing."""

import errno
import fcntl
import os
import threading

import pytest

from vgsgan.common import files
from vgsgan.common.errors import UserError
from vgsgan.train import workdirs


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
  """Neither one of a name that can be guessed nor one that was guessed."""
  other = tmp_path / "precious"
  other.write_text("kept")
  path = tmp_path / "results.json"
  (tmp_path / "results.json.tmp").symlink_to(other)
  files.replace(path, b"new")
  assert path.read_bytes() == b"new" and other.read_text() == "kept"
  monkeypatch.setattr(files.secrets, "token_hex", lambda _: "guessed")
  (tmp_path / "results.json.guessed.tmp").symlink_to(other)
  with pytest.raises(UserError, match=r"^cannot write .*results.json: File ex"):
    files.replace(path, b"newer")
  assert path.read_bytes() == b"new" and other.read_text() == "kept"


def test_two_writers_each_write_a_whole_file(tmp_path, monkeypatch):
  """The second begins and ends while the first one is about to rename."""
  path, plain = tmp_path / "table.json", os.fsync

  def interrupted(descriptor):
    monkeypatch.setattr(os, "fsync", plain)
    files.replace(path, b"second")
    assert path.read_bytes() == b"second"
    plain(descriptor)

  monkeypatch.setattr(os, "fsync", interrupted)
  files.replace(path, b"the first")
  assert path.read_bytes() == b"the first"
  assert os.listdir(tmp_path) == ["table.json"]


def test_a_new_file_has_the_default_permissions(tmp_path):
  files.replace(tmp_path / ("long" * 60), b"")
  (tmp_path / "plain").write_text("")
  modes = {oct(path.stat().st_mode) for path in tmp_path.iterdir()}
  assert len(modes) == 1


def test_one_process_at_a_time_holds_a_lock(tmp_path):
  path = tmp_path / ".lock"
  path.write_text("not ours")
  with files.locked(path, "held"):
    with pytest.raises(UserError, match="held"), files.locked(path, "held"):
      pass
    entered = threading.Event()

    def wait():
      with files.locked(path, "held", seconds=60.0):
        entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.3)
  waiting.join()
  assert entered.is_set() and path.read_text() == "not ours"


def test_a_lock_does_not_follow_a_link(tmp_path):
  target = tmp_path / "made"
  (tmp_path / ".lock").symlink_to(target)
  with pytest.raises(UserError, match="is a link") as refused:
    with workdirs.alone(tmp_path):
      pass
  assert not target.exists() and "\n" not in str(refused.value)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_run_goes_on_with_a_warning(
  tmp_path, monkeypatch, number, capsys
):
  def flock(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", flock)
  ran = False
  with workdirs.alone(tmp_path):
    ran = True
  assert ran
  said = capsys.readouterr().err
  assert said.startswith("warning: the file system of ")
  assert said.count("\n") == 1
  with pytest.raises(OSError, match="own"):  # An error of the block is its own.
    with files.locked(tmp_path / ".lock", "held"):
      raise OSError(number, "own")


def test_other_lock_errors_are_one_line(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, "flock", flock)
  with pytest.raises(UserError, match=r"^cannot write .*\.lock: Input/output"):
    with files.locked(tmp_path / ".lock", "held"):
      pass
