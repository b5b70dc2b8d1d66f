"""Frozen networks that judge generated pictures and sounds.

Two finished runs: one of `classification`, which tells what a picture shows
and what a sound is, and one of `correspondence`, which tells whether the two
belong together. Neither takes part in what it judges.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from vgsgan import data as datasets
from vgsgan import tasks
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.losses import scores
from vgsgan.parallel import mesh as mesh_lib
from vgsgan.tasks.classification import Classification
from vgsgan.tasks.correspondence import Correspondence
from vgsgan.train import finished
from vgsgan.train.checkpoints import manager
from vgsgan.train.state import TrainState

# Of `config.data`: what a judge has to have been trained on.
FIELDS = (
  "dataset",
  "image_size",
  "sample_rate",
  "seconds",
  "spectrogram",
  "frames",
  "num_mels",
  "fewest",
  "most",
  "tick",
  "soundfont",
)
# What trains one, by task.
CONFIGS = {
  "classification": "classification.py",
  "correspondence": "correspondence.py:ave,judge",
}
BLOCK = 128  # Rows that are judged at once.

# [n, ...] -> features [n, d] and logits [n, c].
Look = Callable[
  [np.ndarray],
  tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n c"]],
]


@dataclasses.dataclass(frozen=True)
class Judges:
  """Functions of one or more rows on the host, in blocks of one size.

  Attributes:
    image: pixels [n, s, s, 3] in [0, 1] -> features [n, d], logits [n, c] of
      the labels of the hierarchy.
    audio: spectrograms [n, t, f], of `features.spectrogram` -> likewise.
    match: pixels [n, s, s, 3], spectrograms [n, t, f] -> logits [n]: does each
      picture belong with its sound? Above 0 it does, where half of all pairs
      do.
  """

  image: Look
  audio: Look
  match: Callable[[np.ndarray, np.ndarray], Float[np.ndarray, "n"]]


def load(
  classifier: str, correspondence: str, data: ml_collections.ConfigDict
) -> Judges:
  """The judges of two finished runs, each of its best checkpoint.

  Args:
    classifier: workdir of a run of `classification`.
    correspondence: workdir of a run of `correspondence`.
    data: `config.data` of what is to be judged.

  Raises:
    UserError: there are no such runs, they are not finished, or they were
      trained on other data, sizes of pictures or front ends.
  """
  devices = mesh_lib.make_mesh()
  run = _finished(classifier, "classification", data)
  classes = len(datasets.load(data)["train"].hierarchy.labels)
  told = Classification(run.config, classes)
  weights = _weights(run, told.init, devices)
  apart = _finished(correspondence, "correspondence", data)
  pairs = Correspondence(apart.config, devices)
  paired = _weights(apart, pairs.init, devices)

  def image(weights, pixels):
    return told.look(*weights, "image", features.standardize(pixels))

  def audio(weights, spectrograms):
    return told.look(*weights, "audio", spectrograms[..., None])

  def match(weights, pixels, spectrograms):
    pictures = features.standardize(pixels)
    found, _ = pairs.encode(*weights, pictures, spectrograms)
    score = pairs.score(weights[0])
    return scores.paired(score, found.image, found.audio, found.valid)

  return Judges(
    image=_in_blocks(image, weights),
    audio=_in_blocks(audio, weights),
    match=_in_blocks(match, paired),
  )


@dataclasses.dataclass(frozen=True)
class _Run:
  folder: pathlib.Path
  config: ml_collections.ConfigDict
  best: int


def _finished(workdir: str, task: str, data: ml_collections.ConfigDict) -> _Run:
  """A run of a task, on what `data` has in `FIELDS`."""
  folder = pathlib.Path(workdir).expanduser()
  advice = f"name the workdir of a finished run of configs/{CONFIGS[task]}"
  if not (folder / "config.json").exists():
    raise UserError(f"no run in {workdir!r}, it has no config.json: {advice}")
  config = tasks.config_of(folder)
  if config.task != task:
    raise UserError(f"{folder} is a run of {config.task!r}: {advice}")
  if not (folder / "results.json").exists():
    raise UserError(
      f"the run in {folder} is not finished, it has no results.json: start it "
      "again, it goes on from its last checkpoint"
    )
  others = [name for name in FIELDS if config.data.get(name) != data.get(name)]
  if others:
    was = ", ".join(f"data.{name}={config.data.get(name)}" for name in others)
    flags = " ".join(f"--config.data.{x}={data.get(x)}" for x in others)
    raise UserError(
      f"the judge in {folder} was trained with {was}, unlike what it is to "
      f"judge: train one of configs/{CONFIGS[task]} with {flags}"
    )
  best = finished.results_of(folder)["step"]
  return _Run(folder, config, best)


def _weights(
  run: _Run, init: Callable[[jax.Array], TrainState], devices: Mesh
) -> tuple[Any, Any]:
  """Params and batch_stats, on one device of each process.

  By the step in the results, as nothing writes to a finished run: several runs
  may read one judge at the same time.
  """
  shapes = jax.eval_shape(init, jax.random.key(run.config.seed))
  abstract = mesh_lib.abstract(shapes, devices)
  folder = run.folder / "checkpoints"
  with manager.Checkpoints(folder, best="selection") as saved:
    state, _ = saved.restore(run.best, abstract)
  return jax.device_put(jax.device_get((state.params, state.batch_stats)))


def _in_blocks(function: Callable[..., Any], weights: Any) -> Callable:
  """`function(weights, *rows)` of rows on the host, compiled for one size.

  The last block is filled up; each row is judged by itself.
  """
  compiled = jax.jit(function)

  def judged(*rows: np.ndarray) -> Any:
    if len({len(x) for x in rows}) != 1:
      raise ValueError(f"as many of each, not {[len(x) for x in rows]}")
    parts = []
    for first in range(0, len(rows[0]), BLOCK):
      block = [np.asarray(x[first : first + BLOCK], np.float32) for x in rows]
      many = len(block[0])
      filled = [
        np.pad(x, [(0, BLOCK - many)] + [(0, 0)] * (x.ndim - 1)) for x in block
      ]
      found = jax.device_get(compiled(weights, *jax.device_put(filled)))
      parts.append(jax.tree.map(lambda x, many=many: x[:many], found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)

  return judged
