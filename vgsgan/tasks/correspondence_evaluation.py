"""Evaluates audio-visual correspondence over whole splits."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vgsgan.data.records import REAL, First, Labelled, Records, Transform
from vgsgan.evals import crossmodal, sources
from vgsgan.losses.scores import paired
from vgsgan.models import pretrained
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.train.predict import Predictor
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll

_K = 30  # nDCG@30, as published.
_COMPONENTS = 128  # Components of canonical correlation, as published.
_TRUNK_SIZE = 32  # Pixels a side of the recogniser's training images.

Rows = dict[str, np.ndarray]
# By the image features: a projection of them, and one of the sounds.
Projections = dict[str, tuple[crossmodal.Projection, crossmodal.Projection]]


class Evaluation:
  """The `evaluate` of a `correspondence.Correspondence`.

  Every split gets the accuracy of correspondence. Systems with vectors to
  compare get nDCG@30 in the four directions. L3-Net gets it also after
  canonical correlation analysis, and for the packaged recogniser's image
  features. Maps over images with boxes get the share that point at the source.
  """

  def __init__(
    self,
    model: Any,
    transform: Transform,
    splits: Mapping[str, Labelled],
  ):
    self.model = model
    self.splits = splits
    self.encode = Predictor(self._encode, transform, model.config, model.mesh)
    self.logits = jax.jit(self._logits)

  def __call__(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    records = {"": self.splits[split]}
    if split == "test" and REAL in self.splits:
      records[REAL] = self.splits[REAL]
    project = self.projections(state, poll) if split == "test" else {}
    figures = {
      name: self.figures(state, some, project, poll)
      for name, some in records.items()
    }
    return figures.pop("") | figures

  def projections(self, state: TrainState, poll: Poll) -> Projections:
    """Fits canonical correlations on training pairs; for L3-Net alone."""
    config = self.model.config
    if config.model.system != "l3" or not config.eval.cca_records:
      return {}
    train = self.training(state, poll)
    return {
      name: crossmodal.canonical(train[image], train["audio"], _COMPONENTS)
      for name, image in (("image", "image"), ("trunk", "trunk"))
    }

  def figures(
    self,
    state: TrainState,
    records: Labelled,
    project: Projections,
    poll: Poll,
  ) -> dict[str, Any]:
    """All figures of some records."""
    rows = self.encode(state, records, poll)
    system = self.model.config.model.system
    results = {"correspondence": self.accuracy(state, rows, poll)}
    if system == "avol":
      return results | self.localisation(state, rows, records)
    relevance = records.hierarchy.relevance(rows["labels"], rows["labels"])
    results["retrieval"] = crossmodal.four_directions(
      rows["image"], rows["audio"], relevance, _K
    )
    return results | baselines(project, rows, relevance)

  def _encode(self, state: TrainState, batch) -> dict[str, jax.Array]:
    model = self.model
    images = model.images(batch, None)
    sounds = model.spectrogram(batch["waveform"], batch["num_samples"])
    encoded, _ = model.encode(state.params, state.batch_stats, images, sounds)
    rows = {name: batch[name] for name in ("labels", "clip_id")}
    rows |= {"image_map": encoded.image, "sound": encoded.audio}
    rows |= encoded.features
    if "aligned" in batch:
      # Matching pairs and retrieval use the sound that training aligns.
      sounds = model.spectrogram(batch["aligned"], batch["num_samples"])
      own, _ = model.encode(state.params, state.batch_stats, images, sounds)
      rows |= {"own": own.audio, "audio": own.features["audio"]}
    if model.config.model.system == "l3":
      rows["trunk"] = self.trunk(batch["image"] / 255.0)
    return rows

  @functools.cached_property
  def recogniser(self) -> pretrained.Network:
    return pretrained.load_recogniser("")

  def trunk(self, pixels: Float[jax.Array, "b s s 3"]) -> jax.Array:
    """Image features of the packaged recogniser, which learned from labels."""
    shape = (len(pixels), _TRUNK_SIZE, _TRUNK_SIZE, 3)
    small = jax.image.resize(pixels, shape, "linear")
    network = self.recogniser
    return network.module.apply(network.variables, small, train=False)[1]

  def _logits(self, params, image, sound) -> jax.Array:
    valid = jnp.ones(sound.shape[:2], bool)
    return paired(self.model.score(params), image, sound, valid)

  def training(self, state: TrainState, poll: Poll) -> Rows:
    """Encodes the training pairs that CCA is fitted to."""
    count = self.model.config.eval.cca_records
    return self.encode(state, First(self.splits["train"], count), poll)

  def accuracy(
    self, state: TrainState, rows: Rows, poll: Poll
  ) -> dict[str, float]:
    """Share of pairs classified correctly, half of which belong together.

    In the other half each image meets the sound of another clip, by one fixed
    random draw. Sometimes the image shows what makes that sound, so the best
    possible accuracy is 1 less half the share of such pairs.
    """
    images, sounds = rows["image_map"], rows["sound"]
    other = partners(rows["clip_id"])
    own = self.pair_logits(state, images, rows.get("own", sounds), poll)
    mixed = self.pair_logits(state, images, sounds[other], poll)
    right = np.concatenate([own > 0, mixed <= 0])
    return {"value": float(right.mean()), "chance": 0.5, "pairs": len(right)}

  def pair_logits(self, state, images, sounds, poll) -> np.ndarray:
    """The logit of each image with its sound, computed in blocks."""
    size, logits = self.model.config.eval.batch, []
    for first in range(0, len(images), size):
      poll()
      block = [x[first : first + size] for x in (images, sounds)]
      count = len(block[0])
      filled = [np.resize(x, (size, *x.shape[1:])) for x in block]
      placed = jax.device_put(filled, mesh_lib.replicated(self.model.mesh))
      logits.append(jax.device_get(self.logits(state.params, *placed))[:count])
    return np.concatenate(logits)

  def localisation(
    self, state: TrainState, rows: Rows, records: Records
  ) -> dict[str, Any]:
    """Localises the sound in the image; empty if records have no boxes."""
    if "boxes" not in records[0]:
      return {}
    fields = ("boxes", "classes", "source")
    every = [records[i] for i in range(len(records))]
    boxes, classes, source = (
      np.stack([record[name] for record in every]) for name in fields
    )
    # The map is scaled as in the score, because the scale may be negative.
    scale = jax.device_get(state.params["score"]["scale"])
    figures = sources.pointing(
      scale * rows["image_map"],
      rows["sound"][:, 0],
      boxes,
      classes,
      source,
      threshold=0.5,
    )
    return {"localisation": figures}


def partners(clip_id: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
  """Pairs each clip with another at random, with a fixed seed, each once.

  A clip that would meet itself meets one of the others instead.
  """
  order = np.random.default_rng(0).permutation(len(clip_id))
  other = np.empty_like(order)
  other[order] = np.roll(order, 1)
  for row in np.flatnonzero(clip_id[other] == clip_id):
    others = np.flatnonzero(clip_id != clip_id[row])
    if len(others):
      other[row] = others[row % len(others)]
  return other


def baselines(
  project: Projections, rows: Rows, relevance: Int[np.ndarray, "n n"]
) -> dict[str, Any]:
  """The baselines of "Objects that Sound" (ECCV 2018, section 3.1).

  `cca` is canonical correlation of L3-Net's image and sound features. `trunk`
  and `trunk_cca` use image features of a network that learned from labels: as
  published VGG16 on ImageNet, here the packaged recogniser of rendered scenes.
  `trunk` retrieves images with images alone.
  """
  results: dict[str, Any] = {}
  if "trunk" in rows:
    alone = crossmodal.within(rows["trunk"], relevance, _K)
    results["trunk"] = {"image_to_image": alone}
  for name, image in (("cca", "image"), ("trunk_cca", "trunk")):
    if image in project:
      of_image, of_audio = project[image]
      results[name] = crossmodal.four_directions(
        of_image(rows[image]), of_audio(rows["audio"]), relevance, _K
      )
  return results
