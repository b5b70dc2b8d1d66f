"""Visually grounded speech: matches recordings with images.

Two towers, one score and a contrastive loss in both directions: DAVEnet
(Harwath et al., ECCV 2018) with its triplets, or InfoNCE over all pairs of the
global batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_one_of
from vgsgan.data import augment, features
from vgsgan.data.examples import PairExample
from vgsgan.data.records import Records
from vgsgan.losses import contrastive, objectives, primitives, scores
from vgsgan.losses.exchange import EXCHANGES
from vgsgan.models.layers import NORMS, frame_mask
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.tasks import check_batch, grounding_evaluation
from vgsgan.tasks.towers import (
  IMAGE_TOWERS,
  SPEECH_TOWERS,
  image_tower,
  make_score,
  speech_tower,
)
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Poll, Task

LOSSES = ("triplet", "infonce", *objectives.DRAWN)
_PIXELS = 32  # Sides of images are multiples of it.
NEEDS = (
  "speech",
  "image",
  "score",
  "loss",
  "optim",
  "eval.seconds",
  "eval.block",
  *(
    f"data.{name}"
    for name in (
      "image_size",
      "sample_rate",
      "seconds",
      "num_mels",
      "preemphasis",
      "mean_normalize",
    )
  ),
  *(
    f"data.augment.{name}"
    for name in (
      "shift",
      "flip",
      "tempo",
      "vocal_tract",
      "time_share",
      "frequencies",
    )
  ),
)
# (key, params, batch_stats, batch, images, maps) -> edits, weights [b], metrics
Edit = Callable[..., tuple[jax.Array, jax.Array, Metrics]]


def objective(
  config: ml_collections.ConfigDict, params, edited: bool = False
) -> objectives.Objective:
  """The loss of `config.loss` over pairs, in both directions.

  Without edits, a loss of edits is `regular`.
  """
  if config.name == "infonce":
    return objectives.info_nce(params["log_scale"])
  if config.name in objectives.DRAWN:
    waits = config.name in objectives.EDITED and not edited
    return objectives.drawn("regular" if waits else config.name, config.margin)
  return objectives.triplet(negatives(config), config.margin)


def negatives(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The kinds that `config.loss.negatives` names."""
  return tuple(name.strip() for name in config.negatives.split(","))


def check_pairs(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for unknown towers, scores, losses or optimisers."""
  speech, image, loss = config.speech, config.image, config.loss
  check_one_of("speech.tower", speech.tower, tuple(SPEECH_TOWERS))
  check_one_of("speech.norm", speech.norm, NORMS)
  check_one_of("image.tower", image.tower, IMAGE_TOWERS)
  check_one_of("image.norm", image.norm, NORMS)
  check_one_of("score.kind", config.score.kind, tuple(scores.ALL_PAIRS))
  check_one_of("score.exchange", config.score.exchange, tuple(EXCHANGES))
  check_one_of("loss.name", loss.name, LOSSES)
  if loss.name == "triplet":
    for name in negatives(loss):
      check_one_of("loss.negatives", name, primitives.NEGATIVES)
  check_optimizer(config.optim, "optim")
  if image.embed != speech.embed:
    raise UserError(
      f"config.image.embed={image.embed} and config.speech.embed="
      f"{speech.embed} must be equal: one embedding holds both"
    )
  stages = {len(image[name]) for name in ("widths", "blocks", "strides")}
  if image.tower == "resnet" and (len(stages) > 1 or 0 in stages):
    raise UserError(
      f"config.image.widths={tuple(image.widths)}, blocks="
      f"{tuple(image.blocks)} and strides={tuple(image.strides)}: name one of "
      "each a stage"
    )
  if config.data.image_size % _PIXELS:
    raise UserError(
      f"config.data.image_size={config.data.image_size}: sides must be "
      f"multiples of {_PIXELS}"
    )


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_pairs(config)
  check_batch(config)
  if config.loss.name in objectives.EDITED:
    draws = "edits" in config
    raise UserError(
      f"config.loss.name={config.loss.name!r} is of edits, which this task "
      "does not draw: "
      + ("set --config.task=drawing" if draws else "use configs/solids.py")
      + ", or choose triplet, infonce, regular or hard"
    )


def bounded(params):
  """Bounds the learned temperature as CLIP does, to 0.01 or above."""
  if "log_scale" not in params:
    return params
  highest = jnp.log(objectives.MAX_LOGIT_SCALE)
  return params | {"log_scale": jnp.minimum(params["log_scale"], highest)}


class Grounding:
  """The towers of a config, their score and their training."""

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
    check_pairs(config)
    self.config = config
    self.mesh = mesh
    dtype = forward.dtype(config.train)
    self.speech = speech_tower(config.speech).clone(dtype=dtype)
    self.image = image_tower(config.image).clone(dtype=dtype)
    self.score = make_score(config.score)
    self.tx = optimizer(config.optim, config.train.steps)
    self.rate = schedule(config.optim, config.train.steps)
    with building("config.image or config.speech"):
      jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state."""
    data = self.config.data
    key_speech, key_image = jax.random.split(key)
    clip = jnp.zeros((1, 64, data.num_mels)), jnp.array([64])
    pixels = jnp.zeros((1, data.image_size, data.image_size, 3))
    speech = self.speech.init(key_speech, *clip, train=False)
    image = self.image.init(key_image, pixels, train=False)
    params = {"speech": speech["params"], "image": image["params"]}
    if self.config.loss.name == "infonce":
      params["log_scale"] = jnp.log(1.0 / self.config.loss.temperature)
    batch_stats = {
      "speech": speech.get("batch_stats", {}),
      "image": image.get("batch_stats", {}),
    }
    return TrainState.create(params, batch_stats, self.tx)

  def inputs(
    self, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images, log-mel and its valid frames; augmented if there is a key."""
    data = self.config.data
    log_mel = functools.partial(
      features.log_mel,
      sample_rate=data.sample_rate,
      num_mels=data.num_mels,
      preemphasis=data.preemphasis,
    )
    mel, num_frames = mesh_lib.map_rows(log_mel, self.mesh)(
      batch["waveform"], batch["num_samples"]
    )
    if data.mean_normalize:
      mel = features.mean_normalize(mel, num_frames)
    images = features.normalize_image(batch["image"])
    if key is not None:
      use = data.augment
      key_image, key_speech = jax.random.split(key)
      images = augment.shift_and_flip(key_image, images, use.shift, use.flip)
      key_stretch, key_mask = jax.random.split(key_speech)
      mel, num_frames = augment.stretch(
        key_stretch, mel, num_frames, use.tempo, use.vocal_tract
      )
      mel = augment.mask_bands(
        key_mask, mel, num_frames, use.time_share, use.frequencies
      )
    return images, mel, num_frames

  def maps(
    self, params, batch_stats, images, mel, num_frames, train: bool
  ) -> tuple[grounding_evaluation.Maps, Any]:
    """Feature maps, the valid frames of the speech, and new statistics."""
    image_map, image_stats = self.encode_images(
      params, batch_stats, images, train=train
    )
    (speech_map, num_valid), speech_stats = forward.apply(
      self.config.train,
      forward.bind(self.speech, params["speech"], train),
      batch_stats["speech"],
      mel,
      num_frames,
    )
    valid = frame_mask(num_valid, speech_map.shape[1])
    new = {"speech": speech_stats, "image": image_stats}
    return (image_map, speech_map, valid), new

  def apart(
    self, maps: grounding_evaluation.Maps, batch: Batch
  ) -> tuple[grounding_evaluation.Maps, tuple[jax.Array, ...] | None]:
    """Maps of pairs, and maps, frames and weights of edited captions if any."""
    del batch
    return maps, None

  def encode_images(self, params, batch_stats, images, train: bool):
    """Feature maps of images, and new statistics."""
    network = forward.bind(self.image, params["image"], train)
    stats = batch_stats["image"]
    return forward.apply(self.config.train, network, stats, images)

  def edit_maps(self, params, batch_stats, images) -> jax.Array:
    """Feature maps of edits; running statistics stay as they are."""
    return self.encode_images(params, batch_stats, images, train=True)[0]

  def matchmap(self, image_map, speech_map):
    """Matchmaps of pairs, of normalised features if the score has them."""
    if self.config.score.normalize:
      image_map, speech_map = map(scores.l2_normalize, (image_map, speech_map))
    return scores.matchmap(image_map, speech_map)

  def step(
    self, state: TrainState, batch: Batch, edit: Edit | None = None
  ) -> tuple[TrainState, Metrics]:
    """Makes one update. Random draws depend on the seed and the step alone.

    Args:
      state: before the update.
      batch: of pairs.
      edit: draws one more impostor for each pair; None for none.
    """
    seed, step = self.config.seed, state.step
    images, mel, num_frames = self.inputs(batch, keys.of(seed, "augment", step))

    def loss(params):
      maps, batch_stats = self.maps(
        params, state.batch_stats, images, mel, num_frames, train=True
      )
      maps, captions = self.apart(maps, batch)
      edited, drawn = None, {}
      if edit:
        impostors, weight, drawn = edit(
          keys.of(seed, "edits", step),
          params,
          state.batch_stats,
          batch,
          images,
          maps,
        )
        edit_map = self.edit_maps(params, state.batch_stats, impostors)
        edited = edit_map, weight
      value, metrics = contrastive.contrastive(
        *maps,
        batch["image_concept"],
        batch["speech_concept"],
        score=self.score,
        objective=objective(self.config.loss, params, bool(edited or captions)),
        edited=edited,
        edited_audio=captions,
        key=keys.of(seed, "negatives", step),
        mesh=self.mesh,
        exchange=self.config.score.exchange,
      )
      return value, (metrics | drawn, state.batch_stats | batch_stats)

    before = state.params
    state, metrics = state.minimise(loss, self.tx, self.rate)
    if "log_scale" in before:
      metrics["temperature"] = jnp.exp(-before["log_scale"])
    return state.replace(params=bounded(state.params)), metrics

  def encode(
    self, state: TrainState, batch: Batch
  ) -> grounding_evaluation.Maps:
    """Feature maps for evaluation."""
    maps, _ = self.maps(
      state.params, state.batch_stats, *self.inputs(batch, None), train=False
    )
    return maps


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Grounding(config, mesh)
  data = config.data
  in_eval = PairExample(int(config.eval.seconds * data.sample_rate), False)
  reader = grounding_evaluation.Reader(model, in_eval, mesh)

  @functools.cache
  def languages(split: str) -> dict[str, np.ndarray]:
    return grounding_evaluation.by_language(splits[split])

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    maps = reader.read(state, splits[split], poll)
    return reader.retrieval(maps, languages(split), poll)

  return Task(
    transform=PairExample(
      int(data.seconds * data.sample_rate),
      True,
      int(data.augment.get("shortest", 0.0) * data.sample_rate),
    ),
    init=model.init,
    step=model.step,
    evaluate=evaluate,
    select=grounding_evaluation.mean_recall_at_10,
    selection="mean R@10 of both directions",
  )
