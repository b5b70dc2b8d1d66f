"""`python -m vgsgan.tools.bench MODE`: measures, and prints a table.

    python -m vgsgan.tools.bench step --config=configs/quickstart.py:chunk

`step`, `scores`, `input`, `edits` and `checkpoint` are in the modules of their
names; `scores` has sizes of its own, whatever the config. Without one it is
`configs/stamps.py`. A config of several arms (`configs/quickstart.py:table`)
gives a column an arm, of its first seed.
`--json=PATH` keeps the figures, with the machine that they were measured on.
`step --torch` runs network and loss in PyTorch as well, which the extra `bench`
installs.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from vgsgan.common import jsonfiles, memory, options
from vgsgan.common.errors import UserError
from vgsgan.tools.bench import command, step
from vgsgan.train import terminal

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, with arguments after a colon."
)
REPEAT = flags.DEFINE_integer("repeat", 20, "Repetitions of each.", 1)
TORCH = flags.DEFINE_bool(
  "torch", False, "With `step`: the same network and loss in PyTorch as well."
)
JSON = options.define_path("json", None, "Where to keep the figures.")


def main(argv: Sequence[str]) -> None:
  mode = command.chosen_mode(argv[1:])
  if TORCH.value and mode != "step":
    raise UserError(f"--torch goes with the mode step, not with {mode}")
  if JSON.value:
    command.check_writable(pathlib.Path(JSON.value))
  logging.set_verbosity(logging.WARNING)
  memory.keep_freed()  # As a training does.
  measure = step.with_torch if TORCH.value else command.MODES[mode]
  with memory.enough(memory.TRAINING):
    found = command.columns(measure, CONFIG.value, REPEAT.value)
  print("\n".join(command.table(found)))
  if JSON.value:
    record = {
      "command": " ".join(["python -m vgsgan.tools.bench", *sys.argv[1:]]),
      **command.machine(),
      "figures": found if "compare" in CONFIG.value else found[""],
    }
    jsonfiles.write_json(JSON.value, record)
    terminal.Terminal().info(f"wrote {JSON.value}")


if __name__ == "__main__":
  options.run(main, command.with_config(sys.argv))
