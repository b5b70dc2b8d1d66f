"""What a device's memory does not hold becomes one line."""

import contextlib
import re
from collections.abc import Iterator

import jax

from vgsgan.errors import UserError

TRAINING = (
  "lower --config.train.batch, raise --config.train.accumulate, set "
  "--config.train.remat, or --config.score.exchange=ring where a config has "
  "it, take more devices, or split what is trained over some with "
  "--config.mesh.model"
)
EVALUATION = "lower --config.eval.batch, or --config.eval.block if there is one"


@contextlib.contextmanager
def enough(advice: str) -> Iterator[None]:
  """Around what is compiled and run, wherever it turns out to be too large.

  Raises:
    UserError: a device's memory does not suffice; with the advice.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise too_large(first_line(error), advice) from error


def too_large(how: str, advice: str = TRAINING) -> UserError:
  """The error to raise; `how` may begin with the status that XLA gives."""
  how = how.rpartition("RESOURCE_EXHAUSTED: ")[2].rstrip(". ")
  return UserError(f"out of memory: {how}; {advice}")


def first_line(error: Exception) -> str:
  """The first line of an error that says something."""
  lines = [x.strip() for x in str(error).splitlines() if x.strip()]
  return re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__
