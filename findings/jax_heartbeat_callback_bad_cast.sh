#!/usr/bin/env bash
# JAX's distributed client cannot call the function that it takes for lost processes.
#
# What it does: starts two processes whose clients are made with a
#   `missed_heartbeat_callback`, and kills the one that holds the service.
# Seen: the other ends with SIGABRT, "terminate called after throwing an instance of
#   'std::bad_cast'"; the function is not called.
# Expected: the function is called, with the error's text for example.
# Why it matters: without a function the client logs forty lines and aborts, so that
#   a program cannot say in its own words that the run has lost a process.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cd "$work"
cat >worker.py <<'PY'
import functools
import os
import sys
import time

import jax
from jax._src import distributed

jaxlib = distributed._jax
jaxlib.get_distributed_runtime_client = functools.partial(
  jaxlib.get_distributed_runtime_client,
  missed_heartbeat_callback=lambda *_: (print("called", flush=True), os._exit(3)),
)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
print("ready", flush=True)
time.sleep(60)
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PY'
import socket
import subprocess
import sys

with socket.socket() as free:
  free.bind(("127.0.0.1", 0))
  port = str(free.getsockname()[1])
first, second = (
  subprocess.Popen(
    [sys.executable, "worker.py", port, rank],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  for rank in "01"
)
assert "ready\n" in iter(second.stdout.readline, "")
first.kill()
said = second.communicate(timeout=50)[0]
print(said, end="")
print("status", second.returncode, "expected: called, status 3")
as_described = second.returncode == -6 and "std::bad_cast" in said
sys.exit(0 if as_described else "CHANGED: this is no longer what is described above")
PY
