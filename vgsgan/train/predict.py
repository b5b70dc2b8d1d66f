"""Runs a function over whole splits."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan.data import pipeline
from vgsgan.data.records import Records, Transform
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Poll


class Predictor:
  """Runs one function over splits; compiled once for all of them.

  Args:
    function: (state, batch) -> a tree of arrays [b, ...].
    transform: makes an example from a record.
    config: of the task; a batch has `eval.batch` rows.
    mesh: the mesh of the run. Every process gets all rows.
  """

  def __init__(
    self,
    function: Callable[[TrainState, Batch], Any],
    transform: Transform,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
  ):
    self.transform, self.mesh = transform, mesh
    self.size = config.eval.batch
    self.threads = config.data.num_threads
    self._function = jax.jit(
      lambda state, batch: (function(state, batch), batch["real"]),
      out_shardings=mesh_lib.replicated(mesh),
    )

  def __call__(self, state: TrainState, records: Records, poll: Poll) -> Any:
    """Runs over all n records; returns the tree with arrays [n, ...], in order.

    Args:
      state: the first argument of the function.
      records: at least one.
      poll: called before each batch; raises to leave.
    """
    return joined(list(self.batches(state, records, poll)))

  def batches(
    self, state: TrainState, records: Records, poll: Poll
  ) -> Iterator[Any]:
    """Yields the same batch by batch, on the host, without padding."""
    stream = pipeline.EvalStream(
      records, self.transform, self.size, mesh_lib.local_rows(self.size)
    )
    for local in pipeline.batches(stream, 0, self.threads):
      poll()
      batch = mesh_lib.shard(local, self.mesh)
      rows, real = jax.device_get(self._function(state, batch))
      yield jax.tree.map(lambda x, real=real: x[real], rows)


def joined(parts: Sequence[Any]) -> Any:
  """Concatenates the arrays of trees with equal structure."""
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)
