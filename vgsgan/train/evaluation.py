"""Evaluates a run: while it trains, and at its best checkpoint."""

import json
from collections.abc import Mapping
from typing import Any

import jax

from vgsgan.common import jsonfiles, memory
from vgsgan.common.errors import UserError
from vgsgan.parallel import processes
from vgsgan.train import forward, terminal, workdirs
from vgsgan.train.runs import Run, abstract_state, require_same
from vgsgan.train.state import TrainState

_LINES = 12  # Lines of results shown at the end; results.json has all.


def validate(run: Run, state: TrainState, step: int) -> dict[str, Any]:
  """Evaluates on validation and logs the results."""
  state = gathered(run, state)
  results = evaluate(run, state, "validation")
  figure = float(run.task.select(results))
  shown = {f"{run.task.selection}:": abs(figure)}  # Distances are negated.
  for name, figures in sections(results)[:2]:
    head = "R@10" if "R@10" in figures else next(iter(figures))
    shown[f"| {name} {head}".replace("  ", " ")] = in_words(figures[head])
  run.log.write(step, "validation", jsonfiles.flatten(results), shown)
  if run.task.images:
    for name, pixels in run.task.images(state).items():
      run.log.write_image(step, name, pixels)
  return results


def to_record(run: Run, results: dict[str, Any]) -> dict[str, Any]:
  """Results on validation in the form that a checkpoint keeps for `finish`."""
  # The results are text, because the checkpoint would sort the names.
  text = jsonfiles.dumps(results)
  return {"config": workdirs.digest(run.config), "results": text}


def gathered(run: Run, state: TrainState) -> TrainState:
  """The state with its networks replicated, for evaluation."""
  if run.mesh.shape["model"] == 1:
    return state
  with jax.set_mesh(run.mesh):
    return jax.jit(forward.replicate_networks)(state)


def evaluate(run: Run, state: TrainState, split: str) -> dict[str, Any]:
  with (
    run.log.status(f"evaluating on {split}"),
    memory.explain_oom(memory.EVALUATION),
  ):
    return run.task.evaluate(state, split, run.stop.check)


def finish(run: Run, anew: bool) -> None:
  """Evaluates the checkpoint that validation chose and writes `results.json`.

  Args:
    run: the run.
    anew: evaluate on validation again. Otherwise the results come from the
      checkpoint, if it was evaluated with the same config.

  Raises:
    UserError: no checkpoint was evaluated, or the data have changed.
  """
  restored = run.saved.restore_best(abstract_state(run), run.log.warn)
  if restored is None:
    raise UserError(
      f"no evaluated checkpoint in {run.saved.folder}: train first, or name "
      "the --workdir of a finished run"
    )
  best, state, meta = restored
  state = gathered(run, state)
  # The test split of other data may contain this state's training records.
  require_same(run, best, meta, ("data", "prepared"))
  splits = {}
  validation = meta.get("validation", {})
  if not anew and validation.get("config") == workdirs.digest(run.config):
    splits["validation"] = json.loads(validation["results"])
  for split in ("validation", "test"):
    if split not in splits:
      splits[split] = evaluate(run, state, split)
  results = {
    "step": best,
    "chosen_by": f"{run.task.selection} on validation",
    "prepared": run.position(best)["prepared"],
    "splits": splits,
  }
  run.log.write_json(run.workdir / "results.json", results)
  processes.meet("wrote the results")  # The other processes may read them next.
  log = run.log
  log.info(f"results on test at step {best}, chosen by {results['chosen_by']}:")
  lines = [
    f"  {name}: {', '.join(f'{k} {in_words(x)}' for k, x in figures.items())}"
    for name, figures in sections(splits["test"])
  ]
  for line in lines[:_LINES]:
    log.info(line)
  if len(lines) > _LINES:
    log.info(f"  and {len(lines) - _LINES} more lines of figures")
  log.info(
    f"all is in {run.workdir}: results.json (every figure with its chance), "
    "metrics.jsonl and TensorBoard's events (training), checkpoints/"
  )


def sections(results: Mapping[str, Any], name: str = "") -> list[tuple]:
  """Lists figures by their paths, without those of groups.

  Returns:
    (path, {name: figure}) of each part of the results that has figures.
  """
  own = {k: x for k, x in results.items() if is_figure(x)}
  listed = [(name or "all", own)] if own else []
  for key, part in results.items():
    if isinstance(part, Mapping) and key not in own and key != "by_group":
      listed += sections(part, f"{name} {key}".strip())
  return listed


def is_figure(part: Any) -> bool:
  return isinstance(part, Mapping) and "value" in part


def in_words(figure: Mapping[str, Any]) -> str:
  """A figure, with its chance and the value of real data if it has them."""
  others = [
    f"{name} {terminal.short(figure[name])}"
    for name in ("chance", "real")
    if name in figure
  ]
  suffix = f" ({', '.join(others)})" if others else ""
  return f"{terminal.short(figure['value'])}{suffix}"
