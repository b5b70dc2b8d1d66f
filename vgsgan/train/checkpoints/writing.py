"""Parts of a save: the copy, the threads that write it, and the best step."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vgsgan.parallel import processes
from vgsgan.train.checkpoints.integrity import DamagedError, read_record

# Niceness of the threads that save. They get a 70th of a core that training
# wants too. With SCHED_IDLE they would get a 340th: it stalls a step less, but
# on a busy machine it holds up Python, or ends no save for minutes.
NICE = 19


class Manager(ocp.CheckpointManager):
  """Orbax's manager, without its own check for preemption.

  `Preemption` counts every poll. If Orbax polled too, with step numbers, the
  processes could agree on a tick that none of them ever reaches.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


@dataclasses.dataclass
class KeepBest(ocp.checkpoint_managers.PreservationPolicy):
  """Keeps the step with the highest score; steps without one do not count."""

  scores: dict[int, float]

  def best(self, steps: Sequence[int]) -> int | None:
    scored = [(self.scores[s], s) for s in steps if s in self.scores]
    return max(scored)[1] if scored else None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    best = self.best([info.step for info in checkpoints])
    return [info.step == best for info in checkpoints]


def read_scores(
  folder: pathlib.Path, steps: Sequence[int], sign: float
) -> dict[int, float]:
  """Reads the score of each step that has one, in the sign of `KeepBest`."""
  scores = {}
  for step in steps:
    with contextlib.suppress(DamagedError):
      score = read_record(folder / str(step))["score"]
      if score is not None:
        scores[step] = sign * score
  return scores


def everyone() -> set[int]:
  """All processes of the run.

  Orbax and `agree` synchronise through the coordination service, never on the
  devices, where collectives of another thread would mix with the training's.
  """
  return set(range(jax.process_count()))


def agree(what: str) -> None:
  """Waits until all processes have done `what`, or raises after a limit."""
  ocp.multihost.sync_global_processes(
    what, timeout=int(processes.STALL_SECONDS), processes=everyone()
  )


@jax.jit
def copy(state: Any) -> Any:
  return jax.tree.map(jnp.copy, state)


def on_host(x: jax.Array) -> jax.Array | np.ndarray:
  """Copies an array to NumPy, unless it is of keys or spread over processes.

  Without a target, Orbax restores NumPy arrays on any machine, but arrays of
  JAX only on devices like these.
  """
  numbers = isinstance(x.dtype, np.dtype)  # Keys have dtypes of JAX's own.
  whole = x.is_fully_replicated or x.is_fully_addressable
  return jax.device_get(x) if numbers and whole else x


def step_aside() -> None:
  """Lowers the priority of this thread, and of those that it starts."""
  if sys.platform == "linux":  # Elsewhere it would slow the whole process.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def drop_orbax_tracebacks(record: logging.LogRecord) -> bool:
  """Drops the tracebacks of errors that Orbax logs and then raises."""
  orbax = "orbax" in record.pathname or "OCDBT" in record.getMessage()
  return not (record.exc_info and orbax)
