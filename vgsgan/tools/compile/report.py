"""Formats the figures of `vgsgan.tools.compile.program`, in lines and a table.

A device is a chip, or one of its cores where JAX has a device for each.
"""

from collections.abc import Sequence
from typing import Any


def report(row: dict[str, Any]) -> list[str]:
  """Lines about every update of one compilation.

  Args:
    row: from `program.figures`, with `arm` and `topology`, or '' for none.
  """
  arm = f"{row['arm']}: " if row["arm"] else ""
  where = f" ({row['topology']})" if row["topology"] else ""
  share = row["batch"] / row["devices"]
  lines = [
    f"{arm}{row['devices']} x {row['chip']}{where}, "
    f"{row['model']} to a copy of the {row['parameters'] / 1e6:.2f} M "
    f"parameters, batch {row['batch']} ({share:g} a device)"
  ]
  for step in row["steps"]:
    lines += ["", f"update from step {step['first']}, a device:"]
    lines += [f"  {line}" for line in _step(step)]
  return lines


def _step(step: dict[str, Any]) -> list[str]:
  memory, flops = step["memory"], step["flops"]
  lines = [
    f"memory: arguments {_mb(memory['arguments'])}, temporaries "
    f"{_mb(memory['temporaries'])}, outputs {_mb(memory['outputs'])} (of these "
    f"{_mb(memory['shared'])} in place of arguments); peak "
    f"{_mb(memory['peak'])}" + _of(memory),
    f"operations: {flops['matrix'] / 1e9:,.2f} GFLOP of matrix products and "
    f"convolutions; XLA has {flops['compiled'] / 1e9:,.2f} GFLOP, loops once, "
    "oneDNN's not",
    "sent, by ring algorithms:",
  ]
  lines += [
    f"  {x['count']:4d} {x['kind']:<18} over {x['devices']:4d}: "
    f"{_mb(x['bytes'])} in all, {_mb(x['sent'])} sent"
    for x in step["collectives"]
  ]
  lines.append(
    f"  together {_mb(step['sent'])}; the least that the algorithm needs is "
    f"{_mb(step['least_sent'])}" + _ratio(step)
  )
  if "estimate" in step:
    times = {k: f"{1e3 * x:.3f} ms" for k, x in step["estimate"].items()}
    lines.append(
      f"estimate, from published rates: {times['step']} (matrix products "
      f"{times['compute']}, memory {times['memory']}, links {times['links']})"
    )
  return lines


def _mb(x: int | float) -> str:
  return f"{x / 1e6:,.3f} MB"


def _of(memory: dict[str, Any]) -> str:
  if not memory["of"]:
    return ""
  return f" of {_mb(memory['of'])} ({memory['peak'] / memory['of']:.1%})"


def _ratio(step: dict[str, Any]) -> str:
  ratio = _over_least(step)
  return f" ({ratio} times)" if ratio else ""


def _over_least(step: dict[str, Any]) -> str:
  """Sent bytes over the least possible; '' if the least is 0."""
  if not step["least_sent"]:
    return ""
  return f"{step['sent'] / step['least_sent']:.3f}"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
  """Lines of Markdown: a row for the last update on each topology.

  Efficiency is the first topology's estimated time over this one's, at the same
  batch a device.
  """
  lines = [
    "| devices | batch | GFLOP a device | peak memory, GB | sent, MB | "
    "least, MB | ratio | step, ms (estimate) | efficiency (estimate) |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  seconds = [
    row["steps"][-1].get("estimate", {}).get("step", float("nan"))
    for row in rows
  ]
  for row, time in zip(rows, seconds, strict=True):
    step = row["steps"][-1]
    cells = [
      f"{row['devices']}",
      f"{row['batch']}",
      f"{step['flops']['matrix'] / 1e9:,.1f}",
      f"{step['memory']['peak'] / 1e9:.2f}",
      f"{step['sent'] / 1e6:,.2f}",
      f"{step['least_sent'] / 1e6:,.2f}",
      _over_least(step),
      f"{1e3 * time:.2f}",
      f"{seconds[0] / time:.3f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return lines
