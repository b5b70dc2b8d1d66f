"""Preparing a data set: its folder, its lock, what the file system refuses."""

import errno
import fcntl
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vgsgan.common import files
from vgsgan.common.errors import UserError
from vgsgan.data.builders import configs, preparing, reading


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Numbers, and what goes wrong while they are made."""

  name = "tiny"
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *args, harm=None, **kwargs):
    self._harm = harm
    super().__init__(*args, **kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {"number": tfds.features.Scalar(np.int32)}
      ),
    )

  def _split_generators(self, dl_manager):
    return {"test": self._generate_examples()}

  def _generate_examples(self):
    if self._harm:
      raise self._harm
    for number in range(5):
      yield str(number), {"number": number}


class Few(configs.Config):
  """A folder `few` of about 7 MB."""

  def parts(self):
    return ["few"]

  def num_bytes(self, pairs):
    return 6_000_000


CONFIG = Few()


def prepare(folder, harm=None):
  return preparing.prepare_once(Tiny, CONFIG, folder, harm=harm)


def numbers(builder):
  split = reading.open_split(builder, "test")
  return {split[i]["number"] for i in range(len(split))}


# ArrayRecord says what the system said as text alone.
WRITING = "fwrite() failed: {}; writing x/tiny-test.array_record"


@pytest.mark.parametrize(
  ("harm", "words"),
  [
    (OSError(errno.ENOSPC, "No space"), "no space left"),
    (OSError(errno.EDQUOT, "Quota"), "no space left"),
    (OSError(errno.EFBIG, "File too large"), "File too large"),
    (OSError(errno.EROFS, "Read-only"), "Read-only file system"),
    (RuntimeError(WRITING.format(os.strerror(errno.ENOSPC))), "no space left"),
    (RuntimeError(WRITING.format(os.strerror(errno.EDQUOT))), "no space left"),
    (RuntimeError(WRITING.format("File too large")), "File too large"),
  ],
)
def test_failed_writes_give_one_line(harm, words, tmp_path):
  with pytest.raises(UserError) as error:
    prepare(tmp_path, harm)
  said = str(error.value)
  assert words in said and "\n" not in said
  assert f"{tmp_path}/tiny/few/1.0.0" in said and "nothing half-written" in said
  assert ("7 MB" in said) == ("no space" in words)
  assert numbers(prepare(tmp_path)) == set(range(5))
  assert not list(tmp_path.rglob("incomplete*"))


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path):
  with pytest.raises(ZeroDivisionError):
    prepare(tmp_path, ZeroDivisionError("a fault"))


def test_user_errors_pass_unchanged(tmp_path):
  refused = UserError("the source is wrong: mend it")
  refused.__cause__ = OSError(errno.ENOSPC, "No space")
  with pytest.raises(UserError, match=r"the source is wrong: mend it"):
    prepare(tmp_path, refused)


def test_a_link_in_the_way_is_not_followed(tmp_path):
  """Neither for the lock nor where half-written folders are removed."""
  other = tmp_path / "other"
  other.mkdir()
  (other / "mine").write_text("mine")
  folder = tmp_path / "tiny/few"
  folder.mkdir(parents=True)
  (folder / "incomplete.ABCDEF_1.0.0").symlink_to(other)
  (folder / ".lock").symlink_to(other / "mine")
  with pytest.raises(UserError, match="is a link"):
    prepare(tmp_path)
  (folder / ".lock").unlink()
  assert numbers(prepare(tmp_path)) == set(range(5))
  assert [p.name for p in folder.iterdir() if p.name != ".lock"] == ["1.0.0"]
  assert (other / "mine").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP])
def test_preparing_without_locks_warns_and_goes_on(
  number, tmp_path, monkeypatch, capsys
):
  def refuse(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", refuse)
  # It may be another's, who is writing it.
  left = tmp_path / "tiny/few/incomplete.ABCDEF_1.0.0"
  left.mkdir(parents=True)
  assert numbers(prepare(tmp_path)) == set(range(5))
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("warning: ") and "no locks" in line
  assert left.is_dir()


def test_without_locks_the_second_process_reads_what_the_first_wrote(
  tmp_path, monkeypatch
):
  def refuse(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

  monkeypatch.setattr(fcntl, "flock", refuse)
  generate = Tiny._generate_examples

  def late(self):
    monkeypatch.setattr(Tiny, "_generate_examples", generate)
    prepare(tmp_path)
    return generate(self)

  monkeypatch.setattr(Tiny, "_generate_examples", late)
  assert numbers(prepare(tmp_path)) == set(range(5))
  assert not list(tmp_path.rglob("incomplete*"))


def test_a_process_that_waited_for_the_lock_reads_what_is_prepared(
  tmp_path, monkeypatch
):
  lock = files.locked

  def prepared_meanwhile(*args):
    monkeypatch.setattr(files, "locked", lock)
    prepare(tmp_path)
    return lock(*args)

  monkeypatch.setattr(files, "locked", prepared_meanwhile)
  assert numbers(prepare(tmp_path, AssertionError("again"))) == set(range(5))
