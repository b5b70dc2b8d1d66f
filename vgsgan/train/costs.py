"""Counts the FLOPs and collectives of a traced program before compilation.

The counts are of the jaxpr, where loops state their number of iterations. The
compiler may add collectives to those that the program asks for.
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

# HLO's names of the collectives inside `shard_map`.
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

# Products in bfloat16 that a TPU computes for one in float32.
_BFLOAT16_PASSES = {lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6}


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective of the program, as one device sees it.

  Attributes:
    kind: a name of `KINDS`.
    payload: bytes of the whole array that one execution gathers, reduces or
      exchanges: the result, or the operand of a reduce-scatter.
    devices: number that take part together.
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

  (n - 1) / n of the payload for a gather, a reduce-scatter or an exchange;
  twice that for an all-reduce, which is a reduce-scatter and a gather; all of
  it for a permutation. These are also the least possible ones (Chan et al.,
  "Collective communication: theory, practice, and experience", 2007, sec. 4).

  Args:
    kind: a name of `KINDS`.
    payload: bytes, as in `Collective`.
    devices: n.
  """
  if kind == "collective-permute":
    return float(payload)
  return (1 + (kind == "all-reduce")) * payload * (devices - 1) / devices


class _Place(NamedTuple):
  """A place in a program.

  Attributes:
    times: executions in a run of the program.
    axes: the manual mesh axes here, with their sizes.
    devices: number that share one execution.
    platform: the platform that it is compiled for.
    branches: this platform's branch, for each variable here by which
      `lax.platform_dependent` chooses.
  """

  times: int
  axes: Mapping[str, int]
  devices: int
  platform: str
  branches: Mapping[core.Var, int]


def flops(jaxpr: core.ClosedJaxpr, devices: int, platform: str) -> float:
  """FLOPs of matrix products and convolutions, per device.

  A multiply-add counts two. Devices share the work evenly, except inside
  `shard_map`, which is written per device. Where data choose a branch, the most
  expensive one counts; a loop whose iterations depend on data counts once.

  Args:
    jaxpr: the whole program.
    devices: number that run it together.
    platform: their `jax.Device.platform`.
  """
  place = _Place(1, {}, devices, platform, {})
  return _flops(jaxpr.jaxpr, place, _operations)


def bfloat16_flops(
  jaxpr: core.ClosedJaxpr, devices: int, platform: str
) -> float:
  """FLOPs in bfloat16 that a TPU's matrix units need for the program.

  A float32 product takes one at the default precision, three at
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
  """Sums `cost` over all executions of all equations, per device."""
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
  """The place, with the platform's branches of this program."""
  branches = {
    equation.outvars[0]: _branch(equation.params["platforms"], place.platform)
    for equation in jaxpr.eqns
    if equation.primitive.name == "platform_index"
  }
  return place._replace(branches={**place.branches, **branches})


def _branch(platforms: Any, platform: str) -> int:
  """Index of the branch that a platform takes; None stands for any platform."""
  names = ("cuda", "rocm") if platform == "gpu" else (platform,)
  return next(
    i
    for i, listed in enumerate(platforms)
    if listed is None or any(name in listed for name in names)
  )


def _together(params: Mapping[str, Any], place: _Place) -> int:
  """Number of devices that take part in one collective."""
  if groups := params.get("axis_index_groups"):
    return len(groups[0])
  axes = params.get("axes", params.get("axis_name"))
  axes = axes if isinstance(axes, tuple) else (axes,)
  return math.prod(place.axes[axis] for axis in axes)


def _parts(equation: Any, place: _Place) -> Iterator[tuple[core.Jaxpr, _Place]]:
  """The programs that an equation runs, and their places."""
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
  if name == "cond" and _is_by_platform(equation.invars[0], place):
    inside = [inside[place.branches[equation.invars[0]]]]
  for program in inside:
    # A program's arguments are the last ones of its equation.
    skipped = max(0, len(equation.invars) - len(program.invars))
    branches = {
      inner: place.branches[outer]
      for inner, outer in zip(
        program.invars, equation.invars[skipped:], strict=False
      )
      if _is_by_platform(outer, place)
    }
    yield program, place._replace(branches=branches)


def _is_by_platform(argument: Any, place: _Place) -> bool:
  """Tells whether an argument chooses a branch by platform."""
  return isinstance(argument, core.Var) and argument in place.branches


def _programs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
  """The programs among an equation's parameters, in their order."""
  for value in params.values():
    for program in value if isinstance(value, list | tuple) else (value,):
      if isinstance(program, core.ClosedJaxpr):
        program = program.jaxpr
      if isinstance(program, core.Jaxpr):
        yield program


def _bfloat16_operations(equation: Any) -> float:
  """FLOPs of an equation in bfloat16, on a TPU."""
  operations = _operations(equation)
  if not operations or equation.invars[0].aval.dtype != jnp.float32:
    return operations
  precision = equation.params.get("precision")
  both = precision if isinstance(precision, tuple) else (precision,)
  return operations * max(_BFLOAT16_PASSES.get(x, 1) for x in both)


def _operations(equation: Any) -> float:
  """FLOPs of one equation, without its programs, on all devices together."""
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
  elif equation.primitive.name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    depth = math.prod(kernel) / kernel[_output_channels(equation.params)]
    # A transposed convolution has zeros between its inputs, which cost nothing.
    depth /= math.prod(equation.params["lhs_dilation"])
  elif equation.primitive.name in convolution.PRIMITIVES:
    return convolution.flops(equation)
  else:
    return 0.0
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _output_channels(params: Mapping[str, Any]) -> int:
  """The output-channel axis of a convolution's kernel."""
  return params["dimension_numbers"].rhs_spec[0]
