"""Draws a few edits of a run into one image.

    python -m vgsgan.tools.show --workdir=runs/quick/edited-0 --out=edits.png

Each row is a validation pair: the image; the place of the caption's best word,
by the matchmap of the run's best checkpoint; the edited image; and the caption
with that word in colour, with its scores for the image and for the edit.
"""

import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from vgsgan import data
from vgsgan.common import commands, files, options
from vgsgan.common.errors import UserError
from vgsgan.data.examples import DrawnPairExample, decode
from vgsgan.data.records import Record, Records
from vgsgan.tools import drawn_runs
from vgsgan.train import keys, predict, terminal

Pixels = UInt8[np.ndarray, "s s 3"]

_FEW = 5  # Default number of pairs.
_HOP = 0.01  # Seconds between frames of the log-mel.

# Sizes in pixels, for an image that is shown at half its size.
_SIDE = 256  # Largest side of an enlarged image.
_GAP = 24
_TEXT = 560  # Width of the text beside the images.
_LINE = 44
_SIZE, _SMALL = 32, 24  # Sizes of text and of headings.

_PAPER, _INK, _GREY = (255, 255, 255), (36, 41, 47), (110, 119, 129)
_WORD, _LESS, _MORE = (9, 105, 218), (26, 127, 55), (207, 34, 46)
_FRAME = (255, 221, 51)
_DIM = 0.35  # Brightness outside the region.

HEADS = ("the picture", "where the word is", "drawn anew", "what is said")


class Shown(NamedTuple):
  """A row of the sheet.

  Attributes:
    image: the stored image.
    edited: the edited image; equal to `image` if no edit changes it enough.
    region: the region of the word.
    words: words of the caption; one string if their times are unknown.
    best: index of the word with the best match; None without times.
    before: the caption's score with `image`.
    after: the caption's score with `edited`.
    counts: whether an edit changes the region enough.
  """

  image: Pixels
  edited: Pixels
  region: Bool[np.ndarray, "h w"]
  words: tuple[str, ...]
  best: int | None
  before: float
  after: float
  counts: bool


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
    run = drawn_runs.restored(workdir)
  kind = drawn_runs.kind_of(run, name)
  with say.status("opening the data set"):
    records = data.load(run.model.config.data)["validation"]
  drawn_runs.check_records(run, kind, records)
  file = io.BytesIO()
  with say.status(f"drawing edits ({kind})"):
    sheet(chosen(run, records, kind, numbers)).save(file, "png", optimize=True)
  files.replace(out, file.getvalue())
  say.info(f"wrote {out}")


def sheet(rows: Sequence[Shown]) -> Image.Image:
  """Draws the rows below each other, under headings."""
  side = enlarged(rows[0].image).shape[0]
  step = side + _GAP
  left = _GAP + (len(HEADS) - 1) * step
  page = Image.new(
    "RGB", (left + _TEXT + _GAP, _GAP + _LINE + len(rows) * step), _PAPER
  )
  pen = ImageDraw.Draw(page)
  for i, head in enumerate(HEADS):
    _write(pen, (_GAP + i * step, _GAP), head, _GREY, _SMALL)
  for k, row in enumerate(rows):
    top = _GAP + _LINE + k * step
    cells = (row.image, spotlight(row.image, row.region), row.edited)
    for i, cell in enumerate(cells):
      page.paste(Image.fromarray(enlarged(cell)), (_GAP + i * step, top))
    _explain(pen, (left, top), row)
  return page


def enlarged(image: Pixels) -> UInt8[np.ndarray, "i i 3"]:
  """Enlarges an image by a whole factor, to `_SIDE` or a little less."""
  factor = max(1, _SIDE // len(image))
  return image.repeat(factor, axis=0).repeat(factor, axis=1)


def spotlight(
  image: Pixels, region: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "i i 3"]:
  """Enlarges an image, frames its region, and darkens the rest."""
  large = enlarged(image)
  side = len(large)
  index = np.arange(side)
  inside = region[
    np.ix_(index * region.shape[0] // side, index * region.shape[1] // side)
  ]
  wide = max(2, side // 64)
  around = np.pad(inside, wide)
  inner = inside.copy()
  for dy in (0, wide, 2 * wide):
    for dx in (0, wide, 2 * wide):
      inner &= around[dy : dy + side, dx : dx + side]
  shaded = np.where(inside[..., None], large, (_DIM * large).astype(np.uint8))
  frame = np.array(_FRAME, np.uint8)
  return np.where((inside & ~inner)[..., None], frame, shaded)


def _explain(pen: ImageDraw.ImageDraw, at: tuple[int, int], row: Shown) -> None:
  """Writes the caption, its best word in colour, and the scores below it."""
  left, top = at
  x, y = left, top
  space = pen.textlength(" ", _font(_SIZE))
  for i, word in enumerate(" ".join(row.words).split(" ")):
    wide = pen.textlength(word, _font(_SIZE))
    if x + wide > left + _TEXT and x > left:
      x, y = left, y + _LINE
    is_best = row.best is not None and i in _span(row.words, row.best)
    _write(pen, (x, y), word, _WORD if is_best else _INK, _SIZE)
    if is_best:
      pen.line((x, y + 38, x + wide, y + 38), _WORD, 3)
    x += wide + space
  _scores(pen, (left, y + _LINE + _LINE // 2), row)


def _span(words: Sequence[str], best: int) -> range:
  """Indices of the best entry's words among all: an entry may have several."""
  first = sum(len(entry.split(" ")) for entry in words[:best])
  return range(first, first + len(words[best].split(" ")))


def _scores(pen: ImageDraw.ImageDraw, at: tuple[int, int], row: Shown) -> None:
  x, y = at
  font = _font(_SIZE)
  before = f"{row.before:.2f}"
  _write(pen, (x, y), "score", _GREY, _SIZE)
  x += pen.textlength("score  ", font)
  _write(pen, (x, y), before, _INK, _SIZE)
  x += pen.textlength(before, font) + 16
  if not row.counts:
    _write(pen, (x, y), "no edit is enough", _GREY, _SIZE)
    return
  middle = y + _SIZE * 0.62
  pen.line((x, middle, x + 36, middle), _GREY, 3)
  tip = x + 46
  pen.polygon(
    ((tip, middle), (tip - 16, middle - 9), (tip - 16, middle + 9)), _GREY
  )
  color = _LESS if row.after < row.before else _MORE
  _write(pen, (tip + 16, y), f"{row.after:.2f}", color, _SIZE)


def _write(pen, at, text: str, color, size: int) -> None:
  pen.text(at, text, color, _font(size))


def _font(size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.load_default(size)


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
