"""Chooses the training pairs whose edits mislead a finished run most.

    python -m vgsgan.tools.select --workdir=runs/drawing --count=3000 --out=DIR

DIR then holds `images/ID.png`, the edited pictures; `marked/ID.png`, the same
enlarged, with a red box where picture and caption match best, for the people
who describe them; `selection.jsonl`, a line for each: rank (its ID), index and
ID of its record, loss, the caption's scores with the true and the edited
picture, caption, box (left, top, right, bottom in pixels); `z.npy` and
`name_list_train.txt`. Once `audio/ID.wav` and, optionally, `text/ID.txt` are
there for every line of that list (take out the others),
`--config.data.more=DIR` adds them to the training pairs.
"""

import pathlib

from absl import flags, logging

from vgsgan import data
from vgsgan.common import files, options
from vgsgan.common.errors import UserError
from vgsgan.tools import drawn_runs, selection
from vgsgan.train import terminal


def select(
  workdir: pathlib.Path, count: int, out: pathlib.Path, kind: str
) -> int:
  """Writes the folder; returns how many pairs were chosen.

  Raises:
    UserError: there is no such run, edit or number, or the folder is not empty.
  """
  if count < 1:
    raise UserError(f"--count={count}: at least 1 pair is to be chosen")
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f"--out={out} is not an empty folder: name another")
  say = terminal.Terminal()
  with say.status(f"restoring {workdir}"):
    run = drawn_runs.restored(workdir)
  kind = drawn_runs.kind_of(run, kind)
  with say.status("opening the data set"):
    records = data.load(run.model.config.data)["train"]
  drawn_runs.check_records(run, kind, records)
  new = not out.exists()
  with files.refused(out):
    out.mkdir(parents=True, exist_ok=True)  # Before the pass, not after it.
  chosen = selection.hardest(run.model, kind, run.state, records, count)
  if not chosen:
    if new:
      out.rmdir()
    raise UserError(
      f"no {kind!r} edit of the {len(records)} training pairs has a loss at "
      f"step {run.step}: choose another --kind"
    )
  latent_size = run.model.generator.latent_size
  selection.write(out, chosen, records, latent_size)
  return len(chosen)


def define_flags() -> None:
  options.define_path("workdir", None, "Of the finished run.")
  flags.DEFINE_integer("count", 3000, "How many pairs to choose.")
  options.define_path("out", None, "The folder to write, new or empty.")
  flags.DEFINE_string("kind", "", "Of edits; the curriculum's last if empty.")


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  if len(argv) > 1 or given.workdir is None or given.out is None:
    raise UserError("--workdir and --out are needed; flags start with --")
  # Libraries log what only their authors want to read at each restore.
  logging.set_verbosity(logging.WARNING)
  workdir, out = pathlib.Path(given.workdir), pathlib.Path(given.out)
  print(f"{select(workdir, given.count, out, given.kind)} pairs in {out}")


if __name__ == "__main__":
  define_flags()
  options.run(main)
