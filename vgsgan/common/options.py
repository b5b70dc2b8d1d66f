"""Config files and their arguments, and one-line errors for wrong ones."""

import contextlib
import difflib
import inspect
import os
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_collections
from absl import flags

from vgsgan.common.errors import UserError, one_line

flags.disclaim_key_flags()  # `define_path` defines flags of its caller.

_CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# Values that absl accepts.
_BOOLEANS = ("true", "t", "1", "false", "f", "0")

Variant = Callable[[ml_collections.ConfigDict], None]


def nearest(name: str, names: Sequence[str]) -> str:
  """Suggests the nearest name, or all names if none is near."""
  match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  if match:
    return f"did you mean {match[0]!r}?"
  return "there are " + (", ".join(map(repr, names)) or "none")


def choose(
  config: ml_collections.ConfigDict,
  argument: str | None,
  variants: Mapping[str, Variant],
) -> ml_collections.ConfigDict:
  """Applies the variants named in `file.py:NAME,NAME`, in the mapping's order.

  The argument's order does not count, so that `smoke` always shrinks the
  choices of the others.
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


def check_one_of(field: str, value: str, values: Sequence[str]) -> None:
  if value not in values:
    raise UserError(
      f"config.{field}={value!r} is unknown: {nearest(value, list(values))}"
    )


@contextlib.contextmanager
def building(fields: str) -> Iterator[None]:
  """Turns errors of building a network into one that names config fields.

  Args:
    fields: the fields that decide the network, for the message.

  Raises:
    UserError: the network cannot be built.
  """
  try:
    yield
  except (TypeError, ValueError, LookupError, ArithmeticError) as error:
    raise UserError(f"{fields}: {one_line(error)}") from error


def check_at_least(field: str, value: int | float, least: int | float) -> None:
  if not value >= least:
    raise UserError(f"config.{field}={value} must be at least {least}")


class _Path(flags.ArgumentParser):
  """Parses a path; expands `~`, which shells leave alone after `=`."""

  def parse(self, argument: str) -> str:
    return os.path.expanduser(argument)


def define_path(
  values: flags.FlagValues, name: str, default: str | None, help: str
) -> None:
  """Defines a flag that names a file or folder."""
  flags.DEFINE(_Path(), name, default, help, values)


def with_config(argv: Sequence[str]) -> list[str]:
  """Checks the config among the arguments and rewrites them for absl.

  absl's own errors name neither missing config files nor unknown fields.
  `--config=stamps` becomes `configs/stamps.py`. For integer fields, 1e3 becomes
  1000. `~/` becomes the user's home.

  Raises:
    UserError: there is no such file, it returns no config, the config has no
      such field, or the field cannot have that value.
  """
  argv, config = _join(argv), None
  for place, arg in enumerate(argv):
    name, equals, value = arg.partition("=")
    if name not in ("--config", "-config"):
      continue
    value = value if equals else "".join(argv[place + 1 : place + 2])
    path, colon, argument = value.partition(":")
    if not path:
      raise UserError("--config names no file, e.g. --config=configs/stamps.py")
    file = config_file(path)
    config = load(file, argument if colon else None)
    if equals:
      argv[place] = f"{name}={file}{colon}{argument}"
    else:
      argv[place + 1] = f"{file}{colon}{argument}"
  if config is None:
    return argv
  check_overrides(config, argv)
  return [_override(config, arg) for arg in argv]


def _join(argv: Sequence[str]) -> list[str]:
  """Joins `--config.FIELD VALUE` to `--config.FIELD=VALUE`."""
  joined: list[str] = []
  for arg in argv:
    before = joined[-1] if joined else ""
    lacks_value = before.lstrip("-").startswith("config.") and "=" not in before
    # `--config.FIELD` before another flag is True.
    if lacks_value and not arg.startswith("--"):
      joined[-1] = f"{before}={arg}"
    else:
      joined.append(arg)
  return joined


def config_file(name: str) -> pathlib.Path:
  """Finds the file of `--config=NAME`: a path, or a name in `configs/`."""
  path = pathlib.Path(os.path.expanduser(name))
  if path.is_file() or path.suffix not in ("", ".py") or len(path.parts) != 1:
    return path
  file_name = f"{path.stem}.py"
  for folder in (pathlib.Path("configs"), _CONFIGS):
    if (file := folder / file_name).is_file():
      return file
  return pathlib.Path("configs") / file_name


def _override(config: ml_collections.ConfigDict, arg: str) -> str:
  """Rewrites `--config.FIELD=VALUE` with a value that absl accepts."""
  flag, equals, value = arg.partition("=")
  if not equals or not flag.lstrip("-").startswith("config."):
    return arg
  node = config
  for name in flag.lstrip("-").split(".")[1:]:
    node = node[name]
  if isinstance(node, str) and value.startswith("~"):
    return f"{flag}={os.path.expanduser(value)}"
  if isinstance(node, bool) and value.lower() not in _BOOLEANS:
    raise UserError(f"{arg}: the field takes true or false")
  if not isinstance(node, int) or isinstance(node, bool):
    return arg
  try:
    number = float(value)
    whole = number.is_integer()
  except ValueError:
    whole = False
  if not whole:
    raise UserError(f"{arg}: the field takes a whole number, such as {node}")
  return arg if value.strip().lstrip("+-").isdigit() else f"{flag}={number:.0f}"


def load(
  path: pathlib.Path, argument: str | None = None
) -> ml_collections.ConfigDict:
  """Loads the config of a file as `--config=path:argument` would.

  The file may say `from configs import common`, wherever Python was started.

  Args:
    path: path of the file.
    argument: the text after the colon; None without a colon.

  Raises:
    UserError: there is no such file, or it returns no config.
  """
  if not path.is_file():
    beside = [str(p) for p in path.parent.glob("*.py")]
    raise UserError(f"no config file {path}: {nearest(str(path), beside)}")
  if (root := str(_CONFIGS.parent)) not in sys.path:
    sys.path.append(root)
  try:
    module = runpy.run_path(str(path))
  except SyntaxError as error:
    raise UserError(f"config file {path} is not Python: {error}") from error
  except (Exception, SystemExit) as error:
    raise _fault(path, error) from error
  if not callable(module.get("get_config")):
    raise UserError(f"config file {path} has no function get_config")
  given = () if argument is None else (argument,)
  try:
    inspect.signature(module["get_config"]).bind(*given)
  except TypeError as error:
    arguments = "the text after the colon" if given else "no argument"
    raise UserError(
      f"config file {path}: get_config cannot be called with {arguments}: "
      f"{error}"
    ) from error
  try:
    config = module["get_config"](*given)
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise _fault(path, error) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f"config file {path}: get_config returns {type(config).__name__}, and "
      "must return an ml_collections.ConfigDict"
    )
  return config


def _fault(path: pathlib.Path, error: BaseException) -> UserError:
  """Names the line of a config file that raised an error."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path)]
  where = f", line {lines[-1]}" if lines else ""
  reason = " ".join(f"{type(error).__name__}: {error}".split())
  return UserError(f"config file {path}{where}: {reason}")


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
      fields = list(node) if isinstance(node, ml_collections.ConfigDict) else []
      if name not in fields:
        where = ".".join(["config", *path[:depth]])
        if not fields:
          raise UserError(f"--config.{'.'.join(path)}: {where} has no fields")
        raise UserError(
          f"--config.{'.'.join(path)}: {where} has no field {name!r}; "
          f"{nearest(name, fields)}"
        )
      node = node[name]
