"""What is measured of audio-visual correspondence, over whole splits."""

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
_COMPONENTS = 128  # Of canonical correlation, as published.
_TRUNK_SIZE = 32  # Pixels a side of the pictures that the recogniser knows.

Rows = dict[str, np.ndarray]
# By what of the picture is projected: of pictures, and of sounds.
Projections = dict[str, tuple[crossmodal.Projection, crossmodal.Projection]]


class Evaluation:
  """`tasks.Task.evaluate` of a `correspondence.Correspondence`.

  Of every split: the accuracy of correspondence. Of systems with vectors to
  compare, nDCG@30 in the four directions; of L3-Net, also after canonical
  correlation analysis, and of the packaged recogniser's picture features with
  and without it. Of maps over pictures whose boxes are known, how often they
  point at what sounds.
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
    found = {
      name: self.figures(state, some, project, poll)
      for name, some in records.items()
    }
    return found.pop("") | found

  def projections(self, state: TrainState, poll: Poll) -> Projections:
    """Canonical correlations, of training pairs; of L3-Net alone."""
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
    """All that is measured of some records."""
    found = self.encode(state, records, poll)
    system = self.model.config.model.system
    results = {"correspondence": self.accuracy(state, found, poll)}
    if system == "avol":
      return results | self.localisation(state, found, records)
    relevance = records.hierarchy.relevance(found["labels"], found["labels"])
    results["retrieval"] = crossmodal.four_directions(
      found["image"], found["audio"], relevance, _K
    )
    return results | baselines(project, found, relevance)

  def _encode(self, state: TrainState, batch) -> dict[str, jax.Array]:
    model = self.model
    pictures = model.pictures(batch, None)
    sounds = model.spectrogram(batch["waveform"], batch["num_samples"])
    found, _ = model.encode(state.params, state.batch_stats, pictures, sounds)
    kept = {name: batch[name] for name in ("labels", "clip_id")}
    kept |= {"image_map": found.image, "sound": found.audio}
    kept |= found.features
    if "aligned" in batch:
      # Of its own sound as training had it is a pair, and what is retrieved.
      sounds = model.spectrogram(batch["aligned"], batch["num_samples"])
      own, _ = model.encode(state.params, state.batch_stats, pictures, sounds)
      kept |= {"own": own.audio, "audio": own.features["audio"]}
    if model.config.model.system == "l3":
      kept["trunk"] = self.trunk(batch["image"] / 255.0)
    return kept

  @functools.cached_property
  def recogniser(self) -> pretrained.Network:
    return pretrained.load_recogniser("")

  def trunk(self, pixels: Float[jax.Array, "b s s 3"]) -> jax.Array:
    """Picture features of a network that was taught with labels."""
    shape = (len(pixels), _TRUNK_SIZE, _TRUNK_SIZE, 3)
    small = jax.image.resize(pixels, shape, "linear")
    network = self.recogniser
    return network.module.apply(network.variables, small, train=False)[1]

  def _logits(self, params, image, sound) -> jax.Array:
    valid = jnp.ones(sound.shape[:2], bool)
    return paired(self.model.score(params), image, sound, valid)

  def training(self, state: TrainState, poll: Poll) -> Rows:
    """The same of so many training pairs: what CCA is fitted to."""
    count = self.model.config.eval.cca_records
    return self.encode(state, First(self.splits["train"], count), poll)

  def accuracy(
    self, state: TrainState, found: Rows, poll: Poll
  ) -> dict[str, float]:
    """Share of pairs told right, half of which belong together.

    In the other half each picture is with the sound of another clip, drawn at
    random and fixed, which now and then is of something that it shows: so 1 is
    out of reach, by half the share of such pairs.
    """
    images, sounds = found["image_map"], found["sound"]
    other = partners(found["clip_id"])
    own = self.pair_logits(state, images, found.get("own", sounds), poll)
    mixed = self.pair_logits(state, images, sounds[other], poll)
    right = np.concatenate([own > 0, mixed <= 0])
    return {"value": float(right.mean()), "chance": 0.5, "pairs": len(right)}

  def pair_logits(self, state, images, sounds, poll) -> np.ndarray:
    """The logit of each picture with its sound, in blocks of one size."""
    size, logits = self.model.config.eval.batch, []
    for first in range(0, len(images), size):
      poll()
      block = [x[first : first + size] for x in (images, sounds)]
      count = len(block[0])
      filled = [np.resize(x, (size, *x.shape[1:])) for x in block]
      there = jax.device_put(filled, mesh_lib.replicated(self.model.mesh))
      logits.append(jax.device_get(self.logits(state.params, *there))[:count])
    return np.concatenate(logits)

  def localisation(
    self, state: TrainState, found: Rows, records: Records
  ) -> dict[str, Any]:
    """Where in the picture the sound is found; nothing if no one knows."""
    if "boxes" not in records[0]:
      return {}
    fields = ("boxes", "classes", "source")
    known = [records[i] for i in range(len(records))]
    boxes, classes, source = (
      np.stack([record[name] for record in known]) for name in fields
    )
    # The score's own map: a scale below 0 would turn it round.
    scale = jax.device_get(state.params["score"]["scale"])
    figures = sources.pointing(
      scale * found["image_map"],
      found["sound"][:, 0],
      boxes,
      classes,
      source,
      threshold=0.5,
    )
    return {"localisation": figures}


def partners(clip_id: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
  """Another clip for each, at random with a fixed seed, each one once.

  Where a clip would be with itself it is with the next that is another.
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
  project: Projections, found: Rows, relevance: Int[np.ndarray, "n n"]
) -> dict[str, Any]:
  """Canonical correlations of L3-Net's features, and a taught trunk's.

  "Objects that Sound" (ECCV 2018, section 3.1): `cca` of L3-Net's picture and
  sound features; `trunk` and `trunk_cca` with the picture features of a network
  that was taught with labels, where published VGG16 of ImageNet, here the
  packaged recogniser of rendered scenes. A trunk of pictures finds pictures.
  """
  results: dict[str, Any] = {}
  if "trunk" in found:
    alone = crossmodal.within(found["trunk"], relevance, _K)
    results["trunk"] = {"image_to_image": alone}
  for name, image in (("cca", "image"), ("trunk_cca", "trunk")):
    if image in project:
      of_image, of_audio = project[image]
      results[name] = crossmodal.four_directions(
        of_image(found[image]), of_audio(found["audio"]), relevance, _K
      )
  return results
