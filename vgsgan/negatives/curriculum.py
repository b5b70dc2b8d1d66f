"""What a config says of edits: when which kind begins, and how strong it is."""

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.negatives import edits, impostors

PHASES = ("regular", *impostors.KINDS)


def curriculum(text: str) -> dict[int, str]:
  """'regular@0,random@300' as {0: 'regular', 300: 'random'}.

  Raises:
    UserError: it cannot be read, or does not start at step 0.
  """
  phases: dict[int, str] = {}
  for part in text.split(","):
    kind, _, first = part.strip().partition("@")
    check_one_of("edits.curriculum", kind, PHASES)
    if not first.isdecimal():
      raise UserError(
        f"config.edits.curriculum={text!r}: {part.strip()!r} is not KIND@STEP"
      )
    if int(first) in phases:
      raise UserError(
        f"config.edits.curriculum={text!r} names step {int(first)} twice"
      )
    phases[int(first)] = kind
  if 0 not in phases:
    raise UserError(
      f"config.edits.curriculum={text!r} must say what step 0 does: put "
      "regular@0 in front"
    )
  return dict(sorted(phases.items()))


def ladder(use: ml_collections.ConfigDict) -> edits.Ladder:
  """The strengths of a config; the published ones where `counts` is empty.

  Raises:
    UserError: they are of different lengths, or there are no such.
  """
  strengths = tuple(use.strengths)
  if use.counts:
    found = edits.Ladder(
      tuple(use.counts), tuple(use.changes), tuple(use.shares)
    )
  else:
    try:
      found = edits.published_ladder(use.rungs, use.first_count)
    except ValueError as error:
      raise UserError(f"config.edits.rungs: {error}") from error
  if len({*map(len, found), len(strengths)}) != 1:
    raise UserError(
      "config.edits: counts, changes, shares and strengths must be of one "
      f"length, a strength a rung; they are {tuple(found)} and "
      f"{strengths}"
    )
  chunks = "chunk" in curriculum(use.curriculum).values()
  if chunks and not all(0 <= strength <= 1 for strength in strengths):
    raise UserError(
      f"config.edits.strengths={strengths}: a chunk moves by a strength of 0 "
      "to 1"
    )
  return found
