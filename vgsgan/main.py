"""Trains and evaluates a system, or compiles its step.

    python -m vgsgan.main --config=configs/stamps.py --workdir=runs/stamps

The same command resumes a run that was interrupted.
"""

import gc
import pathlib
import signal
import sys

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from vgsgan import tasks
from vgsgan.common import commands, memory, options, ranges
from vgsgan.common.errors import UserError
from vgsgan.parallel import processes
from vgsgan.tools.compare import comparison
from vgsgan.tools.compile import program
from vgsgan.train import compile_cache, loop

MODES = ("train", "eval", "compile")


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of a run; the last four are for several processes."""
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with arguments after a colon: configs/stamps.py:smoke. Any "
    "field can be overridden: --config.optim.lr=1e-4.",
    flag_values=values,
  )
  options.define_path(
    values, "workdir", None, "Folder of the run, a new one or one to resume."
  )
  flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "Train and evaluate, evaluate the run in the workdir, or print the memory "
    "and operations of a step.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "topology",
    None,
    "With --mode=compile: a slice of TPUs, such as v5e:16x16; the devices of "
    "this machine if empty.",
    values,
  )
  flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of a cluster that JAX detects.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0, in other clusters.",
    values,
  )
  flags.DEFINE_integer(
    "num_processes",
    None,
    "Number of processes, with --coordinator_address.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "process_id",
    None,
    "Number of this process, from 0, with --coordinator_address.",
    flag_values=values,
  )


def resolved_config(given: flags.FlagValues) -> ml_collections.ConfigDict:
  """The config of the flags; for `eval` without one, that of the workdir."""
  if not given.workdir and given.mode != "compile":
    raise UserError("--workdir is missing: name the folder of the run")
  if given.config is None and given.mode == "eval":
    return tasks.config_of(pathlib.Path(given.workdir))
  if given.config is None:
    raise UserError("--config is missing, e.g. --config=configs/stamps.py")
  return given.config


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  commands.require(argv)
  config = resolved_config(given)
  if given.topology and given.mode != "compile":
    raise UserError("--topology needs --mode=compile")
  alone = not (given.distributed or given.coordinator_address)
  if alone and (given.num_processes, given.process_id) != (None, None):
    raise UserError(
      "--num_processes and --process_id need --coordinator_address=HOST:PORT"
    )
  if not alone:
    cluster = given.coordinator_address, given.num_processes, given.process_id
    processes.start(*cluster)
  workdir = pathlib.Path(given.workdir) if given.workdir else None
  ranges.check(config)
  if not given.topology:  # JAX caches only programs for local devices.
    compile_cache.start_for(config)
  if given.mode == "compile":
    sys.exit(program.run(config, given.topology, workdir))
  with processes.together():
    if "compare" in config:
      sys.exit(comparison.run(config, workdir, given.mode))
    tasks.check(config)
    sys.exit(loop.run(config, workdir, given.mode, tasks.build))


def run() -> None:
  """The entry point; a UserError is one line, without a traceback."""
  jax.config.config_with_absl()
  memory.keep_freed()
  # Tracing makes many objects and little garbage. A sixth of a start is saved.
  gc.set_threshold(50_000)
  try:
    commands.start(main, define_flags)
  except KeyboardInterrupt:
    # Training catches signals itself; elsewhere there is nothing to save.
    sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
  run()
