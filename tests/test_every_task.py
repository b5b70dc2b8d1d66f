"""Every task on two processes of four devices, as on one of eight.

The two are told to leave in each task, and the same command goes on.
"""

import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import every_task, quick_xla, stamps_fixture
from vgsgan import tasks
from vgsgan.tools.drill import compare, runs

ROOT = pathlib.Path(__file__).parents[1]
# Nothing may ask for devices before the processes have met.
WORKER = """
import sys
from vgsgan.parallel import processes
address, count, rank, *others = sys.argv[1:]
if count != "1":
  processes.start(address, int(count), int(rank))
from tests import every_task
every_task.main(int(rank), *others)
"""


def start(folder, name, processes, *names):
  """Workers that run these tasks, one process after another of one run."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  flags = f"--xla_force_host_platform_device_count={8 // processes} "
  flags += quick_xla.FLAGS
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  (folder / name).mkdir(exist_ok=True)
  folders = [str(folder), str(folder / name)]
  return [
    subprocess.Popen(
      [
        sys.executable,
        "-c",
        WORKER,
        address,
        str(processes),
        str(rank),
        *folders,
        *names,
      ],
      cwd=ROOT,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for rank in range(processes)
  ]


def statuses(workers):
  """How each task ended on each process; all of what was said if one failed."""
  found = []
  for worker in workers:
    said = worker.communicate(timeout=1200)[0]
    assert worker.returncode == 0, said[-6000:]
    ends = [line for line in said.splitlines() if " ended with " in line]
    found.append([int(line.rpartition(" ")[2]) for line in ends])
  return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """One process has run every task; two have too, told to leave in each."""
  folder = tmp_path_factory.mktemp("tasks")
  stamps_fixture.make(folder / "source", n_stamps=16)
  every_task.prepare(folder)
  workers = one = start(folder, "one", 1, *tasks.TASKS)
  try:
    # Once told to leave, processes have left: each start ends the task that the
    # one before it left, and leaves in the next.
    for left, task in itertools.pairwise((None, *tasks.TASKS, None)):
      names = ([left] if left else []) + ([f"{task}!"] if task else [])
      workers = start(folder, "two", 2, *names)
      ends = [143 if name.endswith("!") else 0 for name in names]
      assert statuses(workers) == [ends, ends]
      if task:  # It left with steps to go.
        assert runs.complete(folder / "two" / task)[-1] < 4
    assert statuses(one) == [[0] * len(tasks.TASKS)]
  finally:
    for worker in (*workers, *one):
      worker.kill()
      worker.communicate()
  return folder


def lines(workdir):
  """What was logged of losses and figures."""
  text = (workdir / "metrics.jsonl").read_text()
  found = [json.loads(line) for line in text.splitlines()]
  timings = ("step_seconds", "examples_per_second", "input_share")
  return [
    {k: v for k, v in line.items() if k not in timings}
    for line in found
    if line["split"] != "compile"
  ]


def numbers(tree, name=""):
  """Every number of nested dicts, by its path."""
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from numbers(value, f"{name}/{key}")
  elif isinstance(tree, int | float):
    yield name, tree


@pytest.mark.parametrize("task", tasks.TASKS)
def test_two_processes_equal_one(folder, task):
  one, two = folder / "one" / task, folder / "two" / task
  mine, its = lines(two), lines(one)
  assert [(x["step"], x["split"]) for x in mine] == [
    (x["step"], x["split"]) for x in its
  ]
  for line, other in zip(mine, its, strict=True):
    if line["split"] == "train":
      assert line.keys() == other.keys()
      np.testing.assert_allclose(line["loss"], other["loss"], rtol=1e-5)
  mine, its = (
    dict(numbers(json.loads((x / "results.json").read_text())))
    for x in (two, one)
  )
  assert mine.keys() == its.keys()
  for name, value in its.items():
    np.testing.assert_allclose(
      mine[name], value, rtol=1e-3, atol=1e-4, err_msg=name
    )
  mine, its = compare.arrays(two, 4), compare.arrays(one, 4)
  assert mine.keys() == its.keys()
  for network, share in compare.apart(mine, its).items():
    assert share <= 1e-5, network


@pytest.mark.parametrize("task", tasks.TASKS)
def test_only_process_0_writes(folder, task):
  """Two leave the files that one leaves, and one file of events a start."""
  found = []
  for name in ("one", "two"):
    root = folder / name / task
    paths = {str(x.relative_to(root)) for x in root.rglob("*") if x.is_file()}
    found.append(
      {x for x in paths if "events." not in x and "checkpoints/" not in x}
    )
    assert len(list(root.glob("events.*"))) == (2 if name == "two" else 1)
  assert found[0] == found[1]
