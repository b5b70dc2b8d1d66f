"""Two processes with four devices each do what one with eight does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

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
