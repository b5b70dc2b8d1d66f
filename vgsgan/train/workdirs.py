"""The folder of a run: its lock and its config."""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections

from vgsgan.common import files, jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.train import logbook

# Fields that may differ from start to start: no result depends on them.
_FREE = ("compilation_cache",)


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps two runs from writing into one workdir."""
  if jax.process_index() != 0:
    yield
    return
  held = (
    f"another run is using {workdir}: wait for it, or give this one another "
    "--workdir"
  )
  with files.locked(workdir / ".lock", held):
    yield


def keep_config(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  log: logbook.Logbook,
) -> None:
  """Writes config.json, and warns of changes since the last start.

  Call it after restoring: a config that does not fit the checkpoints must not
  replace the one that they were made with.
  """
  path = workdir / "config.json"
  resolved = config.to_dict()
  if path.exists():
    for line in differences(read_config(workdir), config):
      log.warn(f"config differs from the run's last start: {line}")
  log.write_json(path, resolved)


def differences(
  before: dict[str, Any], config: ml_collections.ConfigDict
) -> Iterator[str]:
  """Yields a line for each field that differs from an earlier start."""
  yield from jsonfiles.differences(_bound(before), _bound(config.to_dict()))


def digest(config: ml_collections.ConfigDict) -> str:
  """A hash of all fields that may change results."""
  text = jsonfiles.dumps(_bound(config.to_dict()), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _bound(fields: Mapping[str, Any]) -> dict[str, Any]:
  return {name: x for name, x in fields.items() if name not in _FREE}


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """Reads the config of a run's last start.

  Raises:
    UserError: there is no such run, or its config cannot be read.
  """
  path = workdir / "config.json"
  if not path.exists():
    runs = sorted(x.parent.name for x in workdir.glob("*/config.json"))
    hint = f"; its folder {runs[0]} has" if runs else ""
    raise UserError(f"no run in {workdir}: it has no config.json{hint}")
  fields = jsonfiles.read_json(path)
  if not isinstance(fields, dict):
    raise UserError(f"{path} holds no config: put back a copy")
  return fields
