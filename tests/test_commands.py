"""Commands: each lists its flags on one screen, and `vgsgan` lists them."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

import vgsgan
from vgsgan import __main__ as overview
from vgsgan.common import commands
from vgsgan.common.errors import UserError

PACKAGE = pathlib.Path(vgsgan.__file__).parent
# The modules that start a tool.
MODULES = [
  ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
  for path in sorted((PACKAGE / "tools").rglob("*.py"))
  if "commands.start(" in path.read_text()
]


@pytest.mark.parametrize("name", ["vgsgan.main", *MODULES])
def test_help_is_one_screen_with_every_flag_and_an_example(name):
  module = importlib.import_module(name)
  text = commands.help_text(module.main, module.define_flags)
  lines = text.splitlines()
  assert len(lines) <= 24 and max(map(len, lines)) <= 80
  command = f"    python -m {name.removesuffix('.__main__')} "
  assert any(line.startswith(command) and "=" in line for line in lines)
  own = flags.FlagValues()
  module.define_flags(own)
  for flag in own:
    assert any(line.startswith(f"  --{flag}: ") for line in lines)


def test_help_shows_defaults():
  def define_flags(values):
    flags.DEFINE_string("none", None, "A.", values)
    flags.DEFINE_bool("off", False, "B.", values)
    flags.DEFINE_integer("zero", 0, "C.", flag_values=values)

  lines = commands.help_text(lambda _: None, define_flags).splitlines()
  assert lines[-4:-1] == ["  --none: A.", "  --off: B.", "  --zero: C. [0]"]


@pytest.mark.parametrize(
  "asked", ["--help", "-h", "--helpshort", "--helpfull", "--version"]
)
def test_help_and_version_end_with_status_0(asked, capsys):
  def start(*arguments):
    with pytest.raises(SystemExit) as left:
      commands.start(main, lambda _: None, ["main", *arguments])
    return left.value.code

  def main(argv):
    ran.append(argv)

  ran = []
  assert start("--x", asked) == 0 and not ran
  out, err = capsys.readouterr()
  assert not err and out
  if asked == "--version":
    assert out == f"vgsgan {vgsgan.__version__}\n"
  assert not commands._answer(["main", "--", asked], main, lambda _: None)


def test_missing_and_extra_arguments_are_named():
  with pytest.raises(UserError, match=r"unexpected argument 'x'; flags start"):
    commands.require(["main", "x"])
  with pytest.MonkeyPatch.context() as patch:
    values = flags.FlagValues()
    for name in ("a", "b", "c"):
      flags.DEFINE_string(name, None, "", values)
    values(["main", "--b=x"])
    patch.setattr(flags, "FLAGS", values)
    with pytest.raises(UserError, match="needed: --a, --c; --help shows"):
      commands.require(["main"], "a", "b", "c")
    commands.require(["main"], "b")


def test_the_package_lists_its_commands(capsys):
  assert overview.main([]) == 0
  listed = capsys.readouterr().out
  named = set(re.findall(r"^    python -m (vgsgan\.tools\.\w+) ", listed, re.M))
  assert named == {name.removesuffix(".__main__") for name in MODULES}
  assert listed.count("python -m vgsgan.main --") == 3
  lines = listed.splitlines()
  assert len(lines) <= 24 and max(map(len, lines)) <= 80
  assert overview.main(["--help"]) == 0
  assert capsys.readouterr().out == listed
  assert overview.main(["--version"]) == 0
  assert capsys.readouterr().out == f"vgsgan {vgsgan.__version__}\n"
  assert overview.main(["show"]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_list_of_commands_imports_no_library():
  heavy = "{'absl', 'jax', 'numpy', 'orbax', 'tensorflow_datasets'}"
  program = (
    f"import sys, vgsgan.__main__; assert not {heavy} & {{*sys.modules}}"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
