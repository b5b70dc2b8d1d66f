"""The lines, files and events that a run leaves for people."""

import io
import json
import os
import re
import resource
import struct
import time

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.train.logbook import Logbook


def refuse_constant(name):
  raise ValueError(f"{name} is no JSON")


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [
    json.loads(line, parse_constant=refuse_constant)
    for line in text.splitlines()
  ]


def events(workdir):
  """All events, in the order of the files; checks the TFRecord framing."""
  found = []
  for path in sorted(workdir.glob("events.out.tfevents.*")):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      header, body = data[:8], data[12 : 12 + length]
      assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(header)
      end = 12 + length
      crc = struct.unpack("<I", data[end : end + 4])[0]
      assert crc == masked_crc32c(body)
      found.append(event_pb2.Event.FromString(body))
      data = data[end + 4 :]
  return found


def open_logbook(workdir, stream=None, **options):
  return Logbook(workdir, stream=stream or io.StringIO(), **options)


def test_lines_are_strict_json(tmp_path):
  with open_logbook(tmp_path / "new" / "run") as log:
    log.write(1, "train", {"loss": np.float32(0.1), "n": 3, "é": 1 / 3})
    log.write(2, "train", {"loss": jnp.float32(2.5), "n": np.int64(4)})
    log.write(
      2, "validation", {"a": float("nan"), "b": np.inf, "c": -float("inf")}
    )
  assert lines(tmp_path / "new" / "run") == [
    {"step": 1, "split": "train", "loss": 0.1, "n": 3, "é": 0.3333333},
    {"step": 2, "split": "train", "loss": 2.5, "n": 4},
    {"step": 2, "split": "validation", "a": "nan", "b": "inf", "c": "-inf"},
  ]


def test_rewind_leaves_the_lines_of_an_uninterrupted_run(tmp_path):
  def steps(log, first, last):
    for step in range(first, last + 1):
      log.write(step, "train", {"loss": 1 / step})
      if step % 2 == 0:
        log.write(step, "validation", {"r": step / 7})

  whole, torn = tmp_path / "whole", tmp_path / "torn"
  with open_logbook(whole) as log:
    log.rewind(0)
    steps(log, 1, 6)
  with open_logbook(torn) as log:
    steps(log, 1, 5)
  with open(torn / "metrics.jsonl", "a") as file:
    file.write('{"step": 6, "split": "tra')  # killed while writing
  with open_logbook(torn) as log:
    log.rewind(4)
    assert lines(torn)[-1] == {"step": 4, "split": "validation", "r": 0.5714286}
    # The run was saved before its evaluation, so that comes once more.
    log.write(4, "validation", {"r": 4 / 7})
    steps(log, 5, 6)
  name = "metrics.jsonl"
  assert (torn / name).read_bytes() == (whole / name).read_bytes()
  assert not list(torn.glob("*.tmp"))


def test_a_torn_line_of_a_kept_step_is_dropped(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "split": "t"}\n{"step":1'
  )
  with open_logbook(tmp_path) as log:
    log.rewind(1)
    log.write(2, "t", {})
  assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_dropped_lines_are_kept_and_reported(tmp_path):
  path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.dropped.jsonl"
  first = b'{"step": 1, "split": "train", "loss": 2.5}\n'
  damaged = [
    b'{"step": 2, "spl\xff\x00\n',
    b'{"step": 2}\n',
    b'{"step": "2", "split": "train"}\n',
    b"[]\n",
  ]
  third = b'{"step": 3, "split": "train", "loss": 1.5}\n'
  path.write_bytes(b"".join([first, *damaged, third]))
  stream = io.StringIO()
  with open_logbook(tmp_path, stream) as log:
    log.rewind(2)
  assert path.read_bytes() == first
  assert sorted(aside.read_bytes().splitlines(True)) == sorted(
    [*damaged, third]
  )
  said = f"warning: lines of {path} moved to metrics.dropped.jsonl: "
  assert stream.getvalue() == f"{said}1 after step 2, 4 that cannot be read\n"
  # Once more, as when all checkpoints have been deleted.
  stream.truncate(0)
  stream.seek(0)
  with open_logbook(tmp_path, stream) as log:
    log.rewind(0)
  assert path.read_bytes() == b""
  assert aside.read_bytes().endswith(first)
  assert stream.getvalue() == f"{said}1 after step 0\n"
  # Nothing to drop, nothing to say.
  stream.truncate(0)
  stream.seek(0)
  with open_logbook(tmp_path, stream) as log:
    log.rewind(0)
  assert not stream.getvalue()


def shown(workdir):
  """Steps and tags as TensorBoard has them without its fast loader.

  By the rule of `plugin_event_accumulator._CheckForRestartAndMaybePurge`
  (TensorBoard 2.21).
  """
  began, kept = False, []
  for event in events(workdir):
    if event.session_log.status == event_pb2.SessionLog.START:
      if began:
        kept = [(step, tag) for step, tag in kept if step < event.step]
      began = True
    kept += [(event.step, value.tag) for value in event.summary.value]
  return kept


def test_tensorboard_shows_a_repeated_step_once(tmp_path):
  def steps(first, last, restored):
    with open_logbook(tmp_path) as log:
      log.rewind(restored)
      for step in range(first, last + 1):
        log.write(step, "train", {"loss": 1 / step})

  steps(1, 5, 0)
  steps(4, 7, 3)
  steps(7, 8, 6)
  steps_shown = [step for step, _ in shown(tmp_path)]
  assert steps_shown == [1, 2, 3, 4, 5, 6, 7, 8]


def test_events_can_be_read(tmp_path):
  with open_logbook(tmp_path) as log:
    log.write(3, "train", {"loss": 0.5, "bad": float("nan")})
    assert len(events(tmp_path)) == 2  # there before it is closed
  version, event = events(tmp_path)
  assert version.file_version == "brain.Event:2"
  assert event.step == 3
  values = {v.tag: v.simple_value for v in event.summary.value}
  assert values["train/loss"] == 0.5 and np.isnan(values["train/bad"])
  with open_logbook(tmp_path) as log:
    log.rewind(2)
  start = events(tmp_path)[-1]
  assert start.session_log.status == event_pb2.SessionLog.START
  assert start.step == 3  # readers drop steps from here on


def test_an_image_becomes_a_file_and_an_event(tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
  with open_logbook(tmp_path) as log:
    log.write_image(30, "samples", pixels)
    log.write_image(40, "samples", 255 - pixels)
    # As a run does that goes on from before.
    log.write_image(40, "samples", pixels)
  assert sorted(os.listdir(tmp_path / "samples")) == ["30.png", "40.png"]
  for name in ("30.png", "40.png"):
    with Image.open(tmp_path / "samples" / name) as opened:
      assert opened.format == "PNG"
      np.testing.assert_array_equal(np.asarray(opened), pixels)
  event = events(tmp_path)[1]
  (value,) = event.summary.value
  assert (event.step, value.tag) == (30, "samples")
  assert (value.image.height, value.image.width) == (5, 7)
  with Image.open(io.BytesIO(value.image.encoded_image_string)) as opened:
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_an_image_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "samples").write_text("in the way")
  with open_logbook(tmp_path) as log:
    with pytest.raises(UserError, match=r"^cannot write .*3.png") as refused:
      log.write_image(3, "samples", np.zeros((2, 2, 3), np.uint8))
  assert "\n" not in str(refused.value)


def test_lines_without_a_terminal_are_plain(tmp_path):
  stream = io.StringIO()
  with open_logbook(tmp_path, stream) as log:
    with log.status("compiling the step") as took:
      time.sleep(0.01)
    assert took.seconds >= 0.01
    with log.bar("train", 0, 300) as bar:
      bar.update(100)
      with log.status("evaluating"):
        pass
      log.write(100, "train", {"loss": 2.31, "words/red": 1.0})
      log.write(100, "validation", {"r": 0.123456})
    log.warn("careful")
  said = stream.getvalue().splitlines()
  assert said[0] == "compiling the step ..."
  assert re.fullmatch(r"compiling the step: [0-9.]+ s", said[1])
  assert said[4].startswith("step 100/300 train loss 2.31 ")
  assert said[4].endswith(" left") and " steps/s, 00:" in said[4]
  assert said[5:] == ["step 100/300 validation r 0.1235", "warning: careful"]


def test_other_processes_are_silent(tmp_path):
  stream = io.StringIO()
  with open_logbook(tmp_path / "run", stream, enabled=False) as log:
    log.rewind(1)
    with log.bar("train", 0, 2) as bar, log.status("waiting"):
      bar.update(1)
    log.write(1, "train", {"loss": 1.0})
    log.write_json(tmp_path / "x.json", {})
    log.write_image(1, "samples", np.zeros((2, 2, 3), np.uint8))
    log.warn("careful")
  assert not stream.getvalue() and not list(tmp_path.iterdir())


def test_json_files_round_trip(tmp_path):
  path = tmp_path / "results.json"
  obj = {"r": float("nan"), "x": (np.float32(1), np.arange(2)), "n": None}
  jsonfiles.write_json(path, obj)
  assert jsonfiles.read_json(path) == {
    "r": "nan",
    "x": [1.0, [0, 1]],
    "n": None,
  }
  assert os.listdir(tmp_path) == ["results.json"]
  with pytest.raises(TypeError):
    jsonfiles.write_json(path, {"x": object()})
  path.write_text("{")
  with pytest.raises(UserError, match=r"cannot read .*results.json: Exp"):
    jsonfiles.read_json(path)


def test_differences_and_flatten():
  old = {"train": {"lr": 0.1, "size": [1, 2]}, "seed": 1}
  new = {"train": {"lr": 0.2, "size": (1, 2)}, "seed": 1, "new": True}
  assert list(jsonfiles.differences(old, new)) == [
    "new: None -> True",
    "train.lr: 0.1 -> 0.2",
  ]
  tree = {"a": {"r": 1, "by": {"x": 2.5}}, "name": "no number"}
  assert jsonfiles.flatten(tree) == {"a/r": 1.0, "a/by/x": 2.5}


def test_a_full_disk_is_one_line(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with open_logbook(tmp_path) as log:
    log.write(1, "train", {"loss": 1.0})
    jsonfiles.write_json(tmp_path / "results.json", {"old": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
    try:
      with pytest.raises(UserError, match=r"^cannot write .*metrics.jsonl: F"):
        log.write(2, "train", {"loss": 1.0})
      with pytest.raises(UserError, match=r"^cannot write .*results.json: Fi"):
        jsonfiles.write_json(tmp_path / "results.json", ["new"] * 100)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert jsonfiles.read_json(tmp_path / "results.json") == {"old": 1}
  with open_logbook(tmp_path) as log:
    log.rewind(2)
  assert [line["step"] for line in lines(tmp_path)] == [1]


def test_a_workdir_that_is_a_file_is_one_line(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*run: File exists"):
    open_logbook(tmp_path / "run")
