"""The picture of edits: what its rows hold, and where that is drawn."""

import functools
import json

import jax
import numpy as np
import pytest

from tests.drawing_world import (  # noqa: F401
  B,
  generator,
  model_of,
  one_line,
  quick_to_compile,
  records,
  state_of,
)
from vgsgan.common.errors import UserError
from vgsgan.data.builders.scenes import encode
from vgsgan.data.examples import decode
from vgsgan.tools import drawn_runs, show
from vgsgan.tools import shown as sheets

WORDS = [
  {"spoken": "a", "word": None, "start": 0.0, "end": 0.1},
  {"spoken": "shiny", "word": "metal", "start": 0.1, "end": 0.4},
  {"spoken": "right of", "word": None, "start": 1.0, "end": 1.5},
]


def spoken(record, words=WORDS):
  text = json.dumps(words).encode()
  return record | {"words": text, "caption": b"a shiny, right of"}


@pytest.mark.parametrize(
  ("seconds", "best"),
  [(0.0, 0), (0.05, 0), (0.3, 1), (0.69, 1), (0.71, 2), (1.2, 2), (9.0, 2)],
)
def test_the_word_nearest_to_a_time_is_chosen(seconds, best):
  assert show.word_at(spoken({}), seconds) == (("a", "shiny", "right of"), best)


@pytest.mark.parametrize("words", [b"[]", b""])
def test_a_caption_without_times_has_no_best_word(words):
  record = {"words": words, "caption": b"a cube"}
  assert show.word_at(record, 0.3) == (("a cube",), None)


# -------------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def model(generator):  # noqa: F811
  return model_of(generator, curriculum="regular@0,chunk@4", changes=(0.0, 9.9))


@pytest.fixture(scope="module")
def state(model):
  return state_of(model)


@pytest.fixture(scope="module")
def pairs(records):  # noqa: F811
  """Records whose words last a tenth of a second each, the first a bit less."""
  tenths = [
    {
      "spoken": f"w{i}",
      "word": None,
      "start": i / 10 - 0.005,
      "end": i / 10 + 0.095,
    }
    for i in range(4)
  ]
  return [spoken(record, tenths) for record in records]


@pytest.fixture(scope="module")
def shown(model, state, pairs):
  run = drawn_runs.Restored(model, 4, state)
  return list(show.rows(run, pairs[:B], "chunk"))


def best_match(model, state, record):
  """Score and best frame of a pair, in numpy from the two feature maps."""
  example = show.DrawnPairExample(5120, False)(record, np.random.default_rng(0))
  batch = {name: np.asarray(value)[None] for name, value in example.items()}
  image, speech, valid = (
    np.float64(x[0]) for x in encoder(model)(state, batch)
  )
  image, speech = (
    x / np.linalg.norm(x, axis=-1, keepdims=True).clip(1e-6)
    for x in (image, speech)
  )
  match = np.einsum("hwd,td->hwt", image, speech)[..., valid > 0]
  return match.max((0, 1)).mean(), np.unravel_index(match.argmax(), match.shape)


@functools.lru_cache(maxsize=1)
def encoder(model):
  return jax.jit(model.encode)


def test_rows_hold_the_scores_of_both_images(model, state, pairs, shown):
  assert len(shown) == B and all(row.counts for row in shown)
  for record, row in zip(pairs, shown, strict=False):
    score, (y, x, frame) = best_match(model, state, record)
    np.testing.assert_allclose(row.before, score, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(row.image, decode(record["image"]))
    # One pool, so two hundredths of a second a frame.
    assert row.best == min((4 * frame + 1) // 20, 3)
    assert row.region[y, x] and row.region.dtype == bool
    # What was drawn is scored as it would be if it were stored.
    stored = record | {"image": encode(row.edited)}
    score, _ = best_match(model, state, stored)
    np.testing.assert_allclose(row.after, score, rtol=1e-4, atol=1e-5)
    assert np.any(row.edited != row.image)


def test_the_first_pairs_with_an_edit_are_chosen(
  model, state, pairs, shown, monkeypatch
):
  rows = [row._replace(counts=i not in (0, 3)) for i, row in enumerate(shown)]
  rows[1] = rows[1]._replace(best=None)
  asked = []

  def some(run, these, kind):
    asked.append(these)
    return rows[: len(these)]

  monkeypatch.setattr(show, "rows", some)
  run = drawn_runs.Restored(model, 4, state)

  def pick(numbers):
    return show.chosen(run, pairs, "chunk", numbers)

  assert pick([]) == [rows[i] for i in (2, 4, 5, 6, 7)]
  assert pick([5, 0]) == rows[:2]
  assert asked[-1] == [pairs[5], pairs[0]]
  with pytest.raises(UserError) as refused:
    pick([0, len(pairs)])
  one_line(refused, f"no pair {len(pairs)}", f"there are {len(pairs)}")
  monkeypatch.setattr(show, "rows", lambda *_: rows[:1])
  with pytest.raises(UserError) as refused:
    pick([])
  one_line(refused, "no chunk edit counts", "--pairs")


# ------------------------------------------------------------------- sheet


def row_of(**fields):
  rng = np.random.default_rng(0)
  region = np.zeros((4, 4), bool)
  region[1:3, 2] = True
  made = sheets.Shown(
    rng.integers(0, 256, (8, 8, 3), np.uint8),
    rng.integers(0, 256, (8, 8, 3), np.uint8),
    region,
    ("a", "shiny", "right of"),
    1,
    0.25,
    0.125,
    True,
  )
  return made._replace(**fields)


def test_the_spotlight_darkens_all_but_the_region():
  row = row_of()
  large = np.kron(row.image, np.ones((32, 32, 1), np.uint8))
  inside = np.kron(row.region, np.ones((64, 64), bool))
  lit = sheets.spotlight(row.image, row.region)
  np.testing.assert_array_equal(
    lit[~inside], np.floor(0.35 * large[~inside]).astype(np.uint8)
  )
  framed = np.all(lit == (255, 221, 51), axis=-1)
  # Two cells, 128 high and 64 wide, in a frame of 4 within them.
  frame = np.zeros_like(inside)
  frame[64:192, 128:192] = True
  frame[68:188, 132:188] = False
  np.testing.assert_array_equal(framed, frame)
  rest = inside & ~frame
  np.testing.assert_array_equal(lit[rest], large[rest])


def colors(page, left, top, right, bottom):
  part = np.asarray(page)[top:bottom, left:right].reshape(-1, 3)
  return set(map(tuple, part.tolist()))


def test_a_row_of_the_sheet_has_three_images_and_a_text():
  rows = [row_of(), row_of(after=0.5), row_of(best=None, counts=False)]
  page = sheets.sheet(rows)
  pixels = np.asarray(page)
  blue, green, red = (9, 105, 218), (26, 127, 55), (207, 34, 46)
  left = 24 + 3 * 280
  for k, row in enumerate(rows):
    top = 24 + 44 + k * 280
    cells = [
      sheets.enlarged(row.image),
      sheets.spotlight(row.image, row.region),
      sheets.enlarged(row.edited),
    ]
    for i, cell in enumerate(cells):
      x = 24 + 280 * i
      np.testing.assert_array_equal(pixels[top : top + 256, x : x + 256], cell)
    found = colors(page, left, top, page.width, top + 256)
    assert (36, 41, 47) in found
    assert (blue in found) == (row.best is not None)
    # A score that falls, one that rises, and one that there is not.
    assert (green in found, red in found) == ((k == 0), (k == 1))
  assert page.height == 24 + 44 + 3 * 280 + 2 * 44  # And a legend.
  # Nothing reaches the margin.
  assert colors(page, page.width - 24, 0, *page.size) == {(255, 255, 255)}


def test_long_captions_wrap_and_every_word_of_an_entry_is_marked():
  def underlined(*words):
    page = np.asarray(sheets.sheet([row_of(words=words)]))
    blue = np.all(page == (9, 105, 218), axis=-1)
    return [blue[24 + 44 + 44 * line + 38].sum() for line in range(4)]

  word = "cylinder"
  one, *none = underlined("", word)
  assert 80 < one < 200 and none == [0, 0, 0]
  # As many as go into 560 px, with spaces, and the others below them.
  each = one + 8
  fit = 560 // each
  lines = underlined("", " ".join([word] * (fit + 2)))
  np.testing.assert_allclose(
    lines, [fit * one, 2 * one, 0, 0], rtol=0.05, atol=fit
  )
