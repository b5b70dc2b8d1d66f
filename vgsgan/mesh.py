"""Devices and processes: the mesh, what lies where on it, and start-up."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgsgan.errors import UserError

DATA = "data"


def start_processes(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Joins the processes of a run. Must come before anything asks for devices.

  Args:
    coordinator_address: `host:port` of process 0, or None where JAX finds the
      cluster itself (Cloud TPU, SLURM, Kubernetes, Open MPI).
    num_processes: how many processes there are, or None likewise.
    process_id: which of them this is, or None likewise.

  Raises:
    UserError: if there is no cluster to be found and no address was given.
  """
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except ValueError as error:
    raise UserError(
      f"cannot join a cluster: {error} Pass --coordinator_address=HOST:PORT "
      "--num_processes=N --process_id=I, or leave out --distributed."
    ) from error


def make_mesh(num_devices: int | None = None) -> Mesh:
  """A mesh of one axis, `data`, over all devices (or the first few)."""
  devices = jax.devices()[:num_devices]
  return Mesh(np.array(devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
  """The leading dimension split over the devices."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch(batch: int, mesh: Mesh, field: str) -> None:
  """Refuses a global batch that the devices can't share evenly."""
  n = mesh.size
  whole, rest = divmod(batch, n)
  if batch < 1 or rest:
    near = f"{whole * n} or {(whole + 1) * n}" if whole else f"{n}"
    raise UserError(
      f"a batch of {batch} does not divide over {n} devices: "
      f"{batch} = {n} x {whole} + {rest}; set --config.{field} to {near}"
    )


def local_rows(batch: int) -> slice:
  """The rows of a global batch that this process loads."""
  rows = batch // jax.process_count()
  return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def shard(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This process's rows, as global arrays split over the devices."""
  sharding = over_data(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def abstract(tree: Any, sharding: NamedSharding) -> Any:
  """Shapes, dtypes and places of a tree, to compile for or restore into."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
