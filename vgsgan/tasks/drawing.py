"""Learning words by drawing images: grounding with drawn hard negatives.

Surís et al., "Learning Words by Drawing Images" (CVPR 2019): inside the step a
generator draws each picture anew with one detail changed where the word is,
and the caption has to score lower with it than with its own picture.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vgsgan import edits, impostors, scores
from vgsgan.data import features, pipeline
from vgsgan.data.pairs import DrawnPairExample
from vgsgan.errors import UserError
from vgsgan.options import check_at_least, check_one_of
from vgsgan.state import TrainState
from vgsgan.tasks import Batch, Metrics, Poll, Task, grounding, words
from vgsgan.tasks.concept_refresh import Refresh
from vgsgan.worlds import pretrained

PHASES = ("regular", *impostors.KINDS)


def curriculum(text: str) -> dict[int, str]:
  """'regular@0,random@300' as {0: 'regular', 300: 'random'}.

  Raises:
    UserError: it cannot be read, or does not start at step 0.
  """
  phases: dict[int, str] = {}
  for part in text.split(","):
    kind, _, first = part.strip().partition("@")
    check_one_of("edits.curriculum", kind, PHASES)
    if not first.isdecimal():
      raise UserError(
        f"config.edits.curriculum={text!r}: {part.strip()!r} is not KIND@STEP"
      )
    if int(first) in phases:
      raise UserError(
        f"config.edits.curriculum={text!r} names step {int(first)} twice"
      )
    phases[int(first)] = kind
  if 0 not in phases:
    raise UserError(
      f"config.edits.curriculum={text!r} must say what step 0 does: put "
      "regular@0 in front"
    )
  return dict(sorted(phases.items()))


class Drawing(grounding.Grounding):
  """The towers and the generator of a config."""

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
    use = config.edits
    self.phases = curriculum(use.curriculum)
    network = pretrained.load_generator(config.data.generator)
    self.generator, self.drawn_with = network.module, network.variables
    drawn = self.generator.image_size
    if self.generator.num_labels or drawn != config.data.image_size:
      raise UserError(
        f"config.data.generator draws {drawn} px "
        f"{'with' if self.generator.num_labels else 'without'} labels: one of "
        f"config.data.image_size={config.data.image_size} px without labels "
        "is needed"
      )
    self.layers = self._layers(use.layers)
    self.ladder = _ladder(use)
    check_at_least("edits.concepts", use.concepts, 1)
    super().__init__(config, mesh)

  def _layers(self, names: str) -> dict[str, tuple[int, int, int]]:
    known = self.generator.layers
    chosen = tuple(name.strip() for name in names.split(","))
    for name in chosen:
      check_one_of("edits.layers", name, tuple(known))
    return {name: known[name] for name in chosen}

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

  def draw(self, params, batch_stats) -> edits.Draw:
    """Pictures as the image tower takes them, from latents."""
    variables = {
      "params": self.generator_params(params, batch_stats),
      "batch_stats": batch_stats["generator"],
    }

    def draw(z, keep):
      pixels = self.generator.apply(variables, z, train=False, keep=keep)
      return features.standardize(impostors.quantize(0.5 + 0.5 * pixels))

    return draw

  def edit(self, kind, key, params, batch_stats, batch, pictures, maps):
    """One drawn impostor for each picture: see `impostors.choose`."""
    draw = self.draw(params, batch_stats)
    use, frozen = self.config.edits, jax.lax.stop_gradient(params)
    image_map, speech_map, valid = jax.lax.stop_gradient(maps)
    found = edits.peak(self.matchmap(image_map, speech_map), valid)
    regions = [edits.region(found.heat, share) for share in self.ladder.shares]
    z = batch["z"]

    def score_of_keep(keep):
      drawn = self.draw(frozen, batch_stats)(z, keep)
      image_map = self.look(frozen, batch_stats, drawn)
      return scores.paired(self.score, image_map, speech_map, valid)

    if kind in impostors.LATENT:
      drawn = impostors.move(
        kind,
        key,
        draw,
        z,
        tuple(use.strengths),
        self.generator.chunk,
        self.directions(params, batch_stats) if kind == "direction" else None,
      )
    else:
      ranks = impostors.unit_ranks(
        kind,
        key,
        self.layers,
        found,
        regions[0],
        image_map,
        score_of_keep,
        batch_stats.get("concepts"),
      )
      drawn = impostors.switch_off(
        draw, z, ranks, self.layers, regions, self.ladder.counts
      )
    chosen, weight, metrics = impostors.choose(
      drawn, pictures, regions, self.ladder.changes
    )
    if not use.train_generator:
      chosen = jax.lax.stop_gradient(chosen)
    return chosen, weight, metrics

  def matchmap(self, image_map, speech_map):
    """As the score sees it."""
    if self.config.score.normalize:
      image_map, speech_map = map(scores.l2_normalize, (image_map, speech_map))
    return scores.matchmap(image_map, speech_map)

  def directions(self, params, batch_stats):
    """Closed-form directions of all that reads the latent (SeFa)."""
    weights = self.generator_params(params, batch_stats)
    matrix = self.generator.latent_matrix(weights)
    found, _ = edits.sefa(matrix, self.config.edits.directions)
    return found


def _ladder(use: ml_collections.ConfigDict) -> edits.Ladder:
  """The strengths of a config; the published ones where `counts` is empty."""
  if use.counts:
    ladder = edits.Ladder(
      tuple(use.counts), tuple(use.changes), tuple(use.shares)
    )
  else:
    ladder = edits.published_ladder(use.rungs, use.first_count)
  if len({*map(len, ladder), len(use.strengths)}) != 1:
    raise UserError(
      "config.edits: counts, changes, shares and strengths must be of one "
      f"length, a strength a rung; they are {tuple(ladder)} and "
      f"{tuple(use.strengths)}"
    )
  return ladder


def by_voice(records: pipeline.Records) -> dict[str, np.ndarray]:
  """Which records have a voice of training, and which the one held out."""
  held_out = np.array([records[i]["held_out"] for i in range(len(records))])
  groups = {"training_voices": ~held_out, "held_out_voice": held_out}
  return {name: rows for name, rows in groups.items() if rows.any()}


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, pipeline.Records],
) -> Task:
  """The task on these splits."""
  model = Drawing(config, mesh)
  data = config.data
  in_eval = DrawnPairExample(int(config.eval.seconds * data.sample_rate), False)
  reader = grounding.Reader(model, in_eval, mesh)
  voices = functools.cache(lambda split: by_voice(splits[split]))

  def evaluate(state: TrainState, split: str, poll: Poll) -> dict[str, Any]:
    found = reader.read(state, splits[split], poll)
    results = reader.retrieval(found, voices(split), poll)
    if split == "test" and "probe" in splits:
      results |= words.evaluate(reader, state, splits, poll)
    return results

  steps = {
    first: model.phase_step(kind) for first, kind in model.phases.items()
  }
  aims = "cluster" in model.phases.values()
  return Task(
    transform=DrawnPairExample(int(data.seconds * data.sample_rate), True),
    init=model.init,
    step=steps.pop(0),
    later=steps,
    between=Refresh(model, splits["train"], in_eval, mesh) if aims else None,
    evaluate=evaluate,
    select=grounding.mean_recall_at_10,
    selection="mean R@10 of both directions",
  )
