"""Starts, synchronises and watches the processes of one run.

Nothing waits for ever. A process that ends takes the others with it: their
collectives fail, or its heartbeats are missed, and each of them prints one line
and leaves with `LOST`; the same command goes on from the last checkpoint. A
process that lives but does not move is left by the others after a limit of
`Waiting`. docs/reliability.md has the table of all waits.
"""

import contextlib
import dataclasses
import ipaddress
import os
import pathlib
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from vgsgan.common import streams
from vgsgan.common.errors import UserError, one_line
from vgsgan.parallel.lost_lines import LOST_LINE

# All in seconds. A pod's machines do not start at the same moment.
JOIN_SECONDS = 300
# A process without a heartbeat for so long counts as dead.
HEARTBEAT_SECONDS = 40
# No step, batch of an evaluation or save takes so long.
STALL_SECONDS = 1800.0
# The longest wait for another process that prepares a data set.
PREPARE_SECONDS = 6 * 3600.0
# The longest time between the ends of the first and the last process.
LEAVE_SECONDS = 60
# Status of an abort in C++ (SIGABRT), after which launchers start again.
LOST = 134

# Texts in errors of collectives, of Gloo, NCCL, TPU and JAX's own service.
_CUT_OFF = re.compile(
  r"Gloo|NCCL|coordination service|Connection (closed|reset)|Socket closed"
  r"|UNAVAILABLE|DEADLINE_EXCEEDED|barrier",
  re.IGNORECASE,
)
# An IPv6 address stands in brackets.
_ADDRESS = re.compile(r"(?:\[[^\[\]\s]+\]|[^:\s]+):(\d{1,5})")


@dataclasses.dataclass
class Waiting:
  """A stage of the run, with the time that it may take."""

  what: str
  limit: float  # Seconds.
  since: float  # time.monotonic().


_now = Waiting("start-up", STALL_SECONDS, time.monotonic())


def start(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Joins the processes of a run, before any use of devices.

  JAX's service does not authenticate its clients. With a loopback address it
  can be reached from this machine alone.

  Args:
    coordinator_address: `host:port` of process 0, or None if JAX finds the
      cluster itself (Cloud TPU, SLURM, Kubernetes, Open MPI).
    num_processes: number of processes, or None if JAX finds it.
    process_id: index of this process, or None if JAX finds it.

  Raises:
    UserError: JAX finds no cluster and no address was given, or the address is
      invalid, or its port is not free on process 0.
  """
  if coordinator_address is not None:
    _check_address(coordinator_address, process_id)
  _shorten_native_output()
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      initialization_timeout=JOIN_SECONDS,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=LEAVE_SECONDS,
      coordinator_bind_address=_bind_address(coordinator_address),
    )
  except (ValueError, RuntimeError) as error:
    reason = one_line(error)
    raise UserError(
      f"cannot join a cluster: {reason} Pass --coordinator_address=HOST:PORT "
      "--num_processes=N --process_id=I, or leave out --distributed."
    ) from error
  moved()
  threading.Thread(target=_watch, daemon=True, name="stalled").start()


def _bind_address(address: str | None) -> str | None:
  """The loopback's `host:port` to listen at, or None for all interfaces.

  Names are not resolved: Debian's name of the machine itself is a loopback
  address on process 0 alone.
  """
  given = "JAX_COORDINATOR_BIND_ADDRESS" in os.environ
  address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address is None or given:
    return None
  host = address.rpartition(":")[0].strip("[]")
  if host == "localhost":
    return address
  try:
    return address if ipaddress.ip_address(host).is_loopback else None
  except ValueError:
    return None


def _check_address(address: str, process_id: int | None) -> None:
  """Refuses addresses that end in a traceback of JAX or an abort in C++."""
  match = _ADDRESS.fullmatch(address)
  if not match or not 0 < int(match[1]) < 2**16:
    raise UserError(
      f"--coordinator_address={address} is not HOST:PORT, such as node-0:8476"
    )
  if process_id == 0:
    with socket.socket() as probe:
      # Connections that an ended run has left do not count.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(("", int(match[1])))
      except OSError as error:
        raise UserError(
          f"--coordinator_address={address}: port {match[1]} cannot be used "
          f"({error.strerror}): choose another"
        ) from error


def first() -> bool:
  """Tells whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def moved(what: str | None = None, limit: float = STALL_SECONDS) -> None:
  """Records a sign of life, and the new stage `what` if there is one."""
  global _now
  _now = Waiting(what or _now.what, limit, time.monotonic())


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
  """Marks a wait for `what` within a stage, whose limit it keeps."""
  before = _now
  moved(what, before.limit)
  try:
    yield
  finally:
    moved(before.what, before.limit)


def meet(what: str) -> None:
  """Waits for all processes; `what` says what they have done."""
  if jax.process_count() > 1:
    with (
      jax.transfer_guard("allow"),
      waiting(f"waiting until all processes have {what}"),
    ):
      multihost_utils.sync_global_devices(what)


def require_same(number: int, what: str, advice: str) -> None:
  """Refuses to go on if the processes disagree about a number.

  Raises:
    UserError: on every process, with the numbers that differ.
  """
  if jax.process_count() == 1:
    return
  with jax.transfer_guard("allow"), waiting(f"comparing {what}"):
    numbers = multihost_utils.process_allgather(np.int32(number))
  other = int(np.argmax(numbers != numbers[0]))
  if other:
    raise UserError(
      f"{what} is {numbers[0]} to process 0 and {numbers[other]} to process "
      f"{other}: {advice}"
    )


@contextlib.contextmanager
def together(*passing: type[Exception]) -> Iterator[None]:
  """Ends this process at once if it fails in work that all processes share.

  An orderly end would wait for the others, which do not know of the failure and
  come to no such wait. Their collectives fail as its connections close.

  Args:
    passing: exceptions that all processes raise at the same place.
  """
  try:
    yield
  except passing:
    raise
  except Exception as error:
    if jax.process_count() == 1:
      raise
    _leave(*_last_words(error))


def _last_words(error: Exception) -> tuple[str, int]:
  """Chooses the last line of a failing process, and its exit status."""
  if isinstance(error, UserError):
    return f"vgsgan: {error}", 2
  if _CUT_OFF.search(f"{type(error).__name__} {error}"):
    reason = one_line(error)[:160]
    return lost_line(f"its connections failed ({reason})"), LOST
  return traceback.format_exc().rstrip(), 1


def lost_line(how: str) -> str:
  return LOST_LINE.format(how=how)


def _watch() -> None:
  """Ends this process when its stage has lasted longer than its limit."""
  while True:
    time.sleep(1.0)
    now = _now
    waited = time.monotonic() - now.since
    if waited > now.limit:
      _leave(
        f"vgsgan: process {jax.process_index()} of {jax.process_count()} has "
        f"not moved for {waited:.0f} s, while {now.what}: another process or a "
        "disk may hang; the same command goes on from the last checkpoint",
        LOST,
      )


def _leave(line: str, status: int) -> None:
  """Prints a line and ends this process without waiting for anything."""
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    sys.stderr.flush()
  # Past Python's stream, so that `lost_lines` reads it and prints it once.
  streams.say(line)
  os._exit(status)


def _shorten_native_output() -> None:
  """Pipes native output through `lost_lines`; Python's output is unchanged.

  JAX's service aborts a process that has lost the others in C++, with forty
  lines, before Python can notice. Gloo reports its connections on standard
  output.
  """
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  out, err = os.dup(1), os.dup(2)  # Child processes do not inherit these.
  read, write = os.pipe()
  reader = pathlib.Path(__file__).with_name("lost_lines.py")
  os.posix_spawn(
    sys.executable,
    [sys.executable, "-S", "-E", str(reader)],
    os.environ,
    file_actions=[
      (os.POSIX_SPAWN_DUP2, read, 0),
      (os.POSIX_SPAWN_CLOSE, write),
    ],
    setsid=True,  # Ctrl-C must not end it; it ends with this process.
  )
  os.close(read)
  os.dup2(write, 1)
  os.dup2(write, 2)
  os.close(write)
  buffering = 1 if os.isatty(out) else -1
  encoding = {
    "encoding": sys.stdout.encoding,
    "errors": sys.stdout.errors,
  }
  sys.stdout = streams.Lasting(os.fdopen(out, "w", buffering, **encoding))
  sys.stderr = streams.Lasting(os.fdopen(err, "w", 1, **encoding))
