"""Records to global batches, in an order that (seed, position) alone fixes.

A *position* counts examples since the start of training. Position p reads
record `p % n` of the `p // n`-th shuffled epoch, so neither the number of
workers nor that of devices or processes can change what a batch holds, and
the whole state of the pipeline is one integer.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Int

from vgsgan.common.errors import UserError
from vgsgan.parallel import mesh as mesh_lib

Record = dict[str, Any]


@runtime_checkable
class Records(Protocol):
  """Random access to the records of a split."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


@dataclasses.dataclass(frozen=True)
class First:
  """The first `count` records of a split, or all if there are fewer."""

  records: Records
  count: int

  def __len__(self) -> int:
    return min(self.count, len(self.records))

  def __getitem__(self, index: int) -> Record:
    return self.records[index]


# Errors of a system that has no semaphores, or whose /dev/shm is not to write.
_NO_SEMAPHORES = (
  errno.ENOSYS,
  errno.ENOENT,
  errno.EACCES,
  errno.EROFS,
  errno.ENOSPC,
)

Example = dict[str, Any]  # Arrays and numpy scalars.
# What a task makes of a record; the generator is the example's own.
Transform = Callable[[Record, np.random.Generator], Example]


# Streams of random numbers: the order, training examples and evaluated ones.
_ORDER, _EXAMPLE, _EVALUATED = range(3)


def _generator(stream: int, seed: int, number: int) -> np.random.Generator:
  """Random numbers of one stream, seed and number alone."""
  bits = np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream])
  return np.random.Generator(bits)


@functools.lru_cache(maxsize=4)
def epoch_order(
  num_records: int, seed: int, epoch: int
) -> Int[np.ndarray, "n"]:
  """The records of one epoch, shuffled."""
  return _generator(_ORDER, seed, epoch).permutation(num_records)


def record_at(position: int, num_records: int, seed: int) -> int:
  """Index of the record that training reads at `position`."""
  epoch, place = divmod(position, num_records)
  return int(epoch_order(num_records, seed, epoch)[place])


def stack(examples: Iterable[Example], count: int) -> Example:
  """A batch of `count` examples: arrays with a leading dimension of so many.

  An example is copied to its row as soon as it is made, while it is still in
  the processor's cache; there is never more of it than the batch itself.

  Raises:
    ValueError: examples differ in their arrays, shapes or dtypes, or are not
      so many.
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
  """This process's part of the training order, as local batches.

  Attributes:
    records: the records of a split.
    transform: what a task makes of a record.
    batch: examples in a global batch.
    rows: those of them that this process loads.
    seed: fixes the order and every example's own random generator.
    start: position of the first example of the first batch.
    num_batches: how many batches the stream is long.
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
  """This process's rows of a split in order, in batches, the last filled up.

  The filling repeats record 0; `batch["real"]` is False there.
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
  """The stream's local batches, read ahead by threads or worker processes.

  To be closed when no more are wanted, which ends the workers and frees the
  memory that they share.

  Raises:
    UserError: the workers cannot be started, or one of them ended.
  """
  dataset = grain.MapDataset.source(stream)
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=max(2, 2 * num_threads)
  )
  dataset = dataset.to_iter_dataset(options)
  if num_workers:
    yield from _of_workers(dataset, num_workers)
    return
  with contextlib.closing(iter(dataset)) as read:
    yield from read


def _of_workers(
  dataset: grain.IterDataset, num_workers: int
) -> Iterator[Example]:
  """Batches of worker processes, copied out of the memory that is shared."""
  # Workers parse absl flags of their own and refuse to start otherwise.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  options = grain.MultiprocessingOptions(num_workers)
  try:
    _start_quiet_tracker()
    read = iter(dataset.mp_prefetch(options, worker_init_fn=_leave_ctrl_c))
    with contextlib.closing(read):
      for batch in read:
        plain = {name: np.array(x) for name, x in batch.items()}
        # Frees its shared memory now: the next may be long in coming.
        del batch
        yield plain
  except (OSError, RuntimeError) as error:
    line = _lost_worker(error)
    if line is None:
      raise
    raise UserError(
      f"{line}; the same command goes on from the last checkpoint"
    ) from error


def _start_quiet_tracker() -> None:
  """Starts Python's resource tracker, unless it runs.

  It frees what a killed worker leaves, and would write about it at the end.
  """
  before = os.environ.get("PYTHONWARNINGS")
  known = filter(None, (before or "").split(","))
  quiet = [*known, "ignore:resource_tracker:UserWarning"]
  os.environ["PYTHONWARNINGS"] = ",".join(quiet)
  try:
    resource_tracker.ensure_running()
  finally:
    # Other children get the user's own setting.
    del os.environ["PYTHONWARNINGS"]
    if before is not None:
      os.environ["PYTHONWARNINGS"] = before


def _leave_ctrl_c(index: int, count: int) -> None:
  """Leaves what a terminal asks for to the process that saves."""
  del index, count
  for asked in (signal.SIGINT, signal.SIGHUP):
    signal.signal(asked, signal.SIG_IGN)


def _lost_worker(error: Exception) -> str | None:
  """One line, if the error says that a worker ended or could not start."""
  without = "--config.data.num_workers=0 reads without them"
  more = (
    "give it more (docker run --shm-size=2g), lower --config.data.num_workers, "
    f"or {without}"
  )
  if isinstance(error, OSError):
    # Semaphores give no name; what a record is read from has one.
    unnamed = error.filename is None and error.errno in _NO_SEMAPHORES
    if not unnamed and not str(error.filename).startswith("/psm_"):
      return None
    return (
      "worker processes cannot share memory (/dev/shm): "
      f"{error.strerror or error}; {more}"
    )
  ended = re.search(r"[Ww]orker process was .* exit code (-?\d+)", str(error))
  if ended is None:
    return None
  status = int(ended[1])
  if status == -signal.SIGBUS:
    return f"worker processes ran out of shared memory (/dev/shm): {more}"
  how = f"status {status}"
  if status < 0:
    how = f"signal {-status} ({signal.strsignal(-status)})"
  return (
    f"a worker process that reads data was ended by {how}: memory may be "
    f"short, or someone ended it; {without}"
  )


class DeviceBatches:
  """Batches on their way to the devices, and how long they were waited for.

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
      running: an output of the step in flight, which tells whether the devices
        still had something to do while this batch was waited for.
    """
    began = time.perf_counter()
    batch = mesh_lib.shard(next(self._host), self._mesh)
    if running is None or running.is_ready():
      # At most: the step may have ended in the middle of the wait.
      self.waited += time.perf_counter() - began
    return batch
