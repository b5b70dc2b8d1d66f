"""Starts a run for a drill, follows it, ends it, and reads its files."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from vgsgan.train.checkpoints import folders

STEPS, SAVE_EVERY, EVAL_EVERY = 10, 2, 5
# Flags that make a run short, with batches that divide over eight devices.
FLAGS = (
  f"--config.train.steps={STEPS}",
  f"--config.train.save_every={SAVE_EVERY}",
  f"--config.train.eval_every={EVAL_EVERY}",
  "--config.train.log_every=1",
  "--config.train.keep=3",
  "--config.train.batch=8",
  "--config.eval.batch=8",
)
START_SECONDS = 300.0  # Limit of a start, for a busy machine.
LOST_SECONDS = 60.0  # Limit until a process ends after another is killed.
_POLL = 0.005


class FailedError(Exception):
  """A drill failed; the message is one line."""


class MissedError(Exception):
  """The run ended before the moment of the fault; the drill is repeated."""


@dataclasses.dataclass(frozen=True)
class Place:
  """The folders and the command of a drilled run.

  Attributes:
    folder: the drill's folder; the run's workdir is `run` in it.
    config: the value of `--config`.
    flags: other flags of `vgsgan.main`.
    data: the folder of the data.
    cache: the folder of compiled programs.
  """

  folder: pathlib.Path
  config: str
  flags: tuple[str, ...]
  data: pathlib.Path
  cache: pathlib.Path

  @property
  def workdir(self) -> pathlib.Path:
    return self.folder / "run"


class Start:
  """One start of a run, of one process or several on this machine.

  Attributes:
    completed: steps that were complete on disk at some moment.
  """

  def __init__(self, place: Place, devices: int = 1, processes: int = 1):
    """Starts the processes, each with `devices` devices."""
    self.place, self.completed = place, set()
    place.folder.mkdir(parents=True, exist_ok=True)
    before = len(list(place.folder.glob("start-*-0.log")))
    self.logs = [
      place.folder / f"start-{before + 1}-{i}.log" for i in range(processes)
    ]
    command = [
      *(sys.executable, "-m", "vgsgan.main", f"--config={place.config}"),
      *(f"--workdir={place.workdir}", f"--config.data.data_dir={place.data}"),
      *FLAGS,
      *place.flags,
    ]
    env = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
      f"--xla_force_host_platform_device_count={devices}",
      "JAX_COMPILATION_CACHE_DIR": str(place.cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    address = f"--coordinator_address=127.0.0.1:{_free_port()}"
    self.processes = []
    for i, log in enumerate(self.logs):
      joined = [address, f"--num_processes={processes}", f"--process_id={i}"]
      with open(log, "w") as out:
        self.processes.append(
          subprocess.Popen(
            command + (joined if processes > 1 else []),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
          )
        )

  def __enter__(self) -> "Start":
    return self

  def __exit__(self, *exc: Any) -> None:
    for process in self.processes:
      process.kill()
      process.wait()

  def until(self, condition: Callable[[], Any]) -> None:
    """Waits for the moment of a fault.

    Raises:
      MissedError: a process has ended before.
      FailedError: the moment has not come within `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while not condition():
      self.completed |= set(complete(self.place.workdir))
      if any(process.poll() is not None for process in self.processes):
        raise MissedError
      if time.monotonic() > deadline:
        raise FailedError(f"no progress in {START_SECONDS} s")
      time.sleep(_POLL)
    self.completed |= set(complete(self.place.workdir))

  def send(self, number: signal.Signals, process_id: int | None = None) -> None:
    """Sends a signal to all processes, or to one."""
    for i, process in enumerate(self.processes):
      if process_id in (None, i):
        if process.poll() is not None:
          raise MissedError
        process.send_signal(number)

  def ended(
    self,
    limit: float = START_SECONDS,
    meanwhile: Callable[[], Any] = lambda: None,
  ) -> list[int]:
    """Waits until all processes have ended; returns their exit statuses.

    Raises:
      FailedError: they have not within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while any(process.poll() is None for process in self.processes):
      meanwhile()
      if time.monotonic() > deadline:
        raise FailedError(f"a process still runs after {limit:.0f} s")
      time.sleep(_POLL)
    return [process.returncode for process in self.processes]

  def output(self, process_id: int = 0) -> str:
    return self.logs[process_id].read_text(errors="replace")

  def lines(self, process_id: int = 0) -> list[str]:
    """The error lines of the program, which begin with `vgsgan: `."""
    lines = self.output(process_id).splitlines()
    return [line for line in lines if line.startswith("vgsgan: ")]

  def resumed(self) -> int:
    """The step from which it resumed; 0 if it began anew."""
    match = re.search(r"going on from step (\d+)", self.output())
    return int(match[1]) if match else 0


def complete(workdir: pathlib.Path) -> list[int]:
  """Steps with a complete checkpoint, ascending."""
  try:
    return folders.steps(workdir / "checkpoints")
  except FileNotFoundError:
    return []


def unfinished(workdir: pathlib.Path) -> list[int]:
  """Steps whose checkpoints are being written."""
  try:
    names = os.listdir(workdir / "checkpoints")
  except FileNotFoundError:
    return []
  matches = [re.match(r"(\d+)\..*tmp", name) for name in names]
  return sorted(int(match[1]) for match in matches if match)


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, except one torn by a kill."""
  path, lines = workdir / "metrics.jsonl", []
  for line in path.read_bytes().split(b"\n") if path.exists() else ():
    try:
      lines.append(json.loads(line))
    except ValueError:
      continue
  return lines


def reached(workdir: pathlib.Path) -> int:
  """The last logged step."""
  steps = [x["step"] for x in metrics(workdir) if x["split"] == "train"]
  return max(steps, default=0)


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]
