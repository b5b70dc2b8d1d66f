"""Sources that users name: found or refused, and told apart."""

import concurrent.futures
import os
import pathlib
import shutil
import threading
import time

import ml_collections
import pytest

from tests import stamps_fixture, test_clevrgan_folder, test_clips
from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.data.builders import reading, sources
from vgsgan.data.builders.stamps import builder as stamps
from vgsgan.data.records import prepared_names

LANGUAGES = ("fr", "ro")
# For each data set: what makes a source, and one of its recordings.
MAKE = {
  "stamps": (
    lambda root: stamps_fixture.make(root, 12, LANGUAGES, 0.1),
    "food/pear1_desc_ro.wav",
  ),
  "clips": (test_clips.make, "audio/video000000_10000.wav"),
  "clevrgan_folder": (test_clevrgan_folder.make, "audio/7.wav"),
}


def make(kind, root):
  root.mkdir()
  return MAKE[kind][0](root)


def config(kind, source, folder):
  fields = {
    "dataset": kind,
    "source": str(source),
    "data_dir": str(folder),
    "image_size": 16,
    "sample_rate": 8000,
    "max_bad_share": 0.0,
    "split_seed": 0,
    "num_workers": 0,
    "num_threads": 1,
    # Of stamps.
    "protocol": "cells",
    "languages": ",".join(LANGUAGES),
    "symbols": False,
    "max_stamps": 0,
    "permuted": False,
    # Of clips.
    "under": "Musical instrument,Singing,Tools",
    "seconds": 1.0,
  }
  return ml_collections.ConfigDict(fields)


def load(kind, source, folder):
  return data.load(config(kind, source, folder))


def sounds(splits):
  return {
    r["id"]: r["waveform"].tobytes()
    for records in splits.values()
    for r in (records[i] for i in range(len(records)))
  }


def folders(folder, kind):
  return {path.name for path in (folder / kind).iterdir()}


def turn_round(path):
  """Other content of equal length, with the times of the old."""
  before = path.stat()
  raw = path.read_bytes()
  path.write_bytes(raw[:44] + raw[44:][::-1])
  os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
  after = path.stat()
  assert after.st_size == before.st_size
  assert after.st_mtime_ns == before.st_mtime_ns


def age(monkeypatch):
  """Has files look as if they were of yesterday."""
  status = sources._status
  monkeypatch.setattr(
    sources, "_status", lambda f: (status(f)[0], status(f)[1] - 86400 * 10**9)
  )


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", MAKE)
def test_files_replaced_by_others_of_equal_length_are_read(
  kind, linked, tmp_path, monkeypatch
):
  age(monkeypatch)
  source = make(kind, tmp_path / "source")
  path = source / MAKE[kind][1]
  if linked:
    path = path.rename(tmp_path / "elsewhere")
    (source / MAKE[kind][1]).symlink_to(path)
  before = load(kind, source, tmp_path)
  turn_round(path)
  after = load(kind, source, tmp_path)
  one, other = sounds(before), sounds(after)
  assert one.keys() == other.keys()
  assert sum(one[key] != other[key] for key in one) == 1
  assert prepared_names(before["train"]) != prepared_names(after["train"])


@pytest.mark.parametrize("kind", MAKE)
def test_two_folders_never_share_and_a_run_goes_on_with_a_copy(kind, tmp_path):
  first = make(kind, tmp_path / "first")
  second = shutil.copytree(first, tmp_path / "second")
  found = [load(kind, source, tmp_path / "d") for source in (first, second)]
  assert len(folders(tmp_path / "d", kind)) == 2
  one, other = (prepared_names(splits["train"]) for splits in found)
  assert one == other
  # A link to a folder is that folder.
  (tmp_path / "link").symlink_to(first)
  load(kind, tmp_path / "link", tmp_path / "d")
  assert len(folders(tmp_path / "d", kind)) == 2
  # Equal names and sizes are not enough.
  turn_round(second / MAKE[kind][1])
  other = prepared_names(load(kind, second, tmp_path / "d")["train"])
  assert one != other


@pytest.mark.parametrize("harm", ["typo", "empty", "file", "own", "nothing"])
@pytest.mark.parametrize("kind", MAKE)
def test_wrong_sources_are_refused(kind, harm, tmp_path, capsys):
  """Whatever else has been prepared with the same config."""
  load(kind, make(kind, tmp_path / "good"), tmp_path / "d")
  wrong = tmp_path / "wrong"
  if harm in ("empty", "own"):
    wrong.mkdir()
  if harm == "own":
    (wrong / "cat.jpg").write_bytes(b"a picture")
    (wrong / "cat.wav").write_bytes(b"a sound")
  if harm == "file":
    wrong.write_text("not a folder")
  capsys.readouterr()
  with pytest.raises(UserError) as error:
    load(kind, "" if harm == "nothing" else wrong, tmp_path / "d")
  said = str(error.value)
  assert "\n" not in said
  assert (repr("") if harm == "nothing" else str(wrong)) in said
  assert ("no folder" in said) == (harm in ("typo", "file", "nothing"))
  assert not capsys.readouterr().err
  assert len(folders(tmp_path / "d", kind)) == 1


def test_an_unknown_home_gives_one_line(tmp_path):
  with pytest.raises(UserError, match="home of nobody"):
    load("stamps", "~nobody-of-this-name/stamps", tmp_path)


def test_a_source_that_changes_while_it_is_read_is_refused(
  tmp_path, monkeypatch
):
  source = make("stamps", tmp_path / "source")
  read, calls = stamps.decoding.read_audio, []

  def change(*args):
    if not calls:
      turn_round(source / MAKE["stamps"][1])
    calls.append(args)
    return read(*args)

  monkeypatch.setattr(stamps.decoding, "read_audio", change)
  # A process that is killed at the second look leaves no data set either, and
  # no other process sees one before it.
  read_files, seen = stamps.folder.read_files, []

  def note(*args):
    seen.append(list((tmp_path / "stamps").glob("*/1.0.0")))
    return read_files(*args)

  monkeypatch.setattr(stamps.folder, "read_files", note)
  with pytest.raises(UserError, match="has changed while it was read"):
    load("stamps", source, tmp_path)
  assert seen == [[], []]
  (folder,) = (tmp_path / "stamps").iterdir()
  assert not (folder / "1.0.0").exists()
  load("stamps", source, tmp_path)


# Content.


@pytest.fixture
def files(tmp_path):
  made = {}
  for name in ("a", "b/c"):
    made[name] = tmp_path / "source" / name
    made[name].parent.mkdir(parents=True, exist_ok=True)
    made[name].write_text(f"content of {name}")
  return made


def test_content_depends_on_names_and_bytes(files, tmp_path):
  before = sources.content(files, tmp_path)
  seen = {before}
  seen.add(sources.content({"a": files["a"], "d": files["b/c"]}, tmp_path))
  seen.add(sources.content({"a": files["b/c"], "b/c": files["a"]}, tmp_path))
  seen.add(sources.content({"a": files["a"]}, tmp_path))
  files["a"].unlink()
  seen.add(sources.content(files, tmp_path))
  os.mkfifo(files["a"])  # Nobody will ever write to it.
  sources.content(files, tmp_path)
  assert len(seen) == 5
  files["a"].unlink()
  files["a"].write_text("content of a")
  assert sources.content(files, tmp_path / "elsewhere") == before


def test_later_starts_do_not_read_the_files_again(files, tmp_path, monkeypatch):
  age(monkeypatch)
  read, calls = sources._digest, []
  monkeypatch.setattr(
    sources, "_digest", lambda files: calls.append(1) or read(files)
  )
  before = sources.content(files, tmp_path)
  assert sources.content(files, tmp_path) == before and len(calls) == 1
  # Touched, the files are read again, and are the same.
  os.utime(files["a"])
  assert sources.content(files, tmp_path) == before and len(calls) == 2
  # So they are where what was kept is damaged.
  for kept in (tmp_path / "digests").iterdir():
    kept.write_bytes(b"\xff")
  assert sources.content(files, tmp_path) == before and len(calls) == 3


def test_processes_that_start_together_read_a_source_once(
  files, tmp_path, monkeypatch
):
  age(monkeypatch)
  read, calls, together = sources._digest, [], threading.Barrier(3)

  def slow(files):
    calls.append(1)
    time.sleep(0.5)
    return read(files)

  def content(_):
    together.wait()
    return sources.content(files, tmp_path)

  monkeypatch.setattr(sources, "_digest", slow)
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    found = list(pool.map(content, range(3)))
  assert found == [read(files)] * 3 and len(calls) == 1


def test_the_digest_of_fresh_files_is_not_kept(files, tmp_path):
  """Another write within a tick of the clock would not show."""
  sources.content(files, tmp_path)
  assert not (tmp_path / "digests").exists()


def test_a_data_folder_that_cannot_be_written_does_not_matter(
  files, tmp_path, monkeypatch
):
  age(monkeypatch)
  (tmp_path / "data").write_text("a file")
  first = sources.content(files, tmp_path / "data")
  assert first == sources.content(files, tmp_path)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
  source = make("stamps", tmp_path / "source")
  scan = os.scandir

  def refuse(path):
    if pathlib.Path(path).name == "food":
      raise PermissionError(13, "Permission denied", str(path))
    return scan(path)

  monkeypatch.setattr(os, "scandir", refuse)
  with pytest.raises(UserError) as error:
    load("stamps", source, tmp_path)
  assert f"cannot read {source / 'food'}: Permission denied" in str(error.value)


def test_without_place_removes_the_place_alone():
  name = "16px-source_0123456789abcdef-at_01234567"
  assert sources.without_place(name) == "16px-source_0123456789abcdef"
  assert sources.without_place("first-at_home") == "first-at_home"


# Prepared data that are damaged.


def harms():
  names = ("dataset_info.json", "features.json", "metadata.json")
  for name in names:
    for harm in ("missing", "empty", "junk", "{}", "[]"):
      yield name, harm
  for harm in ("missing", "empty", "half", "junk"):
    yield "stamps-test.array_record-00000-of-00001", harm


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  source = make("stamps", folder / "source")
  load("stamps", source, folder)
  return folder


@pytest.mark.parametrize(("name", "harm"), list(harms()))
def test_a_damaged_data_set_is_named_in_one_line(prepared, name, harm):
  (path,) = prepared.glob(f"stamps/*/1.0.0/{name}")
  raw = path.read_bytes()
  if harm == "missing":
    path.unlink()
  elif harm == "half":
    path.write_bytes(raw[: len(raw) // 2])
  else:
    content = {"empty": b"", "junk": b"\xff\0" * 99}
    path.write_bytes(content.get(harm, harm.encode()))
  try:
    with pytest.raises(UserError) as error:
      load("stamps", prepared / "source", prepared)
  finally:
    path.write_bytes(raw)
  said = str(error.value)
  assert "\n" not in said
  assert str(path.parent) in said and "delete that folder" in said
  load("stamps", prepared / "source", prepared)


def test_the_end_of_every_file_is_read_before_anything_is_trained(
  tmp_path, monkeypatch
):
  read, whole = [], reading.Split.__getitem__

  def note(split, index):
    read.append((split.name, index))
    return whole(split, index)

  monkeypatch.setattr(reading.Split, "__getitem__", note)
  splits = load("stamps", make("stamps", tmp_path / "source"), tmp_path)
  ends = [{(name, 0), (name, len(s) - 1)} for name, s in splits.items()]
  # And more: checks of types in tests look at an item.
  assert set.union(*ends) <= set(read)
