"""Recognises the objects of rendered scenes, to judge generated ones.

A small U-Net learns from the renderer's masks and attributes. Training degrades
the images, because generated images are imperfect.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_one_of
from vgsgan.data import augment
from vgsgan.data.examples import SceneExample
from vgsgan.data.records import Records
from vgsgan.evals import recognition
from vgsgan.models.layers import NORMS
from vgsgan.models.recogniser import Recogniser
from vgsgan.train import forward, keys
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Poll, Task
from vgsgan.worlds.attributes import ATTRIBUTES

STAGES = 3  # Number of the network's widths.
NEEDS = (
  "recogniser",
  "optim",
  "data.image_size",
  *(
    f"data.augment.{name}"
    for name in ("shift", "flip", "blur", "noise", "brightness")
  ),
)


def network(model: ml_collections.ConfigDict) -> Recogniser:
  """The network of `config.recogniser`."""
  return Recogniser(tuple(model.widths), model.norm)


def object_loss(
  logits: Float[Array, "b s t 16"],
  masks: Float[Array, "b s t n"],
  attributes: Int[Array, "b n 4"],
) -> dict[str, Float[Array, ""]]:
  """Cross-entropies of `object` over all pixels, and of each attribute.

  The pixels of an object have weight 1 together, so that small objects count as
  much as large ones.
  """
  there = jnp.max(masks, -1)
  binary = optax.sigmoid_binary_cross_entropy(logits[..., 0], there)
  area = jnp.sum(masks, (1, 2))
  weight = masks / jnp.maximum(area, 1.0)[:, None, None]
  objects = jnp.maximum(jnp.sum(area > 0), 1)
  losses = {"object": jnp.mean(binary)}
  start = 1
  for i, (kind, words) in enumerate(ATTRIBUTES.items()):
    log_p = jax.nn.log_softmax(logits[..., start : start + len(words)])
    # Absent objects have index -1, for which one_hot gives zeros.
    target = jax.nn.one_hot(attributes[..., i], len(words))
    entropy = -jnp.einsum("bstk,bnk,bstn->", log_p, target, weight)
    losses[kind] = entropy / objects
    start += len(words)
  return losses


class Recognition:
  """The network of a config and its training."""

  def __init__(self, config: ml_collections.ConfigDict):
    check(config)
    self.config = config
    dtype = forward.dtype(config.train)
    self.model = network(config.recogniser).clone(dtype=dtype)
    self.tx = optimizer(config.optim, config.train.steps)
    self.rate = schedule(config.optim, config.train.steps)
    with building("config.recogniser or config.data.image_size"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state."""
    size = self.config.data.image_size
    variables = self.model.init(key, jnp.zeros((1, size, size, 3)), train=False)
    return TrainState.create(
      {"recogniser": variables["params"]},
      {"recogniser": variables.get("batch_stats", {})},
      self.tx,
    )

  def inputs(
    self,
    key: jax.Array,
    images: UInt8[Array, "b s s 3"],
    masks: UInt8[Array, "b n s s"],
  ) -> tuple[Float[Array, "b s s 3"], Float[Array, "b s s n"]]:
    """Augmented images in [0, 1], and their objects' masks."""
    use = self.config.data.augment
    key_move, key_degrade = jax.random.split(key)
    masks = jnp.moveaxis(masks, 1, -1).astype(jnp.float32)
    both = jnp.concatenate([images / 255.0, masks], -1)
    both = augment.shift_and_flip(key_move, both, use.shift, use.flip)
    degraded = augment.degrade(
      key_degrade, both[..., :3], use.blur, use.noise, use.brightness
    )
    return degraded, both[..., 3:]

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes one update. Random draws depend on the seed and the step alone."""
    key = keys.of(self.config.seed, "augment", state.step)
    images, masks = self.inputs(key, batch["image"], batch["masks"])

    def loss(params):
      (logits, _), changed = forward.apply(
        self.config.train,
        forward.bind(self.model, params["recogniser"]),
        state.batch_stats["recogniser"],
        images,
      )
      parts = object_loss(logits, masks, batch["attributes"])
      return sum(parts.values()), (parts, {"recogniser": changed})

    return state.minimise(loss, self.tx, self.rate)

  def logits(self, state: TrainState, images) -> Float[Array, "b s t 16"]:
    """Logits for evaluation, from pixels 0..255."""
    variables = {
      "params": state.params["recogniser"],
      "batch_stats": state.batch_stats["recogniser"],
    }
    return self.model.apply(variables, images / 255.0, train=False)[0]


def figures(rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
  """Figures of `evals.recognition` for `logits`, `masks` and `attributes`."""
  means, labels = [], []
  for row in rows:
    for mask, label in zip(row["masks"], row["attributes"], strict=True):
      if mask.any():
        means.append(row["logits"][mask].mean(0))
        labels.append(label)
  fields = ([r[name] for r in rows] for name in ("logits", "masks"))
  return {
    "given_masks": recognition.given_masks(np.stack(means), np.stack(labels)),
    "alone": recognition.found_objects(
      *fields, [row["attributes"] for row in rows]
    ),
  }


def mean_accuracy(results: dict[str, Any]) -> float:
  figures = results["given_masks"]
  return sum(figures[kind]["value"] for kind in ATTRIBUTES) / len(ATTRIBUTES)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_optimizer(config.optim, "optim")
  check_one_of("recogniser.norm", config.recogniser.norm, NORMS)
  widths = config.recogniser.widths
  if len(widths) != STAGES:
    raise UserError(
      f"config.recogniser.widths={tuple(widths)} must be {STAGES}, one a stage"
    )
  if config.data.get("scenes", "") == "clevr":
    raise UserError(
      "config.data.scenes='clevr' has no masks, from which objects are "
      "learned: use rendered"
    )


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Recognition(config)

  def logits(state, batch):
    rows = {name: batch[name] for name in ("masks", "attributes")}
    return rows | {"logits": model.logits(state, batch["image"])}

  predict = Predictor(logits, SceneExample(), config, mesh)

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    rows = []
    for batch in predict.batches(state, splits[split], poll):
      batch["masks"] = batch["masks"].astype(bool)
      for i in range(len(batch["masks"])):
        rows.append({name: values[i] for name, values in batch.items()})
    return figures(rows)

  return Task(
    transform=SceneExample(),
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=mean_accuracy,
    selection="mean accuracy of the four attributes, masks given",
  )
