"""Processes of a run that lose each other say so once, and do not hang."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import jax
import pytest

from vgsgan.common.errors import UserError
from vgsgan.data.builders import preparing
from vgsgan.parallel import lost_lines, processes

ROOT = pathlib.Path(__file__).parents[1]
LOST = (-signal.SIGABRT, processes.LOST)
WORKER = """
import sys, time
from vgsgan.parallel import processes
from vgsgan.common.errors import UserError
what, port, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
processes.start(f"127.0.0.1:{port}", 2, rank)
try:
  with processes.together(LookupError):
    raise LookupError("what all of them raise")
except LookupError:
  pass
with processes.together():
  processes.meet("have started")
  print("ready", flush=True)
  if what == "fails" and rank == 1:
    raise UserError("the disk is full")
  if what == "differs":
    processes.require_same(5 + rank, "the newest checkpoint", "share it")
  if what == "collective" or what == "fails":
    for _ in range(600):
      processes.meet("go on")
      time.sleep(0.1)
  time.sleep(60)
"""


def start(what):
  """Two workers that have met."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, what, port, str(rank)],
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(2)
  ]
  for worker in workers:  # Nobody else writes there.
    assert worker.stdout.readline() == "ready\n", worker.stderr.read()
  return workers


def ends(workers):
  """Exit statuses, and what each said on standard error."""
  try:
    said = [worker.communicate(timeout=60)[1] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
      worker.communicate()
  return [worker.returncode for worker in workers], said


@pytest.mark.parametrize(
  ("what", "killed"), [("waits", 0), ("collective", 0), ("collective", 1)]
)
def test_a_killed_process_takes_the_other_with_it_in_one_line(what, killed):
  workers = start(what)
  workers[killed].kill()
  codes, said = ends(workers)
  other = 1 - killed
  assert codes[other] in LOST
  (line,) = (x for x in said[other].splitlines() if x.startswith("vgsgan: "))
  assert line.startswith("vgsgan: another process of this run is gone: ")
  assert line.endswith("goes on from the last checkpoint")
  assert "stack trace" not in said[other]
  assert "Traceback" not in said[other]


def test_a_process_that_fails_does_not_wait_for_the_other():
  codes, said = ends(start("fails"))
  assert codes[1] == 2 and codes[0] in LOST
  assert said[1].splitlines()[-1] == "vgsgan: the disk is full"
  (line,) = (x for x in said[0].splitlines() if x.startswith("vgsgan: "))
  assert "another process of this run is gone" in line


def listens(process):
  """Hexadecimal addresses at which a process listens."""
  folder = pathlib.Path(f"/proc/{process.pid}")
  sockets = {
    os.readlink(path) for path in (folder / "fd").iterdir() if path.is_symlink()
  }
  rows = []
  for table in ("tcp", "tcp6"):
    lines = (folder / "net" / table).read_text().splitlines()[1:]
    rows += [line.split() for line in lines]
  listening = [row for row in rows if row[3] == "0A"]
  return {x[1] for x in listening if f"socket:[{x[9]}]" in sockets}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loopback_address_listens_at_the_loopback_alone(monkeypatch):
  monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
  workers = start("waits")
  port = int(workers[0].args[4])
  try:
    found = [x for x in listens(workers[0]) if x.endswith(f":{port:04X}")]
  finally:
    for worker in workers:
      worker.kill()
      worker.communicate()
  # 127.0.0.1, as IPv4 or inside IPv6.
  loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
  assert len(found) == 1
  assert {x.partition(":")[0] for x in found} <= loopback


@pytest.mark.parametrize(
  ("address", "bound"),
  [
    ("127.0.0.1:80", True),
    ("127.1.2.3:80", True),
    ("[::1]:80", True),
    ("localhost:80", True),
    ("10.0.0.1:80", False),
    ("[fe80::1]:80", False),
    ("node-0:80", False),
    (None, False),
  ],
)
def test_only_a_loopback_address_is_bound_to(address, bound, monkeypatch):
  for name in ("JAX_COORDINATOR_BIND_ADDRESS", "JAX_COORDINATOR_ADDRESS"):
    monkeypatch.delenv(name, raising=False)
  assert processes._bind_address(address) == (address if bound else None)
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address or "node-1:80")
  assert processes._bind_address(None) == (address if bound else None)
  monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "[::]:80")
  assert processes._bind_address(address) is None


def test_processes_that_see_different_folders_are_refused():
  codes, said = ends(start("differs"))
  assert codes[0] == 2
  line = (
    "vgsgan: the newest checkpoint is 5 to process 0 and 6 to process 1: "
    "share it"
  )
  assert line in said[0].splitlines()
  # It may already notice that the other has left.
  assert (codes[1] == 2 and line in said[1].splitlines()) or codes[1] in LOST


@pytest.mark.parametrize(
  "address", ["127.0.0.1", "8476", "host:", "host:port", ":1", "h:0", "h:65536"]
)
def test_an_address_without_a_port_is_one_line(address):
  with pytest.raises(UserError) as refused:
    processes.start(address, 2, 1)
  said = str(refused.value)
  assert said.startswith(f"--coordinator_address={address} is not HOST:PORT")


def test_process_0_refuses_a_port_in_use():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    address = f"[::1]:{port}"
    with pytest.raises(UserError, match=rf"port {port} .*: choose another"):
      processes.start(address, 2, 0)
    processes._check_address(address, 1)  # Of another machine, maybe.
  processes._check_address(address, 0)


STALL = """
import threading, time
from vgsgan.parallel import processes
processes.moved("reading", limit=1.5)
threading.Thread(target=processes._watch, daemon=True).start()
time.sleep(1.0)
processes.moved(limit=0.5)
time.sleep(60)
"""


def test_a_process_that_does_not_move_is_given_up():
  done = subprocess.run(
    [sys.executable, "-c", STALL],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=50,
  )
  assert done.returncode == processes.LOST
  (line,) = done.stderr.splitlines()
  assert line.startswith("vgsgan: process 0 of 1 has not moved for ")
  assert ", while reading: " in line


def test_a_wait_keeps_the_limit_of_its_stage(
  monkeypatch,
):
  found = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    processes.multihost_utils,
    "sync_global_devices",
    lambda _: found.append(processes._now),
  )
  processes.moved("opening the data set", 9.0)
  processes.meet("opened the data set")
  (now,) = found
  assert now.what == "waiting until all processes have opened the data set"
  assert now.limit == processes._now.limit == 9.0
  assert processes._now.what == "opening the data set"
  processes.moved("tests")


def test_the_wait_for_prepared_data_has_a_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(preparing, "PREPARE_SECONDS", 0.3)
  inside, leave = threading.Event(), threading.Event()

  def prepare():
    with preparing._alone(tmp_path / "data"):
      inside.set()
      leave.wait(60)

  other = threading.Thread(target=prepare)
  other.start()
  assert inside.wait(60)
  with pytest.raises(UserError, match=r"waited .* hours for another"):
    with preparing._alone(tmp_path / "data"):
      raise AssertionError
  leave.set()
  other.join()
  with preparing._alone(tmp_path / "data"):
    pass


# What jaxlib 0.10.2 writes, shortened.
FATAL = (
  "F1121 19:48:19.714714   28468 client.h:80] Terminating process because the "
  "JAX distributed service detected fatal errors. This most likely indicates "
  "that another task died. absl::Status: "
)
STACK = (
  "*** Check failure stack trace: ***\n"
  "    @     0x7f0850640634  absl::LogMessage::SendToLog()\n"
)
GONE = (
  "E1121 19:48:31.764803   28514 coordination_service.cc:1549] [50587] Use "
  "error polling to propagate the following error to all tasks: UNAVAILABLE: "
  "The following tasks are unhealthy (stopped sending heartbeats):\n1\n"
  "The tasks have crashed.\n"
)


@pytest.mark.parametrize(
  ("text", "how"),
  [
    (
      GONE
      + FATAL
      + "UNAVAILABLE: The following tasks are unhealthy (stopped sending "
      + "heartbeats):\n1\nThe tasks have crashed.\n"
      + STACK,
      "no sign of life of process 1",
    ),
    (
      FATAL
      + "UNAVAILABLE: Failed to send RPC to coordination service.\n"
      + STACK,
      "process 0 does not answer",
    ),
    (FATAL + "INTERNAL: Shutdown barrier has failed.\n" + STACK, "did not end"),
    (FATAL + "INTERNAL: Odd.\n\nRPC: x\n" + STACK, "INTERNAL: Odd. RPC: x"),
  ],
)
def test_native_output_about_a_lost_process_becomes_one_line(text, how):
  other = "W1121 19:48:19.000000   28468 cpu_client.cc:1] all is well\n"
  found = list(lost_lines.shortened((other + text).splitlines(True)))
  assert found[0] == other and len(found) == 2
  assert how in found[1] and found[1].count("\n") == 1
  assert found[1].startswith("vgsgan: another process of this run is gone: ")


def test_processes_that_never_met_are_told_what_to_do():
  text = FATAL + "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /RegisterTask\n"
  (line,) = lost_lines.shortened((text + STACK).splitlines(True))
  assert line.startswith("vgsgan: not all processes of this run have come")
  assert "--coordinator_address" in line


def test_only_fatal_output_is_shortened():
  line = "vgsgan: the disk is full\n"
  text = f"one\n{GONE}"
  assert "".join(lost_lines.shortened(text.splitlines(True))) == text
  # Of Python too, in the middle of what the service says.
  text = f"{GONE}Traceback (most recent call last):\nFileNotFoundError: x\n"
  assert sorted(lost_lines.shortened(text.splitlines(True))) == sorted(
    text.splitlines(True)
  )
  # Who has said why it ends need not say more.
  text = f"{line}{GONE}{FATAL}INTERNAL: x\n{STACK}"
  assert list(lost_lines.shortened(text.splitlines(True))) == [line]


def test_the_connections_of_gloo_are_not_printed():
  text = (
    "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected "
    "peer ranks is : 1\none\n"
  )
  assert list(lost_lines.shortened(text.splitlines(True))) == ["one\n"]
