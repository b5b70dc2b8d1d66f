"""Measures a config's training step: `python -m vgsgan.bench --config=...`.

Prints one JSON object. Times are medians of repetitions in which the steps, a
matrix product and the reading of a batch take turns, after one turn to warm
up, so that ratios hold on a machine whose speed drifts.

Where the update changes in the course of training (`edits.curriculum`), it is
the last one that is measured, and besides it the first, usually `regular`: on
the same batch and the same state, which both update and hand on.
`edited_over_first` compares the two in time and in the FLOPs that XLA counts in
what it compiled; the quotient `time_over_flops` is 1 where edits cost what they
compute. XLA counts the body of a loop once, and not what it calls in libraries:
of a step, the growing of regions and the eigenvectors of `direction` are left
out. What is done between steps (`edits.refresh_every`) is in neither.

A config of several arms (`configs/quickstart.py:table`) gives an object an arm.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import config_flags

from vgsgan import comparing, data, mesh, options, tasks, trainer
from vgsgan.data import pipeline
from vgsgan.errors import UserError
from vgsgan.state import TrainState

CONFIG = config_flags.DEFINE_config_file("config", "configs/stamps.py")
REPEAT = flags.DEFINE_integer("repeat", 20, "Repetitions of each.", 1)

MATMUL = 2048  # Side of the square matrices that stand for the peak.


def measure(
  config: ml_collections.ConfigDict, repeat: int
) -> dict[str, float | dict[str, float]]:
  """Steps, input and matrix product of `config`, side by side."""
  devices = mesh.make_mesh()
  mesh.check_batch(config.train.batch, devices, "train.batch")
  splits = data.load(config.data)
  task = tasks.build(config, devices, splits)
  stream = pipeline.TrainStream(
    splits["train"],
    task.transform,
    config.train.batch,
    mesh.local_rows(config.train.batch),
    config.seed,
    0,
    repeat + 1,
  )
  batch = mesh.shard(next(pipeline.batches(stream, 0, 1)), devices)
  init = jax.jit(
    lambda: task.init(jax.random.key(config.seed)),
    out_shardings=mesh.replicated(devices),
  )
  state = init()
  steps = compiled_steps(config, task, devices, state, batch)
  median = medians(steps, state, batch, stream, repeat)
  flops = {name: step.cost_analysis()["flops"] for name, step in steps.items()}
  return figures(config.train.batch, median, flops)


def compiled_steps(
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  devices: Mesh,
  state: TrainState,
  batch: tasks.Batch,
) -> dict[str, Any]:
  """The last update of the training, `step`, and the first if it differs."""
  last = task.step_at(config.train.steps - 1)
  updates = {"step": last} | ({} if last is task.step else {"first": task.step})
  return {
    name: trainer.jit_step(update, state, devices).lower(state, batch).compile()
    for name, update in updates.items()
  }


def medians(
  steps: dict[str, Any],
  state: TrainState,
  batch: tasks.Batch,
  stream: pipeline.TrainStream,
  repeat: int,
) -> dict[str, float]:
  """Seconds of each step, of the matrix product and of reading a batch."""
  square = jnp.ones((MATMUL, MATMUL))
  product = jax.jit(jnp.matmul).lower(square, square).compile()
  rows = stream.local_batch
  times: dict[str, list[float]] = {
    name: [] for name in (*steps, "matmul", "input")
  }

  def timed(name: str, call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    times[name].append(time.perf_counter() - began)
    return result

  for i in range(repeat + 1):
    for name, step in steps.items():
      # Donated: a step takes the state that the other one left.
      state, _ = timed(name, lambda step=step, state=state: step(state, batch))
    timed("matmul", lambda: product(square, square))
    timed("input", lambda i=i: [stream[i * rows + r] for r in range(rows)])
  # The first calls warm caches up.
  return {name: float(np.median(t[1:])) for name, t in times.items()}


def figures(
  batch: int, median: dict[str, float], flops: dict[str, float]
) -> dict[str, float | dict[str, float]]:
  """What is printed.

  Args:
    batch: examples in a step.
    median: seconds, as `medians` gives them.
    flops: of each step.
  """
  peak = 2 * MATMUL**3 / median["matmul"]
  found = {
    "step_seconds": median["step"],
    "examples_per_second": batch / median["step"],
    "step_gflop": flops["step"] / 1e9,
    "matmul_peak_gflop_per_second": peak / 1e9,
    # 1 is a step that does nothing but matrix products at full speed.
    "step_over_matmul_time": median["step"] / (flops["step"] / peak),
    "input_seconds_one_thread": median["input"],
    "input_over_step": median["input"] / median["step"],
  }
  if "first" not in flops:
    return found
  longer = median["step"] / median["first"]
  more = flops["step"] / flops["first"]
  return found | {
    "first_step_seconds": median["first"],
    "first_step_gflop": flops["first"] / 1e9,
    "edited_over_first": {
      "time": longer,
      "flops": more,
      "time_over_flops": longer / more,
    },
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
  logging.set_verbosity(logging.WARNING)
  config, repeat = CONFIG.value, REPEAT.value
  if "compare" in config:
    arms = list(comparing.arms(config))
    first = arms[0][1]
    found = {
      name: measure(one, repeat) for name, seed, one in arms if seed == first
    }
  else:
    found = measure(config, repeat)
  print(json.dumps(found, indent=2))


if __name__ == "__main__":
  try:
    app.run(main, flags_parser=options.parse_flags)
  except UserError as error:
    print(f"vgsgan: {error}", file=sys.stderr)
    sys.exit(2)
