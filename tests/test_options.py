"""Config arguments and overrides: what is wrong is named, with the nearest."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import ml_collections
import pytest
from absl import flags

from vgsgan.common import options
from vgsgan.common.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(x.stem for x in CONFIGS.glob("*.py") if x.stem != "common")


def load(name):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def config():
  return ml_collections.ConfigDict({"optim": {"lr": 1.0}, "steps": 3})


def test_variants_are_applied_in_the_order_of_the_mapping():
  variants = {
    "double": lambda c: c.update(steps=2 * c.steps),
    "smoke": lambda c: c.update(steps=1),
  }
  assert options.choose(config(), "smoke,double", variants).steps == 1
  assert options.choose(config(), "double", variants).steps == 6
  assert options.choose(config(), "", variants).steps == 3
  assert options.choose(config(), None, variants).steps == 3


def test_an_unknown_argument_is_refused_by_name_with_the_nearest():
  with pytest.raises(UserError, match="'smok': did you mean 'smoke'"):
    options.choose(config(), "smok", {"smoke": lambda c: None})


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("--config.optim.lt=3", "has no field 'lt'; did you mean 'lr'?"),
    ("--config.opim.lr=3", "config has no field 'opim'; did you mean 'optim'"),
    ("--config.steps.more=3", "config.steps has no fields"),
    ("--config.steps[0]=3", "has no field 'steps[0]'; did you mean 'steps'?"),
  ],
)
def test_an_override_of_no_field_names_it_and_the_nearest(flag, said):
  options.check_overrides(config(), ["--config.optim.lr=2", "--other"])
  with pytest.raises(UserError) as refused:
    options.check_overrides(config(), [flag])
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("def get_config(:", " is not Python: "),
    ("x = 1", " has no function get_config"),
    ("get_config = 3", " has no function get_config"),
    ("\nimport nowhere", ", line 2: ModuleNotFoundError: No module named"),
    ("raise SystemExit('no')", ", line 1: SystemExit: no"),
    (
      "def get_config(arg):\n  raise ValueError('no\\nluck')",
      ", line 2: ValueError: no luck",
    ),
    (
      "def get_config():\n  return {}",
      ": get_config cannot be called with the text after the colon: ",
    ),
    (
      "def get_config(arg):\n  return {}",
      ": get_config returns dict, and must return an ml_collections.Config",
    ),
  ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, said):
  path = tmp_path / "mine.py"
  path.write_text(text)
  with pytest.raises(UserError) as refused:
    options.load(path, "")
  assert str(refused.value).startswith(f"config file {path}{said}")
  assert "\n" not in str(refused.value)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A folder that Python starts in, with only the package installed."""
  path = [x for x in sys.path if pathlib.Path(x).resolve() != CONFIGS.parent]
  monkeypatch.setattr(sys, "path", [str(tmp_path), *path])
  for name in ("configs", "configs.common"):
    monkeypatch.delitem(sys.modules, name, raising=False)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_a_config_of_another_folder_shares_sections(elsewhere):
  path = elsewhere / "configs" / "mine.py"
  path.parent.mkdir()
  (path.parent / "sizes.py").write_text("BATCH = 8")
  path.write_text(
    "from configs import common, sizes\n"
    "def get_config(field='keep'):\n"
    "  config = common.base('gan')\n"
    "  config.train = common.train(sizes.BATCH, steps=9, **{field: 3})\n"
    "  return config"
  )
  mine = options.load(path)
  assert (mine.task, mine.train.batch, mine.train.keep) == ("gan", 8, 3)
  with pytest.raises(UserError, match=r"mine\.py, line 4: .* mean 'keep'"):
    options.load(path, "keeep")
  stamps = options.load(CONFIGS / "stamps.py", "smoke")
  assert stamps == load("stamps").get_config("smoke")


def test_another_package_named_configs_is_one_line(elsewhere):
  (elsewhere / "configs").mkdir()
  (elsewhere / "configs" / "__init__.py").touch()
  with pytest.raises(UserError, match="cannot import name 'common' from 'conf"):
    options.load(CONFIGS / "stamps.py")


def test_a_config_is_called_as_absl_calls_it(tmp_path):
  """Without an argument where there is no colon."""
  path = tmp_path / "mine.py"
  made = "return ml_collections.ConfigDict({'seed': 3})"
  path.write_text(f"import ml_collections\ndef get_config():\n  {made}")
  assert options.load(path).seed == 3
  path.write_text("def get_config(arg):\n  return arg")
  with pytest.raises(UserError, match="cannot be called with no argument"):
    options.load(path)


def test_arguments_are_rewritten_for_absl(tmp_path, monkeypatch):
  given = ["main", "--config=stamps.py:smoke", "--config.train.steps", "1e3"]
  given += ["--config.data.source=~/x", "--config.optim.lr=1", "--other=~/x"]
  home = str(pathlib.Path.home())
  for folder in (CONFIGS.parent, tmp_path):  # Beside configs/, and elsewhere.
    monkeypatch.chdir(folder)
    name, config, *others = options.with_config(given)
    path, _, argument = config.removeprefix("--config=").partition(":")
    assert (name, argument) == ("main", "smoke")
    assert pathlib.Path(path).samefile(CONFIGS / "stamps.py")
    assert others == [
      "--config.train.steps=1000",
      f"--config.data.source={home}/x",
      "--config.optim.lr=1",
      "--other=~/x",
    ]
  alone = ["--config.data.augment.flip", "--config.optim.lr", "-1", "--x"]
  found = options.with_config(["main", "--config=stamps", *alone])
  assert found[2:] == [alone[0], "--config.optim.lr=-1", "--x"]
  config = options.with_config(["main", "--config", "stamps", "--x"])
  assert pathlib.Path(config[2]).samefile(CONFIGS / "stamps.py")


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("--config.train.steps=1.5", "takes a whole number, such as 1200"),
    ("--config.train.steps=inf", "takes a whole number, such as 1200"),
    ("--config.train.steps=", "takes a whole number, such as 1200"),
    ("--config.data.augment.flip=maybe", "the field takes true or false"),
    ("--config=", "--config names no file"),
    ("--config=stampz", "did you mean 'configs/stamps.py'?"),
  ],
)
def test_a_value_that_a_field_cannot_take_is_one_line(flag, said, monkeypatch):
  monkeypatch.chdir(CONFIGS.parent)
  with pytest.raises(UserError) as refused:
    options.with_config(["main", "--config=stamps", flag])
  assert said in str(refused.value)


def test_a_path_may_start_at_the_users_home():
  values = flags.FlagValues()
  options.define_path(values, "place", None, "A place.")
  values(["main", "--place=~/x"])
  assert values.place == str(pathlib.Path.home() / "x")


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_of_every_config_has_a_smoke(name):
  module = load(name)
  assert "smoke" in module.VARIANTS
  for variant in module.VARIANTS:
    alone = module.get_config(variant).to_dict()
    tiny = module.get_config(f"{variant},smoke")
    assert alone == module.get_config(variant).to_dict()
    assert tiny.train.steps <= 50 and tiny.data.image_size <= 64
    if "speech" in tiny:
      assert tiny.speech.width < 0.1 and max(tiny.image.widths, default=8) < 17


def run(*flags, program="main"):
  done = subprocess.run(
    [sys.executable, "-m", f"vgsgan.{program}", *flags],
    cwd=CONFIGS.parent,
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--config=configs/stamps.py"], "--workdir is missing"),
    (
      ["--config=configs/stamps.py:smkoe", "--workdir=x"],
      "unknown config argument 'smkoe': did you mean 'smoke'?",
    ),
    (
      ["--config=configs/stamp.py", "--workdir=x"],
      "configs/stamp.py",
    ),
    (
      ["--config=configs/stamps.py", "--config.optim.rl=1", "--workdir=x"],
      "config.optim has no field 'rl'; did you mean 'lr'?",
    ),
    (
      ["--config=configs/stamps.py", "--config.train.batch=x", "--workdir=x"],
      "--config.train.batch=x",
    ),
    (
      ["--config=configs/stamps.py", "--workdri=x"],
      "Unknown command line flag 'workdri'. Did you mean: workdir",
    ),
  ],
)
def test_a_wrong_command_line_gets_one_line_and_status_2(flags, said):
  status, lines = run(*flags)
  assert status == 2
  assert len(lines) == 1, lines
  assert said in lines[0]


@pytest.mark.parametrize(
  "program", ["tools.export", "tools.samples", "tools.select", "tools.show"]
)
def test_every_tool_refuses_an_unknown_flag(program):
  status, lines = run("--workdri=x", program=program)
  assert (status, len(lines)) == (2, 1), lines
  assert (
    "Unknown command line flag 'workdri'. Did you mean: workdir" in lines[0]
  )


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_without_a_device_is_one_line(platform, tmp_path):
  if platform == "cuda" and importlib.util.find_spec("jax_plugins"):
    pytest.skip("there may be one")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vgsgan.main", f"--workdir={tmp_path / 'run'}"),
      *("--config=configs/stamps.py:smoke", f"--jax_platforms={platform}"),
    ],
    cwd=CONFIGS.parent,
    env={k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith(
    f"vgsgan: JAX_PLATFORMS or --jax_platforms names {platform!r}, of which "
  )
  assert not (tmp_path / "run").exists()
