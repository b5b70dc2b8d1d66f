"""Real processes: two do what one does, and a killed one is taken up."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from tests import stamps_fixture

ROOT = pathlib.Path(__file__).parents[1]


def start(folder, workdir, devices, *flags):
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "vgsgan.main",
      "--config=configs/stamps.py:infonce,smoke",
      f"--workdir={workdir}",
      f"--config.data.source={folder / 'source'}",
      f"--config.data.data_dir={folder / 'prepared'}",
      "--config.data.languages=fr,ro,ru",
      "--config.data.max_stamps=0",
      "--config.train.steps=4",
      "--config.train.log_every=1",
      "--config.train.eval_every=4",
      "--config.train.batch=16",
      "--config.eval.batch=16",
      *flags,
    ],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def losses(workdir):
  rows = [
    json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  return {x["step"]: x["loss"] for x in rows if x["split"] == "train"}


def test_two_processes_give_what_one_gives(tmp_path):
  stamps_fixture.make(tmp_path / "source", n_stamps=16)
  one = start(tmp_path, tmp_path / "one", 8)
  said = one.communicate(timeout=240)[0]
  assert one.returncode == 0, said
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  both = [
    start(
      tmp_path,
      tmp_path / "two",
      4,
      f"--coordinator_address=127.0.0.1:{port}",
      "--num_processes=2",
      f"--process_id={i}",
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=240)[0] for process in both]
  assert [process.returncode for process in both] == [0, 0], outputs
  single, double = losses(tmp_path / "one"), losses(tmp_path / "two")
  assert list(single) == list(double) == [1, 2, 3, 4]
  np.testing.assert_allclose(
    list(single.values()), list(double.values()), rtol=1e-4
  )
  results = [
    json.loads((tmp_path / name / "results.json").read_text())
    for name in ("one", "two")
  ]
  for split in ("validation", "test"):
    galleries = [
      r["splits"][split]["speech_to_image"]["gallery"] for r in results
    ]
    assert galleries[0] == galleries[1] > 1


def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(tmp_path):
  stamps_fixture.make(tmp_path / "source", n_stamps=16)
  often = ("--config.train.steps=400", "--config.train.save_every=2")
  often += ("--config.train.eval_every=400", "--config.train.keep=400")
  killed = start(tmp_path, tmp_path / "run", 1, *often)
  deadline = time.monotonic() + 240
  checkpoints = tmp_path / "run/checkpoints"
  while not (checkpoints / "6").exists():
    assert time.monotonic() < deadline and killed.poll() is None
    time.sleep(0.05)
  killed.send_signal(signal.SIGKILL)
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL
  reached = max(losses(tmp_path / "run"))
  steps = [int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()]
  assert 6 <= max(steps)
  # One save may be under way besides the steps since it began.
  assert reached - max(steps) <= 2 * 2

  again = start(
    tmp_path, tmp_path / "run", 1, *often[1:], f"--config.train.steps={reached}"
  )
  said = again.communicate(timeout=240)[0]
  assert again.returncode == 0, said
  assert f"going on from step {max(steps)}" in said
  assert list(losses(tmp_path / "run")) == list(range(1, reached + 1))
