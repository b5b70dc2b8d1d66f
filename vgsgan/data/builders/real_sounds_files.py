"""Finds pictures with sounds in two packages of children's programs.

Of the stamps of Tux Paint, those with a sound effect: `NAME.ogg` or `NAME.wav`
beside `NAME.png` or `NAME.svg`, `symbols/` apart, whose sounds are spoken
letters and digits. Of GCompris, three activities: photographs of farm animals
and of musicians, drawings of instruments. (Its memory-sound has no pictures.)
"""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vgsgan.data.builders import rcc, sources, stamps_folder
from vgsgan.errors import UserError
from vgsgan.hierarchy import Hierarchy

STAMPS = "/usr/share/tuxpaint/stamps"
GCOMPRIS = "/usr/share/gcompris-qt/rcc"
# Where the activities of GCompris are put in the tree of the stamps.
ACTIVITIES = {
  "explore_farm_animals": "animals/farm",
  "explore_world_music": "hobbies/music/world",
  "instruments": "hobbies/music/instruments",
}
# Sounds of GCompris whose pictures are named otherwise.
PICTURE_OF = {"chickens": "chicken", "beethoven": "orchestra"}
# In order of preference: the WebP files are photographs.
PICTURES = (".webp", *stamps_folder.PICTURES)


@dataclass(frozen=True)
class Pair:
  """A picture and its sound; `folder` is the class, as "animals/birds"."""

  id: str
  folder: str
  image: pathlib.Path
  sound: pathlib.Path


def unpack(source: str | pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the pictures and sounds of the activities of GCompris.

  Args:
    source: the folder of the `.rcc` files.
    folder: where to; each activity in the folder that is its class.

  Raises:
    UserError: a file is missing or broken.
  """
  for path, place in _resources(source).items():
    target = folder / place
    target.mkdir(parents=True)
    for name, content in rcc.read(path).items():
      inside = pathlib.PurePosixPath(name)
      if inside.suffix in (*PICTURES, *stamps_folder.SOUNDS):
        stem = PICTURE_OF.get(inside.stem, inside.stem)
        (target / f"{stem}{inside.suffix}").write_bytes(content)


def _resources(source: str | pathlib.Path) -> dict[pathlib.Path, str]:
  """The files of the activities, and the class of each."""
  root = sources.expanded(source)
  found = {root / f"{name}.rcc": place for name, place in ACTIVITIES.items()}
  missing = [str(path) for path in found if not path.is_file()]
  if missing:
    raise UserError(
      f"no file {missing[0]}: install the Debian package gcompris-qt-data (52 "
      "MB) with `apt-get install --no-install-recommends gcompris-qt-data`"
    )
  return found


def scan(
  folders: dict[str, pathlib.Path],
) -> tuple[list[Pair], list[list[str]]]:
  """Lists the pairs of folders by the name of the source.

  Returns:
    The pairs by source, folder and name, and the sounds without a picture
    beside them as [path within the source, reason].
  """
  pairs, strays = {}, []
  for source, root in folders.items():
    with sources.readable(root):
      paths = list(_sounds(root))
    for sound in paths:
      place = sound.relative_to(root)
      image = next(
        (p for p in map(sound.with_suffix, PICTURES) if p.exists()), None
      )
      if image is None:
        strays.append([f"{source}:{place}", "no picture beside it"])
        continue
      key = f"{source}:{place.with_suffix('').as_posix()}"
      pair = Pair(key, _name(place.parent), image, sound)
      pairs.setdefault(key, pair)
  return [pairs[key] for key in sorted(pairs)], sorted(strays)


def _sounds(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """The sound effects of a folder, in each of its folders Ogg before WAV."""
  for folder, inside, names in sources.walk(root):
    here = pathlib.Path(folder)
    if here == root:
      inside[:] = [name for name in inside if name != "symbols"]
    for name in sorted(names):
      sound = here / name
      if sound.suffix in stamps_folder.SOUNDS and "_desc" not in name:
        yield sound


def _name(folder: pathlib.Path) -> str:
  return "" if folder == pathlib.Path() else folder.as_posix()


def tree(folders: Sequence[str]) -> Hierarchy:
  """The tree of folders, of which some, as "animals/birds", are the labels."""
  above = {
    "/".join(folder.split("/")[:depth])
    for folder in folders
    for depth in range(folder.count("/") + 2)
  }
  nodes = sorted(above | {""})
  index = {name: i for i, name in enumerate(nodes)}
  return Hierarchy(
    names=("root", *nodes[1:]),
    edges=tuple((index[n.rpartition("/")[0]], index[n]) for n in nodes[1:]),
    labels=tuple(index[folder] for folder in folders),
  )


def read_files(
  stamps: str | pathlib.Path, gcompris: str | pathlib.Path
) -> dict[str, pathlib.Path]:
  """Lists the files that are read of both sources, by name."""
  root = stamps_folder.stamps_root(stamps)
  pairs, _ = scan({"tuxpaint": root})
  found = [path for pair in pairs for path in (pair.image, pair.sound)]
  return sources.named(root, found) | {
    path.name: path for path in _resources(gcompris)
  }
