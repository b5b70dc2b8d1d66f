"""Takes a network out of the best checkpoint of a finished run.

    python -m vgsgan.tools.export --workdir=runs/judge --network=recogniser \\
      --out=recogniser.npz

The file holds the network's trees `params` and `batch_stats`, and in its meta
the run's config, step and results, and this command.
"""

import pathlib
import sys

import jax
from absl import flags

from vgsgan import data, tasks
from vgsgan.common import commands, options
from vgsgan.common.errors import UserError
from vgsgan.models import weights
from vgsgan.parallel import mesh
from vgsgan.train import finished, terminal


def export(workdir: pathlib.Path, network: str, out: pathlib.Path) -> None:
  """Writes a network of the best checkpoint to a file.

  Raises:
    UserError: the run is not finished, or in use, or has no such network.
  """
  config = tasks.config_of(workdir)
  results = finished.results_of(workdir)
  devices = mesh.make_mesh(1)
  say = terminal.Terminal()
  with say.status("opening the data set"):
    task = tasks.build(config, devices, data.load(config.data))
  shapes = jax.eval_shape(task.init, jax.random.key(config.seed))
  if network not in shapes.params:
    near = options.nearest(network, list(shapes.params))
    raise UserError(f"--network={network!r} is unknown: {near}")
  abstract = mesh.abstract(shapes, devices)
  with say.status(f"restoring {workdir}"), finished.opened(workdir) as saved:
    state, _ = saved.restore(results["step"], abstract)
  tree = {
    "params": state.params[network],
    "batch_stats": state.batch_stats.get(network, {}),
  }
  if network == "generator":  # The averaged generator draws better images.
    tree = state.batch_stats.get("average", tree)
  meta = {"network": network, "config": config.to_dict(), "results": results}
  command = ["python", "-m", "vgsgan.tools.export", *sys.argv[1:]]
  weights.save_params(out, tree, meta | {"command": " ".join(command)})
  say.info(f"wrote {out}: {network} of step {results['step']}")


def define_flags(values: flags.FlagValues) -> None:
  options.define_path(values, "workdir", None, "Folder of the run (needed).")
  flags.DEFINE_string(
    "network",
    None,
    "Name of the network (needed); a wrong one lists the run's networks.",
    values,
  )
  options.define_path(values, "out", None, "The .npz file to write (needed).")


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  commands.require(argv, "workdir", "network", "out")
  export(pathlib.Path(given.workdir), given.network, pathlib.Path(given.out))


if __name__ == "__main__":
  commands.start(main, define_flags)
