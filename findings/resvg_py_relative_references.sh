#!/usr/bin/env bash
# resvg_py draws a file differently depending on where the program was started.
#
# What it does: puts drawing.svg, which shows picture.png, and a red picture.png in
#   one folder, a blue picture.png in a second, and nothing in a third. Draws the
#   same file by its absolute path, `svg_to_bytes(svg_path=...)`, from each of the
#   three; then with `resources_dir` set to the drawing's folder.
# Seen: red from the drawing's own folder, blue from the second, and an empty picture
#   from the third, without an error. With `resources_dir` red from all.
# Expected: red from all. SVG resolves references from the drawing's own address, and
#   resvg's documentation says of `resources_dir` that it is expected to be the
#   folder of the file. The path is known where `svg_path` is given.
# Why it matters: icons and diagrams that show a picture beside them turn out right
#   where they were tried and empty when a job draws them from elsewhere. Such
#   pictures enter a data set without a sign. Give `resources_dir` each time.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q resvg_py==0.5.0 pillow==12.3.0

cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import os
import pathlib
import sys

import resvg_py
from PIL import Image

print("resvg_py", resvg_py.__version__, "resvg", resvg_py.__resvg_version__)

top = pathlib.Path.cwd()
folders = {"its own": "red", "with a namesake": "blue", "empty": None}
for name, color in folders.items():
  (top / name).mkdir()
  if color:
    Image.new("RGB", (8, 8), color).save(top / name / "picture.png")
drawing = top / "its own" / "drawing.svg"
drawing.write_text(
  '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8">'
  '<image href="picture.png" width="8" height="8"/></svg>'
)
names = {(255, 0, 0, 255): "red", (0, 0, 255, 255): "blue", (0, 0, 0, 0): "nothing"}


def drawn(**how):
  png = resvg_py.svg_to_bytes(svg_path=str(drawing), skip_system_fonts=True, **how)
  colors = Image.open(io.BytesIO(png)).convert("RGBA").getcolors()
  return [names.get(color, color) for _, color in colors]


seen = {}
for name in folders:
  os.chdir(top / name)
  seen[name] = drawn(), drawn(resources_dir=str(drawing.parent))
  print(f"started in the folder {name!r}: {seen[name][0]}")
  print(f"  with resources_dir: {seen[name][1]}")
print("expected: red, of all")

changed = seen != {
  "its own": (["red"], ["red"]),
  "with a namesake": (["blue"], ["red"]),
  "empty": (["nothing"], ["red"]),
}
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
