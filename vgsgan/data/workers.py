"""Reads batches in worker processes, and explains their failures."""

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

import grain
import numpy as np
from absl import flags

from vgsgan.common.errors import UserError
from vgsgan.data.records import Example

# Errors of a system without semaphores, or with an unwritable /dev/shm.
_NO_SEMAPHORES = (
  errno.ENOSYS,
  errno.ENOENT,
  errno.EACCES,
  errno.EROFS,
  errno.ENOSPC,
)


def read(dataset: grain.IterDataset, num_workers: int) -> Iterator[Example]:
  """Yields batches of worker processes, copied out of shared memory."""
  # Workers refuse to start unless the absl flags of this process are parsed.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  options = grain.MultiprocessingOptions(num_workers)
  try:
    _start_quiet_tracker()
    batches = iter(dataset.mp_prefetch(options, worker_init_fn=_leave_ctrl_c))
    with contextlib.closing(batches):
      for batch in batches:
        plain = {name: np.array(x) for name, x in batch.items()}
        # Frees its shared memory now: the next batch may take long.
        del batch
        yield plain
  except (OSError, RuntimeError) as error:
    line = explain(error)
    if line is None:
      raise
    raise UserError(
      f"{line}; the same command goes on from the last checkpoint"
    ) from error


def _start_quiet_tracker() -> None:
  """Starts Python's resource tracker without warnings, unless it runs.

  It frees the memory of a killed worker, and would warn of it at the end.
  """
  before = os.environ.get("PYTHONWARNINGS")
  filters = filter(None, (before or "").split(","))
  quiet = [*filters, "ignore:resource_tracker:UserWarning"]
  os.environ["PYTHONWARNINGS"] = ",".join(quiet)
  try:
    resource_tracker.ensure_running()
  finally:
    # Other child processes get the user's own setting.
    del os.environ["PYTHONWARNINGS"]
    if before is not None:
      os.environ["PYTHONWARNINGS"] = before


def _leave_ctrl_c(index: int, count: int) -> None:
  """Ignores a terminal's signals; the process that saves handles them."""
  del index, count
  for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


def explain(error: Exception) -> str | None:
  """Explains in one line that a worker ended or could not start, else None."""
  without = "--config.data.num_workers=0 reads without them"
  more = (
    "give it more (docker run --shm-size=2g), lower --config.data.num_workers, "
    f"or {without}"
  )
  if isinstance(error, OSError):
    # Errors of semaphores name no file; those of reading a record do.
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
