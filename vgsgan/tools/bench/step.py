"""Measures the training step: its time, and its share of the machine's peak.

It is the last update of the training, without work between steps. `utilisation`
is the FLOPs of its matrix products and convolutions (`costs.flops`) over its
time, as a share of the rate of a matrix product in the same run. 1 would be a
step of nothing else at full speed.
"""

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.tools.bench import timing
from vgsgan.tools.bench.case import Case, Compiled, Training


def measure(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """Times the step of `config` and a matrix product, in turns."""
  case = Case(config)
  training = Training(case.state(), case.batch())
  update = case.compile(case.last_update(), training.state, training.batch)
  product = timing.Matmul(update.dtype)
  median = timing.medians(
    {"step": training.timer(update), "matmul": product.seconds}, repeat
  )
  return figures(config.train.batch, update, product, median)


def with_torch(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """Measures the same, and network and loss alone in JAX and in PyTorch."""
  try:
    from vgsgan.tools.bench import torch_step
  except ImportError as error:
    raise UserError(
      f'--torch needs PyTorch ({error}): pip install -e ".[bench]"'
    ) from error
  comparison = torch_step.measure(config, repeat)
  return measure(config, repeat) | {"torch": comparison}


def figures(
  batch: int,
  update: Compiled,
  product: timing.Matmul,
  median: dict[str, float],
) -> dict:
  """Figures of a step from its medians.

  Args:
    batch: examples in a step.
    update: the step.
    product: the matrix product.
    median: seconds of `step` and of `matmul`.
  """
  rate = update.flops / median["step"]
  peak = product.flops / median["matmul"]
  return {
    "step_seconds": median["step"],
    "examples_per_second": batch / median["step"],
    "step_gflop": update.flops / 1e9,
    "step_gflop_per_second": rate / 1e9,
    f"matmul_{update.dtype.__name__}_gflop_per_second": peak / 1e9,
    "utilisation": rate / peak,
  }
