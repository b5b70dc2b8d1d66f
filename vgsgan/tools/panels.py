"""Pictures and what was said of them, as one picture for a person; see `show`.

Drawn with Pillow and its own font, which has no more than Latin letters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

Pixels = UInt8[np.ndarray, "s s 3"]

# All in pixels. About twice the size at which it is read.
_SIDE = 256  # Of an enlarged picture, at most.
_GAP = 24
_TEXT = 560  # Width of the text beside the pictures.
_LINE = 44
_SIZE, _SMALL = 32, 24  # Of letters.

_PAPER, _INK, _GREY = (255, 255, 255), (36, 41, 47), (110, 119, 129)
_WORD, _LESS, _MORE = (9, 105, 218), (26, 127, 55), (207, 34, 46)
_FRAME = (255, 221, 51)
_DIM = 0.35  # How much light is left outside the region.

HEADS = ("the picture", "where the word is", "drawn anew", "what is said")


class Shown(NamedTuple):
  """A row.

  Attributes:
    picture: as it is stored.
    edited: as it is drawn anew; the same where no edit changes it enough.
    region: where the word is.
    words: of the caption; one string if the voice tells no times.
    best: which of them the best match is in; None without times.
    before: the caption's score with `picture`.
    after: with `edited`.
    counts: whether an edit changes the region enough.
  """

  picture: Pixels
  edited: Pixels
  region: Bool[np.ndarray, "h w"]
  words: tuple[str, ...]
  best: int | None
  before: float
  after: float
  counts: bool


def sheet(rows: Sequence[Shown]) -> Image.Image:
  """The rows below each other, under headings."""
  side = enlarged(rows[0].picture).shape[0]
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
    cells = (row.picture, spotlight(row.picture, row.region), row.edited)
    for i, cell in enumerate(cells):
      page.paste(Image.fromarray(enlarged(cell)), (_GAP + i * step, top))
    _explain(pen, (left, top), row)
  return page


def enlarged(picture: Pixels) -> UInt8[np.ndarray, "i i 3"]:
  """Each pixel repeated, by a whole factor, to `_SIDE` or a little less."""
  factor = max(1, _SIDE // len(picture))
  return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def spotlight(
  picture: Pixels, region: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "i i 3"]:
  """The picture, enlarged, dark outside the region, which has a frame."""
  large = enlarged(picture)
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
  """The caption, its best word in colour, and the scores below it."""
  left, top = at
  x, y = left, top
  space = pen.textlength(" ", _font(_SIZE))
  for i, word in enumerate(" ".join(row.words).split(" ")):
    wide = pen.textlength(word, _font(_SIZE))
    if x + wide > left + _TEXT and x > left:
      x, y = left, y + _LINE
    mine = row.best is not None and i in _span(row.words, row.best)
    _write(pen, (x, y), word, _WORD if mine else _INK, _SIZE)
    if mine:
      pen.line((x, y + 38, x + wide, y + 38), _WORD, 3)
    x += wide + space
  _scores(pen, (left, y + _LINE + _LINE // 2), row)


def _span(words: Sequence[str], best: int) -> range:
  """Places of the best one among all words: one entry may hold several."""
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
