"""Names the words of images of places, to judge generated ones.

Training degrades the images, because generated images are imperfect.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vgsgan.common.options import building
from vgsgan.data import augment
from vgsgan.data.examples import SceneWordsExample
from vgsgan.data.records import Records
from vgsgan.evals import naming
from vgsgan.models.namer import Namer
from vgsgan.train import forward, keys
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Poll, Task
from vgsgan.worlds.place_words import KINDS, NUM_LABELS, SLICES

NEEDS = (
  "namer",
  "optim",
  "data.image_size",
  *(
    f"data.augment.{name}" for name in ("shift", "blur", "noise", "brightness")
  ),
)


def losses(
  logits: Float[Array, "b w"], words: Int[Array, "b 6"]
) -> dict[str, Float[Array, ""]]:
  """Mean cross-entropy of the words of each kind."""
  return {
    kind: jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(
        logits[:, SLICES[kind]], words[:, i]
      )
    )
    for i, kind in enumerate(KINDS)
  }


class Naming:
  """The network of a config and its training."""

  def __init__(self, config: ml_collections.ConfigDict):
    check(config)
    self.config = config
    dtype = forward.dtype(config.train)
    self.model = Namer(NUM_LABELS, tuple(config.namer.widths), dtype)
    self.tx = optimizer(config.optim, config.train.steps)
    self.rate = schedule(config.optim, config.train.steps)
    with building("config.namer or config.data.image_size"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state."""
    size = self.config.data.image_size
    variables = self.model.init(key, jnp.zeros((1, size, size, 3)), train=False)
    return TrainState.create(
      {"namer": variables["params"]},
      {"namer": variables["batch_stats"]},
      self.tx,
    )

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes one update. Random draws depend on the seed and the step alone."""
    use = self.config.data.augment
    key = keys.of(self.config.seed, "augment", state.step)
    key_move, key_degrade = jax.random.split(key)
    images = batch["image"] / 255.0
    images = augment.shift_and_flip(key_move, images, use.shift, False)
    images = augment.degrade(
      key_degrade, images, use.blur, use.noise, use.brightness
    )

    def loss(params):
      (logits, _), changed = forward.apply(
        self.config.train,
        forward.bind(self.model, params["namer"]),
        state.batch_stats["namer"],
        images,
      )
      parts = losses(logits, batch["attributes"])
      return sum(parts.values()), (parts, {"namer": changed})

    return state.minimise(loss, self.tx, self.rate)

  def logits(self, state: TrainState, images) -> Float[Array, "b w"]:
    """Logits for evaluation, from pixels 0..255."""
    variables = {
      "params": state.params["namer"],
      "batch_stats": state.batch_stats["namer"],
    }
    return self.model.apply(variables, images / 255.0, train=False)[0]


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_optimizer(config.optim, "optim")


def mean_accuracy(results: dict[str, Any]) -> float:
  return sum(results[kind]["value"] for kind in KINDS) / len(KINDS)


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Naming(config)

  def logits(state, batch):
    return model.logits(state, batch["image"]), batch["attributes"]

  predict = Predictor(logits, SceneWordsExample(), config, mesh)

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    found, words = predict(state, splits[split], poll)
    return naming.accuracy(naming.named(found), words)

  return Task(
    transform=SceneWordsExample(),
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=mean_accuracy,
    selection="mean accuracy of the six kinds of words",
  )
