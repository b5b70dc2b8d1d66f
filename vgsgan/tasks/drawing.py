"""Learning words by drawing images: grounding with drawn hard negatives.

Surís et al., "Learning Words by Drawing Images" (CVPR 2019): inside the step a
generator draws each image again with one detail changed where the word is. The
caption has to score lower with this edit than with its own image.

An image that the generator did not draw has no latent in its record. With
`edits.inverter` the step searches for one (`vgsgan.negatives.inversion`) and
adds the edit's change to the image itself. Details that the generator cannot
draw are then in both, and do not give the edit away.
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
from vgsgan.common.options import check_one_of
from vgsgan.data import features
from vgsgan.data.examples import DrawnPairExample
from vgsgan.data.records import Record, Records
from vgsgan.losses import objectives, scores
from vgsgan.models import pretrained
from vgsgan.negatives import edits, impostors, inversion
from vgsgan.negatives.curriculum import attempts, curriculum
from vgsgan.tasks import check_batch, drawing_words, grounding
from vgsgan.tasks.drawing_concepts import Refresh
from vgsgan.tasks.grounding_evaluation import (
  Reader,
  mean_recall_at_10,
)
from vgsgan.train import forward
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch, Metrics, Poll, Task

NEEDS = (*grounding.NEEDS, "edits", "data.generator")


class Drawing(grounding.Grounding):
  """The towers of a config and the generator that draws its edits."""

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
    use = config.edits
    self.phases = curriculum(use.curriculum)
    network = pretrained.unlabelled_generator(
      config.data.generator, config.data.image_size
    )
    self.generator = network.module.clone(dtype=forward.dtype(config.train))
    self.drawn_with = network.variables
    self.layers = self._layers(use.layers)
    self.attempts = attempts(use)
    self.inverter = None
    if use.inverter:
      self.inverter = pretrained.load_inverter(
        use.inverter, self.generator.image_size, self.generator.latent_size
      )
    super().__init__(config, mesh)

  def _layers(self, names: str) -> dict[str, tuple[int, int, int]]:
    layers = self.generator.layers
    chosen = tuple(name.strip() for name in names.split(","))
    for name in chosen:
      check_one_of("edits.layers", name, tuple(layers))
    return {name: layers[name] for name in chosen}

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state; the generator is in `params` only if it is trained."""
    state = super().init(key)
    weights = jax.tree.map(jnp.asarray, self.drawn_with)
    params, stats = dict(state.params), dict(state.batch_stats)
    if self.config.edits.train_generator:
      params["generator"] = weights["params"]
    else:
      stats["generator_params"] = weights["params"]
    stats["generator"] = weights["batch_stats"]
    if self.inverter:
      stats["inverter"] = jax.tree.map(jnp.asarray, self.inverter.variables)
    if "cluster" in self.phases.values():
      stats["concepts"] = self._no_concepts()
    return TrainState.create(params, stats, self.tx)

  def _no_concepts(self) -> impostors.Concepts:
    count, width = self.config.edits.concepts, self.config.image.embed
    return impostors.Concepts(
      jnp.zeros(width),
      jnp.ones(width),
      jnp.zeros((count, width)),
      {name: jnp.zeros((count, c)) for name, (_, _, c) in self.layers.items()},
    )

  def phase_step(self, kind: str) -> Callable:
    """The update of a phase of the curriculum."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
      if kind == "regular":
        return self.step(state, batch)

      def edit(*arguments):
        return self.edit(kind, *arguments)

      return self.step(state, batch, edit)

    return step

  def generator_params(self, params, batch_stats):
    """The generator's weights, trained or frozen."""
    if self.config.edits.train_generator:
      return params["generator"]
    return batch_stats["generator_params"]

  def pixels(self, params, batch_stats) -> edits.Draw:
    """The function that draws images in [0, 1], rounded as if stored."""
    variables = {
      "params": self.generator_params(params, batch_stats),
      "batch_stats": batch_stats["generator"],
    }

    def draw(z, keep):
      drawn = self.generator.apply(variables, z, train=False, keep=keep)
      return features.quantize(0.5 + 0.5 * drawn)

    return draw

  def draw(self, params, batch_stats, missed=None) -> edits.Draw:
    """The function that draws inputs of the image tower.

    `missed` is that of `inversion.Latents`.
    """
    pixels = self.pixels(params, batch_stats)

    def draw(z, keep):
      drawn = pixels(z, keep)
      if missed is not None:
        drawn = inversion.complete(drawn, missed)
      return features.standardize(drawn)

    return draw

  def latents(self, params, batch_stats, batch, images) -> inversion.Latents:
    """The records' latents, or those that the inverter finds."""
    if not self.inverter:
      has_latent = jnp.isfinite(batch["z"]).all(axis=1)
      z = jnp.where(has_latent[:, None], batch["z"], 0.0)
      return inversion.Latents(z, has_latent.astype(jnp.float32), None, {})
    module, variables = self.inverter.module, batch_stats["inverter"]
    draw = self.pixels(params, batch_stats)
    return inversion.search(
      lambda z: draw(z, {}),
      lambda shown: module.apply(variables, 2 * shown - 1),
      features.pixels(images) / 255.0,  # After augmentation.
      self.config.edits.inversion_steps,
      self.config.edits.inversion_limit,
    )

  def edit(self, kind, key, params, batch_stats, batch, images, maps):
    """Draws one impostor for each image; see `impostors.select_edit`."""
    frozen = jax.lax.stop_gradient(params)
    latents = self.latents(frozen, batch_stats, batch, images)
    maps = jax.lax.stop_gradient(maps)
    peak = edits.peak(self.matchmap(*maps[:2]), maps[2])
    regions = [edits.region(peak.heat, share) for share in self.attempts.shares]
    draw = self.draw(params, batch_stats, latents.missed)
    if kind in impostors.LATENT:
      drawn = impostors.move_latents(
        kind,
        key,
        draw,
        latents.z,
        tuple(self.config.edits.strengths),
        self.generator.chunk,
        lambda: self.directions(params, batch_stats),
      )
    else:
      units = self.select_units(
        kind, key, frozen, batch_stats, latents, maps, peak, regions[0]
      )
      drawn = impostors.ablate_units(
        draw, latents.z, units, self.layers, regions
      )
    counts = latents.counts
    drawn = jnp.where(counts[:, None, None, None] > 0, drawn, images)
    chosen, weight, metrics = impostors.select_edit(
      drawn, images, regions, self.attempts.changes
    )
    if not self.config.edits.train_generator:
      chosen = jax.lax.stop_gradient(chosen)
    return chosen, weight * counts, metrics | latents.metrics

  def select_units(
    self, kind, key, frozen, batch_stats, latents, maps, peak, region
  ) -> impostors.Units:
    """The units that each attempt switches off where the word is."""
    image_map, speech_map, valid = maps
    draw = self.draw(frozen, batch_stats, latents.missed)

    def score_of_keep(keep):
      image_map = self.edit_maps(frozen, batch_stats, draw(latents.z, keep))
      return scores.paired(self.score, image_map, speech_map, valid)

    return impostors.UNITS[kind](
      impostors.EditContext(
        key=key,
        layers=self.layers,
        peak=peak,
        region=region,
        image_map=image_map,
        score_of_keep=score_of_keep,
        concepts=batch_stats.get("concepts"),
        counts=self.attempts.counts,
        published=not self.config.edits.counts,
      )
    )

  def directions(self, params, batch_stats):
    """Closed-form directions of the layers that read the latent (SeFa)."""
    weights = self.generator_params(params, batch_stats)
    matrix = self.generator.latent_matrix(weights)
    return edits.sefa(matrix, self.config.edits.directions)[0]


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  grounding.check_pairs(config)
  check_batch(config)
  phases = curriculum(config.edits.curriculum)
  check_used(config.loss.name, phases)
  check_norm(config, phases)
  attempts(config.edits)
  moved = config.data.augment.shift or config.data.augment.flip
  inverter = config.edits.inverter
  if moved and not inverter and set(phases.values()) != {"regular"}:
    raise UserError(
      "config.data.augment: shift and flip take an image away from its "
      "latent, and edits with it: set them to 0 and False"
    )


def check_norm(
  config: ml_collections.ConfigDict, phases: dict[int, str]
) -> None:
  """Raises UserError if edits would have other statistics than originals."""
  if config.image.norm == "batch" and set(phases.values()) != {"regular"}:
    raise UserError(
      "config.image.norm='batch' normalises edits and originals by different "
      "statistics, by which they can be told apart, and mixes the rows that "
      "gradient edits have to keep apart: set it to group"
    )


def check_latents(
  config: ml_collections.ConfigDict,
  phases: dict[int, str],
  latent_size: int,
  record: Record,
) -> None:
  """Raises UserError if records lack the latents that edits need."""
  kinds = set(phases.values()) - {"regular"}
  if not kinds or np.size(record.get("z", ())) == latent_size:
    return
  if not config.edits.inverter:
    raise UserError(
      f"config.data.dataset={config.data.dataset!r} has no latents of "
      "config.data.generator: name an encoder in config.edits.inverter "
      "(configs/inversion.py)"
    )
  if "cluster" in kinds:
    raise UserError(
      "config.edits.curriculum: cluster needs latents in the records, which "
      f"config.data.dataset={config.data.dataset!r} has not; use gradient"
    )


def check_used(loss: str, phases: dict[int, str]) -> None:
  """Raises UserError if the curriculum has edits and the loss ignores them."""
  users = (*objectives.EDITED, "infonce")
  if loss not in users and set(phases.values()) != {"regular"}:
    raise UserError(
      f"config.loss.name={loss!r} has no use for the edits of "
      "config.edits.curriculum: choose edited, both or infonce, or set the "
      "curriculum to regular@0"
    )


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Drawing(config, mesh)
  size = model.generator.latent_size
  check_latents(config, model.phases, size, splits["train"][0])
  data = config.data
  in_eval = DrawnPairExample(int(config.eval.seconds * data.sample_rate), False)
  reader = Reader(model, in_eval, mesh)
  subsets = functools.cache(lambda split: drawing_words.groups(splits[split]))

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    maps = reader.read(state, splits[split], poll)
    results = reader.retrieval(maps, subsets(split), poll)
    if split == "test" and "probe" in splits:
      results |= drawing_words.evaluate(reader, state, splits, poll)
    return results

  steps = {
    first: model.phase_step(kind) for first, kind in model.phases.items()
  }
  clusters = "cluster" in model.phases.values()
  return Task(
    transform=DrawnPairExample(
      int(data.seconds * data.sample_rate),
      True,
      int(data.augment.get("shortest", 0.0) * data.sample_rate),
    ),
    init=model.init,
    step=steps.pop(0),
    phases=steps,
    between=(
      Refresh(model, splits["train"], in_eval, mesh) if clusters else None
    ),
    evaluate=evaluate,
    select=mean_recall_at_10,
    selection="mean R@10 of both directions",
  )
