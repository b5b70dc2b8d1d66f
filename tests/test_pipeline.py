"""The batch order, whatever the workers, threads, starts or processes."""

import dataclasses
import errno
import functools
import io
import multiprocessing
import os
import pathlib
import signal

import numpy as np
import pytest
from PIL import Image

from vgsgan.common.errors import UserError
from vgsgan.data import pipeline, workers
from vgsgan.data.examples import PairExample, decode
from vgsgan.data.records import Joined, Permuted
from vgsgan.parallel import mesh


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Records that are their own index."""

  size: int

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    return {"number": index}


def with_draw(record, rng):
  return {
    "number": np.int32(record["number"]),
    "draw": rng.random(),
  }


def stream(size=10, batch=4, rows=None, seed=3, start=0, num_batches=6):
  return pipeline.TrainStream(
    Numbers(size), with_draw, batch, rows or slice(0, batch), seed, start,
    num_batches,
  )  # fmt: skip


def read(source, workers=0, threads=1):
  return list(pipeline.batches(source, workers, threads))


def flat(batches, name="number"):
  return np.concatenate([batch[name] for batch in batches])


def test_every_epoch_reads_every_record_once_in_another_order():
  numbers = flat(read(stream(size=12, batch=4, num_batches=9)))
  epochs = numbers.reshape(3, 12)
  for epoch in epochs:
    assert sorted(epoch) == list(range(12))
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_span_the_end_of_an_epoch():
  numbers = flat(read(stream(size=10, batch=4, num_batches=5)))
  assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))


def test_seeds_differ_and_repeat():
  first, again = flat(read(stream())), flat(read(stream()))
  np.testing.assert_array_equal(first, again)
  assert (first != flat(read(stream(seed=4)))).any()


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_change_nothing(threads):
  plain, threaded = read(stream()), read(stream(), threads=threads)
  for name in ("number", "draw"):
    np.testing.assert_array_equal(flat(plain, name), flat(threaded, name))


def test_worker_processes_change_nothing():
  plain, parallel = read(stream()), read(stream(), workers=2)
  for name in ("number", "draw"):
    np.testing.assert_array_equal(flat(plain, name), flat(parallel, name))


def test_a_stream_goes_on_from_its_position():
  whole = read(stream(num_batches=6))
  rest = read(stream(start=2 * 4, num_batches=4))
  for name in ("number", "draw"):
    np.testing.assert_array_equal(flat(whole[2:], name), flat(rest, name))


def test_processes_share_what_one_process_would_read():
  whole = read(stream())
  halves = [read(stream(rows=slice(0, 2))), read(stream(rows=slice(2, 4)))]
  for one, *both in zip(whole, *halves, strict=True):
    joined = np.concatenate([half["draw"] for half in both])
    np.testing.assert_array_equal(one["draw"], joined)


IDS = ("concept", "image_id", "speech_id")


def pairs(rng, size):
  """Records of random pictures and recordings of random lengths."""
  pictures = rng.integers(0, 256, (size, 6, 5, 3), np.uint8)
  encoded = [io.BytesIO() for _ in pictures]
  for picture, file in zip(pictures, encoded, strict=True):
    Image.fromarray(picture).save(file, "PNG")
  waveforms = [
    rng.integers(-(2**15), 2**15, rng.integers(1, 40), np.int16)
    for _ in pictures
  ]
  records = [
    {"image": file.getvalue(), "waveform": waveform}
    | {name: 3 * i + k for k, name in enumerate(IDS)}
    for i, (file, waveform) in enumerate(zip(encoded, waveforms, strict=True))
  ]
  return records, pictures


def plainly(records, pictures, rows, positions, seed, samples):
  """A batch as the definition has it, record by record."""
  examples = []
  for position in [positions[row] for row in rows]:
    epoch, place = divmod(position, len(records))
    order = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    record = int(order.permutation(len(records))[place])
    rng = np.random.Generator(
      np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1])
    )
    waveform = records[record]["waveform"]
    if len(waveform) > samples:
      start = rng.integers(len(waveform) - samples + 1)
      waveform = waveform[start : start + samples]
    examples.append(
      {
        "waveform": np.pad(waveform, (0, samples - len(waveform))),
        "num_samples": np.int32(len(waveform)),
        "image": pictures[record],
        "image_concept": np.int32(records[record]["concept"]),
        "speech_concept": np.int32(records[record]["concept"]),
        "image_id": np.int32(records[record]["image_id"]),
        "speech_id": np.int32(records[record]["speech_id"]),
      }
    )
  return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def assert_same(one, other):
  assert one.keys() == other.keys()
  for name in one:
    assert one[name].dtype == other[name].dtype
    np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("case", range(12))
def test_batches_are_the_bytes_that_reading_record_by_record_gives(case):
  rng = np.random.default_rng(case)
  records, pictures = pairs(rng, int(rng.integers(1, 20)))
  batch, seed = int(rng.integers(1, 9)), int(rng.integers(2**31))
  start, samples = int(rng.integers(100)), int(rng.integers(5, 40))
  first = int(rng.integers(batch))
  rows = slice(first, int(rng.integers(first + 1, batch + 1)))
  found = read(
    pipeline.TrainStream(
      records,
      PairExample(samples, random_crop=True),
      batch, rows, seed, start, 5,
    ),
    threads=1 + case % 3,
  )  # fmt: skip
  assert len(found) == 5
  for number, one in enumerate(found):
    begins = start + number * batch
    positions = range(begins, begins + batch)
    wanted = range(batch)[rows]
    assert_same(
      one, plainly(records, pictures, wanted, positions, seed, samples)
    )


@pytest.mark.parametrize(
  "other",
  [{"x": np.int64(1)}, {"x": np.zeros(1, np.int32)}, {"y": np.int32(1)}, {}],
)
def test_examples_that_differ_make_no_batch(other):
  with pytest.raises(ValueError, match=r"x|y|set"):
    pipeline.stack([{"x": np.int32(0)}, other], 2)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_images_of_every_mode_are_decoded_to_rgb(mode):
  grey = np.arange(0, 240, 10, np.uint8).reshape(4, 6)
  plain = Image.fromarray(np.stack([grey] * 3, -1))
  file = io.BytesIO()
  plain.convert("L").convert(mode).save(file, "PNG")
  found = decode(file.getvalue())
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, np.asarray(plain))


def record_of(length):
  png = io.BytesIO()
  Image.new("RGB", (2, 2)).save(png, "PNG")
  return {
    "waveform": np.arange(1, length + 1, dtype=np.int16),
    "image": png.getvalue(),
    "concept": 3, "image_id": 4, "speech_id": 5,
  }  # fmt: skip


def test_evaluated_recordings_keep_their_beginning():
  found = PairExample(6, random_crop=False)(
    record_of(20), np.random.default_rng(0)
  )
  assert list(found["waveform"]) == [1, 2, 3, 4, 5, 6]
  assert found["num_samples"] == 6


def test_cut_recordings_are_of_every_length_from_the_shortest_to_the_whole():
  """And begin anywhere; those that are shorter already are left whole."""
  cut = PairExample(8, random_crop=True, shortest=3)
  seen = set()
  for seed in range(400):
    found = cut(record_of(10), np.random.default_rng(seed))
    many = int(found["num_samples"])
    first = int(found["waveform"][0])
    assert list(found["waveform"][:many]) == list(range(first, first + many))
    assert not found["waveform"][many:].any()
    seen.add((many, first))
  # Each length, from each place that has room for it.
  assert seen == {
    (many, first) for many in range(3, 9) for first in range(1, 12 - many)
  }
  short = cut(record_of(2), np.random.default_rng(0))
  assert short["num_samples"] == 2 and list(short["waveform"][:3]) == [1, 2, 0]


def test_every_example_draws_its_own_numbers():
  draws = flat(read(stream(num_batches=20)), "draw")
  assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_evaluation_reads_every_record_once_and_marks_the_filling(size):
  source = pipeline.EvalStream(Numbers(size), with_draw, 4, slice(0, 4))
  batches = read(source)
  numbers, real = flat(batches), flat(batches, "real")
  assert list(numbers[real]) == list(range(size))
  assert (numbers[~real] == 0).all()
  assert len(numbers) % 4 == 0 and len(numbers) < size + 4


def test_permuted_control_keeps_recordings_and_moves_images():
  records = [
    {"waveform": i, "image": i, "image_id": i, "concept": i} for i in range(50)
  ]
  permuted = Permuted(records, seed=1)
  assert [r["waveform"] for r in permuted] == list(range(50))
  pictures = [permuted[i]["image"] for i in range(50)]
  assert sorted(pictures) == list(range(50))
  assert pictures != list(range(50))
  for i in range(50):
    assert permuted[i]["image_concept"] == permuted[i]["image"]
    assert permuted[i]["concept"] == i
  again, other = (Permuted(records, seed=seed) for seed in (1, 2))
  assert [again[i]["image"] for i in range(50)] == pictures
  assert [other[i]["image"] for i in range(50)] != pictures


def test_equal_contents_of_two_sources_share_a_label():
  """By its bytes or its words: each source has counted from 0 by itself."""

  def source(*rows):
    return [
      {
        "image": image,
        "waveform": np.array(sound, np.int16),
        "caption": caption,
        "image_id": i,
        "speech_id": i,
        "concept": i,
      }
      for i, (image, sound, caption) in enumerate(rows)
    ]

  joined = Joined(
    (
      source((b"A", [1], b"one"), (b"B", [2], b"two"), (b"C", [3], b"")),
      source((b"D", [4], b"one"), (b"B", [5], b""), (b"E", [3], b"")),
      source((b"F", [6], b"")),
    )
  )
  found = [joined[i] for i in range(7)]
  labels = {
    name: [int(record[name]) for record in found]
    for name in ("image_id", "speech_id", "concept")
  }
  assert labels == {
    "image_id": [0, 1, 2, 3, 1, 4, 5],
    "speech_id": [0, 1, 2, 0, 3, 2, 4],
    "concept": [0, 1, 2, 0, 1, 2, 3],
  }


def test_a_batch_that_does_not_divide_is_refused_with_the_arithmetic():
  devices = mesh.make_mesh(8)
  mesh.check_batch(64, devices, "train.batch")
  with pytest.raises(UserError) as refused:
    mesh.check_batch(60, devices, "train.batch")
  message = str(refused.value)
  assert "60 = 8 x 7 + 4" in message
  assert "--config.train.batch to 56 or 64" in message
  assert "\n" not in message
  with pytest.raises(UserError, match="batch to 8"):
    mesh.check_batch(3, devices, "train.batch")


def test_sharded_batches_hold_each_row_once():
  devices = mesh.make_mesh(4)
  rows = {"x": np.arange(8)}
  sharded = mesh.shard(rows, devices)["x"]
  np.testing.assert_array_equal(sharded, rows["x"])
  pieces = [shard.data for shard in sharded.addressable_shards]
  assert [piece.shape for piece in pieces] == [(2,)] * 4


@pytest.mark.parametrize(("side", "kept"), [(8, True), (80, False)])
def test_a_small_image_is_decoded_once(side, kept):
  pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), "u1")
  stored = io.BytesIO()
  Image.fromarray(pixels).save(stored, "PNG")
  # Copies, as records that are read twice have them.
  one, other = (decode(bytes(bytearray(stored.getvalue()))) for _ in range(2))
  np.testing.assert_array_equal(one, pixels)
  np.testing.assert_array_equal(other, pixels)
  assert (one is other) == kept
  assert not one.flags.writeable


def shared_memory():
  """Names of what processes share now."""
  return {path.name for path in pathlib.Path("/dev/shm").glob("psm_*")}


def with_picture(record, rng):
  return {"image": np.full((64, 64, 3), record["number"], np.uint8)}


def ends_itself(record, rng, how=signal.SIGBUS):
  if record["number"] == 7:
    os.kill(os.getpid(), how)
  return with_picture(record, rng)


def test_shared_memory_is_free_when_batches_are_closed():
  before, environment = shared_memory(), dict(os.environ)
  source = dataclasses.replace(stream(num_batches=50), transform=with_picture)
  found = pipeline.batches(source, 2, 1)
  first = [next(found) for _ in range(4)]
  assert dict(os.environ) == environment
  found.close()
  plain = pipeline.batches(source, 0, 1)
  for batch in first:
    assert type(batch["image"]) is np.ndarray
    np.testing.assert_array_equal(batch["image"], next(plain)["image"])
  assert shared_memory() <= before
  assert not multiprocessing.active_children()


@pytest.mark.parametrize("own", [None, "", "error::UserWarning,ignore:x"])
def test_only_the_resource_tracker_loses_its_warnings(own, monkeypatch):
  monkeypatch.delenv("PYTHONWARNINGS", raising=False)
  if own is not None:
    monkeypatch.setenv("PYTHONWARNINGS", own)
  seen = []

  def start():
    seen.append(os.environ["PYTHONWARNINGS"])
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(workers.resource_tracker, "ensure_running", start)
  with pytest.raises(UserError, match="cannot share memory"):
    next(pipeline.batches(stream(), 1, 1))
  quiet = "ignore:resource_tracker:UserWarning"
  assert seen == [f"{own},{quiet}" if own else quiet]
  assert os.environ.get("PYTHONWARNINGS") == own


@pytest.mark.parametrize(
  ("how", "said"),
  [
    (signal.SIGBUS, "ran out of shared memory (/dev/shm): give it more"),
    (signal.SIGKILL, "was ended by signal 9 (Killed): memory may be short"),
  ],
)
def test_a_worker_that_ends_gives_one_line(how, said):
  before = shared_memory()
  transform = functools.partial(ends_itself, how=how)
  source = dataclasses.replace(stream(num_batches=50), transform=transform)
  with pytest.raises(UserError) as ended:
    for _ in pipeline.batches(source, 2, 1):
      pass
  line = str(ended.value)
  assert said in line and "\n" not in line
  assert "--config.data.num_workers=0" in line
  assert not multiprocessing.active_children()
  # All but what the worker held when it ended: Python frees that at exit.
  assert len(shared_memory() - before) <= 2


def test_missing_shared_memory_gives_one_line():
  refused = PermissionError(errno.EACCES, "Permission denied", "/psm_1")
  line = workers.explain(refused)
  assert line.startswith("worker processes cannot share memory (/dev/shm): ")
  refused.filename = "/data/records"
  assert workers.explain(refused) is None
  refused.filename = None
  assert workers.explain(refused)
  assert workers.explain(RuntimeError("other")) is None
