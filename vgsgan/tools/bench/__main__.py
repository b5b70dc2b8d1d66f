"""Measures what a config costs on this machine, and prints a table.

    python -m vgsgan.tools.bench step --config=configs/solids.py:chunk

  step        the training step, and its share of a matrix product's speed
  edits       a step with edits against one without
  input       reading batches against the step
  checkpoint  how much saves hold up the steps
  scores      scores of all pairs; its sizes do not depend on the config

A config of several arms (configs/solids.py:table) gives a column each, with
its first seed. Figures are medians of turns in one process.
"""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from vgsgan.common import commands, jsonfiles, memory, options
from vgsgan.common.errors import UserError
from vgsgan.tools.bench import command, step
from vgsgan.train import compile_cache, terminal


def define_flags(values: flags.FlagValues) -> None:
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with arguments after a colon; configs/stamps.py if none.",
    values,
  )
  flags.DEFINE_integer(
    "repeat", 20, "Turns, each measuring everything once.", 1, None, values
  )
  flags.DEFINE_bool(
    "torch",
    False,
    "With step: network and loss in PyTorch, too (extra `bench`).",
    values,
  )
  options.define_path(
    values, "json", "", "File to keep the figures in, with machine and date."
  )


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  mode = command.chosen_mode(argv[1:])
  if given.torch and mode != "step":
    raise UserError(f"--torch goes with the mode step, not with {mode}")
  if given.json:
    command.check_writable(pathlib.Path(given.json))
  memory.keep_freed()  # A training does the same.
  compile_cache.start_for(given.config)
  measure = step.with_torch if given.torch else command.MODES[mode]
  with memory.explain_oom(memory.TRAINING):
    columns = command.columns(measure, given.config, given.repeat)
  print("\n".join(command.table(columns)))
  if given.json:
    record = {
      "command": " ".join(["python -m vgsgan.tools.bench", *sys.argv[1:]]),
      **command.machine(),
      "figures": columns if "compare" in given.config else columns[""],
    }
    jsonfiles.write_json(given.json, record)
    terminal.Terminal().info(f"wrote {given.json}")


if __name__ == "__main__":
  commands.start(main, define_flags, command.with_config(sys.argv))
