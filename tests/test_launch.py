"""What holds for every launcher."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from absl import flags

from tests.launch_stage import LAUNCH
from vgsgan import main

SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name):
  path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  shellcheck = shutil.which("shellcheck", path=path)
  assert shellcheck, "install the extra `tests`"
  subprocess.run([shellcheck, LAUNCH / name], check=True)


@pytest.mark.parametrize(
  "command",
  [
    ("local.sh",),
    ("local.sh", "0", "--workdir=w"),
    ("local.sh", "--config=c", "--workdir=w"),
    ("local.sh", "2", "--config=c"),
    ("slurm.sbatch", "--config=c"),
    ("tpu_pod.sh", "create"),
    ("tpu_pod.sh", "destroy", "NAME"),
    ("tpu_pod.sh", "run", "NAME", "--config=c"),
  ],
)
def test_wrong_usage_is_one_line(stage, command):
  for name in ("python", "srun", "gcloud"):
    stage.stub(name, "touch $RECORD/started")
  code, out, err = stage.run("bash", LAUNCH / command[0], *command[1:])
  assert (code, out, err.count("\n")) == (2, "", 1)
  assert not (stage.record / "started").exists()


def test_what_the_launchers_pass_are_flags_of_main():
  values = flags.FlagValues()
  main.define_flags(values)
  passed = set()
  for name in (*SCRIPTS, "gpu_k8s.yaml"):
    text = (LAUNCH / name).read_text()
    text = re.sub(r"(?m)^\s*#.*$", "", text).partition("vgsgan.main")[2]
    passed |= set(re.findall(r"--(\w*(?:distributed|process|coord)\w*)", text))
  started = {"coordinator_address", "num_processes", "process_id"}
  assert passed == started | {"distributed"}
  assert passed <= set(values)
