"""The folders of a run's checkpoints: WORKDIR/checkpoints/STEP.

Beside them may appear `damaged/STEP`, what could not be read, and for a moment
`replaced/STEP`, while a step is saved again.
"""

import os
import pathlib
import shutil


def steps(folder: pathlib.Path) -> list[int]:
  """Steps written completely, ascending; none where the folder is missing.

  Orbax renames a step when it is whole.
  """
  paths = folder.iterdir() if folder.is_dir() else ()
  return sorted(int(path.name) for path in paths if path.name.isdigit())


def set_aside(folder: pathlib.Path, why: str, step: int) -> None:
  """Moves a step to the folder `why` beside this one.

  On the same file system, so that it is moved whole or not at all.
  """
  target = folder.with_name(why) / str(step)
  target.parent.mkdir(exist_ok=True)
  while os.path.lexists(target):
    target = target.with_name(target.name + "_")
  os.rename(folder / str(step), target)


def settle(folder: pathlib.Path) -> None:
  """Ends a replacement: drops the old step if the new is whole, or undoes."""
  replaced = folder.with_name("replaced")
  for old in replaced.iterdir() if replaced.exists() else ():
    if (folder / old.name).exists():
      shutil.rmtree(old)
    else:
      os.rename(old, folder / old.name)
  if replaced.exists():
    replaced.rmdir()
