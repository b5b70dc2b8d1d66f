#!/usr/bin/env bash
# One run on all workers of a Cloud TPU slice; from the root of the checkout:
#
#   launch/tpu_pod.sh create NAME --accelerator-type=v4-32 \
#     --version=tpu-ubuntu2204-base [--spot]
#   launch/tpu_pod.sh copy NAME
#   launch/tpu_pod.sh run NAME --config=configs/NAME.py --workdir=DIR
#   launch/tpu_pod.sh follow NAME
#   launch/tpu_pod.sh stop NAME
#   launch/tpu_pod.sh delete NAME
#
# Assumes:
# - gcloud is installed and logged in here, and knows project and zone: `gcloud
#   config set`, or CLOUDSDK_CORE_PROJECT and CLOUDSDK_COMPUTE_ZONE.
# - The workers have pip and reach a package index. `copy` replaces ~/vgsgan on
#   each by what git tracks here, uncommitted changes too, and installs it in
#   ~/venv with a Python of its own, since that of the images is too old.
# - The workdir lies on a file system that all workers mount at the same path
#   (e.g. Filestore), and the compilation cache in it: process 0 alone writes.
# - Data (config.data.data_dir) lie on such a mount, or were copied to a disk of
#   every worker: ArrayRecords are read at random, which object storage cannot
#   do. What is not prepared there, every worker prepares for itself.
# - What configs/stamps.py reads (Debian's tuxpaint-stamps-default), where that
#   is what is trained, is installed or already prepared in data_dir.
#
# Maintenance sends SIGTERM: the run saves, leaves with 143, and every worker
# starts it again; not for ever if nothing is saved, as where one worker has
# left for good and the others wait for it. A spot slice that is taken away is
# gone: create, copy and run again, with the same workdir. `stop` saves and
# leaves; it ends what `run` started, which ~/vgsgan.pid names, and nothing else.
# One run at a time. Output: ~/vgsgan.log.
set -euo pipefail

PAUSE=10  # Seconds before the next start.
STARTS=3  # In a row that save nothing: then the loop ends.

usage() {
  echo "usage: launch/tpu_pod.sh create|copy|run|follow|stop|delete NAME" >&2
  exit 2
}

tpu() {
  gcloud compute tpus tpu-vm "$@"
}

copy() {
  local archive tree
  archive=$(mktemp --suffix=.tar.gz)
  # A commit of the working tree that no branch knows; empty if nothing changed.
  cd "$(dirname "$0")/.."
  tree=$(git stash create)
  git archive --format=tar.gz --output="$archive" "${tree:-HEAD}"
  tpu scp "$archive" "$1:vgsgan.tar.gz" --worker=all
  rm "$archive"
  tpu ssh "$1" --worker=all --command='set -e
rm -rf vgsgan
mkdir vgsgan
tar -xzf vgsgan.tar.gz -C vgsgan
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 venv
~/.local/bin/uv pip install --quiet --python venv -e "./vgsgan[tpu]"'
}

run() {
  local name=$1 quoted
  shift
  quoted=$(printf ' %q' "$@")
  tpu ssh "$name" --worker=all --command="cd vgsgan
PATH=\$HOME/venv/bin:\$PATH nohup launch/tpu_pod.sh loop$quoted \
>>~/vgsgan.log 2>&1 </dev/null &"
}

# Notes the loop for `stop`: its number, and when it started, since numbers are
# used again.
note_loop() {
  if loop_id >/dev/null; then
    echo "launch/tpu_pod.sh: a run is going on here: stop it first" >&2
    exit 2
  fi
  echo "$$ $(started $$)" >"$HOME/vgsgan.pid"
}

# The number of the loop that goes on here; fails if there is none.
loop_id() {
  local id began
  read -r id began 2>/dev/null <"$HOME/vgsgan.pid" || return 1
  [[ $began && $(started "$id") == "$began" ]] || return 1
  echo "$id"
}

# In clock ticks since the machine started; nothing of a process that is gone.
started() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The name in parentheses may hold spaces.
  read -ra stat <<<"${stat##*) }"
  echo "${stat[19]}"
}

# What `stop` does on every worker. The loop first, which would start it again.
halt() {
  local id run
  if ! id=$(loop_id); then
    echo "launch/tpu_pod.sh: no run is going on here"
    return
  fi
  kill -STOP "$id"
  run=$(pgrep -P "$id" || true)
  kill -KILL "$id"
  # shellcheck disable=SC2086  # A number, or nothing.
  [[ ! $run ]] || kill -TERM $run
}

# What `run` starts on every worker. All must start again or none, so it counts
# as killed (over 128) too when JAX ends a process because another was killed.
loop() {
  local flag workdir status before after fruitless=0
  for flag; do
    if [[ $flag == --workdir=* ]]; then workdir=${flag#*=}; fi
  done
  export JAX_COMPILATION_CACHE_DIR=$workdir/jax-cache
  note_loop
  before=$(checkpoints "$workdir")
  while true; do
    status=0
    python -m vgsgan.main --distributed "$@" || status=$?
    if ((status <= 128)); then
      echo "launch/tpu_pod.sh: left with $status"
      exit "$status"
    fi
    after=$(checkpoints "$workdir")
    fruitless=$((fruitless + 1))
    if [[ $after != "$before" ]]; then fruitless=0; fi
    before=$after
    if ((fruitless == STARTS)); then
      echo "launch/tpu_pod.sh: left with $status, $STARTS times without a new" \
        "checkpoint: see the logs of all workers, mend it and run again"
      exit "$status"
    fi
    echo "launch/tpu_pod.sh: left with $status, starts again in $PAUSE s"
    sleep "$PAUSE"
  done
}

# Whole ones, of the run or of all runs of a comparison.
checkpoints() {
  find "$1" -regex '.*/checkpoints/[0-9]+' -prune 2>/dev/null | sort || true
}

(($# >= 2)) || usage
what=$1
shift
case $what in
  create) tpu create "$@" ;;
  copy) copy "$1" ;;
  run | loop)
    if [[ " $* " != *" --workdir="* ]]; then
      echo "launch/tpu_pod.sh: $what needs --config=FILE --workdir=DIR" >&2
      exit 2
    fi
    "$what" "$@"
    ;;
  follow) tpu ssh "$1" --worker=0 --command='tail -n 100 -F vgsgan.log' ;;
  stop) tpu ssh "$1" --worker=all --command='vgsgan/launch/tpu_pod.sh halt .' ;;
  halt) halt ;;  # Of this worker.
  delete) tpu delete "$@" ;;
  *) usage ;;
esac
