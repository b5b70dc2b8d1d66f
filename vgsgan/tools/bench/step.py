"""The training step: its time, and how much of the machine it uses.

It is the update that the training ends with, without what is done between
steps. `utilisation` is the FLOPs of its matrix products and convolutions
(`programs.flops`) over its time, as a share of what a matrix product reaches in
the same run: 1 would be a step of nothing else at full speed.
"""

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.tools.bench import timing
from vgsgan.tools.bench.case import Case, Compiled, Training


def measure(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """The step of `config` and a matrix product, side by side."""
  case = Case(config)
  training = Training(case.state(), case.batch())
  update = case.compile(case.last_update(), training.state, training.batch)
  product = timing.Matmul(update.dtype)
  median = timing.medians(
    {"step": training.timer(update), "matmul": product.seconds}, repeat
  )
  return figures(config.train.batch, update, product, median)


def with_torch(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """The same, and network and loss alone beside their equals in PyTorch."""
  try:
    from vgsgan.tools.bench import torch_step
  except ImportError as error:
    raise UserError(
      f'--torch needs PyTorch ({error}): pip install -e ".[bench]"'
    ) from error
  beside = torch_step.measure(config, repeat)
  return measure(config, repeat) | {"torch": beside}


def figures(
  batch: int,
  update: Compiled,
  product: timing.Matmul,
  median: dict[str, float],
) -> dict:
  """What is printed.

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
