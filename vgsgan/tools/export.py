"""Takes one network out of a run's best checkpoint, to be shipped.

    python -m vgsgan.tools.export --workdir=runs/judge --network=recogniser \\
      --out=recogniser.npz

The file holds the trees `params` and `batch_stats` of the network, and in its
meta the run's config, step, results and this command.
"""

import pathlib
import sys

import jax
from absl import flags, logging

from vgsgan import data, tasks
from vgsgan.common import options
from vgsgan.common.errors import UserError
from vgsgan.models import pretrained
from vgsgan.parallel import mesh
from vgsgan.train import finished, terminal


def export(workdir: pathlib.Path, network: str, out: pathlib.Path) -> None:
  """Writes the network of the best checkpoint.

  Raises:
    UserError: the run is not finished, or goes on, or has no such network.
  """
  config = tasks.config_of(workdir)
  results = finished.results_of(workdir)
  devices = mesh.make_mesh(1)
  say = terminal.Terminal()
  with say.status("opening the data set"):
    task = tasks.build(config, devices, data.load(config.data))
  shapes = jax.eval_shape(task.init, jax.random.key(config.seed))
  options.check_one_of("network", network, tuple(shapes.params))
  abstract = mesh.abstract(shapes, devices)
  with say.status(f"restoring {workdir}"), finished.opened(workdir) as saved:
    state, _ = saved.restore(results["step"], abstract)
  tree = {
    "params": state.params[network],
    "batch_stats": state.batch_stats.get(network, {}),
  }
  if network == "generator":  # Its average draws better than itself.
    tree = state.batch_stats.get("average", tree)
  meta = {"network": network, "config": config.to_dict(), "results": results}
  command = ["python", "-m", "vgsgan.tools.export", *sys.argv[1:]]
  pretrained.save_params(out, tree, meta | {"command": " ".join(command)})
  say.info(f"wrote {out}: {network} of step {results['step']}")


def define_flags() -> None:
  options.define_path("workdir", None, "Of the finished run.")
  flags.DEFINE_string("network", None, "Which of the state's params to export.")
  options.define_path("out", None, "The .npz file to write.")


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  if len(argv) > 1 or None in (given.workdir, given.network, given.out):
    raise UserError("--workdir, --network and --out are needed, nothing else")
  # Libraries log what only their authors want to read at each restore.
  logging.set_verbosity(logging.WARNING)
  export(pathlib.Path(given.workdir), given.network, pathlib.Path(given.out))


if __name__ == "__main__":
  define_flags()
  options.run(main)
