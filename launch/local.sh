#!/usr/bin/env bash
# N processes of one run on this machine, one NVIDIA GPU each, or all on CPU:
#
#   launch/local.sh N --config=configs/NAME.py --workdir=DIR [--FLAG=VALUE ...]
#
# Assumes:
# - Linux, bash 5.1, and `python` with vgsgan installed (an active venv).
# - Data lie on a local disk or a mount: ArrayRecords are read at random, which
#   object storage cannot do. The processes share config.data.data_dir, and the
#   first one there prepares it while the others wait.
# - CUDA_VISIBLE_DEVICES, JAX_PLATFORMS=cpu and JAX_NUM_CPU_DEVICES=K hold as
#   everywhere: they say which GPUs, or that K devices a process are imagined.
#
# Process 0 speaks here, the others with [I] before each line. Ctrl-C, SIGTERM and a
# closed terminal save after the step and leave, with 143; a second one, a second
# later or more, ends all at once. When a process fails the others are ended too, and
# the status is that of the first that failed.
set -euo pipefail

GRACE=30  # Seconds between asking the others to leave and killing them.

die() {
  echo "launch/local.sh: $1" >&2
  exit 2
}

[[ ${1:-} =~ ^[1-9][0-9]*$ && " $* " == *" --workdir"* ]] ||
  die "usage: launch/local.sh N --config=configs/NAME.py --workdir=DIR"
n=$1
shift

gpus=()
if [[ ${JAX_PLATFORMS:-} == cpu ]]; then
  :
elif [[ -v CUDA_VISIBLE_DEVICES ]]; then
  IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif found=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)
then
  mapfile -t gpus <<<"$found"
fi
if ((${#gpus[@]} > 0 && n > ${#gpus[@]})); then
  die "$n processes, but ${#gpus[@]} GPUs: lower N, or set JAX_PLATFORMS=cpu"
fi

port=$(python -c 'import socket
s = socket.socket()
s.bind(("", 0))
print(s.getsockname()[1])')

start() {
  local i=$1
  shift
  if ((${#gpus[@]})); then
    export CUDA_VISIBLE_DEVICES=${gpus[i]}
  fi
  exec python -m vgsgan.main "$@" --coordinator_address="127.0.0.1:$port" \
    --num_processes="$n" --process_id="$i"
}

declare -A running
tell() {
  kill -s "$1" "${!running[@]}" 2>/dev/null || true
}

# SIGTERM for all three: what bash starts in the background ignores SIGINT.
asked=
# shellcheck disable=SC2329  # The trap calls it.
leave() {
  local now=${EPOCHREALTIME//[.,]/}  # Microseconds.
  if [[ ! $asked ]]; then
    asked=$now
    echo "launch/local.sh: saving after this step, then leaving; again to" \
      "leave at once" >&2
    tell TERM
  elif ((now > asked + 1000000)); then  # Not one that was passed on twice.
    tell KILL
  fi
}
trap leave INT TERM HUP

start 0 "$@" &
running[$!]=0
for ((i = 1; i < n; i++)); do
  # Whatever ends the processes, what they say must still find a reader.
  exec {out}> >(trap '' INT TERM HUP; exec sed -u "s/^/[$i] /")
  start "$i" "$@" >&"$out" 2>&1 &
  running[$!]=$i
  exec {out}>&-
done

status=0
deadline=
exec {never}<> <(:)  # Nothing is ever written to it.
while ((${#running[@]})); do
  # Not `wait -n`, which overlooks a process killed together with another.
  read -r -t 0.05 -u "$never" || true
  if [[ $deadline ]] && ((SECONDS > deadline)); then
    tell KILL
  fi
  for pid in "${!running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      continue
    fi
    i=${running[$pid]}
    unset "running[$pid]"
    code=0
    wait "$pid" || code=$?
    if ((code && !status)); then
      status=$code
      echo "launch/local.sh: process $i left with $code" >&2
      tell TERM
      deadline=$((SECONDS + GRACE))
    fi
  done
done
exit "$status"
