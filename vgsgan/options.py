"""Arguments of config files, and one-line errors for wrong ones."""

import difflib
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import app, flags

from vgsgan import streams
from vgsgan.errors import UserError

Variant = Callable[[ml_collections.ConfigDict], None]


def nearest(name: str, known: Sequence[str]) -> str:
  """` did you mean X?`, or the whole list where nothing is near."""
  match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  if match:
    return f"did you mean {match[0]!r}?"
  return "there are " + (", ".join(map(repr, known)) or "none")


def choose(
  config: ml_collections.ConfigDict,
  argument: str | None,
  variants: Mapping[str, Variant],
) -> ml_collections.ConfigDict:
  """Applies the variants named in `file.py:NAME,NAME`, in the mapping's order.

  The mapping's order, not the argument's, so that `smoke` always shrinks what
  the others chose.
  """
  names = [name.strip() for name in (argument or "").split(",") if name.strip()]
  for name in names:
    if name not in variants:
      raise UserError(
        f"unknown config argument {name!r}: {nearest(name, list(variants))}"
      )
  for name, variant in variants.items():
    if name in names:
      variant(config)
  return config


def check_one_of(field: str, value: str, known: Sequence[str]) -> None:
  if value not in known:
    raise UserError(
      f"config.{field}={value!r} is unknown: {nearest(value, list(known))}"
    )


def check_at_least(field: str, value: int | float, least: int | float) -> None:
  if not value >= least:
    raise UserError(f"config.{field}={value} must be at least {least}")


def check_config_flags(argv: Sequence[str]) -> None:
  """Refuses a config file that is not there and fields that it hasn't.

  Before absl parses the flags, whose own errors name neither.
  """
  for arg, following in zip(argv, [*argv[1:], ""], strict=True):
    name, equals, value = arg.partition("=")
    if name.lstrip("-") == "config" and name != "config":
      path, _, argument = (value if equals else following).partition(":")
      check_overrides(load(pathlib.Path(path), argument), argv)


def parse_flags(argv: list[str], known_only: bool = False) -> list[str]:
  """Parses `argv`; whatever is wrong in it becomes one line.

  Args:
    argv: the program and its arguments.
    known_only: flags that are not defined are returned with the arguments.
  """
  check_config_flags(argv)
  try:
    return flags.FLAGS(argv, known_only=known_only)
  except flags.Error as error:
    raise UserError(str(error).splitlines()[0]) from error


def run(
  main: Callable[[list[str]], Any],
  argv: list[str] | None = None,
  parser: Callable[[list[str]], list[str]] = parse_flags,
) -> None:
  """Runs a program; what a user can mend is one line, and the status 2."""
  with streams.lasting():
    try:
      app.run(main, argv, flags_parser=parser)
    except UserError as error:
      line = str(error)
    except (AssertionError, RuntimeError) as error:
      reason = no_device(error)
      if reason is None:
        raise
      line = reason
    else:
      return
    print(f"vgsgan: {line}", file=sys.stderr)
    sys.exit(2)


def no_device(error: Exception) -> str | None:
  """One line, if JAX found no device of the platform that it was told."""
  *_, (frame, _) = traceback.walk_tb(error.__traceback__)
  unfound = "Unable to initialize backend" in str(error)
  # Of a platform whose plugin is not installed JAX asserts that it is.
  asserted = isinstance(error, AssertionError) and (
    frame.f_globals.get("__name__") == "jax._src.xla_bridge"
  )
  if not unfound and not asserted:
    return None
  asked = jax.config.jax_platforms
  if not asked:
    return f"there is no device: {' '.join(str(error).split())[:300]}"
  reason = " ".join(str(error).partition("': ")[2].split())
  reason = reason.partition(" (set JAX_PLATFORMS")[0].rstrip(". ")
  return (
    f"JAX_PLATFORMS or --jax_platforms names {asked!r}, of which there is no "
    f"device here{f' ({reason[:200]})' if reason else ''}: leave it out to "
    "take what there is, or install its driver (extras cuda and tpu)"
  )


def load(path: pathlib.Path, argument: str) -> ml_collections.ConfigDict:
  """The config of a file, as `--config=path:argument` would give it."""
  if not path.is_file():
    beside = [str(p) for p in path.parent.glob("*.py")]
    raise UserError(f"no config file {path}: {nearest(str(path), beside)}")
  try:
    found = runpy.run_path(str(path))
  except SyntaxError as error:
    raise UserError(f"config file {path} is not Python: {error}") from error
  if "get_config" not in found:
    raise UserError(f"config file {path} has no function get_config")
  return found["get_config"](argument)


def check_overrides(
  config: ml_collections.ConfigDict, argv: Sequence[str]
) -> None:
  """Refuses `--config.a.b=...` where the config has no field `a.b`."""
  for arg in argv:
    if not arg.lstrip("-").startswith("config."):
      continue
    path = arg.lstrip("-").partition("=")[0].split(".")[1:]
    node = config
    for depth, name in enumerate(path):
      known = list(node) if isinstance(node, ml_collections.ConfigDict) else []
      if name not in known:
        where = ".".join(["config", *path[:depth]])
        if not known:
          raise UserError(f"--config.{'.'.join(path)}: {where} has no fields")
        raise UserError(
          f"--config.{'.'.join(path)}: {where} has no field {name!r}; "
          f"{nearest(name, known)}"
        )
      node = node[name]
