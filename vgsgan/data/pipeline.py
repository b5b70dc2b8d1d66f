"""Makes records into global batches, in an order fixed by (seed, position).

A *position* counts examples since the start of training. Position p reads
record `p % n` of the `p // n`-th shuffled epoch, so neither the number of
workers nor that of devices or processes can change what a batch holds, and
the whole state of the pipeline is one integer.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from vgsgan.data import workers
from vgsgan.data.records import Example, Records, Transform
from vgsgan.parallel import mesh as mesh_lib

# Streams of random numbers: for the order, training and evaluated examples.
_ORDER, _EXAMPLE, _EVALUATED = range(3)


def _generator(stream: int, seed: int, number: int) -> np.random.Generator:
  """Random generator that depends on the stream, seed and number alone."""
  bits = np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream])
  return np.random.Generator(bits)


@functools.lru_cache(maxsize=4)
def epoch_order(
  num_records: int, seed: int, epoch: int
) -> Int[np.ndarray, "n"]:
  """Shuffles the indices of the records for one epoch."""
  return _generator(_ORDER, seed, epoch).permutation(num_records)


def record_at(position: int, num_records: int, seed: int) -> int:
  """Index of the record that training reads at `position`."""
  epoch, place = divmod(position, num_records)
  return int(epoch_order(num_records, seed, epoch)[place])


def stack(examples: Iterable[Example], count: int) -> Example:
  """Stacks `count` examples into arrays with a leading dimension.

  An example is copied to its row as soon as it is made, while it is still in
  the processor's cache. Beside the batch, memory holds one example at a time.

  Raises:
    ValueError: examples differ in their arrays, shapes or dtypes, or their
      number is not `count`.
  """
  batch: Example = {}
  for row, example in zip(range(count), examples, strict=True):
    if not row:
      batch = {
        name: np.empty((count, *np.shape(x)), np.asarray(x).dtype)
        for name, x in example.items()
      }
    if example.keys() != batch.keys():
      raise ValueError(f"examples of {set(batch)} and of {set(example)}")
    for name, x in example.items():
      rows, x = batch[name], np.asarray(x)
      if x.shape != rows.shape[1:] or x.dtype != rows.dtype:
        raise ValueError(
          f"{name}: {x.dtype} {x.shape} among {rows.dtype} {rows.shape[1:]}"
        )
      rows[row] = x
  return batch


@dataclasses.dataclass(frozen=True)
class TrainStream:
  """Local batches of this process, in the training order.

  Attributes:
    records: the records of a split.
    transform: makes a record into the example of a task.
    batch: examples in a global batch.
    rows: the rows of the global batch that this process loads.
    seed: fixes the order and the random generator of every example.
    start: position of the first example of the first batch.
    num_batches: length of the stream.
  """

  records: Records
  transform: Transform
  batch: int
  rows: slice
  seed: int
  start: int
  num_batches: int

  @property
  def local_batch(self) -> int:
    return self.rows.stop - self.rows.start

  def __len__(self) -> int:
    return self.num_batches

  def __getitem__(self, index: int) -> Example:
    first = self.start + int(index) * self.batch + self.rows.start
    positions = range(first, first + self.local_batch)
    return stack(map(self._example, positions), self.local_batch)

  def _example(self, position: int) -> Example:
    record = record_at(position, len(self.records), self.seed)
    rng = _generator(_EXAMPLE, self.seed, position)
    return self.transform(self.records[record], rng)


@dataclasses.dataclass(frozen=True)
class EvalStream:
  """Local batches of this process, in the order of a split, without shuffling.

  Copies of record 0 fill up the last batch; `batch["real"]` is False there.
  """

  records: Records
  transform: Transform
  batch: int
  rows: slice

  @property
  def local_batch(self) -> int:
    return self.rows.stop - self.rows.start

  @property
  def num_batches(self) -> int:
    return -(-len(self.records) // self.batch)

  def __len__(self) -> int:
    return self.num_batches

  def __getitem__(self, index: int) -> Example:
    first = int(index) * self.batch + self.rows.start
    positions = range(first, first + self.local_batch)
    return stack(map(self._example, positions), self.local_batch)

  def _example(self, position: int) -> Example:
    real = position < len(self.records)
    record = position if real else 0
    rng = _generator(_EVALUATED, 0, position)
    example = self.transform(self.records[record], rng)
    return example | {"real": np.bool_(real)}


def batches(
  stream: TrainStream | EvalStream, num_workers: int, num_threads: int
) -> Iterator[Example]:
  """Reads a stream's local batches ahead, in threads or worker processes.

  Close the iterator to end the workers and free their shared memory.

  Raises:
    UserError: the workers cannot be started, or one of them ended.
  """
  dataset = grain.MapDataset.source(stream)
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=max(2, 2 * num_threads)
  )
  dataset = dataset.to_iter_dataset(options)
  if num_workers:
    yield from workers.read(dataset, num_workers)
    return
  with contextlib.closing(iter(dataset)) as read:
    yield from read


class DeviceBatches:
  """Moves batches to the devices, and times the waits for them.

  Attributes:
    waited: seconds spent waiting for the host while the devices were idle.
  """

  def __init__(self, host: Iterator[Example], mesh: Mesh):
    self._host = host
    self._mesh = mesh
    self.waited = 0.0

  def next(self, running: jax.Array | None) -> dict[str, jax.Array]:
    """The next global batch, on the devices.

    Args:
      running: an output of the step in flight. The wait counts only if this
        step has ended, for then the devices were idle.
    """
    began = time.perf_counter()
    batch = mesh_lib.shard(next(self._host), self._mesh)
    if running is None or running.is_ready():
      # An upper bound: the step may have ended in the middle of the wait.
      self.waited += time.perf_counter() - began
    return batch


class Timer:
  """Times training steps, and the share that is spent waiting for batches."""

  def __init__(self, batches: DeviceBatches):
    self._batches = batches
    self._step: int | None = None

  def reset(self, step: int) -> None:
    """Restarts the clock, after time that was not spent on steps."""
    self._step = step
    self._began = time.perf_counter()
    self._waited = self._batches.waited

  def read(self, step: int, batch: int) -> dict[str, float]:
    """Timings since the last reading; none where no step lies between."""
    timings = {}
    if self._step is not None and step > self._step:
      seconds = time.perf_counter() - self._began
      each = seconds / (step - self._step)
      waited = self._batches.waited - self._waited
      timings = {
        "step_seconds": each,
        "examples_per_second": batch / each,
        "input_share": waited / seconds,
      }
    self.reset(step)
    return timings
