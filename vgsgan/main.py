"""`python -m vgsgan.main --config=configs/NAME.py --workdir=DIR`."""

import gc
import pathlib
import signal
import sys

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from vgsgan import tasks
from vgsgan.common import memory, options, ranges
from vgsgan.common.errors import UserError
from vgsgan.parallel import processes
from vgsgan.tools import compare
from vgsgan.tools.compile import program
from vgsgan.train import compile_cache, loop

MODES = ("train", "eval", "compile")

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Config file, with arguments after a colon: configs/stamps.py:smoke. Any "
  "field can be overridden: --config.optim.lr=1e-4.",
)
WORKDIR = options.define_path(
  "workdir", None, "Where the run leaves its files, and goes on from."
)
MODE = flags.DEFINE_enum(
  "mode",
  "train",
  MODES,
  "train: train, then evaluate; eval: evaluate only; compile: say what a step "
  "would take, see vgsgan/tools/compile/program.py.",
)
TOPOLOGY = flags.DEFINE_string(
  "topology",
  None,
  "With --mode=compile: the slice of TPUs, v5e:16x16; without, what is here.",
)
DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Join the other processes of a cluster JAX can find."
)
COORDINATOR = flags.DEFINE_string(
  "coordinator_address", None, "host:port of process 0, where JAX can't."
)
NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "How many processes, with --coordinator_address."
)
PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Which of them, with --coordinator_address."
)


def resolved_config() -> ml_collections.ConfigDict:
  """The config of the flags, or else the one of the run in the workdir."""
  if not WORKDIR.value and MODE.value != "compile":
    raise UserError("--workdir is missing: name the folder of the run")
  if CONFIG.value is None and MODE.value == "eval":
    return tasks.config_of(pathlib.Path(WORKDIR.value))
  if CONFIG.value is None:
    raise UserError("--config is missing, e.g. --config=configs/stamps.py")
  return CONFIG.value


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
  config = resolved_config()
  if TOPOLOGY.value and MODE.value != "compile":
    raise UserError("--topology is of --mode=compile alone")
  alone = not (DISTRIBUTED.value or COORDINATOR.value)
  if alone and (NUM_PROCESSES.value, PROCESS_ID.value) != (None, None):
    raise UserError(
      "--num_processes and --process_id need --coordinator_address=HOST:PORT"
    )
  # Libraries log what only their authors want to read at each save.
  logging.set_verbosity(logging.WARNING)
  if not alone:
    processes.start(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
  workdir = pathlib.Path(WORKDIR.value) if WORKDIR.value else None
  if MODE.value == "compile":
    sys.exit(program.run(config, TOPOLOGY.value, workdir))
  ranges.check(config)
  compile_cache.start(config.get("compilation_cache", compile_cache.FOLDER))
  with processes.together():
    if "compare" in config:
      sys.exit(compare.run(config, workdir, MODE.value))
    tasks.check(config)
    sys.exit(loop.run(config, workdir, MODE.value, tasks.build))


def run() -> None:
  """The entry point: errors a user can mend are one line, without traceback."""
  jax.config.config_with_absl()
  memory.keep_freed()
  # Tracing makes many objects and little garbage: a sixth of a start is saved.
  gc.set_threshold(50_000)
  try:
    options.run(main)
  except KeyboardInterrupt:
    # Before training or after it, where there is nothing to save.
    sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
  run()
