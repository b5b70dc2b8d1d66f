"""Evaluations of a run: while it trains, and of its best checkpoint."""

import json
from typing import Any

import jax

from vgsgan import jsonfiles, memory, passes, processes, workdirs
from vgsgan.errors import UserError
from vgsgan.runs import Run, abstract_state, require_same
from vgsgan.state import TrainState


def validate(this: Run, state: TrainState, step: int) -> dict[str, Any]:
  """Evaluates on validation and logs the results."""
  state = gathered(this, state)
  results = evaluate(this, state, "validation")
  this.log.write(step, "validation", jsonfiles.flatten(results))
  if this.task.pictures:
    for name, pixels in this.task.pictures(state).items():
      this.log.write_picture(step, name, pixels)
  return results


def kept(this: Run, results: dict[str, Any]) -> dict[str, Any]:
  """Results on validation as a checkpoint keeps them for `finish`."""
  # As text, because the checkpoint would sort the names.
  text = jsonfiles.dumps(results)
  return {"config": workdirs.digest(this.config), "results": text}


def gathered(this: Run, state: TrainState) -> TrainState:
  """The state as it is evaluated: networks whole on every device."""
  if this.mesh.shape["model"] == 1:
    return state
  with jax.set_mesh(this.mesh):
    return jax.jit(passes.whole_networks)(state)


def evaluate(this: Run, state: TrainState, split: str) -> dict[str, Any]:
  with (
    this.log.status(f"evaluating on {split}"),
    memory.enough(memory.EVALUATION),
  ):
    return this.task.evaluate(state, split, this.stop.check)


def finish(this: Run, anew: bool) -> None:
  """Evaluates the checkpoint that validation chose and writes `results.json`.

  Args:
    this: the run.
    anew: evaluate on validation too. Otherwise its results are the
      checkpoint's, if it was evaluated by the same config.

  Raises:
    UserError: no checkpoint was evaluated, or the data are others.
  """
  restored = this.saved.restore_best(abstract_state(this), this.log.warn)
  if restored is None:
    raise UserError(
      f"no evaluated checkpoint in {this.saved.folder}: train first, or name "
      "the --workdir of a finished run"
    )
  best, state, meta = restored
  state = gathered(this, state)
  # Other data may hold out what this state was trained on.
  require_same(this, best, meta, ("data", "prepared"))
  splits = {}
  validation = meta.get("validation", {})  # Older checkpoints have none.
  if not anew and validation.get("config") == workdirs.digest(this.config):
    splits["validation"] = json.loads(validation["results"])
  for split in ("validation", "test"):
    if split not in splits:
      splits[split] = evaluate(this, state, split)
  results = {
    "step": best,
    "chosen_by": f"{this.task.selection} on validation",
    "prepared": this.position(best)["prepared"],
    "splits": splits,
  }
  this.log.write_json(this.workdir / "results.json", results)
  processes.meet("wrote the results")  # Others may go on to read them.
  this.log.info(f"wrote {this.workdir / 'results.json'}")
