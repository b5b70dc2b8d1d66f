"""Parts of a save: the copy, the threads that write it, and what is kept."""

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

# Of the threads that save: of a core that training wants too they get a 70th.
# SCHED_IDLE would stall a step less, but gets a 340th, and of a machine that
# others keep busy holds up Python, or ends no save for minutes.
NICE = 19


class Manager(ocp.CheckpointManager):
  """Orbax's manager, without its own look at preemption.

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
  """The score of each step that has one, as `KeepBest` compares them."""
  scores = {}
  for step in steps:
    with contextlib.suppress(DamagedError):
      score = read_record(folder / str(step))["score"]
      if score is not None:
        scores[step] = sign * score
  return scores


def everyone() -> set[int]:
  """All processes of the run.

  Orbax and `agree` meet in the coordination service, never on the devices: what
  a thread of its own asks for there would mix with the training.
  """
  return set(range(jax.process_count()))


def agree(what: str) -> None:
  """Returns when all processes have done this, or raises after a limit."""
  ocp.multihost.sync_global_processes(
    what, timeout=int(processes.STALL_SECONDS), processes=everyone()
  )


@jax.jit
def copy(state: Any) -> Any:
  return jax.tree.map(jnp.copy, state)


def on_host(x: jax.Array) -> jax.Array | np.ndarray:
  """The array as NumPy's, unless it is of keys or spread over processes.

  Whoever reads NumPy's without a target needs no devices like these.
  """
  numbers = isinstance(x.dtype, np.dtype)  # Keys have dtypes of JAX's own.
  whole = x.is_fully_replicated or x.is_fully_addressable
  return jax.device_get(x) if numbers and whole else x


def step_aside() -> None:
  """Has this thread, and those that it starts, let the others go first."""
  if sys.platform == "linux":  # Elsewhere it would be the whole process.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def not_raised_again(record: logging.LogRecord) -> bool:
  """Drops the tracebacks logged of what Orbax then raises to us anyway."""
  orbax = "orbax" in record.pathname or "OCDBT" in record.getMessage()
  return not (record.exc_info and orbax)
