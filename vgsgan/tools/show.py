"""Draws a few edits of a run into one image.

    python -m vgsgan.tools.show --workdir=runs/quick/edited-0 --out=edits.png

Each row is a validation pair: the image; the place of a word, by the matchmap
of the run's best checkpoint; the edited image; and the caption with that word
in colour, with its scores for the image and for the edit. The word is the one
that the edit makes false (configs/places.py), or else the best match.
"""

import io
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from vgsgan import data
from vgsgan.common import commands, files, options
from vgsgan.common.errors import UserError
from vgsgan.data.examples import DrawnPairExample, decode
from vgsgan.data.records import Record, Records
from vgsgan.tasks.places import Places
from vgsgan.tools import drawn_runs, place_rows
from vgsgan.tools.shown import Shown, sheet
from vgsgan.train import keys, predict, terminal

_FEW = 8  # Default number of pairs.
_HOP = 0.01  # Seconds between frames of the log-mel.


def word_at(
  record: Record, seconds: float
) -> tuple[tuple[str, ...], int | None]:
  """The words of a caption, and the index of the word nearest to a time.

  The index is None if the record has no times.
  """
  timed = json.loads(record.get("words") or "[]")
  if not timed:
    return (record.get("caption", b"").decode(),), None
  away = [
    max(word["start"] - seconds, seconds - word["end"], 0.0) for word in timed
  ]
  return tuple(word["spoken"] for word in timed), int(np.argmin(away))


def rows(
  run: drawn_runs.Restored, records: Sequence[Record], kind: str
) -> Iterator[Shown]:
  """Yields a row for each record."""
  if isinstance(run.model, Places):
    yield from place_rows.rows(run, records, kind)
    return
  model, config = run.model, run.model.config
  samples = int(config.eval.seconds * config.data.sample_rate)
  key = keys.of(config.seed, "shown")
  judged = predict.Predictor(
    lambda state, batch: drawn_runs.judge(model, kind, state, batch, key),
    DrawnPairExample(samples, False),
    config,
    model.mesh,
  )(run.state, records, lambda: None)
  for i, record in enumerate(records):
    seconds = float(judged["frame"][i]) * model.speech.stride * _HOP
    yield Shown(
      decode(record["image"]),
      judged["picture"][i],
      judged["region"][i],
      *word_at(record, seconds),
      float(judged["true"][i]),
      float(judged["edited"][i]),
      bool(judged["counts"][i]),
    )


def chosen(
  run: drawn_runs.Restored,
  records: Records,
  kind: str,
  numbers: Sequence[int],
) -> list[Shown]:
  """The rows of the numbered pairs, or of the first with edits that count.

  Among the latter, pairs with times of words are preferred.

  Raises:
    UserError: there are no such pairs.
  """
  wrong = [n for n in numbers if not 0 <= n < len(records)]
  if wrong:
    raise UserError(
      f"--pairs: there is no pair {wrong[0]}, there are {len(records)}"
    )
  if numbers:
    return list(rows(run, [records[n] for n in numbers], kind))
  count = min(len(records), run.model.config.eval.batch)
  first = rows(run, [records[n] for n in range(count)], kind)
  counting = [row for row in first if row.counts]
  if not counting:
    raise UserError(
      f"no {kind} edit counts in the first {count} pairs: train longer, or "
      "name others with --pairs"
    )
  timed = [row for row in counting if row.best is not None]
  return (timed or counting)[:_FEW]


def show(
  workdir: pathlib.Path, out: pathlib.Path, name: str, numbers: Sequence[int]
) -> None:
  """Writes the sheet; `name` and `numbers` are those of `--kind`, `--pairs`."""
  say = terminal.Terminal()
  with say.status(f"restoring {workdir}"):
    run = drawn_runs.restored(workdir, tuple(drawn_runs.MODELS))
  kind = drawn_runs.kind_of(run, name)
  with say.status("opening the data set"):
    records = data.load(run.model.config.data)["validation"]
  drawn_runs.check_records(run, kind, records)
  file = io.BytesIO()
  with say.status(f"drawing edits ({kind})"):
    sheet(chosen(run, records, kind, numbers)).save(file, "png", optimize=True)
  files.replace(out, file.getvalue())
  say.info(f"wrote {out}")


def define_flags(values: flags.FlagValues) -> None:
  options.define_path(values, "workdir", None, "Folder of the run (needed).")
  options.define_path(values, "out", None, "The .png file to write (needed).")
  drawn_runs.define_kind(values)
  flags.DEFINE_list(
    "pairs",
    [],
    "Numbers of validation pairs, from 0: 3,7,20; else the first "
    f"{_FEW} with an edit.",
    flag_values=values,
  )


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  commands.require(argv, "workdir", "out")
  if not all(number.strip().isdecimal() for number in given.pairs):
    raise UserError(f"--pairs={','.join(given.pairs)}: numbers are needed")
  numbers = list(map(int, given.pairs))
  out = pathlib.Path(given.out)
  show(pathlib.Path(given.workdir), out, given.kind, numbers)


if __name__ == "__main__":
  commands.start(main, define_flags)
