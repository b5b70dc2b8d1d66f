"""The processes of one run: how they meet, watch and lose each other.

Nothing waits for ever. A process that ends takes the others with it: their
collectives fail, or its heartbeats are missed, and each of them says one line
and leaves with `LOST`; the same command goes on from the last checkpoint. A
process that lives but does not move is left by the others after a limit of
`Waiting`. docs/reliability.md has the table of all waits.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import ipaddress
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from vgsgan.common import streams
from vgsgan.common.errors import UserError, one_line

# All in seconds. A pod's machines do not start at the same moment.
JOIN_SECONDS = 300
# Without a sign of life for so long, a process is taken for dead.
HEARTBEAT_SECONDS = 40
# One step, one batch of an evaluation, one save: none takes so long.
STALL_SECONDS = 1800.0
# Until the process that prepares a data set has done so.
PREPARE_SECONDS = 6 * 3600.0
# Between the ends of the first and the last process.
LEAVE_SECONDS = 60
# The exit status of a process that has lost another (SIGABRT, as JAX's own).
LOST = 134

# How errors of collectives look, of Gloo, NCCL, TPU and JAX's own service.
_CUT_OFF = re.compile(
  r"Gloo|NCCL|coordination service|Connection (closed|reset)|Socket closed"
  r"|UNAVAILABLE|DEADLINE_EXCEEDED|barrier",
  re.IGNORECASE,
)
# An IPv6 address stands in brackets.
_ADDRESS = re.compile(r"(?:\[[^\[\]\s]+\]|[^:\s]+):(\d{1,5})")


@dataclasses.dataclass
class Waiting:
  """What this process does, and how long that may take without moving on."""

  what: str
  limit: float  # Seconds.
  since: float  # time.monotonic().


_JOINING, _PARTING = "waiting for all to start", "waiting for all to end"
_now = Waiting("start-up", STALL_SECONDS, time.monotonic())
# Held for ever by the thread that says why this process ends.
_leaving = threading.Lock()


def start(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Joins the processes of a run. Must come before anything asks for devices.

  With a loopback address nothing outside this machine can reach the service by
  which they meet; it asks nobody who they are.

  Args:
    coordinator_address: `host:port` of process 0, or None where JAX finds the
      cluster itself (Cloud TPU, SLURM, Kubernetes, Open MPI).
    num_processes: how many processes there are, or None likewise.
    process_id: which of them this is, or None likewise.

  Raises:
    UserError: there is no cluster to be found and no address was given, or the
      address is none, or its port is not free on process 0.
  """
  if coordinator_address is not None:
    _check_address(coordinator_address, process_id)
  _report_losses()
  moved(_JOINING)
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
    if distributed.global_state.client is not None:
      _lost()
    reason = one_line(error)
    raise UserError(
      f"cannot join a cluster: {reason} Pass --coordinator_address=HOST:PORT "
      "--num_processes=N --process_id=I, or leave out --distributed."
    ) from error
  moved("start-up")
  atexit.register(_part)
  threading.Thread(target=_watch, daemon=True, name="stalled").start()


def _bind_address(address: str | None) -> str | None:
  """The loopback's `host:port` to listen at, or None: JAX takes all interfaces.

  Names are not looked up: Debian's own machine name is a loopback address on
  process 0 alone.
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
  """Refuses what JAX would meet with a traceback, or by ending in C++."""
  found = _ADDRESS.fullmatch(address)
  if not found or not 0 < int(found[1]) < 2**16:
    raise UserError(
      f"--coordinator_address={address} is not HOST:PORT, such as node-0:8476"
    )
  if process_id == 0:
    with socket.socket() as probe:
      # What an ended run has left of its connections does not count.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(("", int(found[1])))
      except OSError as error:
        raise UserError(
          f"--coordinator_address={address}: port {found[1]} cannot be used "
          f"({error.strerror}): choose another"
        ) from error


def first() -> bool:
  """Whether this process is the one that writes and speaks."""
  return jax.process_index() == 0


def moved(what: str | None = None, limit: float = STALL_SECONDS) -> None:
  """Notes that this process goes on, and with what, if with something else."""
  global _now
  _now = Waiting(what or _now.what, limit, time.monotonic())


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
  """Around a wait for `what`; the limit is that of what it is a part of."""
  before = _now
  moved(what, before.limit)
  try:
    yield
  finally:
    moved(before.what, before.limit)


def meet(what: str) -> None:
  """Returns when all processes have come here; `what` they have done."""
  if jax.process_count() > 1:
    with (
      jax.transfer_guard("allow"),
      waiting(f"waiting until all processes have {what}"),
    ):
      multihost_utils.sync_global_devices(what)


def require_same(number: int, what: str, advice: str) -> None:
  """Refuses to go on where the processes disagree about a number.

  Raises:
    UserError: on every process, with the numbers that differ.
  """
  if jax.process_count() == 1:
    return
  with jax.transfer_guard("allow"), waiting(f"comparing {what}"):
    found = multihost_utils.process_allgather(np.int32(number))
  other = int(np.argmax(found != found[0]))
  if other:
    raise UserError(
      f"{what} is {found[0]} to process 0 and {found[other]} to process "
      f"{other}: {advice}"
    )


@contextlib.contextmanager
def together(*passing: type[Exception]) -> Iterator[None]:
  """Around what all processes do: a failure of one ends it at once.

  Not in order: the others, who do not know yet, are not where this process
  would wait for them. Their collectives fail as its connections close.

  Args:
    passing: what all processes raise at the same place, which is no failure.
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
  """The last line of a process that fails, and its exit status."""
  if isinstance(error, UserError):
    return f"vgsgan: {error}", 2
  if _CUT_OFF.search(f"{type(error).__name__} {error}"):
    reason = one_line(error)[:160]
    return _lost_line(f"its connections failed ({reason})"), LOST
  return traceback.format_exc().rstrip(), 1


def _lost_line(how: str) -> str:
  return (
    f"vgsgan: another process of this run is gone: {how}; what it said last "
    "tells why, and the same command goes on from the last checkpoint"
  )


def _report_losses() -> None:
  """Has JAX call `_lost` where it would abort with forty lines of C++.

  `jax.distributed.initialize` does not pass such a function on to its client.
  The client cannot convert the function's argument (JAX 0.10 to 0.12): before
  the call it ends the process with a `std::bad_cast`, so that counts as one.
  """
  jaxlib = distributed._jax
  jaxlib.get_distributed_runtime_client = functools.partial(
    jaxlib.get_distributed_runtime_client, missed_heartbeat_callback=_lost
  )
  _at_bad_cast(_lost)


def _at_bad_cast(call: Callable[[], None]) -> None:
  """Has C++ call a function where it ends this process with that exception."""
  global _at_terminate
  cpp = ctypes.CDLL("libstdc++.so.6")
  set_terminate = cpp["_ZSt13set_terminatePFvvE"]
  set_terminate.restype = handler = ctypes.CFUNCTYPE(None)
  exception = cpp["__cxa_current_exception_type"]
  exception.restype = ctypes.POINTER(ctypes.c_char_p)

  def end() -> None:
    kind = exception()
    if kind and kind[1] == b"St8bad_cast":  # The name is the second field.
      call()
    usual()

  _at_terminate = handler(end)  # Kept: C++ has no more than its address.
  usual = set_terminate(_at_terminate)


def _lost(status: object = None) -> None:
  """Ends this process: JAX's service has lost one, or cannot be reached."""
  if _now.what == _JOINING:
    _leave(
      "vgsgan: not all processes of this run have come within the time for it: "
      "start all of them, with the --coordinator_address of process 0, which "
      "each must be able to reach",
      LOST,
    )
  if _now.what == _PARTING:
    how = "it did not end when this process did"
  elif distributed.global_state.process_id == 0:
    how = f"no sign of life for {HEARTBEAT_SECONDS} s"
  else:
    how = f"no sign of life for {HEARTBEAT_SECONDS} s, or of process 0 at all"
  _leave(_lost_line(how), LOST)


def _part() -> None:
  """Leaves the run at exit; JAX would say with a traceback who stays."""
  moved(_PARTING)
  try:
    jax.distributed.shutdown()
  except RuntimeError:
    _lost()


def _watch() -> None:
  """Ends this process when it has not moved on for the limit of its wait."""
  run = distributed.global_state  # Asks no backend, which may hang.
  while True:
    time.sleep(1.0)
    now = _now
    waited = time.monotonic() - now.since
    if waited > now.limit:
      _leave(
        f"vgsgan: process {run.process_id} of {run.num_processes} has "
        f"not moved for {waited:.0f} s, while {now.what}: another process or a "
        "disk may hang; the same command goes on from the last checkpoint",
        LOST,
      )


def _leave(line: str, status: int) -> None:
  """Says a line and ends this process without waiting for anything."""
  _leaving.acquire()
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    sys.stderr.flush()
  streams.say(line)  # Past Python's stream, whose lock others may hold.
  os._exit(status)
