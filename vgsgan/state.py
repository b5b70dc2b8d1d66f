"""What training changes, in one tree; and what changes its parameters."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from vgsgan.errors import UserError

SCHEDULES = ("constant", "cosine", "step")
OPTIMIZERS = ("adam", "adamw", "sgd")


@flax.struct.dataclass
class TrainState:
  """All that is saved of a run besides the pipeline's position.

  Attributes:
    step: int32 scalar, updates made so far.
    params: trained parameters, a dict with one entry a network.
    batch_stats: running statistics of normalisation layers, likewise.
    opt_state: the optimiser's state.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState

  @classmethod
  def create(cls, params, batch_stats, tx: optax.GradientTransformation):
    return cls(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))

  def update(
    self, grads, batch_stats, tx: optax.GradientTransformation
  ) -> "TrainState":
    """The state after one optimiser update."""
    updates, opt_state = tx.update(grads, self.opt_state, self.params)
    return TrainState(
      self.step + 1,
      optax.apply_updates(self.params, updates),
      batch_stats,
      opt_state,
    )


def schedule(optim: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
  """Learning rate by step: linear warm-up, then the named decay.

  `step` multiplies by 0.1 every `decay_steps` (DAVEnet: every 40 epochs).
  """
  if optim.schedule not in SCHEDULES:
    raise UserError(
      f"config.optim.schedule={optim.schedule!r} is none of {SCHEDULES}"
    )
  if optim.schedule == "cosine":
    after = optax.cosine_decay_schedule(
      optim.lr, max(1, steps - optim.warmup_steps)
    )
  elif optim.schedule == "step":
    after = optax.exponential_decay(
      optim.lr, optim.decay_steps, 0.1, staircase=True
    )
  else:
    after = optax.constant_schedule(optim.lr)
  if not optim.warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, optim.lr, optim.warmup_steps)
  return optax.join_schedules([warmup, after], [optim.warmup_steps])


def optimizer(
  optim: ml_collections.ConfigDict, steps: int
) -> optax.GradientTransformation:
  """The optimiser that `config.optim` describes, for a run of `steps`."""
  rate = schedule(optim, steps)
  if optim.name == "sgd":
    update = optax.sgd(rate, momentum=optim.momentum)
  elif optim.name in ("adam", "adamw"):
    update = optax.adam(rate, b1=optim.momentum, b2=optim.b2)
  else:
    raise UserError(f"config.optim.name={optim.name!r} is none of {OPTIMIZERS}")
  if optim.name == "adamw":
    # Decoupled: scaled by the learning rate, outside Adam's normalisation.
    update = optax.adamw(
      rate, b1=optim.momentum, b2=optim.b2, weight_decay=optim.weight_decay
    )
  elif optim.weight_decay:
    update = optax.chain(
      optax.add_decayed_weights(optim.weight_decay), update
    )
  if optim.clip_norm:
    update = optax.chain(optax.clip_by_global_norm(optim.clip_norm), update)
  return update
