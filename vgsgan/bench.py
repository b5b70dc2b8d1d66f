"""Measures a config's training step: `python -m vgsgan.bench --config=...`.

Prints one JSON object. Times are medians of repetitions in which the step, a
matrix product and the reading of a batch take turns, so that ratios hold on a
machine whose speed drifts.
"""

import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from vgsgan import data, mesh, tasks, trainer
from vgsgan.data import pipeline
from vgsgan.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", "configs/stamps.py")
REPEAT = flags.DEFINE_integer("repeat", 20, "Repetitions of each.")

MATMUL = 2048  # Side of the square matrices that stand for the peak.


def seconds(call: Callable[[], object]) -> float:
  began = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - began


def measure(config, repeat: int) -> dict[str, float]:
  """Step, input and matrix product of `config`, side by side."""
  devices = mesh.make_mesh()
  mesh.check_batch(config.train.batch, devices, "train.batch")
  splits = data.load(config.data)
  task = tasks.build(config, devices, splits)
  everywhere = mesh.replicated(devices)
  init = jax.jit(
    lambda: task.init(jax.random.key(config.seed)), out_shardings=everywhere
  )
  state = init()
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
  update = task.step_at(config.train.steps)
  step = trainer.jit_step(update, devices).lower(state, batch).compile()
  square = jnp.ones((MATMUL, MATMUL))
  product = jax.jit(jnp.matmul).lower(square, square).compile()
  rows = stream.local_batch

  times: dict[str, list[float]] = {"step": [], "matmul": [], "input": []}
  for i in range(repeat):
    began = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    times["step"].append(time.perf_counter() - began)
    times["matmul"].append(seconds(lambda: product(square, square)))
    times["input"].append(
      seconds(lambda i=i: [stream[i * rows + r] for r in range(rows)])
    )
  # The first calls warm caches up.
  median = {name: float(np.median(t[1:])) for name, t in times.items()}
  flops = step.cost_analysis()["flops"]
  peak = 2 * MATMUL**3 / median["matmul"]
  return {
    "step_seconds": median["step"],
    "examples_per_second": config.train.batch / median["step"],
    "step_gflop": flops / 1e9,
    "matmul_peak_gflop_per_second": peak / 1e9,
    # 1 is a step that does nothing but matrix products at full speed.
    "step_over_matmul_time": median["step"] / (flops / peak),
    "input_seconds_one_thread": median["input"],
    "input_over_step": median["input"] / median["step"],
  }


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  print(json.dumps(measure(CONFIG.value, REPEAT.value), indent=2))


if __name__ == "__main__":
  try:
    app.run(main)
  except UserError as error:
    print(f"vgsgan: {error}", file=sys.stderr)
    sys.exit(2)
