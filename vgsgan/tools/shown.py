"""A sheet of images, their edits, and the scores of their captions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

Pixels = UInt8[np.ndarray, "s s 3"]

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

LEGEND = (
  "Blue: the word; yellow: where the model sees it. Score: how well the",
  "caption fits the picture, then the edit; green: it falls, as it should.",
)
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
    instead: the word that is true of the edit instead; "" if unknown.
  """

  image: Pixels
  edited: Pixels
  region: Bool[np.ndarray, "h w"]
  words: tuple[str, ...]
  best: int | None
  before: float
  after: float
  counts: bool
  instead: str = ""


def sheet(rows: Sequence[Shown]) -> Image.Image:
  """Draws the rows below each other, under headings."""
  side = enlarged(rows[0].image).shape[0]
  step = side + _GAP
  left = _GAP + (len(HEADS) - 1) * step
  page = Image.new(
    "RGB",
    (
      left + _TEXT + _GAP,
      _GAP + _LINE + len(rows) * step + len(LEGEND) * _LINE,
    ),
    _PAPER,
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
  for i, line in enumerate(LEGEND):
    y = page.height - (len(LEGEND) - i) * _LINE
    _write(pen, (_GAP, y), line, _GREY, _SMALL)
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
  y += _LINE + _LINE // 2
  _scores(pen, (left, y), row)
  if row.instead:
    _write(pen, (left, y + _LINE), f"drawn anew: {row.instead}", _GREY, _SIZE)


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
