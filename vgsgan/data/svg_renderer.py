"""Draws a vector drawing from standard input as PNG to standard output.

`svg` runs it as a separate program. It imports nothing of vgsgan, to start
quickly. If the renderer exceeds its limits or crashes, only this program ends,
not the one that prepares data. It can open no file once it draws.
"""

import contextlib
import resource
import sys

import resvg_py


def _limit(kind: int, most: int) -> None:
  """Lowers a limit of this process; never raises it."""
  _, limit = resource.getrlimit(kind)
  if limit != resource.RLIM_INFINITY:
    most = min(most, limit)
  resource.setrlimit(kind, (most, most))


def main() -> None:
  """Takes width and height, pixels, seconds and bytes as arguments."""
  width, height, seconds, memory = map(int, sys.argv[1:])
  text = sys.stdin.buffer.read().decode()
  with contextlib.suppress(ValueError, OSError):  # macOS refuses this limit.
    _limit(resource.RLIMIT_AS, memory)
  for kind, most in (
    (resource.RLIMIT_CPU, seconds),
    (resource.RLIMIT_NOFILE, 3),  # Open files stay open.
    (resource.RLIMIT_CORE, 0),
  ):
    _limit(kind, most)
  try:
    # dpi: resvg_py's default of 0 turns widths in pt, mm or cm into nothing
    # ("SVG has an invalid size"); CSS says 96. Both sides: a drawing is scaled
    # until it fits, whatever size it claims. No system fonts: the same picture
    # on every machine.
    png = resvg_py.svg_to_bytes(
      svg_string=text,
      width=width,
      height=height,
      dpi=96.0,
      skip_system_fonts=True,
    )
  except (ValueError, MemoryError) as error:
    sys.exit(str(error))
  sys.stdout.buffer.write(png)


if __name__ == "__main__":
  main()
