"""Draws the figures of several arms as bars, in an SVG file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_HEIGHT = 260.0  # Height of the plot.
_BAR, _GAP = 12.0, 26.0  # Width of a bar; distance between groups of bars.
_LEFT, _TOP, _FOOT, _ROW = 46.0, 20.0, 34.0, 20.0
_LEGEND = 150.0  # Width of a name in the legend.
_FONT = 'font-family="sans-serif" font-size="12"'
_INK, _GREY, _PALE = "#24292f", "#6e7781", "#e1e4e8"


def svg(summary: Mapping[str, Any], columns: Sequence[str]) -> str:
  """Draws a group of bars for each column, with a bar for each arm.

  A bar begins at the arm's chance and ends at its mean, so that it hangs down
  if the mean is below chance. Its whisker is the standard deviation over
  several seeds.

  Args:
    summary: from `tables.summary`.
    columns: headings of the columns to draw.
  """
  arms = summary["arms"]
  group = len(arms) * _BAR + _GAP
  width = _LEFT + max(len(columns) * group + _GAP, 2 * _LEGEND)
  across = max(1, int((width - _LEFT) // _LEGEND))
  rows = math.ceil((len(arms) + 1) / across)
  height = _TOP + _HEIGHT + _FOOT + rows * _ROW
  low, high = _limits(summary, columns)

  def y(percent: float | int) -> float:
    return _TOP + _HEIGHT * (high - percent) / (high - low)

  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} '
    f'{height:g}" width="{width:g}" height="{height:g}" {_FONT}>',
    _rect(0, 0, width, height, 'fill="#ffffff"') + "/>",
  ]
  for tick in range(low, high + 1, 10):
    parts.append(_line(_LEFT, y(tick), width - _GAP, y(tick), _PALE))
    parts.append(_text(_LEFT - 6, y(tick) + 4, f"{tick}", "end"))
  for i, column in enumerate(columns):
    left = _LEFT + _GAP + i * group
    right = left + group - _GAP
    bases = [100 * arm["figures"][column]["chance"] for arm in arms.values()]
    for k, (name, arm) in enumerate(arms.items()):
      figure, at = arm["figures"][column], left + k * _BAR
      parts += _bar(at, y, bases[k], name, column, figure, color(k))
    spans = [(left + k * _BAR, left + (k + 1) * _BAR) for k in range(len(arms))]
    if len({*bases}) == 1:  # All arms have one line of chance.
      spans = [(left - _GAP / 3, right + _GAP / 3)]
    for base, (begin, end) in zip(bases, spans, strict=False):
      ends = (begin, y(base), end, y(base))
      parts.append(_line(*ends, _INK, 'class="chance"'))
    parts.append(_text((left + right) / 2, _TOP + _HEIGHT + 20, column))
  for k, name in enumerate([*arms, "chance"]):
    x = _LEFT + (k % across) * _LEGEND
    line = _TOP + _HEIGHT + _FOOT + (k // across) * _ROW
    if k < len(arms):
      parts.append(_rect(x, line, 12, 12, f'fill="{color(k)}"') + "/>")
    else:
      parts.append(_line(x, line + 6, x + 12, line + 6, _INK))
    parts.append(_text(x + 18, line + 10, name, "start"))
  return "\n".join([*parts, "</svg>", ""])


def color(k: int) -> str:
  """The k-th colour: hues at golden angles, alternately dark and light."""
  return f"hsl({(210 + 137.5 * k) % 360:g},60%,{45 + 15 * (k % 2)}%)"


def _limits(
  summary: Mapping[str, Any], columns: Sequence[str]
) -> tuple[int, int]:
  """Per cent at the lower and upper edge: multiples of ten around all bars."""
  ends = []
  for arm in summary["arms"].values():
    for column in columns:
      figure = arm["figures"][column]
      std = figure["std"] or 0.0
      whisker = figure["mean"] - std, figure["mean"] + std
      ends += [100 * x for x in (*whisker, figure["chance"])]
  low, high = math.floor(min(ends) / 10), math.ceil(max(ends) / 10)
  return 10 * low, 10 * max(high, low + 1)


def _bar(x, y, base, name, column, figure, fill) -> list[str]:
  mean = 100 * figure["mean"]
  top, bottom = sorted((y(mean), y(base)))
  title = f"{name}, {column}: {mean:.1f}"
  whisker = []
  if figure["std"] is not None:
    std = 100 * figure["std"]
    title += f" ± {std:.1f}"
    middle = x + _BAR / 2
    ends = (middle, y(mean + std), middle, y(mean - std))
    whisker = [_line(*ends, _INK, 'class="whisker"')]
  return [
    _rect(x + 1, top, _BAR - 2, bottom - top, f'fill="{fill}" class="bar"')
    + f"><title>{escape(title)}</title></rect>",
    *whisker,
  ]


def _rect(x, y, width, height, more: str) -> str:
  """The tag of a rectangle, without its end."""
  place = f'x="{x:g}" y="{y:.2f}"'
  return f'<rect {place} width="{width:g}" height="{height:.2f}" {more}'


def _line(x1, y1, x2, y2, color: str, more: str = "") -> str:
  return (
    f'<line x1="{x1:g}" y1="{y1:.2f}" x2="{x2:g}" y2="{y2:.2f}" '
    f'stroke="{color}" {more}/>'
  )


def _text(
  x: float | int, y: float | int, text: str, anchor: str = "middle"
) -> str:
  return (
    f'<text x="{x:g}" y="{y:.2f}" text-anchor="{anchor}" fill="{_GREY}">'
    f"{escape(text)}</text>"
  )
