"""What a traced program computes and exchanges, before it is compiled.

Counted in the jaxpr, where loops say how often they turn and every collective
is one that the program asks for; the compiler may add some.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jax.extend import core

from vgsgan import hlo

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


class _Place(NamedTuple):
  """Where in a program: how often it runs, and on how many devices each.

  Attributes:
    times: executions in a run of the program.
    axes: of the mesh that are manual here, with their sizes.
    devices: that share one execution.
  """

  times: int
  axes: Mapping[str, int]
  devices: int


def flops(jaxpr: core.ClosedJaxpr, devices: int) -> float:
  """Operations of matrix products and convolutions, a device.

  Two a multiplication with its addition; evenly shared where the program is
  not about one device already. Of branches the dearest counts; a loop whose
  turns only the data decide counts once.

  Args:
    jaxpr: of the whole program.
    devices: that run it together.
  """
  return _flops(jaxpr.jaxpr, _Place(1, {}, devices))


def collectives(jaxpr: core.ClosedJaxpr, devices: int) -> list[hlo.Collective]:
  """The collectives that the program asks for; arguments as in `flops`."""
  return list(_collectives(jaxpr.jaxpr, _Place(1, {}, devices)))


def _flops(jaxpr: core.Jaxpr, place: _Place) -> float:
  total = 0.0
  for equation in jaxpr.eqns:
    inside = [_flops(*part) for part in _parts(equation, place)]
    branches = equation.primitive.name == "cond"
    total += max(inside) if branches else sum(inside)
    total += place.times * _operations(equation) / place.devices
  return total


def _collectives(jaxpr: core.Jaxpr, place: _Place) -> Iterator[hlo.Collective]:
  for equation in jaxpr.eqns:
    kind = _COLLECTIVES.get(equation.primitive.name)
    if kind:
      gathered = kind in ("all-gather", "collective-permute")
      values = equation.outvars if gathered else equation.invars
      payload = sum(x.aval.size * x.aval.dtype.itemsize for x in values)
      n = math.prod(place.axes[axis] for axis in _axes(equation.params))
      yield hlo.Collective(
        kind, payload, n, place.times, equation.primitive.name
      )
    for part in _parts(equation, place):
      yield from _collectives(*part)


def _axes(params: Mapping[str, Any]) -> tuple[str, ...]:
  axes = params.get("axes", params.get("axis_name"))
  return axes if isinstance(axes, tuple) else (axes,)


def _parts(equation: Any, place: _Place) -> Iterator[tuple[core.Jaxpr, _Place]]:
  """The programs that an equation runs, and where they are then."""
  params, name = equation.params, equation.primitive.name
  if name == "shard_map":
    sizes = dict(params["mesh"].shape)
    manual = {axis: sizes[axis] for axis in params["newly_manual_axes"]}
    shared = place.devices // math.prod(manual.values())
    place = _Place(place.times, {**place.axes, **manual}, shared)
  elif name == "scan":
    place = place._replace(times=place.times * params["length"])
  elif name == "pallas_call":
    turns = math.prod(params["grid_mapping"].grid)
    place = place._replace(times=place.times * turns)
  for value in params.values():
    for one in value if isinstance(value, list | tuple) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        one = one.jaxpr
      if isinstance(one, core.Jaxpr):
        yield one, place


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
  else:
    return 0.0
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _output_channels(params: Mapping[str, Any]) -> int:
  """The axis of a convolution's kernel that has a size for each output."""
  return params["dimension_numbers"].rhs_spec[0]
