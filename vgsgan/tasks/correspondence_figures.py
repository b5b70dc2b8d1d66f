"""What is measured of audio-visual correspondence, over whole splits."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vgsgan import mesh as mesh_lib
from vgsgan.data import pipeline
from vgsgan.data.clip_sets import REAL, Labelled
from vgsgan.evals import crossmodal, localisation
from vgsgan.scores import paired
from vgsgan.state import TrainState
from vgsgan.tasks import Poll
from vgsgan.worlds import pretrained

_K = 30  # nDCG@30, as published.
_COMPONENTS = 128  # Of canonical correlation, as published.
_TRUNK_SIZE = 32  # Pixels a side of the pictures that the recogniser knows.

Rows = dict[str, np.ndarray]


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
    transform: pipeline.Transform,
    splits: Mapping[str, Labelled],
  ):
    self.model = model
    self.transform = transform
    self.splits = splits
    everywhere = mesh_lib.replicated(model.mesh)
    self.encode = jax.jit(self._encode, out_shardings=everywhere)
    self.logits = jax.jit(self._logits)

  def __call__(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    results = self.figures(state, self.splits[split], poll)
    if split == "test" and REAL in self.splits:
      results[REAL] = self.figures(state, self.splits[REAL], poll)
    return results

  def figures(
    self, state: TrainState, records: Labelled, poll: Poll
  ) -> dict[str, Any]:
    """All that is measured of some records."""
    found = self.read(state, records, poll)
    system = self.model.config.model.system
    results = {"correspondence": self.accuracy(state, found, poll)}
    if system == "avol":
      return results | self.localisation(found, records)
    relevance = records.hierarchy.relevance(found["labels"], found["labels"])
    results["retrieval"] = directions(found, relevance)
    if system == "l3" and self.model.config.eval.cca_records:
      train = self.training(state, poll)
      results |= baselines(train, found, relevance)
    return results

  def _encode(self, state: TrainState, batch) -> dict[str, jax.Array]:
    model = self.model
    pictures = model.pictures(batch, None)
    sounds = model.spectrogram(batch["waveform"], batch["num_samples"])
    found, _ = model.encode(state.params, state.batch_stats, pictures, sounds)
    kept = {name: batch[name] for name in ("real", "labels")}
    kept |= {"image_map": found.image, "sound": found.audio}
    kept |= found.features
    if "aligned" in batch:
      sounds = model.spectrogram(batch["aligned"], batch["num_samples"])
      own, _ = model.encode(state.params, state.batch_stats, pictures, sounds)
      kept["own"] = own.audio
    if model.config.model.system == "l3":
      kept["trunk"] = self.trunk(batch["image"] / 255.0)
    return kept

  @functools.cached_property
  def recogniser(self) -> pretrained.Network:
    return pretrained.load_recogniser("")

  def trunk(self, pixels: Float[jax.Array, "b s s 3"]) -> jax.Array:
    """Picture features of a network that was taught with labels."""
    b, side = pixels.shape[:2]
    size = min(side, _TRUNK_SIZE)
    small = jax.image.resize(pixels, (b, size, size, 3), "linear")
    network = self.recogniser
    return network.module.apply(network.variables, small, train=False)[1]

  def _logits(self, params, image, sound) -> jax.Array:
    valid = jnp.ones(sound.shape[:2], bool)
    return paired(self.model.score(params), image, sound, valid)

  def read(
    self, state: TrainState, records: pipeline.Records, poll: Poll
  ) -> Rows:
    """What `_encode` finds in some records, a row each."""
    rows, mesh = self.model.config.eval.batch, self.model.mesh
    stream = pipeline.EvalStream(
      records, self.transform, rows, mesh_lib.local_rows(rows)
    )
    parts = []
    threads = self.model.config.data.num_threads
    for local in pipeline.batches(stream, 0, threads):
      poll()
      batch = mesh_lib.shard(local, mesh)
      found = jax.device_get(self.encode(state, batch))
      real = found.pop("real")
      parts.append({name: values[real] for name, values in found.items()})
    return {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }

  def training(self, state: TrainState, poll: Poll) -> Rows:
    """The same of so many training pairs: what CCA is fitted to."""
    records = self.splits["train"]
    count = min(len(records), self.model.config.eval.cca_records)
    return self.read(state, First(records, count), poll)

  def accuracy(
    self, state: TrainState, found: Rows, poll: Poll
  ) -> dict[str, float]:
    """Share of pairs told right, half of which belong together.

    Each sound stands against one picture that is not its own: the next in an
    order that is fixed.
    """
    images, sounds = found["image_map"], found["sound"]
    order = np.random.default_rng(0).permutation(len(images))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    own = self.pair_logits(state, images, found.get("own", sounds), poll)
    mixed = self.pair_logits(state, images[other], sounds, poll)
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
      logits.append(jax.device_get(self.logits(state.params, *filled))[:count])
    return np.concatenate(logits)

  def localisation(
    self, found: Rows, records: pipeline.Records
  ) -> dict[str, Any]:
    """Where in the picture the sound is found; nothing if no one knows."""
    if "boxes" not in records[0]:
      return {}
    fields = ("boxes", "classes", "source")
    known = [records[i] for i in range(len(records))]
    boxes, classes, source = (
      np.stack([record[name] for record in known]) for name in fields
    )
    figures = pointing_figures(
      found["image_map"],
      found["sound"][:, 0],
      boxes,
      classes,
      source,
      self.model.config.eval.threshold,
    )
    return {"localisation": figures}


@dataclasses.dataclass(frozen=True)
class First:
  """The first records of a split."""

  records: pipeline.Records
  count: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> pipeline.Record:
    return self.records[index]


def directions(found: Rows, relevance: Int[np.ndarray, "n n"]) -> Any:
  return crossmodal.four_directions(
    found["image"], found["audio"], relevance, _K
  )


def baselines(
  train: Rows, found: Rows, relevance: Int[np.ndarray, "n n"]
) -> dict[str, Any]:
  """Canonical correlations of L3-Net's features, and a taught trunk's.

  "Objects that Sound" (ECCV 2018, section 3.3): `cca` of L3-Net's picture and
  sound features; `trunk` and `trunk_cca` with the picture features of a network
  that was taught with labels, where published VGG16 of ImageNet, here the
  packaged recogniser of rendered scenes.
  """
  results: dict[str, Any] = {
    "trunk": crossmodal.four_directions(
      found["trunk"], found["audio"], relevance, _K
    )
  }
  for name, image in (("cca", "image"), ("trunk_cca", "trunk")):
    of_image, of_audio = crossmodal.canonical(
      train[image], train["audio"], _COMPONENTS
    )
    results[name] = crossmodal.four_directions(
      of_image(found[image]), of_audio(found["audio"]), relevance, _K
    )
  return results


def pointing_figures(
  image_map: Float[np.ndarray, "n h w d"],
  sound: Float[np.ndarray, "n d"],
  boxes: Float[np.ndarray, "n m 4"],
  classes: Int[np.ndarray, "n m"],
  source: Int[np.ndarray, "n"],
  threshold: float,
) -> dict[str, Any]:
  """Where the sound is found in pictures that show several objects.

  Args:
    image_map: features of each place.
    sound: of what sounds in each.
    boxes: of the objects; zeros where there is none.
    classes: of the objects; -1 where there is none.
    source: which of them sounds.
    threshold: see `localisation.intersection_over_union`.

  Returns:
    `own_sound`: `pointing` of each picture's sound at its source; `iou`
    likewise. `wrong_sound`: the same with the sound of another picture, of
    what this one does not show. `wrong_sound_elsewhere`: how often that one
    points at one of the other objects. Nothing if no picture has several.
  """
  several = np.flatnonzero((classes >= 0).sum(1) > 1)
  sounding = classes[np.arange(len(source)), source]
  wrong = strangers(classes, sounding)
  several = several[wrong[several] >= 0]
  if not len(several):
    return {}
  wrong = wrong[several]
  maps, boxes, source = image_map[several], boxes[several], source[several]
  at = np.arange(len(several))
  target = boxes[at, source]
  others = boxes.copy()
  others[at, source] = 0.0

  def heard(sounds):
    return np.einsum("nhwd,nd->nhw", maps, sounds)

  own, strange = heard(sound[several]), heard(sound[wrong])
  return {
    "own_sound": localisation.pointing(own, target),
    "iou": localisation.intersection_over_union(own, target, threshold),
    "wrong_sound": localisation.pointing(strange, target),
    "wrong_sound_elsewhere": localisation.pointing_any(strange, others),
  }


def strangers(
  classes: Int[np.ndarray, "n m"], sounding: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
  """For each picture, another in which something sounds that it lacks.

  Drawn with a fixed seed; -1 of a picture that shows all that sounds.
  """
  rng = np.random.default_rng(0)
  found = np.full(len(sounding), -1)
  for row in range(len(sounding)):
    absent = np.flatnonzero(~np.isin(sounding, classes[row]))
    if len(absent):
      found[row] = rng.choice(absent)
  return found
