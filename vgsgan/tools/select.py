"""Chooses the training pairs whose edits mislead a finished run most.

    python -m vgsgan.tools.select --workdir=runs/drawing --out=DIR --count=3000

Writes into DIR: images/ID.png, the edited images; marked/ID.png, the same
enlarged, with a red box where image and caption match best, for the people who
describe them; selection.jsonl, a line a pair: rank (its ID), record, loss,
scores with the true and the edited image, caption, box (pixels: left, top,
right, bottom); z.npy; name_list_train.txt. Then add audio/ID.wav and, if you
like, text/ID.txt for each line of that list, and delete the other lines.
--config.data.more=DIR adds these to the training pairs. This is the active
selection of "Learning Words by Drawing Images" (CVPR 2019).
"""

import heapq
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw
from tqdm import tqdm

from vgsgan import data
from vgsgan.common import commands, files, jsonfiles, options
from vgsgan.common.errors import UserError
from vgsgan.data import pipeline
from vgsgan.data.builders.clevrgan.files import LATENTS_FILE
from vgsgan.data.builders.scenes import encode
from vgsgan.data.examples import DrawnPairExample
from vgsgan.data.records import Records
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.tasks.drawing import Drawing
from vgsgan.tools import drawn_runs
from vgsgan.train import keys, terminal
from vgsgan.train.state import TrainState

_MARKED = 256  # Least side of a marked image, in pixels.


def select(
  workdir: pathlib.Path, count: int, out: pathlib.Path, kind: str
) -> int:
  """Writes the folder; returns the number of chosen pairs.

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
  with files.explain_os_errors(out):
    out.mkdir(parents=True, exist_ok=True)  # An error comes before the pass.
  chosen = hardest(run.model, kind, run.state, records, count)
  if not chosen:
    if new:
      out.rmdir()
    raise UserError(
      f"no {kind!r} edit of the {len(records)} training pairs has a loss at "
      f"step {run.step}: choose another --kind"
    )
  latent_size = run.model.generator.latent_size
  write(out, chosen, records, latent_size)
  return len(chosen)


def hardest(
  model: Drawing,
  kind: str,
  state: TrainState,
  records: Records,
  count: int,
) -> list[dict[str, Any]]:
  """The `count` records with the highest loss above 0, the highest first.

  Records with equal losses are in their order.

  Returns:
    For each its `record` (index) and the outputs of `drawn_runs.judge`.
  """

  def loss_then_order(row):
    return -row["loss"], row["record"]

  kept: list[dict[str, Any]] = []
  for rows in _judged(model, kind, state, records):
    losing = [row for row in rows if row["loss"] > 0]
    kept = heapq.nsmallest(count, kept + losing, key=loss_then_order)
  return kept


def _judged(
  model: Drawing, kind: str, state: TrainState, records: Records
) -> Iterator[list[dict[str, Any]]]:
  """Yields the outputs of `drawn_runs.judge` for each batch of records."""
  config, rows = model.config, model.config.eval.batch
  samples = int(config.eval.seconds * config.data.sample_rate)
  stream = pipeline.EvalStream(
    records, DrawnPairExample(samples, False), rows, slice(0, rows)
  )
  run = jax.jit(
    lambda *arguments: drawn_runs.judge(model, kind, *arguments),
    out_shardings=mesh_lib.replicated(model.mesh),
  )
  host = pipeline.batches(stream, 0, config.data.num_threads)
  bar = tqdm(total=len(records), desc="select", unit="pair", disable=None)
  with bar:
    for number, local in enumerate(host):
      key = keys.of(config.seed, "selection", number)
      batch = mesh_lib.shard(local, model.mesh)
      outputs = jax.device_get(run(state, batch, key))
      count = int(outputs.pop("real").sum())  # Padding comes last.
      yield [
        {"record": number * rows + i}
        | {name: value[i] for name, value in outputs.items()}
        for i in range(count)
      ]
      bar.update(count)


def box(region: Bool[np.ndarray, "h w"], size: int) -> Int[np.ndarray, "4"]:
  """Left, top, right and bottom edge of a region, in pixels of an image."""
  edges = []
  for axis in (0, 1):  # The region's columns are nonzero over axis 0.
    cells = np.flatnonzero(region.any(axis))
    n = region.shape[1 - axis]
    edges.append((cells[0] * size // n, -(-(cells[-1] + 1) * size // n)))
  (left, right), (top, bottom) = edges
  return np.array([left, top, right, bottom])


def marked(
  image: UInt8[np.ndarray, "s s 3"], edges: Int[np.ndarray, "4"]
) -> UInt8[np.ndarray, "t t 3"]:
  """Enlarges an image by a whole factor, with a red box round its region."""
  factor = max(1, -(-_MARKED // len(image)))
  large = Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
  left, top, right, bottom = (int(edge) * factor for edge in edges)
  corners = (left, top, right - 1, bottom - 1)
  ImageDraw.Draw(large).rectangle(corners, outline=(255, 0, 0), width=2)
  return np.asarray(large)


def write(
  folder: pathlib.Path,
  chosen: list[dict[str, Any]],
  records: Records,
  latent_size: int,
) -> None:
  """Writes the chosen pairs as a folder that `clevrgan_folder` reads.

  An image's ID is its rank, 0 for the hardest. No latent alone draws an edited
  image, so `z` is NaN. In training these pairs get edits only with
  `edits.inverter`.

  Raises:
    UserError: the folder cannot be written.
  """
  lines = []
  with files.explain_os_errors(folder):
    for name in ("images", "marked", "audio", "text"):
      (folder / name).mkdir(parents=True, exist_ok=True)
    for rank, row in enumerate(chosen):
      edges = box(row["region"], len(row["picture"]))
      shown = marked(row["picture"], edges)
      image = encode(row["picture"])
      files.replace(folder / "images" / f"{rank}.png", image)
      files.replace(folder / "marked" / f"{rank}.png", encode(shown))
      record = records[row["record"]]
      about = {
        "rank": rank,
        "record": row["record"],
        "id": record["id"].decode(),
        **{name: row[name] for name in ("loss", "true", "edited")},
        "caption": record["caption"].decode(),
        "box": edges,
      }
      lines.append(f"{jsonfiles.dumps(about)}\n")
    shape = (len(chosen), latent_size)
  latents = io.BytesIO()
  np.save(latents, np.full(shape, np.nan, np.float32))
  files.replace(folder / LATENTS_FILE, latents.getvalue())
  files.replace(folder / "selection.jsonl", "".join(lines).encode())
  # The list comes last, because readers need it: the folder is then complete.
  names = "".join(f"{rank}\n" for rank in range(len(chosen)))
  files.replace(folder / "name_list_train.txt", names.encode())


def define_flags(values: flags.FlagValues) -> None:
  options.define_path(values, "workdir", None, "Folder of the run (needed).")
  options.define_path(
    values, "out", None, "Folder to write, new or empty (needed)."
  )
  flags.DEFINE_integer("count", 3000, "Number of pairs.", flag_values=values)
  drawn_runs.define_kind(values)


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  commands.require(argv, "workdir", "out")
  workdir, out = pathlib.Path(given.workdir), pathlib.Path(given.out)
  print(f"{select(workdir, given.count, out, given.kind)} pairs in {out}")


if __name__ == "__main__":
  commands.start(main, define_flags)
