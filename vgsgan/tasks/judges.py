"""Frozen networks that judge generated images and sounds.

They come from two finished runs. One of `classification` gives the classes of
images and sounds. One of `correspondence` decides whether an image and a sound
belong together. Neither takes part in the training that it judges.
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

# Fields of `config.data` in which a judge's run must agree.
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
# The config that trains a judge, by task.
CONFIGS = {
  "classification": "classification.py",
  "correspondence": "correspondence.py:ave,judge",
}
BLOCK = 128  # Rows of one batch.

# [n, ...] -> features [n, d] and logits [n, c].
Classify = Callable[
  [np.ndarray],
  tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n c"]],
]


@dataclasses.dataclass(frozen=True)
class Judges:
  """Judges of arrays on the host; each takes one or more rows.

  Attributes:
    image: pixels [n, s, s, 3] in [0, 1] -> features [n, d] and logits [n, c]
      over the labels of the hierarchy.
    audio: spectrograms [n, t, f] of `features.spectrogram` -> the same.
    match: pixels [n, s, s, 3], spectrograms [n, t, f] -> logits [n] that an
      image and its sound belong together, where half of all pairs do.
  """

  image: Classify
  audio: Classify
  match: Callable[[np.ndarray, np.ndarray], Float[np.ndarray, "n"]]


def load(
  classifier: str, correspondence: str, data: ml_collections.ConfigDict
) -> Judges:
  """Loads the judges from the best checkpoints of two finished runs.

  Args:
    classifier: workdir of a run of `classification`.
    correspondence: workdir of a run of `correspondence`.
    data: `config.data` of the run that they judge.

  Raises:
    UserError: a run is missing or not finished, or was trained with other data,
      image sizes or front ends.
  """
  devices = mesh_lib.make_mesh()
  run = _finished(classifier, "classification", data)
  classes = len(datasets.load(data)["train"].hierarchy.labels)
  labeller = Classification(run.config, classes)
  labeller_weights = _weights(run, labeller.init, devices)
  run = _finished(correspondence, "correspondence", data)
  matcher = Correspondence(run.config, devices)
  matcher_weights = _weights(run, matcher.init, devices)

  def image(weights, pixels):
    return labeller.predict(*weights, "image", features.standardize(pixels))

  def audio(weights, spectrograms):
    return labeller.predict(*weights, "audio", spectrograms[..., None])

  def match(weights, pixels, spectrograms):
    images = features.standardize(pixels)
    pairs, _ = matcher.encode(*weights, images, spectrograms)
    score = matcher.score(weights[0])
    return scores.paired(score, pairs.image, pairs.audio, pairs.valid)

  return Judges(
    image=_in_blocks(image, labeller_weights),
    audio=_in_blocks(audio, labeller_weights),
    match=_in_blocks(match, matcher_weights),
  )


@dataclasses.dataclass(frozen=True)
class _Run:
  folder: pathlib.Path
  config: ml_collections.ConfigDict
  best: int


def _finished(workdir: str, task: str, data: ml_collections.ConfigDict) -> _Run:
  """Opens a finished run of a task that agrees with `data` in `FIELDS`."""
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
  """Restores params and batch_stats, on one device of each process.

  The step comes from the results and nothing is locked, so that several runs
  can read one judge at the same time.
  """
  shapes = jax.eval_shape(init, jax.random.key(run.config.seed))
  abstract = mesh_lib.abstract(shapes, devices)
  folder = run.folder / "checkpoints"
  with manager.Checkpoints(folder, best="selection") as saved:
    state, _ = saved.restore(run.best, abstract)
  return jax.device_put(jax.device_get((state.params, state.batch_stats)))


def _in_blocks(function: Callable[..., Any], weights: Any) -> Callable:
  """Maps `function(weights, *rows)` over rows on the host, in blocks.

  The last block is padded, so that the function is compiled once. It must treat
  each row independently.
  """
  compiled = jax.jit(function)

  def judge(*rows: np.ndarray) -> Any:
    if len({len(x) for x in rows}) != 1:
      raise ValueError(f"as many of each, not {[len(x) for x in rows]}")
    parts = []
    for first in range(0, len(rows[0]), BLOCK):
      block = [np.asarray(x[first : first + BLOCK], np.float32) for x in rows]
      count = len(block[0])
      filled = [
        np.pad(x, [(0, BLOCK - count)] + [(0, 0)] * (x.ndim - 1)) for x in block
      ]
      outputs = jax.device_get(compiled(weights, *jax.device_put(filled)))
      parts.append(jax.tree.map(lambda x, count=count: x[:count], outputs))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)

  return judge
