"""Updates networks in turn, each by its own loss."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Int

from vgsgan.train import forward
from vgsgan.train.state import TrainState, optimizer, schedule
from vgsgan.train.task import Batch, Metrics


class Alternating:
  """A generator, optionally a discriminator, and the generator's average.

  A subclass defines:

  * `inputs(batch)`: the losses' view of a batch;
  * `noise(step, rows)`: the random numbers of a step, from the seed and the
    step alone;
  * `generate(params, stats, inputs, noise)`: the generator's training pass; its
    outputs and its new `batch_stats`;
  * `NAME_loss(own, params, stats, inputs, noise)` for each network NAME: the
    loss with `own` as its params, and (metrics, its new `batch_stats`).
    `params` and `stats` are those of all networks.

  Attributes:
    config: of the task.
    modules: the networks in the order of their updates, the generator last.
    longest: limit of the average's decay, in [0, 1).
  """

  config: ml_collections.ConfigDict
  modules: Mapping[str, nn.Module]
  longest: float

  def prepare(self, longest: float) -> None:
    """Makes the optimisers; call it after `config` and `modules` are set."""
    self.longest = longest
    steps = self.config.train.steps
    self.tx = {
      name: optimizer(self.config.optim[name], steps) for name in self.modules
    }
    self.rate = schedule(self.config.optim.generator, steps)

  def start(self, variables: Mapping[str, Any]) -> TrainState:
    """The initial state, from the variables of each network's `module.init`.

    `batch_stats.average` is the averaged generator, both its trees.
    """
    params = {name: x["params"] for name, x in variables.items()}
    stats = {name: x.get("batch_stats", {}) for name, x in variables.items()}
    # A copy: the same buffer cannot be donated twice.
    stats["average"] = jax.tree.map(
      jnp.copy,
      {"params": params["generator"], "batch_stats": stats["generator"]},
    )
    opt_state = {name: self.tx[name].init(params[name]) for name in params}
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state)

  def apply(self, name: str, params: Any, stats: Any, *args: Any) -> Any:
    """A network's outputs in training, and its new statistics.

    If a batch passes in parts, a network that compares rows compares those of
    one part.
    """
    network = forward.bind(self.modules[name], params)
    return forward.apply(self.config.train, network, stats, *args)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Updates each network once."""
    inputs = self.inputs(batch)
    noise = self.noise(state.step, len(batch["image"]))
    params, stats = dict(state.params), dict(state.batch_stats)
    opt_state, metrics = dict(state.opt_state), {}
    values, grads = {}, {}
    for name in self.modules:
      loss = jax.value_and_grad(getattr(self, f"{name}_loss"), has_aux=True)
      (values[name], (parts, stats[name])), grads[name] = loss(
        params[name], params, stats, inputs, noise
      )
      updates, opt_state[name] = self.tx[name].update(
        grads[name], opt_state[name], params[name]
      )
      params[name] = optax.apply_updates(params[name], updates)
      metrics |= parts | {
        f"loss_{name}": values[name],
        f"grad_norm_{name}": optax.global_norm(grads[name]),
      }
    stats["average"] = self._averaged(
      state.step, params, stats["average"], inputs, noise
    )
    metrics |= {
      "loss": sum(values.values()),
      "grad_norm": optax.global_norm(grads),
      "learning_rate": self.rate(state.step),
    }
    return TrainState(state.step + 1, params, stats, opt_state), metrics

  def _averaged(self, step, params, average, inputs, noise) -> Any:
    """The averaged generator after a step, with its own statistics."""
    weights = averaged(
      step, self.longest, average["params"], params["generator"]
    )
    # Half of the rows: every other one, so that each device has its share.
    half = jax.tree.map(lambda x: x[::2], (inputs, noise))
    _, stats = self.generate(weights, average["batch_stats"], *half)
    return {"params": weights, "batch_stats": stats}


def averaged(
  step: Int[Array, ""], limit: float, average: Any, params: Any
) -> Any:
  """Updates an exponential moving average of parameters.

  The decay grows with the step up to `limit`, so that the average soon forgets
  the initial parameters.
  """
  decay = jnp.minimum(limit, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, params)
