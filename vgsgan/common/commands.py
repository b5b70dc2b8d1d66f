"""Starts a command: parses flags, prints help, reports errors in one line."""

import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from vgsgan import __version__
from vgsgan.common import options, streams
from vgsgan.common.errors import UserError

Main = Callable[[list[str]], Any]
DefineFlags = Callable[[flags.FlagValues], None]


def start(
  main: Main,
  define_flags: DefineFlags,
  argv: list[str] | None = None,
  unknown_flags: bool = False,
) -> None:
  """Runs a command and ends the process with its exit status.

  `--help` and `--version` end with status 0. An error that a user can mend is
  one line on standard error, with status 2.

  Args:
    main: called with the arguments that are no flags, the program's name first.
    define_flags: defines the command's flags in its argument.
    argv: the program's name and its arguments; None for those of the process.
    unknown_flags: hands undefined flags to `main` instead of refusing them.
  """
  argv = sys.argv if argv is None else argv
  with streams.lasting():
    define_flags(flags.FLAGS)
    if text := _answer(argv, main, define_flags):
      print(text)
      sys.exit(0)
    # Libraries log much below this level that users need not read.
    logging.set_verbosity(logging.WARNING)
    try:
      app.run(main, argv, lambda given: parse_flags(given, unknown_flags))
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


def require(argv: Sequence[str], *needed: str) -> None:
  """Refuses arguments that are not flags, and missing flags.

  Raises:
    UserError: the message names the argument, or all missing flags.
  """
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
  if missing := [f"--{name}" for name in needed if not flags.FLAGS[name].value]:
    raise UserError(f"needed: {', '.join(missing)}; --help shows an example")


def parse_flags(argv: list[str], unknown_flags: bool = False) -> list[str]:
  """Parses `argv` and returns the arguments that are left.

  Raises:
    UserError: a flag is unknown or has a wrong value.
  """
  argv = options.with_config(argv)
  try:
    return flags.FLAGS(argv, known_only=unknown_flags)
  except flags.Error as error:
    raise UserError(str(error).splitlines()[0]) from error


def help_text(main: Main, define_flags: DefineFlags) -> str:
  """The docstring of the module of `main`, and the flags, in 80 columns."""
  own = flags.FlagValues()
  define_flags(own)
  lines = [(sys.modules[main.__module__].__doc__ or "").strip(), ""]
  for name in own:
    default = own[name].default
    absent = default is None or default is False or default in ("", [])
    shown = "" if absent else f" [{default}]"
    text = f"  --{name}: {own[name].help}{shown}"
    lines += textwrap.wrap(text, 80, subsequent_indent="      ")
  return "\n".join(
    [*lines, "  --version, --helpfull (flags of libraries, too)"]
  )


def _answer(argv: Sequence[str], main: Main, define_flags: DefineFlags) -> str:
  """Text for `--help` or `--version`; '' if `argv` has neither."""
  given = {*argv[1 : argv.index("--") if "--" in argv else None]}
  if "--version" in given:
    return f"vgsgan {__version__}"
  if {"--helpfull", "-helpfull"} & given:
    return flags.FLAGS.get_help()
  if {"--help", "-help", "-h", "-?", "--helpshort"} & given:
    return help_text(main, define_flags)
  return ""


def no_device(error: Exception) -> str | None:
  """One line if JAX found no device of the requested platform, else None."""
  *_, (frame, _) = traceback.walk_tb(error.__traceback__)
  unfound = "Unable to initialize backend" in str(error)
  # JAX raises AssertionError for a platform whose plugin is not installed.
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
