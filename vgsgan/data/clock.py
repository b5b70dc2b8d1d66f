"""What a training step takes, and how much of it is waiting for data."""

import time

from vgsgan.data.pipeline import DeviceBatches


class Clock:
  """Seconds a step and the input-bound share, between two readings."""

  def __init__(self, batches: DeviceBatches):
    self._batches = batches
    self._step: int | None = None

  def reset(self, step: int) -> None:
    """Starts anew after time that was not spent on steps."""
    self._step = step
    self._began = time.perf_counter()
    self._waited = self._batches.waited

  def read(self, step: int, batch: int) -> dict[str, float]:
    """Timings since the last reading; none where no step lies between."""
    timings = {}
    if self._step is not None and step > self._step:
      seconds = time.perf_counter() - self._began
      each = seconds / (step - self._step)
      waited = self._batches.waited - self._waited
      timings = {
        "step_seconds": each,
        "examples_per_second": batch / each,
        "input_share": waited / seconds,
      }
    self.reset(step)
    return timings
