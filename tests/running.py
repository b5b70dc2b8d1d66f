"""Runs of a config, checked as `vgsgan.main` has it."""

import pathlib

import ml_collections

from vgsgan import tasks
from vgsgan.train import loop


def run_config(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, mode: str = "train"
) -> int:
  """Checks the config and runs its task; returns the exit status."""
  tasks.check(config)
  return loop.run(config, workdir, mode, tasks.build)
