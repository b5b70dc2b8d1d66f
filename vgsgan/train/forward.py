"""Applies networks with mixed precision, in parts and with rematerialisation.

Three fields of `config.train` decide it, for every task:

- `dtype`: the precision of convolutions, normalisation and the products between
  them. Parameters, running statistics, the optimiser, spectral norms, scores,
  logits and losses are always float32.
- `accumulate`: the number of parts in which a batch passes a network, one after
  the other. The backward pass runs each part again. The loss is over the whole
  batch, so gradients equal those of one pass, but normalisation uses the
  statistics of a part (Gao et al., "Scaling Deep Contrastive Learning Batch
  Size under Memory Limited Setup", RepL4NLP 2021). The parts are a loop, in
  which XLA's convolutions are slow on a CPU (oneDNN's are not).
- `remat`: keeps only the results of convolutions and products for the backward
  pass, which computes the rest again (Chen et al., arXiv:1604.06174). Parts
  keep nothing, with or without it.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import PartitionSpec

from vgsgan.common.options import check_one_of
from vgsgan.kernels import convolution
from vgsgan.train.state import TrainState

# (running statistics, *rows) -> (a row of outputs for each, new statistics)
Network = Callable[..., tuple[Any, Any]]

DTYPES = ("float32", "bfloat16")
_KEPT = ("conv_general_dilated", "dot_general", *convolution.PRIMITIVES)


def check(train: ml_collections.ConfigDict) -> None:
  """Raises UserError if `config.train.dtype` is unknown."""
  check_one_of("train.dtype", train.dtype, DTYPES)


def dtype(train: ml_collections.ConfigDict) -> Any:
  """The dtype that networks compute in."""
  check(train)
  return jnp.dtype(train.dtype)


def bind(module: nn.Module, params: Any, train: bool = True) -> Network:
  """Binds parameters to a module; training updates its `batch_stats`."""

  def network(stats: Any, *rows: Any) -> tuple[Any, Any]:
    variables = replicate({"params": params, "batch_stats": stats})
    outputs, new = module.apply(
      variables, *rows, train=train, mutable=["batch_stats"]
    )
    return outputs, new.get("batch_stats", {})

  return network


def replicate(tree: Any) -> Any:
  """Replicates arrays over the current mesh; does nothing without a mesh.

  This gathers networks that are split between steps (`config.mesh.model`).
  Without it the partitioner splits convolutions like their kernels, and not all
  of them correctly: with JAX 0.10.2, means over a batch that is split over both
  axes are too large.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return tree
  return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def replicate_networks(state: TrainState) -> TrainState:
  """Replicates all of a state but the optimiser's part; see `replicate`."""
  params, batch_stats = replicate((state.params, state.batch_stats))
  return state.replace(params=params, batch_stats=batch_stats)


def apply(
  train: ml_collections.ConfigDict,
  network: Network,
  stats: Any,
  *rows: Any,
) -> tuple[Any, Any]:
  """Applies a network to a batch, in training and in evaluation.

  Args:
    train: `config.train`.
    network: from `bind`, or any function that closes over its parameters.
    stats: running statistics, handed on from part to part.
    *rows: arrays, or trees of them, with equally many rows; or None.

  Returns:
    The outputs of all rows, in their order, and the new statistics. If
    `accumulate` does not divide the rows, there are fewer parts.
  """
  count = len(jax.tree.leaves(rows)[0])
  parts = math.gcd(train.accumulate, count)
  if parts == 1:
    if train.remat:
      network = jax.checkpoint(network, policy=_keep)
    return network(stats, *rows)

  @jax.checkpoint
  def apply_part(stats: Any, part: Any) -> tuple[Any, Any]:
    outputs, stats = network(stats, *part)
    return stats, outputs

  # A part takes rows at equal distances, so that each device has its share.
  split = jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), rows
  )
  stats, outputs = jax.lax.scan(apply_part, stats, split)
  return jax.tree.map(_joined, outputs), stats


def _joined(x: jax.Array) -> jax.Array:
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _keep(primitive: Any, *_: Any, **__: Any) -> bool:
  return primitive.name in _KEPT
