"""Reads the collectives of a compiled program from its HLO text.

XLA's partitioner adds collectives to those that a program asks for; only the
text of the optimised program has them all.
"""

import collections
import math
import re

from vgsgan.train.costs import KINDS, Collective

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(
  rf"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ({'|'.join(KINDS)})(-start|-done)?"
  r"\((.*)$"
)
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALLED = re.compile(
  r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


def collectives(text: str) -> list[Collective]:
  """The collectives of a compiled program.

  A collective in a loop counts for every iteration, if the text has their
  number. An operation in several steps (-start and -done; on TPU also one that
  overlaps other computation) counts once.

  Args:
    text: `compiled.as_text()`.
  """
  lines = _by_computation(text)
  times = _executions(lines)
  everyone = _number(r"num_partitions=(\d+)", text) * _number(
    r"replica_count=(\d+)", text
  )
  done_types = _done_types(text)
  collectives: dict[str, Collective] = {}
  for computation, body in lines.items():
    for line in body:
      match = _COLLECTIVE.match(line)
      if not match or match[4] == "-done":
        continue
      name, shape, kind, start, rest = match.groups()
      devices = _group_size(rest, everyone)
      payload = array_bytes(done_types[name] if start else shape)
      if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # On TPU a fusion keeps a part of the sum.
      elif kind == "reduce-scatter":
        payload *= devices
      chain = re.search(r'chain_id="(\d+)"', rest)
      collectives[f"chain {chain[1]}" if chain else name] = Collective(
        kind, payload, devices, times[computation], _source(rest)
      )
  return [x for x in collectives.values() if x.devices > 1]


def array_bytes(shape: str) -> int:
  """Bytes of the arrays of an HLO type, such as `f32[8,4]{1,0}` or a tuple."""
  return sum(
    math.ceil(
      _bits(dtype) * math.prod(map(int, filter(None, sides.split(",")))) / 8
    )
    for dtype, sides in _ARRAY.findall(shape)
  )


def _bits(dtype: str) -> int:
  """Bits per element: 32 for `f32`, 8 for `f8e4m3`, 0 for a token."""
  if dtype == "pred":
    return 8
  return int((re.findall(r"\d+", dtype) or [0])[0])


def _by_computation(text: str) -> dict[str, list[str]]:
  """Lines of each computation by its name; the entry's name is ''."""
  lines: dict[str, list[str]] = collections.defaultdict(list)
  name = None
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      name = "" if line.startswith("ENTRY") else match[1]
    elif line.startswith("}"):
      name = None
    elif name is not None:
      lines[name].append(line)
  return lines


def _executions(lines: dict[str, list[str]]) -> dict[str, int]:
  """Executions of each computation in a run of the program, by its name."""
  callers: dict[str, tuple[str, int]] = {}
  for computation, body in lines.items():
    for line in body:
      if loop := _WHILE.search(line):
        callers[loop[2]] = (computation, _turns(line, lines[loop[1]]))
      called = _CALLED.findall(line)
      for branches in _BRANCHES.findall(line):
        called += re.findall(r"[\w.-]+", branches)
      for name in called:
        callers.setdefault(name, (computation, 1))
  times = {"": 1}

  def count(name: str) -> int:
    if name not in times:
      caller, turns = callers.get(name, ("", 1))
      times[name] = turns * count(caller)
    return times[name]

  return {name: count(name) for name in lines}


def _turns(line: str, condition: list[str]) -> int:
  """Iterations of a loop: XLA's number, else the bound of its counter."""
  if trips := _TRIPS.search(line):
    return int(trips[1])
  if not any("direction=LT" in x for x in condition):
    return 1
  bounds = re.findall(r"constant\((\d+)\)", "\n".join(condition))
  return int(bounds[0]) if len(bounds) == 1 else 1


def _done_types(text: str) -> dict[str, str]:
  """The result type of each asynchronous collective, by its start's name."""
  kinds = "|".join(KINDS)
  done = rf" = (.*?) (?:{kinds})-done\([^%]*%([\w.-]+)\)"
  return {start: shape for shape, start in re.findall(done, text)}


def _group_size(attributes: str, everyone: int) -> int:
  """Number of devices that take part together."""
  if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
    return len(listed[1].split(","))
  if strided := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
    return int(strided[1])
  mesh = re.search(
    r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes
  )
  if mesh is None:
    return everyone
  sides = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
  used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
  return math.prod(int(part or sides[axis]) for axis, part in used)


def _number(pattern: str, text: str) -> int:
  match = re.search(pattern, text)
  return int(match[1]) if match else 1


def _source(attributes: str) -> str:
  match = re.search(r'op_name="([^"]*)"', attributes)
  return match[1] if match else ""
