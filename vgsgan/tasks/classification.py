"""Classifies images and sounds, each with a tower of its own.

The classifiers learn from labels and judge generated images and sounds. The two
towers share nothing, so that neither learns from the other modality.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vgsgan.common.options import building, check_one_of
from vgsgan.data import augment, features
from vgsgan.data.examples import ClipExample
from vgsgan.data.records import Records
from vgsgan.losses import primitives
from vgsgan.models.correspondence import Tower, global_max
from vgsgan.train import forward, keys
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Poll, Task

MODALITIES = ("image", "audio")
NEEDS = (
  "model.widths",
  "model.pools",
  "optim",
  "data.augment.shift",
  *features.FIELDS,
)


class Classifier(nn.Module):
  """A tower, a maximum over all places, and a linear layer to the classes.

  Attributes:
    tower: a tower for images or for spectrograms.
    classes: number of classes.
  """

  tower: Tower
  classes: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> tuple[Float[Array, "b d"], Float[Array, "b {self.classes}"]]:
    """Pooled features, and logits of the classes."""
    pooled = global_max(self.tower(x, train))
    return pooled, nn.Dense(self.classes, name="classes")(pooled)


class Classification:
  """The two networks of a config and their training.

  Args:
    config: of the task.
    classes: number of labels in the data set's hierarchy.
  """

  def __init__(self, config: ml_collections.ConfigDict, classes: int):
    check(config)
    model = config.model
    self.config = config
    self.classes = classes
    self.network = Classifier(
      Tower(
        tuple(model.widths),
        tuple(model.pools),
        forward.dtype(config.train),
      ),
      classes,
    )
    self.tx = optimizer(config.optim, config.train.steps)
    self.rate = schedule(config.optim, config.train.steps)
    with building("config.model or config.data"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state."""
    variables = {
      name: self.network.init(
        jax.random.fold_in(key, i), jnp.zeros(x.shape), train=False
      )
      for i, (name, x) in enumerate(self.shapes().items())
    }
    return TrainState.create(
      {name: variables[name]["params"] for name in MODALITIES},
      {name: variables[name]["batch_stats"] for name in MODALITIES},
      self.tx,
    )

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one clip's inputs."""
    data = self.config.data
    size, samples = data.image_size, example(data).samples
    clip = {
      "image": jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8),
      "waveform": jax.ShapeDtypeStruct((1, samples), jnp.int16),
      "num_samples": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    return jax.eval_shape(lambda clip: self.inputs(clip, None), clip)

  def inputs(self, batch: Batch, key: jax.Array | None) -> dict[str, Array]:
    """Each network's input [b, h, w, c]; with a key, images are shifted."""
    data = self.config.data
    images = features.normalize_image(batch["image"])
    if key is not None:
      images = augment.shift_and_flip(
        key, images, data.augment.shift, flip=False
      )
    sounds = features.spectrogram_of(
      data, batch["waveform"], batch["num_samples"]
    )
    return {"image": images, "audio": sounds[..., None]}

  def predict(
    self, params, batch_stats, name: str, x: Float[Array, "b h w c"]
  ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
    """Features and logits of one modality, for evaluation.

    Args:
      params: of the state.
      batch_stats: of the state.
      name: 'image' or 'audio'.
      x: normalised images, or spectrograms with one channel.
    """
    variables = {"params": params[name], "batch_stats": batch_stats[name]}
    return self.network.apply(variables, x, train=False)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes one update. Random draws depend on the seed and the step alone."""
    key = keys.of(self.config.seed, "augment", state.step)
    target = uniform(batch["labels"], self.classes)
    inputs = self.inputs(batch, key)

    def loss(params):
      parts, stats = {}, {}
      for name, x in inputs.items():
        network = forward.bind(self.network, params[name])
        (_, logits), stats[name] = forward.apply(
          self.config.train, network, state.batch_stats[name], x
        )
        parts[f"{name}_loss"] = jnp.mean(primitives.soft_ce(logits, target))
      return sum(parts.values()), (parts, stats)

    return state.minimise(loss, self.tx, self.rate)


def uniform(labels: Int[Array, "b l"], classes: int) -> Float[Array, "b c"]:
  """Equal weights on the labels of each clip, with sum 1; -1 is padding."""
  has = jnp.max(jax.nn.one_hot(labels, classes), axis=1)
  return has / jnp.sum(has, axis=1, keepdims=True)


def accuracy(
  logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n l"]
) -> dict[str, float]:
  """The share of clips whose most likely class is one of their labels.

  Chance is the share for the answer that is right most often.
  """
  classes = np.arange(logits.shape[1])
  has = (labels[..., None] == classes).any(axis=1)
  right = np.take_along_axis(has, logits.argmax(1)[:, None], axis=1)
  return {"value": float(right.mean()), "chance": float(has.mean(0).max())}


def figures(
  logits: dict[str, Float[np.ndarray, "n c"]], labels: Int[np.ndarray, "n l"]
) -> dict[str, Any]:
  """The accuracy of each modality, and the `mean` of both."""
  each = {name: accuracy(logits[name], labels) for name in MODALITIES}
  mean = {
    field: sum(each[name][field] for name in MODALITIES) / len(MODALITIES)
    for field in ("value", "chance")
  }
  return each | {"mean": mean, "clips": len(labels)}


def example(data: ml_collections.ConfigDict) -> ClipExample:
  """Makes examples from records, in training and in evaluation."""
  return ClipExample(int(data.seconds * data.sample_rate))


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_one_of(
    "data.spectrogram", config.data.spectrogram, features.SPECTROGRAMS
  )
  check_optimizer(config.optim, "optim")


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Classification(config, len(splits["train"].hierarchy.labels))
  transform = example(config.data)

  def logits(state, batch):
    rows = {"labels": batch["labels"]}
    for name, x in model.inputs(batch, None).items():
      rows[name] = model.predict(state.params, state.batch_stats, name, x)[1]
    return rows

  predict = Predictor(logits, transform, config, mesh)

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    rows = predict(state, splits[split], poll)
    return figures(rows, rows.pop("labels"))

  return Task(
    transform=transform,
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=lambda results: results["mean"]["value"],
    selection="mean accuracy of pictures and sounds",
  )
