"""Stubs for what only a cluster has, and real processes, for launchers."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# Started like vgsgan.main, but only joins the others and counts them.
JOIN = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--coordinator_address")
parser.add_argument("--num_processes", type=int)
parser.add_argument("--process_id", type=int)
args, _ = parser.parse_known_args()
from vgsgan.parallel import processes
processes.start(**vars(args))
import jax
found = jax.process_index(), "of", jax.process_count(), len(jax.devices())
# In one write, or lines of two processes meet in one.
print(" ".join(map(str, found)) + chr(10), end="", flush=True)
"""
SAVES = 'trap "touch $RECORD/$id.saved; exit 143" TERM; touch $RECORD/$id.up; '
WAITS = "while :; do sleep 0.05; done"


class Stage:
  """A folder of stub programs, first on PATH, and what they record."""

  def __init__(self, folder):
    self.folder, self.record = folder / "bin", folder / "record"
    self.folder.mkdir()
    self.record.mkdir()
    (folder / "home").mkdir()
    self.env = {k: v for k, v in os.environ.items() if "SLURM" not in k} | {
      "PATH": f"{self.folder}:{os.environ['PATH']}",
      "HOME": str(folder / "home"),
      "RECORD": str(self.record),
    }
    self.env.pop("JAX_COMPILATION_CACHE_DIR", None)
    self.groups = []

  def stub(self, name, body):
    path = self.folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)

  def python(self, body):
    """Every process records its flags and environment, then does `body`."""
    self.stub(
      "python",
      f'[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
      'id=${@: -1}; id=${id#*=}; printf "%s\\n" "$@" >"$RECORD/$id.args"\n'
      'env >"$RECORD/$id.env"\n' + body,
    )

  def joining(self):
    script = self.folder / "join.py"
    script.write_text(JOIN)
    self.stub(
      "python",
      f'[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
      f'shift 2; exec {sys.executable} {script} "$@"',
    )
    self.env |= {
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "2",
      "XLA_FLAGS": "",
      "PYTHONPATH": str(ROOT),
    }

  def start(self, *command):
    process = subprocess.Popen(
      [str(x) for x in command],
      env=self.env,
      cwd=self.record.parent,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    self.groups.append(process.pid)
    return process

  def clear(self):
    """Leaves nothing behind of a test that failed."""
    for group in self.groups:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)

  def run(self, *command):
    process = self.start(*command)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err

  def args(self, name):
    return (self.record / f"{name}.args").read_text().splitlines()

  def environment(self, name):
    lines = (self.record / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)

  def wait_for(self, *names):
    deadline = time.monotonic() + 60
    while not all((self.record / name).exists() for name in names):
      assert time.monotonic() < deadline, names
      time.sleep(0.02)


@pytest.fixture
def stage(tmp_path):
  stage = Stage(tmp_path)
  yield stage
  stage.clear()


def free_port(lowest=0):
  for port in range(lowest, lowest + 4096):
    with socket.socket() as free:
      try:
        free.bind(("", port))
      except OSError:
        continue
      return free.getsockname()[1]
  raise AssertionError("no port is free")


def patched(folder, name, old, new):
  """A copy of a script, with one of its constants changed."""
  text = (LAUNCH / name).read_text()
  assert text.count(old) == 1
  path = folder / name
  path.write_text(text.replace(old, new))
  path.chmod(0o755)
  return path
