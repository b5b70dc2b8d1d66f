"""The mesh of devices, and the shardings of batches and states on it.

The mesh has two axes, `data` and `model`. A batch is split over both. If
`model` is 1, every device has a copy of the state. Otherwise each large array
is split over `model`: parameters, averages and optimiser state. A step gathers
the networks, and the optimiser updates each device's own part (ZeRO:
Rajbhandari et al., SC 2020; fully sharded data parallel). The program is the
same in both cases; XLA adds the collectives.
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

# Smaller arrays are replicated: a collective costs more than the memory saved.
SMALLEST_SPLIT = 2**12


def make_mesh(
  num_devices: int | None = None,
  model: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Makes the mesh of a run.

  Args:
    num_devices: use only the first `num_devices`; None for all.
    model: number of devices that share one copy of the state. They are
      neighbours in the list, so that devices of a host or slice share first.
    devices: the devices; None for those of this run.

  Raises:
    UserError: `model` does not divide the devices.
  """
  chosen = np.array(devices or jax.devices())[:num_devices]
  if model < 1 or len(chosen) % model:
    raise UserError(
      f"config.mesh.model={model} does not divide the {len(chosen)} devices: "
      "set it to 1, or to a divisor of their number"
    )
  return Mesh(chosen.reshape(-1, model), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the leading dimension over all devices."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def state_shardings(tree: Any, mesh: Mesh) -> Any:
  """The sharding of each array of a state: see the module's docstring.

  Args:
    tree: arrays, or objects with their shapes.
    mesh: as from `make_mesh`.
  """
  n = mesh.shape["model"]

  def place(x) -> NamedSharding:
    divisible = [i for i, side in enumerate(x.shape) if side % n == 0]
    if n == 1 or not divisible or math.prod(x.shape) < SMALLEST_SPLIT:
      return replicated(mesh)
    # Splits the longest side; of equal sides the last, the output channels.
    axis = max(divisible, key=lambda i: (x.shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "model"))

  return jax.tree.map(place, tree)


def map_rows(
  f: Callable[..., Any], mesh: Mesh | None = None
) -> Callable[..., Any]:
  """Maps `f` over each device's rows, so that XLA does not gather the batch.

  XLA would gather it for an FFT.

  Args:
    f: maps arrays to arrays, each row independently.
    mesh: the devices over all of which the rows are split; None for the mesh of
      the context, as in the trainer's step. Without a mesh `f` is returned.
  """
  if mesh is None and jax.sharding.get_abstract_mesh().empty:
    return f
  rows = PartitionSpec(AXES)
  return jax.shard_map(f, mesh=mesh, in_specs=rows, out_specs=rows)


def described(mesh: Mesh) -> str:
  """Describes the devices of a run in one line."""
  kinds = [device.device_kind for device in mesh.devices.flat]
  counts = [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]
  of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
  return f"devices: {', '.join(counts)}{of} (JAX {jax.__version__})"


def check_batch(batch: int, mesh: Mesh, field: str, parts: int = 1) -> None:
  """Refuses a global batch that the devices cannot share evenly.

  Args:
    batch: number of rows.
    mesh: the devices.
    field: the config field that sets the number of rows.
    parts: parts in which each device takes its rows, `config.train.accumulate`.

  Raises:
    UserError: the batch does not divide; the message shows the arithmetic.
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
  """Makes global arrays, split over the devices, of this process's rows."""
  sharding = batch_sharding(mesh)
  # With several processes JAX would report this transfer as an implicit one.
  with jax.transfer_guard_host_to_device("allow"):
    return {
      name: jax.make_array_from_process_local_data(sharding, rows)
      for name, rows in batch.items()
    }


def abstract(tree: Any, mesh: Mesh) -> Any:
  """Shapes, dtypes and shardings of a state, to compile for or restore into."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    tree,
    state_shardings(tree, mesh),
  )
