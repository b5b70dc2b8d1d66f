"""Tests that programs are compiled once, for one kind of CPU, and trusted."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_collections
import pytest

from tests.test_options import load
from vgsgan.common import files, jsonfiles
from vgsgan.tools import drawn_runs, samples
from vgsgan.train import compile_cache, workdirs

ROOT = pathlib.Path(__file__).parents[1]
# Prints how many programs were read, and the bits of a gradient.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from vgsgan.models.layers import Conv2D
from vgsgan.train import compile_cache
read = []
jax.monitoring.register_event_listener(
  lambda name, **_: read.append(name) if name.endswith("/cache_hits") else None
)
compile_cache.start(sys.argv[1])
module, key = Conv2D(8), jax.random.key(0)
x = jax.random.normal(key, (4, 16, 16, 3))

@jax.jit
def step(variables, x):
  def loss(variables):
    y = module.apply(variables, x).reshape(4, -1)
    return jax.nn.logsumexp(y @ y.T / 9, axis=1).mean()
  return jax.value_and_grad(loss)(variables)

found = jax.tree.leaves(step(module.init(key, x), x))
bits = [np.asarray(x).tobytes().hex() for x in found]
print(json.dumps([len(read), bits]))
"""


def compile_in(folder, **env):
  """Programs read from the cache, results as bits, standard error."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder)],
    cwd=ROOT,
    env={**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **env},
    capture_output=True,
    text=True,
    check=True,
  )
  return *json.loads(done.stdout), done.stderr


def entries(folder):
  return sorted(pathlib.Path(folder).rglob("*-cache"))


def test_a_cached_program_gives_the_same_bits(tmp_path):
  folder = tmp_path / "new" / "cache"
  plain = compile_in("")
  first = compile_in(folder)
  made = entries(folder)
  again = compile_in(folder)
  assert plain[0] == first[0] == 0 and again[0] == len(made) > 1
  assert plain[1] == first[1] == again[1]
  assert plain[2] == first[2] == again[2] == ""
  assert entries(folder) == made
  for private in (folder.parent, folder, made[0].parent):
    assert private.stat().st_mode & 0o777 == 0o700

  # A damaged entry costs one line, and is replaced.
  for path in made:
    path.write_bytes(path.read_bytes()[:-20])
    os.utime(path, (1, 1))
  damaged = compile_in(folder)
  assert damaged[:2] == (0, plain[1])
  assert damaged[2].startswith("warning: reading jit_")
  assert damaged[2].count("\n") == 1
  assert compile_in(folder) == again


def test_the_folder_in_jax_s_variable_takes_precedence(tmp_path):
  mine, given = tmp_path / "mine", tmp_path / "given"
  compile_in(
    mine,
    JAX_COMPILATION_CACHE_DIR=str(given),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  )
  assert entries(given) and not mine.exists()


@pytest.fixture
def unset():
  """As if JAX had been given no folder."""
  names = "compilation_cache_dir", "persistent_cache_min_compile_time_secs"
  before = {f"jax_{x}": getattr(jax.config, f"jax_{x}") for x in names}
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_each_kind_of_cpu_has_its_folder(tmp_path, unset, monkeypatch):
  found = set()
  for kind in ("x86_64-a-2", "x86_64-b-2"):
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compile_cache, "cpu_kind", lambda kind=kind: kind)
    compile_cache.start(str(tmp_path))
    found.add(jax.config.jax_compilation_cache_dir)
  assert {pathlib.Path(x).parent for x in found} == {tmp_path}
  assert len(found) == 2


def test_kinds_of_cpu_differ_in_model_and_instructions():
  known = "model name\t: EPYC\nflags\t\t: fpu avx2\ncpu MHz\t\t: {}\n\nflags: x"
  kinds = [known.format(1), known.format(2), known.replace(" avx2", "")]
  kinds += [known.replace("EPYC", "Xeon"), "Features\t: asimd", "Power"]
  names = [compile_cache.cpu_kind(x) for x in kinds]
  assert names[0] == names[1] and len(set(names)) == len(kinds) - 1
  assert compile_cache.cpu_kind() == compile_cache.cpu_kind()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755])
def test_a_cache_that_others_can_write_is_not_used(
  tmp_path, unset, capsys, mode
):
  tmp_path.joinpath("c").mkdir()
  tmp_path.joinpath("c").chmod(mode)
  compile_cache.start(str(tmp_path / "c"))
  said = capsys.readouterr().err
  if mode == 0o755:
    assert not said and jax.config.jax_compilation_cache_dir
  else:
    assert jax.config.jax_compilation_cache_dir is None
    assert said.count("\n") == 1
    assert f"{tmp_path / 'c'} is not used: others can write there" in said


@pytest.mark.parametrize("folder", ["file/cache", "~nobody-of-this-name/x"])
def test_a_cache_that_cannot_be_made_is_one_warning(
  tmp_path, unset, capsys, monkeypatch, folder
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").touch()
  compile_cache.start(folder)
  assert jax.config.jax_compilation_cache_dir is None
  said = capsys.readouterr().err
  assert said.startswith("warning: the compilation cache ")
  assert said.count("\n") == 1


def test_the_least_recently_used_programs_are_removed(tmp_path):
  digest = "0" * 64
  (tmp_path / "kind").mkdir()
  paths = [tmp_path / "kind" / f"jit_{i}-{digest}-cache" for i in range(4)]
  other = tmp_path / "kind" / "mine-cache"
  for path in (*paths, other):
    path.write_bytes(bytes(100))
    os.utime(path, (1, 1))
  os.utime(paths[2], (9, 1))  # Read since.
  os.utime(paths[0], (1, 8))  # Written since.
  compile_cache._shrink(tmp_path, 200)
  assert [x for x in paths if x.exists()] == [paths[0], paths[2]]
  assert other.exists()


def test_a_folder_that_can_be_renamed_by_others_is_not_private(tmp_path):
  files.private_folder(tmp_path / "a" / "b")
  (tmp_path / "a").chmod(0o777)
  with pytest.raises(OSError, match="others can write there") as refused:
    files.private_folder(tmp_path / "a" / "b")
  assert refused.value.filename == str(tmp_path / "a")
  (tmp_path / "a").chmod(0o1777)  # As /tmp is.
  assert files.private_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
  with pytest.raises(OSError, match="it is someone else's"):
    files.private_folder(tmp_path)


def test_the_cache_folder_does_not_change_a_run():
  config = ml_collections.ConfigDict({"seed": 1, "compilation_cache": ""})
  assert list(workdirs.differences({"seed": 1}, config)) == []
  assert list(workdirs.differences({"seed": 2}, config)) == ["seed: 2 -> 1"]


def test_a_run_starts_without_a_usable_cache(tmp_path):
  (tmp_path / "file").touch()
  kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vgsgan.main", f"--workdir={tmp_path / 'run'}"),
      "--config=configs/stamps.py:smoke",
      f"--config.compilation_cache={tmp_path / 'file' / 'cache'}",
      *("--config.data.source=/nowhere", f"--config.data.data_dir={tmp_path}"),
    ],
    cwd=ROOT,
    env={**kept, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  lines = done.stderr.splitlines()
  assert lines[0].startswith(f"warning: the compilation cache {tmp_path}/file")
  assert lines[-1].startswith("vgsgan: ") and "/nowhere" in lines[-1]


@pytest.mark.parametrize(
  ("name", "read"),
  [("solids", drawn_runs.restored), ("generation", samples.generate)],
)
def test_tools_use_the_cache_of_their_run(name, read, tmp_path, monkeypatch):
  class StartedError(Exception):
    pass

  def start(folder):
    raise StartedError(folder)

  monkeypatch.setattr(compile_cache, "start", start)
  config = load(name).get_config("random" if name == "solids" else "")
  for folder in ("/mine", compile_cache.FOLDER):
    config.compilation_cache = folder
    jsonfiles.write_json(tmp_path / "config.json", config.to_dict())
    with pytest.raises(StartedError, match=folder):
      read(tmp_path)
