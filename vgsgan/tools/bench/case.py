"""Builds a config for a benchmark: its task, data, state and updates.

Benchmarks use the loop, the tasks and the mesh through this module alone.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from vgsgan import data, tasks
from vgsgan.data import blank, pipeline
from vgsgan.parallel import mesh
from vgsgan.tools.bench import timing
from vgsgan.tools.compile import program
from vgsgan.train import costs, keys
from vgsgan.train.state import TrainState
from vgsgan.train.step import jit_step
from vgsgan.train.task import Batch, Metrics, Step


class Case:
  """A config, built as the loop builds it.

  A generator that is not trained yet can be named by its config, as for
  `--mode=compile`; images and recordings are then blank.

  Attributes:
    config: the config, in which the generator is a file.
    devices: the mesh.
    task: the task of the config.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config = config.copy_and_resolve_references()
    tasks.check(config)
    self.devices = mesh.make_mesh(model=config.mesh.model)
    parts = config.train.accumulate
    mesh.check_batch(config.train.batch, self.devices, "train.batch", parts)
    with tempfile.TemporaryDirectory() as folder:
      generator = pathlib.Path(folder) / "generator.npz"
      untrained = program.use_untrained(config.data, generator)
      self._splits = (
        blank.splits(config) if untrained else data.load(config.data)
      )
      self.task = tasks.build(config, self.devices, self._splits)

  def state(self) -> TrainState:
    """A fresh state of the task."""
    return self.state_of(self.task.init)

  def state_of(self, init: Callable[[jax.Array], TrainState]) -> TrainState:
    """A fresh state from `init`, sharded as in training."""
    key = keys.of(self.config.seed, "init")
    shardings = mesh.state_shardings(jax.eval_shape(init, key), self.devices)
    return jax.jit(lambda: init(key), out_shardings=shardings)()

  def stream(self, first: int, count: int) -> pipeline.TrainStream:
    """A stream of `count` training batches, from the batch `first` on."""
    batch = self.config.train.batch
    return pipeline.TrainStream(
      self._splits["train"],
      self.task.transform,
      batch,
      mesh.local_rows(batch),
      self.config.seed,
      first * batch,
      count,
    )

  def batches(self, first: int, count: int) -> pipeline.DeviceBatches:
    """Reads the same batches with the config's workers, onto the devices."""
    use = self.config.data
    host = pipeline.batches(
      self.stream(first, count), use.num_workers, use.num_threads
    )
    return pipeline.DeviceBatches(host, self.devices)

  def batch(self) -> Batch:
    """The first training batch."""
    host = next(pipeline.batches(self.stream(0, 1), 0, 1))
    return mesh.shard(host, self.devices)

  def last_update(self) -> Step:
    """The update that training ends with; it begins with `task.step`."""
    return self.task.step_after(self.config.train.steps - 1)

  def compile(
    self, update: Step, state: TrainState, batch: Batch
  ) -> "Compiled":
    jitted = jit_step(update, state, self.devices)
    traced = jitted.trace(state, batch)
    lowered = traced.lower()
    in_bfloat16 = "xbf16>" in lowered.as_text()
    platform = self.devices.devices.flat[0].platform
    return Compiled(
      lowered.compile(),
      costs.flops(traced.jaxpr, self.devices.size, platform),
      jnp.bfloat16 if in_bfloat16 else jnp.float32,
    )


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled update.

  Attributes:
    run: `(state, batch) -> (state, metrics)`; the state is donated.
    flops: operations of one device's matrix products and convolutions, as
      `costs.flops` counts them: in loops for every iteration, where XLA counts
      one.
    dtype: bfloat16 if the program has any, in which its products then are.
  """

  run: Any
  flops: float
  dtype: Any


@dataclasses.dataclass
class Training:
  """A state that successive updates change.

  Attributes:
    state: the current state.
    batch: the batch of every update.
  """

  state: TrainState
  batch: Batch

  def timer(self, update: Compiled) -> timing.Timer:
    """A timer that makes one update."""

    def step() -> Metrics:
      self.state, metrics = update.run(self.state, self.batch)
      return metrics

    return lambda: timing.seconds(step)
