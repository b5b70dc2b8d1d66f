"""vgsgan: visually grounded speech with generated hard negatives, in JAX.

Train a system, evaluate a run, or compile a step without running it:
  python -m vgsgan.main --config=quickstart --workdir=runs/quick
  python -m vgsgan.main --mode=eval --workdir=runs/quick/edited-0
  python -m vgsgan.main --mode=compile --config=stamps

Tools:
  show     draws a few edits of a run
    python -m vgsgan.tools.show --workdir=runs/quick/edited-0 --out=edits.png
  samples  writes images and sounds that a run of generation makes
    python -m vgsgan.tools.samples --workdir=runs/idea-gan
  select   chooses the training pairs whose edits mislead a run most
    python -m vgsgan.tools.select --workdir=runs/solids/edited-0 --out=chosen
  export   takes a network out of a run
    python -m vgsgan.tools.export --workdir=runs/gan --network=generator \\
      --out=generator.npz
  bench    measures a config on this machine: steps, scores, input, saves
    python -m vgsgan.tools.bench step --config=solids:chunk
  drill    breaks a run at random moments and checks that it recovers
    python -m vgsgan.tools.drill --count=20 --workdir=runs/drill

Each has a --help.
"""

import sys

from vgsgan import __version__
from vgsgan.common import streams


def main(arguments: list[str]) -> int:
  """Prints the commands or the version; returns the exit status."""
  if "--version" in arguments:
    print(f"vgsgan {__version__}")
  elif arguments and not {"--help", "-help", "-h"} & {*arguments}:
    print(
      f"vgsgan: unexpected argument {arguments[0]!r}: python -m vgsgan lists "
      "the commands",
      file=sys.stderr,
    )
    return 2
  else:
    print((__doc__ or "").strip())
  return 0


if __name__ == "__main__":
  with streams.lasting():
    status = main(sys.argv[1:])
  sys.exit(status)
