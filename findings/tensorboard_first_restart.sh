#!/usr/bin/env bash
# Without its fast loader TensorBoard hides nothing at the first restart of a run.
#
# What it does: writes two runs with tensorboardX, each steps 0 to 9 and then, by a
#   second writer with `purge_step=5`, steps 5 to 7 anew. The first writer of `plain`
#   has no `purge_step`, that of `marked` has `purge_step=0`. TensorBoard serves both
#   on localhost, with `--load_fast=true` and `=false`, and is asked for the scalars.
# Seen: the fast loader gives 0 to 4 and the new 5 to 7 for both runs. The other one
#   does so for `marked`; for `plain` it gives all old steps, then 5 to 7 again.
# Expected: the same points from both loaders. `purge_step=5` is documented to hide
#   the events from step 5 on.
# Why: `purge_step` writes a SessionLog.START mark, and the Python loader takes the
#   first mark in a run for its beginning, even after events of later steps.
# Why it matters: the usual way is a writer without `purge_step`, and with it after a
#   restart. The loader is used wherever the fast one is not available, so one log
#   shows a line that runs back at one place and not at another. Writers that always
#   pass `purge_step`, 0 at first, are shown alike.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorboard==2.21.0 \
  tensorboard-data-server==0.7.2 tensorboardX==2.6.5 'setuptools<81'

cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib.metadata
import json
import re
import subprocess
import sys
import time
import urllib.request

import tensorboardX

for package in ("tensorboard", "tensorboard-data-server", "tensorboardX"):
  print(package, importlib.metadata.version(package))


def write(run, steps, offset, purge_step):
  writer = tensorboardX.SummaryWriter(f"logs/{run}", purge_step=purge_step)
  for step in steps:
    writer.add_scalar("loss", offset + step, step)
  writer.close()


write("plain", range(10), 0, None)
write("marked", range(10), 0, 0)
time.sleep(1.1)  # Files are named and ordered by the second.
write("plain", range(5, 8), 100, 5)
write("marked", range(5, 8), 100, 5)

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def points(url, run):
  """(step, value) of a run, once its last event was read."""
  for _ in range(60):
    try:
      query = f"{url}data/plugin/scalars/scalars?run={run}&tag=loss"
      with direct.open(query, timeout=10) as answer:
        found = [(step, value) for _, step, value in json.load(answer)]
      if (7, 107.0) in found:
        return found
    except urllib.error.HTTPError:
      pass  # Not read yet.
    time.sleep(0.5)
  sys.exit("TensorBoard did not show the last event")


def serve(load_fast):
  """The points of both runs as one loader gives them."""
  command = [sys.executable, "-m", "tensorboard.main", "--logdir=logs", "--port=0"]
  server = subprocess.Popen(
    [*command, f"--load_fast={load_fast}"], stderr=subprocess.PIPE, text=True
  )
  try:
    for line in server.stderr:
      if url := re.search(r"http://localhost:\d+/", line):
        return {run: points(url[0], run) for run in ("plain", "marked")}
    sys.exit("TensorBoard did not start")
  finally:
    server.terminate()
    server.wait()


seen = {load_fast: serve(load_fast) for load_fast in ("true", "false")}
for load_fast, runs in seen.items():
  for run, found in runs.items():
    print(f"--load_fast={load_fast}, {run}:", *(f"{s}:{v:g}" for s, v in found))

old = [(step, float(step)) for step in range(10)]
new = [(step, 100.0 + step) for step in range(5, 8)]
print("expected, four times:", *(f"{s}:{v:g}" for s, v in old[:5] + new))

purged = old[:5] + new
changed = seen != {
  "true": {"plain": purged, "marked": purged},
  "false": {"plain": old + new, "marked": purged},
}
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
