"""Packages import from those below them; see the map in CONTRIBUTING."""

import ast
import pathlib
from collections.abc import Iterator

import vgsgan

PACKAGE = pathlib.Path(vgsgan.__file__).parent
# From the bottom. A package may import from itself and from those before it.
FLOORS = (
  "common",
  "kernels",
  "parallel",
  "worlds",
  "losses",
  "models",
  "data",
  "evals",
  "negatives",
  "train",
  "tasks",
  "tools",
  "main",
)
# Neighbours that know nothing of each other.
APART = {
  ("negatives", "train"),
  ("evals", "data"),
  ("losses", "parallel"),
  ("losses", "worlds"),
  ("worlds", "parallel"),
}


def imported(text: str) -> Iterator[str]:
  """Names directly under `vgsgan` that a module imports."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      yield from (
        alias.name.split(".")[1]
        for alias in node.names
        if alias.name.startswith("vgsgan.")
      )
    elif isinstance(node, ast.ImportFrom) and node.module == "vgsgan":
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "imports are absolute"
      if (node.module or "").startswith("vgsgan."):
        yield node.module.split(".")[1]


def wrong(own: str, other: str) -> bool:
  """Tells whether one package must not import from another."""
  if other == "__version__":
    return False
  if (own, other) in APART or (other, own) in APART:
    return True
  return FLOORS.index(other) > FLOORS.index(own)


def test_no_package_imports_from_one_above_it():
  upwards = [
    f"{path.relative_to(PACKAGE)} imports from {other}"
    for path in sorted(PACKAGE.rglob("*.py"))
    for own in [path.relative_to(PACKAGE).parts[0].removesuffix(".py")]
    if not own.startswith("__")
    for other in imported(path.read_text())
    if wrong(own, other)
  ]
  assert not upwards


def test_the_top_level_has_no_other_names():
  names = {
    path.name.removesuffix(".py")
    for path in PACKAGE.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
  }
  assert names - {"__init__", "__main__"} == set(FLOORS)


def test_imports_of_all_forms_are_seen():
  text = (
    "import vgsgan.data.pipeline\nfrom vgsgan import mesh, tasks as t\n"
    "def f():\n  from vgsgan.train.task import Task\nimport os"
  )
  assert sorted(imported(text)) == ["data", "mesh", "tasks", "train"]
  assert wrong("data", "train") and wrong("evals", "data")
  assert not wrong("tasks", "train") and not wrong("data", "data")
