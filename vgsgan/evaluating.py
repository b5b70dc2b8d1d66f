"""Evaluations of a run: while it trains, and of its best checkpoint."""

from typing import Any

import jax

from vgsgan import jsonfiles, memory, passes, processes
from vgsgan.errors import UserError
from vgsgan.runs import Run, abstract_state, require_same
from vgsgan.state import TrainState


def validate(this: Run, state: TrainState, step: int) -> float:
  """Evaluates on validation and logs it; the figure that chooses the best."""
  state = gathered(this, state)
  results = evaluate(this, state, "validation")
  this.log.write(step, "validation", jsonfiles.flatten(results))
  if this.task.pictures:
    for name, pixels in this.task.pictures(state).items():
      this.log.write_picture(step, name, pixels)
  return this.task.select(results)


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


def finish(this: Run) -> None:
  """The final evaluation, of the checkpoint that validation chose."""
  restored = this.saved.restore_best(abstract_state(this), this.log.warn)
  if restored is None:
    raise UserError(
      f"no evaluated checkpoint in {this.saved.folder}: train first, or name "
      "the --workdir of a finished run"
    )
  best, state, meta = restored
  state = gathered(this, state)
  # Other data may hold out what this state was trained on.
  for name in ("data", "prepared"):
    require_same(this, best, meta, name)
  results = {
    "step": best,
    "chosen_by": f"{this.task.selection} on validation",
    "prepared": this.position(best)["prepared"],
    "splits": {
      split: evaluate(this, state, split) for split in ("validation", "test")
    },
  }
  this.log.write_json(this.workdir / "results.json", results)
  processes.meet("wrote the results")  # Others may go on to read them.
  this.log.info(f"wrote {this.workdir / 'results.json'}")
