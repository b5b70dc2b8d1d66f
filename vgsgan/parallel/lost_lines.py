"""Shortens the native output about a lost process to one line.

`processes` runs it as a separate program. It imports nothing of vgsgan, to
start quickly. It reads on standard input what C++ writes to standard output and
error, and passes it on to standard error, except the messages of JAX's
coordination service about a lost process and of Gloo about its connections.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator

LOST_LINE = (
  "vgsgan: another process of this run is gone: {how}; what it said last tells "
  "why, and the same command goes on from the last checkpoint"
)

# A write that failed for one of these may succeed later.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR)
_START = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d")
_FATAL = re.compile(r"F\d{4} ")
_SERVICE = re.compile(r"coordination_service|preemption_sync|client\.h:")
_REASONS = (
  (
    r"RegisterTask",
    "vgsgan: not all processes of this run have come within the time for it: "
    "start all of them, with the --coordinator_address of process 0, which "
    "each must be able to reach",
  ),
  (r"hutdown barrier", "the others did not end when this one did"),
  (
    r"stopped sending heartbeats\):\s*(?P<which>\d[\d, ]*)",
    "no sign of life of process {which}",
  ),
  (r"Failed to send RPC|Socket closed", "process 0 does not answer"),
)


def shortened(lines: Iterable[str]) -> Iterator[str]:
  """Yields the lines, but holds those of the service back to the end.

  If the service has ended the process, and the process itself has not said why,
  they become one line that explains them.
  """
  held: list[str] = []
  holding = explained_itself = False
  for line in lines:
    if line.startswith("[Gloo] Rank "):
      continue
    if line.startswith("vgsgan: "):
      explained_itself, holding = True, False
    elif _START.match(line):
      holding = bool(_SERVICE.search(line.partition("]")[0]))
    elif line.startswith("Traceback "):
      holding = False  # Python says why the process ends.
    if holding:
      held.append(line)
    else:
      yield line
  if explained_itself:
    return
  if any(map(_FATAL.match, held)):
    yield f"{explained(''.join(held))}\n"
  else:
    yield from held


def explained(text: str) -> str:
  """Turns the service's last words before the abort into one line."""
  for pattern, how in _REASONS:
    if match := re.search(pattern, text):
      how = how.format(**match.groupdict()).strip(" ,")
      break
  else:
    how = " ".join(text.partition("absl::Status: ")[2].split())[:160]
  return how if how.startswith("vgsgan: ") else LOST_LINE.format(how=how)


def main() -> None:
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  sys.stdin.reconfigure(errors="replace")
  for line in shortened(sys.stdin):
    try:
      os.write(2, line.encode(errors="replace"))
    except OSError as error:
      if error.errno in _PASSING:
        continue
      # Nobody reads standard error, and C++ must not wait for a reader.
      os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
  main()
