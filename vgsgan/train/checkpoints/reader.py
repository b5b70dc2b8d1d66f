"""Reads a checkpoint and compares it with the record in its folder."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vgsgan.common.errors import one_line
from vgsgan.train.checkpoints.integrity import (
  DamagedError,
  describe,
  read_record,
  require_same_model,
)


class Restorer:
  """Reads steps by their folders. Every process makes every call."""

  def __init__(self):
    # Each process reads independently: a process that finds damage stops, and
    # the others would wait for it in vain.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    self._orbax = ocp.Checkpointer(
      ocp.StandardCheckpointHandler(multiprocessing_options=alone),
      multiprocessing_options=alone,
    )

  def close(self) -> None:
    """Ends Orbax's threads."""
    self._orbax.close()

  def read(self, step: pathlib.Path, abstract: Any) -> tuple[Any, Any]:
    """Reads and checks a step; all processes come to the same verdict.

    Args:
      step: folder of the step.
      abstract: a tree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      (state, meta).

    Raises:
      DamagedError: it is not what was written, in one line.
      UserError: it is of another model.
    """
    verdict, state = "", None
    try:
      record = read_record(step)
      require_same_model(step, record["arrays"], abstract)
      state = self._read_state(step, abstract, record)
    except DamagedError as error:
      verdict = str(error)
    if jax.process_count() > 1:
      bad = multihost_utils.process_allgather(np.int32(bool(verdict)))
      if bad.any() and not verdict:
        verdict = "another process cannot read it"
    if verdict:
      raise DamagedError(verdict)
    return state, record["meta"]

  def _read_state(self, step: pathlib.Path, abstract: Any, record: dict) -> Any:
    try:
      with jax.transfer_guard("allow"):
        state = self._orbax.restore(
          step / "state", args=ocp.args.StandardRestore(abstract)
        )
        arrays = describe(state, True)
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # Too big for this machine, which is no damage.
    except Exception as error:
      raise DamagedError(one_line(error, named=True)) from error
    for name, (shape, dtype, crc) in arrays.items():
      # An array spread over processes has no checksum (see `checksum`). The
      # dtype may differ: without its own metadata Orbax returns keys as
      # integers.
      *same, written = record["arrays"][name]
      crcs = {crc, written} - {None}
      if [shape, dtype] != same or len(crcs) > 1:
        raise DamagedError(f"{name} is not what was written (CRC-32)")
    return state
