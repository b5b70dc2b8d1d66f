"""What a traced program computes and exchanges, before it is compiled.

Counted in the jaxpr, where loops say how often they turn and every collective
is one that the program asks for; the compiler may add some.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend import core

from vgsgan.kernels import convolution

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

# Of collectives inside `shard_map`: what they are called in HLO.
_COLLECTIVES = {
  "all_gather": "all-gather",
  "all_gather_invariant": "all-gather",
  "all_to_all": "all-to-all",
  "pmax": "all-reduce",
  "pmin": "all-reduce",
  "ppermute": "collective-permute",
  "psum": "all-reduce",
  "psum_invariant": "all-reduce",
  "reduce_scatter": "reduce-scatter",
}

# Products of bfloat16 that a TPU makes of one of float32.
_BFLOAT16_PASSES = {lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6}


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective of the program, as one device sees it.

  Attributes:
    kind: a name of `KINDS`.
    payload: bytes, in one execution, of the whole that is gathered, reduced or
      exchanged: the result, and of a reduce-scatter the operand.
    devices: that take part together.
    times: executions in a run of the program.
    source: the operation that it was compiled from.
  """

  kind: str
  payload: int
  devices: int
  times: int = 1
  source: str = ""

  @property
  def sent(self) -> float:
    """Bytes that each device sends in a run of the program; see `sent`."""
    return self.times * sent(self.kind, self.payload, self.devices)


def sent(kind: str, payload: int | float, devices: int) -> float:
  """Bytes that each of n devices sends, by the usual ring algorithms.

  (n - 1) / n of the payload of a gather, a reduce-scatter or an exchange; twice
  that for an all-reduce, which is a reduce-scatter and a gather; all of it for
  a permutation (Chan et al., "Collective communication: theory, practice, and
  experience", 2007, section 4: also the least that is possible).

  Args:
    kind: a name of `KINDS`.
    payload: bytes, as in `Collective`.
    devices: n.
  """
  if kind == "collective-permute":
    return float(payload)
  return (1 + (kind == "all-reduce")) * payload * (devices - 1) / devices


class _Place(NamedTuple):
  """Where in a program: how often it runs, and on how many devices each.

  Attributes:
    times: executions in a run of the program.
    axes: of the mesh that are manual here, with their sizes.
    devices: that share one execution.
    platform: that it is compiled for.
    branches: of each variable here by which `lax.platform_dependent` chooses,
      the branch of this platform.
  """

  times: int
  axes: Mapping[str, int]
  devices: int
  platform: str
  branches: Mapping[core.Var, int]


def flops(jaxpr: core.ClosedJaxpr, devices: int, platform: str) -> float:
  """Operations of matrix products and convolutions, a device.

  Two a multiplication with its addition; evenly shared where the program is
  not about one device already. Of branches that the data choose the dearest
  counts; a loop whose turns only the data decide counts once.

  Args:
    jaxpr: of the whole program.
    devices: that run it together.
    platform: of theirs, as `jax.Device.platform` names it.
  """
  place = _Place(1, {}, devices, platform, {})
  return _flops(jaxpr.jaxpr, place, _operations)


def bfloat16_flops(
  jaxpr: core.ClosedJaxpr, devices: int, platform: str
) -> float:
  """The operations that a TPU's matrix units make of `flops`, in bfloat16.

  Of float32 they make one product at the default precision, three at
  `Precision.HIGH` and six at `HIGHEST`. Arguments as in `flops`.
  """
  place = _Place(1, {}, devices, platform, {})
  return _flops(jaxpr.jaxpr, place, _bfloat16_operations)


def collectives(
  jaxpr: core.ClosedJaxpr, devices: int, platform: str
) -> list[Collective]:
  """The collectives that the program asks for; arguments as in `flops`."""
  place = _Place(1, {}, devices, platform, {})
  return list(_collectives(jaxpr.jaxpr, place))


def _flops(
  jaxpr: core.Jaxpr, place: _Place, cost: Callable[[Any], float]
) -> float:
  """What `cost` says of every equation, in all its executions, a device."""
  place, total = _with_branches(jaxpr, place), 0.0
  for equation in jaxpr.eqns:
    inside = [_flops(*part, cost) for part in _parts(equation, place)]
    branches = equation.primitive.name == "cond"
    total += max(inside) if branches else sum(inside)
    total += place.times * cost(equation) / place.devices
  return total


def _collectives(jaxpr: core.Jaxpr, place: _Place) -> Iterator[Collective]:
  place = _with_branches(jaxpr, place)
  for equation in jaxpr.eqns:
    kind = _COLLECTIVES.get(equation.primitive.name)
    if kind:
      gathered = kind in ("all-gather", "collective-permute")
      values = equation.outvars if gathered else equation.invars
      payload = sum(x.aval.size * x.aval.dtype.itemsize for x in values)
      n = _together(equation.params, place)
      yield Collective(kind, payload, n, place.times, equation.primitive.name)
    for part in _parts(equation, place):
      yield from _collectives(*part)


def _with_branches(jaxpr: core.Jaxpr, place: _Place) -> _Place:
  """The place, with the choices by platform that are made in this program."""
  made = {
    equation.outvars[0]: _branch(equation.params["platforms"], place.platform)
    for equation in jaxpr.eqns
    if equation.primitive.name == "platform_index"
  }
  return place._replace(branches={**place.branches, **made})


def _branch(platforms: Any, platform: str) -> int:
  """Which of the branches a platform takes; None stands for any."""
  names = ("cuda", "rocm") if platform == "gpu" else (platform,)
  return next(
    i
    for i, known in enumerate(platforms)
    if known is None or any(name in known for name in names)
  )


def _together(params: Mapping[str, Any], place: _Place) -> int:
  """Devices that take part in one collective."""
  if groups := params.get("axis_index_groups"):
    return len(groups[0])
  axes = params.get("axes", params.get("axis_name"))
  axes = axes if isinstance(axes, tuple) else (axes,)
  return math.prod(place.axes[axis] for axis in axes)


def _parts(equation: Any, place: _Place) -> Iterator[tuple[core.Jaxpr, _Place]]:
  """The programs that an equation runs, and where they are then."""
  params, name = equation.params, equation.primitive.name
  if name == "shard_map":
    sizes = dict(params["mesh"].shape)
    manual = {axis: sizes[axis] for axis in params["newly_manual_axes"]}
    shared = place.devices // math.prod(manual.values())
    place = place._replace(axes={**place.axes, **manual}, devices=shared)
  elif name == "scan":
    place = place._replace(times=place.times * params["length"])
  elif name == "pallas_call":
    turns = math.prod(params["grid_mapping"].grid)
    place = place._replace(times=place.times * turns)
  inside = list(_programs(params))
  if name == "cond" and _is_known(equation.invars[0], place):
    inside = [inside[place.branches[equation.invars[0]]]]
  for one in inside:
    # What a program is given are the last of its equation's arguments.
    given = equation.invars[max(0, len(equation.invars) - len(one.invars)) :]
    branches = {
      inner: place.branches[outer]
      for inner, outer in zip(one.invars, given, strict=False)
      if _is_known(outer, place)
    }
    yield one, place._replace(branches=branches)


def _is_known(argument: Any, place: _Place) -> bool:
  """Whether an argument is a choice by platform."""
  return isinstance(argument, core.Var) and argument in place.branches


def _programs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
  """The programs among an equation's parameters, in their order."""
  for value in params.values():
    for one in value if isinstance(value, list | tuple) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        one = one.jaxpr
      if isinstance(one, core.Jaxpr):
        yield one


def _bfloat16_operations(equation: Any) -> float:
  """As `_operations`, times the passes that a TPU makes."""
  operations = _operations(equation)
  if not operations or equation.invars[0].aval.dtype != jnp.float32:
    return operations
  precision = equation.params.get("precision")
  both = precision if isinstance(precision, tuple) else (precision,)
  return operations * max(_BFLOAT16_PASSES.get(one, 1) for one in both)


def _operations(equation: Any) -> float:
  """Of one equation by itself, on all devices that share it."""
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
  elif equation.primitive.name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    depth = math.prod(kernel) / kernel[_output_channels(equation.params)]
    # Of a transposed convolution, zeros between the numbers.
    depth /= math.prod(equation.params["lhs_dilation"])
  elif equation.primitive.name in convolution.PRIMITIVES:
    return convolution.flops(equation)
  else:
    return 0.0
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _output_channels(params: Mapping[str, Any]) -> int:
  """The axis of a convolution's kernel that has a size for each output."""
  return params["dimension_numbers"].rhs_spec[0]
