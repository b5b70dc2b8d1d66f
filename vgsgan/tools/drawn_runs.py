"""Loads models of `drawing` from finished runs, and scores edits with them."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jaxtyping import Array, Key

from vgsgan import tasks
from vgsgan.common.errors import UserError
from vgsgan.common.options import nearest
from vgsgan.data import features
from vgsgan.data.records import Records
from vgsgan.losses import scores
from vgsgan.negatives import edits
from vgsgan.negatives.impostors import KINDS
from vgsgan.negatives.scene_edits import EDITS
from vgsgan.parallel import mesh
from vgsgan.tasks.drawing import Drawing, check_latents, check_norm
from vgsgan.tasks.places import Places
from vgsgan.train import compile_cache, finished
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch

MODELS = {"drawing": Drawing, "places": Places}


class Restored(NamedTuple):
  """A model, and the step and state of its best checkpoint."""

  model: Drawing | Places
  step: int
  state: TrainState


def restored(
  workdir: pathlib.Path, names: Sequence[str] = ("drawing",)
) -> Restored:
  """Restores the best checkpoint of a run, on one device.

  Args:
    workdir: of the run.
    names: tasks that it may have, in `MODELS`.

  Raises:
    UserError: there is no such run, or no checkpoint was evaluated.
  """
  config = tasks.config_of(workdir)
  if config.task not in names:
    known = " or ".join(tasks.TASKS[name] for name in names)
    raise UserError(
      f"{workdir} is a run of {config.task!r}, which has no edits for this "
      f"command: name one of {known}"
    )
  compile_cache.start_for(config)
  devices = mesh.make_mesh(1)
  model = MODELS[config.task](config, devices)
  return Restored(model, *finished.best(workdir, model.init, devices))


def define_kind(values: flags.FlagValues) -> None:
  """Defines `--kind`, which `kind_of` reads."""
  flags.DEFINE_string(
    "kind",
    "",
    f"Kind of edit: {', '.join(KINDS)}; if empty, the last of the run's "
    f"curriculum. For a run of places: {', '.join(EDITS)}.",
    values,
  )


def kind_of(run: Restored, name: str) -> str:
  """The named kind of edit; the curriculum's last one if the name is ''.

  For a run of `places` that is 'attribute', which its captions always state.

  Raises:
    UserError: the kind is unknown, or needs clusters that the state lacks.
  """
  if isinstance(run.model, Places):
    kind, kinds = name or "attribute", tuple(EDITS)
    if kind not in kinds:
      raise UserError(f"--kind={kind!r} is unknown: {nearest(kind, kinds)}")
    return kind
  kind = name or list(run.model.phases.values())[-1]
  if kind == "regular":
    raise UserError(
      f"the run ends without edits: name one of them, --kind={'|'.join(KINDS)}"
    )
  if kind not in KINDS:
    raise UserError(f"--kind={kind!r} is unknown: {nearest(kind, KINDS)}")
  concepts = run.state.batch_stats.get("concepts")
  if kind == "cluster" and (concepts is None or not concepts.centroids.any()):
    raise UserError(
      f"the best checkpoint, of step {run.step}, has no clusters: choose "
      "another --kind than 'cluster'"
    )
  return kind


def check_records(run: Restored, kind: str, records: Records) -> None:
  """Raises UserError if the model or the records do not suit these edits."""
  if isinstance(run.model, Places):
    return
  check_norm(run.model.config, {0: kind})
  size = run.model.generator.latent_size
  check_latents(run.model.config, {0: kind}, size, records[0])


def judge(
  model: Drawing,
  kind: str,
  state: TrainState,
  batch: Batch,
  key: Key[Array, ""],
) -> dict[str, Array]:
  """Edits each image of a batch, and scores how far this misleads the model.

  Returns:
    `true` and `edited` [b], the caption's scores with its image and with the
    edit; `loss` [b], the hinge between them, 0 if the edit does not count;
    `counts` [b], whether it does; `picture` [b, s, s, 3], the edit as uint8;
    `region` [b, h, w] and `frame` [b] of the best match of image and caption;
    `real` [b].
  """
  images, mel, num_frames = model.inputs(batch, None)
  weights = state.params, state.batch_stats

  def maps_of(x):
    return model.maps(*weights, x, mel, num_frames, train=False)[0]

  maps = maps_of(images)
  drawn, weight, _ = model.edit(kind, key, *weights, batch, images, maps)
  true, edited = (
    scores.paired(model.score, *x) for x in (maps, maps_of(drawn))
  )
  hinge = jax.nn.relu(model.config.loss.margin + edited - true)
  peak = edits.peak(model.matchmap(*maps[:2]), maps[2])
  return {
    "true": true,
    "edited": edited,
    "loss": jnp.where(weight > 0, weight * hinge, 0.0),
    "counts": weight > 0,
    "picture": features.pixels(drawn),
    "region": edits.region(peak.heat, model.attempts.shares[0]),
    "frame": peak.frame,
    "real": batch["real"],
  }
