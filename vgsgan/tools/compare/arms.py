"""Arms: runs of one config that differ in a few fields."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import ml_collections

from vgsgan.common import ranges
from vgsgan.common.errors import UserError, one_line
from vgsgan.common.options import nearest


class Arm(NamedTuple):
  """An arm of a comparison with one seed."""

  name: str
  seed: int
  config: ml_collections.ConfigDict


def arms(config: ml_collections.ConfigDict) -> Iterator[Arm]:
  """Yields each run that `config.compare` describes, seed by seed.

  Raises:
    UserError: there are none, or an arm sets an unknown field or a value of
      another type.
  """
  check_compare(config.compare)
  compare = config.compare
  for seed in compare.seeds:
    for name, fields in compare.arms.items():
      run = ml_collections.ConfigDict(config.to_dict())
      del run.compare
      run.seed = seed
      _check_fields(name, run, fields)
      try:
        run.update(fields.to_dict())
      except (AttributeError, TypeError) as error:
        reason = one_line(error)
        raise UserError(f"config.compare.arms.{name}: {reason}") from error
      yield Arm(name, seed, run)


@contextlib.contextmanager
def named(arm: str) -> Iterator[None]:
  """Adds the name of an arm to a UserError; '' adds none."""
  try:
    yield
  except UserError as error:
    if not arm:
      raise
    raise UserError(f"config.compare.arms.{arm}: {error}") from error


def first_runs(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
  """Yields the name and config of each arm, with the first seed.

  A config without arms yields a copy of itself, with the name ''.
  """
  if "compare" not in config:
    yield "", ml_collections.ConfigDict(config.to_dict())
    return
  for arm in arms(config):
    if arm.seed == config.compare.seeds[0]:
      yield arm.name, arm.config


def check_compare(compare: ml_collections.ConfigDict) -> None:
  """Checks that a comparison has arms, columns and valid seeds.

  Raises:
    UserError: names the wrong field.
  """
  for field in ("seeds", "arms", "columns"):
    if field not in compare or not len(compare[field]):
      raise UserError(f"config.compare.{field} is empty: name at least one")
  if not ranges.Each(ranges.SEED).holds(compare.seeds):
    raise UserError(
      f"config.compare.seeds={compare.seeds!r} must be "
      f"{ranges.Each(ranges.SEED)}"
    )
  if len(set(compare.seeds)) < len(compare.seeds):
    raise UserError(f"config.compare.seeds={compare.seeds}: one is there twice")


def _check_fields(
  arm: str,
  config: ml_collections.ConfigDict,
  fields: ml_collections.ConfigDict,
  path: str = "config",
) -> None:
  """Raises UserError for unknown fields, which an update would add."""
  for name, value in fields.items():
    if name not in config:
      raise UserError(
        f"config.compare.arms.{arm}: there is no field {path}.{name}; "
        f"{nearest(name, list(config))}"
      )
    both = config[name], value
    if all(isinstance(x, ml_collections.ConfigDict) for x in both):
      _check_fields(arm, *both, f"{path}.{name}")
