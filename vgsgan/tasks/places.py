"""Grounding in the world of places, with one more impostor for each pair.

The impostor is made inside the step: an edit that changes one word of the
scene, or a control of equal cost. The renderer makes perfect ones. With
`edits.drawn` a GAN makes them, and the images of training as well, so that
nothing but the change tells an edit from its original: it draws the same latent
with another word. Tests have rendered images in any case.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.data.examples import PlaceExample
from vgsgan.data.records import Records
from vgsgan.models import pretrained
from vgsgan.negatives import impostors, scene_edits
from vgsgan.negatives.curriculum import curriculum
from vgsgan.tasks import check_batch, drawing, drawing_words, grounding
from vgsgan.tasks import places_evaluation as evaluation
from vgsgan.tasks.grounding_evaluation import Reader, mean_recall_at_10
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Metrics, Poll, Task
from vgsgan.worlds import places

NEEDS = (
  *grounding.NEEDS,
  "edits.astray",
  "edits.curriculum",
  "edits.drawn",
  "edits.generator",
  "data.things",
  "data.places",
  "data.skies",
  "data.loudness",
  "data.said",
  "data.scene_seed",
  "data.wrong",
)

CAPTION = "caption"  # The impostor is the caption with one attribute wrong.
PHASES = (*scene_edits.IMPOSTORS, CAPTION)


class Places(grounding.Grounding):
  """The towers of a config, and the maker of their impostors."""

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
    self.counts = places.counts(
      config.data.things, config.data.places, config.data.skies
    )
    self.generator, self.drawn_with = None, None
    if config.edits.drawn:
      network = pretrained.places_generator(config.edits.generator, config.data)
      self.generator = network.module.clone(dtype=forward.dtype(config.train))
      self.drawn_with = network.variables
    super().__init__(config, mesh)

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state; `batch_stats.generator` is that of `edits.drawn`."""
    state = super().init(key)
    if not self.generator:
      return state
    drawn_with = jax.tree.map(jnp.asarray, self.drawn_with)
    return state.replace(
      batch_stats=state.batch_stats | {"generator": drawn_with}
    )

  def phase_step(self, name: str) -> Callable:
    """The update of a phase of the curriculum."""

    def edit(*arguments):
      return self.edit(name, *arguments)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
      if name != CAPTION:
        batch = {k: x for k, x in batch.items() if "wrong" not in k}
      if self.generator:
        batch = batch | {"image": self.originals(state.batch_stats, batch)}
      made = name in scene_edits.IMPOSTORS
      return self.step(state, batch, edit if made else None)

    return step

  def latents(self, batch: Batch) -> Float[Array, "b z"]:
    """The latents of a batch's drawn images, one for each image for ever."""
    seed, size = self.config.data.scene_seed, (self.generator.latent_size,)
    return jax.vmap(
      lambda image: jax.random.normal(keys.of(seed, "pictures", image), size)
    )(batch["image_id"])

  def draw(self, batch_stats, z, words) -> Float[Array, "b s s 3"]:
    """Draws scenes, as images in [0, 1] that are rounded as if stored."""
    drawn = self.generator.apply(
      batch_stats["generator"], z, places.labels(words), train=False
    )
    return features.quantize(0.5 + 0.5 * drawn)

  def originals(self, batch_stats, batch: Batch) -> UInt8[Array, "b s s 3"]:
    """Draws the images of a batch."""
    drawn = self.draw(batch_stats, self.latents(batch), batch["attributes"])
    return jnp.rint(255 * drawn).astype(jnp.uint8)

  def inputs(self, batch: Batch, key: jax.Array | None):
    """As in `Grounding`; each wrong caption follows its own caption."""
    if "wrong" in batch:
      both = ("waveform", "wrong"), ("num_samples", "num_wrong")
      batch = batch | {
        names[0]: impostors.interleave(lambda i, x=names: batch[x[i]], 2)
        for names in both
      }
    return super().inputs(batch, key)

  def apart(self, maps, batch: Batch):
    """As in `Grounding`; undoes what `inputs` has joined."""
    if "wrong" not in batch:
      return maps, None
    image_map, speech_map, valid = maps
    weight = (batch["num_wrong"] > 0).astype(jnp.float32)
    own = image_map, speech_map[::2], valid[::2]
    return own, (speech_map[1::2], valid[1::2], weight)

  def impostor(
    self, name: str, key: jax.Array, batch: Batch
  ) -> tuple[places.Scene, Float[Array, "b"]]:
    """The scenes of a batch's impostors, and their weights."""
    scene = places.Scene(batch["attributes"], batch["pose"])
    return scene_edits.impostor(
      name, key, scene, batch["said"], self.counts, self.config.edits.astray
    )

  def edit(self, name, key, params, batch_stats, batch, images, maps):
    """Makes one impostor for each image."""
    del params, maps
    if self.generator:
      z = self.latents(batch)
      if name in scene_edits.CONTROLS:
        key, key_latent = jax.random.split(key)
        z = jax.random.normal(key_latent, z.shape)
    changed, weight = self.impostor(name, key, batch)
    if self.generator:
      made = self.draw(batch_stats, z, changed.words)
    else:
      data = self.config.data
      made = features.quantize(
        jax.vmap(
          lambda x: places.render(x, data.image_size, data.loudness).image
        )(changed)
      )
    return features.standardize(made).astype(images.dtype), weight, {}


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  grounding.check_pairs(config)
  check_batch(config)
  phases = curriculum(config.edits.curriculum, PHASES)
  drawing.check_used(config.loss.name, phases)
  drawing.check_norm(config, phases)
  if config.data.said == "nothing":
    raise UserError(
      "config.data.said='nothing' leaves no captions to learn from: choose "
      "all, attributes or nouns"
    )
  if CAPTION in phases.values() and not config.data.wrong:
    raise UserError(
      "config.edits.curriculum: caption needs wrong captions, set "
      "config.data.wrong=True"
    )


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Places(config, mesh)
  data = config.data
  in_eval = PlaceExample(int(config.eval.seconds * data.sample_rate), False)
  reader = Reader(model, in_eval, mesh)
  subsets = functools.cache(lambda split: drawing_words.groups(splits[split]))

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    maps = reader.read(state, splits[split], poll)
    results = reader.retrieval(maps, subsets(split), poll)
    if split == "validation" and "validation_pairs" in splits:
      pairs = splits["validation_pairs"]
      results |= evaluation.words(reader, state, pairs, None, poll)
    if split == "test" and "pairs" in splits:
      pairs, alone = splits["pairs"], splits["words"]
      results |= evaluation.words(reader, state, pairs, alone, poll)
    return results

  phases = curriculum(config.edits.curriculum, PHASES)
  steps = {first: model.phase_step(name) for first, name in phases.items()}
  return Task(
    transform=PlaceExample(
      int(data.seconds * data.sample_rate),
      True,
      int(data.augment.get("shortest", 0.0) * data.sample_rate),
      wrong=CAPTION in phases.values(),
    ),
    init=model.init,
    step=steps.pop(0),
    phases=steps,
    evaluate=evaluate,
    select=mean_recall_at_10,
    selection="mean R@10 of both directions",
  )
