"""Reads what native code says, and makes one line of a lost process.

A program of its own (see `processes`), quick to start: it imports nothing of
vgsgan. Standard input is what C++ writes to standard output and error. All of
it is passed on to standard error but for what JAX's coordination service says
of a lost process, and whom Gloo has met.
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
  """The lines, those of the service held back to the end.

  There they become one that says what they mean, if the service has ended the
  process and the process itself did not say why it ends.
  """
  held: list[str] = []
  holding = said = False
  for line in lines:
    if line.startswith("[Gloo] Rank "):
      continue
    if line.startswith("vgsgan: "):
      said, holding = True, False
    elif _START.match(line):
      holding = bool(_SERVICE.search(line.partition("]")[0]))
    elif line.startswith("Traceback "):
      holding = False  # Of Python, which says why the process ends.
    if holding:
      held.append(line)
    else:
      yield line
  if said:
    return
  if any(map(_FATAL.match, held)):
    yield f"{explained(''.join(held))}\n"
  else:
    yield from held


def explained(text: str) -> str:
  """The service's last words before it ended the process, as one line."""
  for pattern, how in _REASONS:
    if found := re.search(pattern, text):
      how = how.format(**found.groupdict()).strip(" ,")
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
      # Nobody reads it: C++ must not come to wait until somebody does.
      os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
  main()
