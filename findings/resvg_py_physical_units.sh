#!/usr/bin/env bash
# resvg_py leaves out what a drawing gives in mm, cm, in or pt, unless told the dpi.
#
# What it does: draws a rectangle of 1 in (and the same in cm, mm, pt and pc) on a
#   canvas of 120 x 120 px, and one in px; then a whole drawing of 1 in with a
#   viewBox, to a width of 64 px. Each with the default `dpi` and with `dpi=96`.
# Seen: with the default the rectangles in physical units are not there, without an
#   error, and the whole drawing ends in "SVG has an invalid size". With `dpi=96`
#   all have 96 x 96 px, and the whole 64 x 64.
# Expected: the same with the default. CSS and SVG say that 1 in is 96 px, resvg's
#   own default is 96, and resvg_py's documentation says of `dpi` that its default 0
#   is "SVG default". It is used as 0 dots an inch.
# Why it matters: Inkscape's pages are in mm unless one asks for others, and figures
#   of matplotlib in pt. Drawings whose size has such a unit fail, which one sees.
#   Those with such units inside only lose these parts, and enter a data set so.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q resvg_py==0.5.0 pillow==12.3.0

cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import sys

import resvg_py
from PIL import Image

print("resvg_py", resvg_py.__version__, "resvg", resvg_py.__resvg_version__)

INCH = ("1in", "2.54cm", "25.4mm", "72pt", "6pc")
DEFAULT, CSS = {}, {"dpi": 96.0}


def svg(size, inside, more=""):
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" {more}>'
    f"{inside}</svg>"
  )


def painted(text, **how):
  """Width and height of what is painted; the message if it is an error."""
  try:
    png = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True, **how)
  except ValueError as error:
    return str(error)
  box = Image.open(io.BytesIO(png)).convert("RGBA").getchannel("A").getbbox()
  return (box[2] - box[0], box[3] - box[1]) if box else "nothing"


seen = {}
for size in ("96px", *INCH):
  parts = svg("120", f'<rect width="{size}" height="{size}"/>')
  whole = svg(size, '<rect width="9" height="9"/>', 'viewBox="0 0 9 9"')
  seen[size] = [
    painted(parts, **DEFAULT),
    painted(parts, **CSS),
    painted(whole, **DEFAULT, width=64),
    painted(whole, **CSS, width=64),
  ]
  print(f"{size}, as a part: default {seen[size][0]}, dpi=96 {seen[size][1]}")
  print(f"{size}, the whole: default {seen[size][2]}, dpi=96 {seen[size][3]}")
print("expected: (96, 96) of each part, (64, 64) of each whole")

inch = ["nothing", (96, 96), "SVG has an invalid size", (64, 64)]
right = [(96, 96), (96, 96), (64, 64), (64, 64)]
changed = seen != {"96px": right, **dict.fromkeys(INCH, inch)}
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
