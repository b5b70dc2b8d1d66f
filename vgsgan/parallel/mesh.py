"""Devices: the mesh, and what lies where on it.

The mesh has two axes, `data` and `model`. A batch is split over both. What is
trained lies whole on every device if `model` is 1, and else each large array is
split over `model`: parameters, averages and optimiser state alike. Networks are
gathered for a step, the optimiser updates a device's own part (ZeRO:
Rajbhandari et al., SC 2020; fully sharded data parallel). It is one program
either way; XLA adds the collectives.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgsgan.common.errors import UserError
from vgsgan.common.options import check_at_least

AXES = ("data", "model")

# Arrays of fewer numbers are not worth a collective each; they stay whole.
SMALLEST_SPLIT = 2**12


def make_mesh(
  num_devices: int | None = None,
  model: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The mesh of a run.

  Args:
    num_devices: only the first so many; None for all.
    model: devices that share one copy of what is trained. They are neighbours,
      so that those of one host or slice share first.
    devices: None for those that this run has.

  Raises:
    UserError: `model` does not divide the devices.
  """
  found = np.array(devices or jax.devices())[:num_devices]
  if model < 1 or len(found) % model:
    raise UserError(
      f"config.mesh.model={model} does not divide the {len(found)} devices: "
      "set it to 1, or to a divisor of their number"
    )
  return Mesh(found.reshape(-1, model), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
  """The leading dimension split over all devices."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def trained(tree: Any, mesh: Mesh) -> Any:
  """Where each array of a state lies: see the module's docstring.

  Args:
    tree: arrays, or what has their shapes.
    mesh: of `make_mesh`.
  """
  n = mesh.shape["model"]

  def place(x) -> NamedSharding:
    divisible = [i for i, side in enumerate(x.shape) if side % n == 0]
    if n == 1 or not divisible or math.prod(x.shape) < SMALLEST_SPLIT:
      return replicated(mesh)
    # The longest side; of equal ones the last, which are output channels.
    axis = max(divisible, key=lambda i: (x.shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "model"))

  return jax.tree.map(place, tree)


def by_rows(
  f: Callable[..., Any], mesh: Mesh | None = None
) -> Callable[..., Any]:
  """`f` of each device's own rows, where XLA would gather them all: for an FFT.

  Args:
    f: makes arrays with a leading dimension of such arrays, row by row.
    mesh: over all of which the rows are split; None for the one in whose
      context it is, as the trainer's step is, and for `f` itself outside.
  """
  if mesh is None and jax.sharding.get_abstract_mesh().empty:
    return f
  rows = PartitionSpec(AXES)
  return jax.shard_map(f, mesh=mesh, in_specs=rows, out_specs=rows)


def described(mesh: Mesh) -> str:
  """The devices of a run, in a line."""
  kinds = [device.device_kind for device in mesh.devices.flat]
  counts = [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]
  of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
  return f"devices: {', '.join(counts)}{of} (JAX {jax.__version__})"


def check_batch(batch: int, mesh: Mesh, field: str, parts: int = 1) -> None:
  """Refuses a global batch that the devices can't share evenly.

  Args:
    batch: rows.
    mesh: the devices.
    field: of the config, that says how many rows.
    parts: in which each device takes its rows, `config.train.accumulate`.

  Raises:
    UserError: with the arithmetic.
  """
  check_at_least(field, batch, 1)
  n = mesh.size * parts
  whole, rest = divmod(batch, n)
  if rest:
    near = f"{whole * n} or {(whole + 1) * n}" if whole else f"{n}"
    share, uneven = divmod(batch, mesh.size)
    fewer = ""
    if parts > 1 and share and not uneven:
      fewer = f", or --config.train.accumulate to a divisor of {share}"
    raise UserError(
      f"a batch of {batch} does not divide over {mesh.size} device"
      f"{'s' if mesh.size > 1 else ''}"
      f"{f' in {parts} parts each' if parts > 1 else ''}: "
      f"{batch} = {n} x {whole} + {rest}; set --config.{field} to {near}{fewer}"
    )


def local_rows(batch: int) -> slice:
  """The rows of a global batch that this process loads."""
  rows = batch // jax.process_count()
  return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def shard(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This process's rows, as global arrays split over the devices."""
  sharding = over_data(mesh)
  # Asked for, though with several processes JAX takes it for a hidden copy.
  with jax.transfer_guard_host_to_device("allow"):
    return {
      name: jax.make_array_from_process_local_data(sharding, rows)
      for name, rows in batch.items()
    }


def abstract(tree: Any, mesh: Mesh) -> Any:
  """Shapes, dtypes and places of a state, to compile for or restore into."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    tree,
    trained(tree, mesh),
  )
