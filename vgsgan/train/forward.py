"""How networks run in training: their precision, in parts, and what is kept.

`config.train` says it, for every task:

- `dtype`: of what is computed in convolutions, normalisation and products
  between them. Parameters, running statistics, the optimiser, spectral norms,
  scores, logits and losses are float32 in any case.
- `accumulate`: rows pass a network in so many parts, one after the other, and
  the backward pass runs each part again. The loss is over all of the batch, so
  that gradients are those of the whole but for normalisation, whose statistics
  are of a part (Gao et al., "Scaling Deep Contrastive Learning Batch Size under
  Memory Limited Setup", RepL4NLP 2021). It is a loop, in which XLA's
  convolutions are slow on a CPU (oneDNN's are not).
- `remat`: only the results of convolutions and products are kept for the
  backward pass; what is between them is computed again (Chen et al.,
  arXiv:1604.06174). Of parts nothing is kept in any case.
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
Apply = Callable[..., tuple[Any, Any]]

DTYPES = ("float32", "bfloat16")
_KEPT = ("conv_general_dilated", "dot_general", *convolution.PRIMITIVES)


def check(train: ml_collections.ConfigDict) -> None:
  """Refuses fields of `config.train` that say nothing."""
  check_one_of("train.dtype", train.dtype, DTYPES)


def dtype(train: ml_collections.ConfigDict) -> Any:
  """What networks compute in."""
  check(train)
  return jnp.dtype(train.dtype)


def network(module: nn.Module, params: Any, train: bool = True) -> Apply:
  """A module's pass as `run` takes it: `batch_stats` are noted in training."""

  def apply(stats: Any, *rows: Any) -> tuple[Any, Any]:
    variables = whole({"params": params, "batch_stats": stats})
    outputs, new = module.apply(
      variables, *rows, train=train, mutable=["batch_stats"]
    )
    return outputs, new.get("batch_stats", {})

  return apply


def whole(tree: Any) -> Any:
  """The same on every device of the mesh in whose context it is, if any.

  Networks that are split between steps (`config.mesh.model`) are gathered so.
  Left to itself the partitioner would split convolutions as their kernels are,
  and not get all of them right: with JAX 0.10.2 means over a batch that is
  split over both axes came out too large.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return tree
  return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def whole_networks(state: TrainState) -> TrainState:
  """The state with all but the optimiser's part whole; see `whole`."""
  params, batch_stats = whole((state.params, state.batch_stats))
  return state.replace(params=params, batch_stats=batch_stats)


def run(
  train: ml_collections.ConfigDict,
  apply: Apply,
  stats: Any,
  *rows: Any,
) -> tuple[Any, Any]:
  """A network's pass over a batch, in training and where it is evaluated.

  Args:
    train: `config.train`.
    apply: the network's; it may close over parameters.
    stats: running statistics, handed on from part to part.
    *rows: arrays, or trees of them, with equally many rows; or None.

  Returns:
    The outputs of all rows, in their order, and the new statistics. Rows that
    cannot be shared by `accumulate` parts are shared by fewer.
  """
  count = len(jax.tree.leaves(rows)[0])
  parts = math.gcd(train.accumulate, count)
  if parts == 1:
    if train.remat:
      apply = jax.checkpoint(apply, policy=_keep)
    return apply(stats, *rows)

  @jax.checkpoint
  def one(stats: Any, part: Any) -> tuple[Any, Any]:
    outputs, stats = apply(stats, *part)
    return stats, outputs

  # Every so many rows, so that each device has its share of every part.
  apart = jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), rows
  )
  stats, made = jax.lax.scan(one, stats, apart)
  return jax.tree.map(_joined, made), stats


def _joined(x: jax.Array) -> jax.Array:
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _keep(primitive: Any, *_: Any, **__: Any) -> bool:
  return primitive.name in _KEPT
