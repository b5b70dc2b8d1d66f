"""States where a run has them."""

import jax
import jax.numpy as jnp

from vgsgan.parallel import mesh


def placed(state, devices):
  """A copy, split as `mesh.state_shardings` says; it may be donated."""
  places = mesh.state_shardings(state, devices)
  copied = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=places)
  return copied(jax.device_get(state))
