"""Reads the curriculum and the strengths of edits from a config."""

import ml_collections

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_one_of
from vgsgan.negatives import edits, impostors


def curriculum(
  text: str, kinds: tuple[str, ...] = impostors.KINDS
) -> dict[int, str]:
  """Parses 'regular@0,random@300' as {0: 'regular', 300: 'random'}.

  Args:
    text: of `edits.curriculum`.
    kinds: the kinds of edits that it may name, besides 'regular'.

  Raises:
    UserError: the text cannot be parsed, or does not start at step 0.
  """
  phases: dict[int, str] = {}
  for part in text.split(","):
    kind, _, first = part.strip().partition("@")
    check_one_of("edits.curriculum", kind, ("regular", *kinds))
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


def attempts(config: ml_collections.ConfigDict) -> edits.Attempts:
  """The attempts of `config.edits`; the published ones if `counts` is empty.

  Raises:
    UserError: fields differ in length, or a value is out of range.
  """
  strengths = tuple(config.strengths)
  if config.counts:
    result = edits.Attempts(
      tuple(config.counts), tuple(config.changes), tuple(config.shares)
    )
  else:
    try:
      result = edits.published_attempts(config.rungs, config.first_count)
    except ValueError as error:
      raise UserError(f"config.edits.rungs: {error}") from error
  if len({*map(len, result), len(strengths)}) != 1:
    raise UserError(
      "config.edits: counts, changes, shares and strengths must be of one "
      f"length, one entry per rung; they are {tuple(result)} and "
      f"{strengths}"
    )
  chunks = "chunk" in curriculum(config.curriculum).values()
  if chunks and not all(0 <= strength <= 1 for strength in strengths):
    raise UserError(
      f"config.edits.strengths={strengths}: a chunk moves by a strength of 0 "
      "to 1"
    )
  return result
