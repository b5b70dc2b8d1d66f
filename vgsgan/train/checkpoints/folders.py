"""The folders of a run's checkpoints: WORKDIR/checkpoints/STEP.

Beside this folder may appear `damaged/STEP`, a step that could not be read,
and, while a step is saved again, `replaced/STEP`.
"""

import os
import pathlib
import shutil


def steps(folder: pathlib.Path) -> list[int]:
  """Lists completely written steps, ascending; none without the folder.

  Orbax renames a step when it is whole.
  """
  paths = folder.iterdir() if folder.is_dir() else ()
  return sorted(int(path.name) for path in paths if path.name.isdigit())


def set_aside(folder: pathlib.Path, why: str, step: int) -> None:
  """Moves a step to the folder `why` beside this one.

  The target is on the same file system, so that the move is atomic.
  """
  target = folder.with_name(why) / str(step)
  target.parent.mkdir(exist_ok=True)
  while os.path.lexists(target):
    target = target.with_name(target.name + "_")
  os.rename(folder / str(step), target)


def settle(folder: pathlib.Path) -> None:
  """Finishes a replacement: keeps the new step if whole, else the old one."""
  replaced = folder.with_name("replaced")
  for old in replaced.iterdir() if replaced.exists() else ():
    if (folder / old.name).exists():
      shutil.rmtree(old)
    else:
      os.rename(old, folder / old.name)
  if replaced.exists():
    replaced.rmdir()
