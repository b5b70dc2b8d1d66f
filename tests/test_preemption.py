"""Runs end when asked to, after a save, and all processes at the same step."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from vgsgan.parallel.preemption import Interrupted, Preemption

ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def start(code: str, *arguments: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-c", code, *arguments],
    env=ENVIRONMENT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize(
  ("number", "code"),
  [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_one_signal_is_remembered(number, code, monkeypatch):
  monkeypatch.setattr(Preemption, "SAME_SECONDS", 60.0)
  before = signal.getsignal(number)
  lines = []
  with Preemption(lines.append) as stop:
    assert not stop.reached() and stop.exit_code is None
    stop.check()
    os.kill(os.getpid(), number)
    assert stop.reached() and stop.reached()
    assert stop.exit_code == code
    with pytest.raises(Interrupted, match=signal.Signals(number).name):
      stop.check()
    os.kill(os.getpid(), number)  # the same key press, passed on by a launcher
  assert signal.getsignal(number) is before
  assert lines == [
    f"{signal.Signals(number).name}: saving after this step, then leaving;"
    " again to leave at once"
  ]


def test_a_signal_inside_print_is_still_reported(capfd):
  def say(line):
    raise RuntimeError("reentrant call")

  with Preemption(say) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reached()
  assert capfd.readouterr().err.startswith("SIGTERM: saving after this step")


def test_sighup_stays_ignored_under_nohup():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with Preemption() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop.reached()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_other_threads_install_no_handlers():
  before = signal.getsignal(signal.SIGTERM)
  during = []

  def run():
    with Preemption():
      during.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert during == [before]


SECOND = """
import time
from vgsgan.parallel.preemption import Preemption
with Preemption() as stop:
  print("ready", flush=True)
  while True:
    if stop.reached():
      time.sleep(stop.SAME_SECONDS)
      print("second", flush=True)
      time.sleep(60)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process(number):
  worker = start(SECOND)
  assert worker.stdout.readline() == "ready\n"
  worker.send_signal(number)
  assert worker.stdout.readline() == "second\n"
  worker.send_signal(number)
  _, err = worker.communicate(timeout=10)
  assert worker.returncode == -number
  assert err.count("\n") == 1 and "again to leave at once" in err


AGREE = """
import sys, time, jax
rank, port, pause = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from jax.experimental import multihost_utils
from vgsgan.parallel.preemption import Preemption
earlier = Preemption()  # A run before this one, and longer.
for step in range(4000):
  assert not earlier.reached()
with Preemption() as stop:
  multihost_utils.sync_global_devices("ready")
  print("ready", flush=True)
  time.sleep(pause)
  for step in range(3000):
    time.sleep(0.01 + 0.005 * rank)  # not in step, as hosts are not
    if stop.reached():
      break
print(step, stop.exit_code, flush=True)
multihost_utils.sync_global_devices("done")
"""


@pytest.mark.parametrize(
  ("number", "pause"),
  # During the steps, and between the runs: the service looks every second.
  [
    (signal.SIGTERM, 0),
    (signal.SIGINT, 0),
    (signal.SIGHUP, 0),
    (signal.SIGTERM, 5),
  ],
)
def test_processes_agree_on_the_step(number, pause):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  workers = [start(AGREE, str(rank), port, str(pause)) for rank in range(2)]
  try:
    for worker in workers:  # Gloo writes there as well
      assert "ready\n" in iter(worker.stdout.readline, "")
    workers[1].send_signal(number)
    outputs = [worker.communicate(timeout=40) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
      worker.communicate()
  for worker, (_, err) in zip(workers, outputs, strict=True):
    assert worker.returncode == 0, err[-2000:]
  steps = [out.splitlines()[-1].split() for out, _ in outputs]
  assert steps[0] == steps[1]
  assert steps[0][1] == "143" and int(steps[0][0]) < 2999
