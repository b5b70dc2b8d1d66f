"""The training state, and the optimisers that update it."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import Array

from vgsgan.common.options import check_at_least, check_one_of

SCHEDULES = ("constant", "cosine", "step")
OPTIMIZERS = ("adam", "adamw", "sgd")


@flax.struct.dataclass
class TrainState:
  """The state that a checkpoint holds, besides the pipeline's position.

  Attributes:
    step: int32 scalar, updates made so far.
    params: trained parameters, a dict with one entry a network.
    batch_stats: running statistics of normalisation layers, by network.
    opt_state: the optimiser's state.

  The leaves are arrays, or shapes or shardings in their places.
  """

  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any

  @classmethod
  def create(cls, params, batch_stats, tx: optax.GradientTransformation):
    return cls(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))

  def minimise(
    self,
    loss: Callable[[Any], tuple[Array, tuple[dict[str, Array], Any]]],
    tx: optax.GradientTransformation,
    rate: optax.Schedule,
  ) -> tuple["TrainState", dict[str, Array]]:
    """Updates the parameters once against a loss.

    Args:
      loss: params -> (loss, (metrics, new batch_stats)).
      tx: the optimiser.
      rate: its learning rate by step, for the metrics.

    Returns:
      (state, metrics), with `loss`, `grad_norm` and `learning_rate` among them.
    """
    (value, (metrics, stats)), grads = jax.value_and_grad(loss, has_aux=True)(
      self.params
    )
    updates, opt_state = tx.update(grads, self.opt_state, self.params)
    params = optax.apply_updates(self.params, updates)
    return TrainState(self.step + 1, params, stats, opt_state), metrics | {
      "loss": value,
      "grad_norm": optax.global_norm(grads),
      "learning_rate": rate(self.step),
    }


def check_optimizer(optim: ml_collections.ConfigDict, section: str) -> None:
  """Raises UserError if an optimiser or a schedule is unknown.

  Args:
    optim: a section of a config.
    section: its name, for the error.
  """
  check_one_of(f"{section}.name", optim.name, OPTIMIZERS)
  check_one_of(f"{section}.schedule", optim.schedule, SCHEDULES)
  if optim.schedule == "step":
    check_at_least(f"{section}.decay_steps", optim.decay_steps, 1)


def schedule(optim: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
  """Learning rate by step: linear warm-up, then the named decay.

  `step` multiplies by 0.1 every `decay_steps` (DAVEnet: every 40 epochs).
  """
  check_one_of("optim.schedule", optim.schedule, SCHEDULES)
  if optim.schedule == "step":
    check_at_least("optim.decay_steps", optim.decay_steps, 1)
  if optim.schedule == "cosine":
    after = optax.cosine_decay_schedule(
      optim.lr, max(1, steps - optim.warmup_steps)
    )
  elif optim.schedule == "step":
    after = _staircase(optim.lr, optim.decay_steps)
  else:
    after = optax.constant_schedule(optim.lr)
  if not optim.warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, optim.lr, optim.warmup_steps)
  return optax.join_schedules([warmup, after], [optim.warmup_steps])


def _staircase(rate: float, steps: int) -> optax.Schedule:
  """Multiplies by 0.1 every `steps` updates.

  It divides integers. Optax divides floats, for which XLA multiplies by a
  rounded reciprocal: 41 / 41 then is less than 1.
  """
  return lambda count: rate * jnp.power(0.1, jnp.asarray(count) // steps)


def optimizer(
  optim: ml_collections.ConfigDict, steps: int
) -> optax.GradientTransformation:
  """The optimiser that `config.optim` describes, for a run of `steps`."""
  check_one_of("optim.name", optim.name, OPTIMIZERS)
  rate = schedule(optim, steps)
  if optim.name == "adamw":
    # Decoupled decay: the learning rate alone scales it.
    update = optax.adamw(
      rate, optim.momentum, optim.b2, weight_decay=optim.weight_decay
    )
  else:
    if optim.name == "adam":
      update = optax.adam(rate, optim.momentum, optim.b2)
    else:
      update = optax.sgd(rate, optim.momentum)
    if optim.weight_decay:
      decay = optax.add_decayed_weights(optim.weight_decay)
      update = optax.chain(decay, update)
  if optim.clip_norm:
    update = optax.chain(optax.clip_by_global_norm(optim.clip_norm), update)
  return update
