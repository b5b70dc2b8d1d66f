"""Reads a folder of clips of video laid out after AudioSet.

    train.csv  test.csv             AudioSet's segments: lines that begin with #
                                    are comments, others are
                                    YTID, start_seconds, end_seconds, "ID,ID"
    ontology.json                   AudioSet's classes
    audio/CLIP.wav                  or .flac, .ogg: the sound of the clip
    frames/CLIP/T.jpg, ...          frames of it, or frames/CLIP.jpg, only one

CLIP is `YTID_START` with the start in milliseconds, as AudioSet itself names
clips where it labels them strongly (`s9d-2nhuJCQ_30000` is from 30 s on), or
YTID alone, if no other clip is of that video. T is the time of the frame from
the start of the clip, seconds, with a point, as 3.0; times of frames that are
named otherwise are not known.
"""

import collections
import contextlib
import csv
import hashlib
import io
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.common.options import nearest
from vgsgan.data import decoding
from vgsgan.data.builders import sources
from vgsgan.data.hierarchy import Hierarchy, from_ontology

LISTS = {"train": "train.csv", "test": "test.csv"}
ONTOLOGY = "ontology.json"
SOUNDS = (".wav", ".flac", ".ogg")  # In order of preference.
_TIME = re.compile(r"\d+\.\d+")
_LAYOUT = (
  "a folder of clips has train.csv, test.csv, ontology.json, audio/CLIP.wav "
  "and frames/CLIP/TIME.jpg or frames/CLIP.jpg; CLIP is YTID_MILLISECONDS"
)


@dataclass(frozen=True)
class Clip:
  """A line of a list.

  Attributes:
    id: YTID_START, milliseconds.
    video: YTID.
    labels: indices into the labels of the hierarchy, ascending; at least one.
    split: 'train', 'validation' or 'test'.
  """

  id: str
  video: str
  labels: tuple[int, ...]
  split: str


@dataclass(frozen=True)
class Files:
  """Paths of sounds, and of frames or folders of them, by CLIP."""

  sounds: dict[str, pathlib.Path]
  frames: dict[str, pathlib.Path]


def root_of(source: str | pathlib.Path) -> pathlib.Path:
  """The folder; UserError if it is not there or something is missing."""
  root = sources.folder(source, f"{_LAYOUT} (--config.data.source)")
  missing = [
    *(n for n in (*LISTS.values(), ONTOLOGY) if not (root / n).is_file()),
    *(name for name in ("audio", "frames") if not (root / name).is_dir()),
  ]
  if missing:
    raise UserError(f"{root} has no {', no '.join(missing)}: {_LAYOUT}")
  return root


def classes(
  root: pathlib.Path, under: Sequence[str]
) -> tuple[list[str], Hierarchy]:
  """The classes that are labels, and how they hang together.

  Args:
    root: of the folder.
    under: names or IDs of classes; they and all below them are the labels.

  Returns:
    The ID of each label, in the order of the ontology, and the hierarchy of
    the whole ontology.

  Raises:
    UserError: the ontology is broken or has no such class.
  """
  path = root / ONTOLOGY
  nodes = jsonfiles.read_json(path)
  if not isinstance(nodes, list) or not all(isinstance(n, dict) for n in nodes):
    raise UserError(f"{path} is no list of classes, as AudioSet's ontology is")
  from_ontology(nodes, [n["id"] for n in nodes if "id" in n])  # Is it whole?
  children = {node["id"]: node["child_ids"] for node in nodes}
  todo = []
  for wanted in under:
    found = [n["id"] for n in nodes if wanted in (n["id"], n["name"])]
    if not found:
      known = nearest(wanted, [n["name"] for n in nodes])
      raise UserError(
        f"config.data.under: {path} has no class {wanted!r}; {known}"
      )
    todo += found
  kept = set()
  while todo:
    node = todo.pop()
    if node not in kept:
      kept.add(node)
      todo += children[node]
  labels = [node["id"] for node in nodes if node["id"] in kept]
  return labels, from_ontology(nodes, labels)


def scan(
  root: pathlib.Path, labels: Sequence[str], share: float, seed: int
) -> list[Clip]:
  """The clips of both lists that have a label.

  Args:
    root: of the folder; sounds and frames may be missing.
    labels: IDs.
    share: of the videos of `train.csv` that are for validation.
    seed: chooses which.

  Raises:
    UserError: a list is broken, a video is in both, or a split is empty.
  """
  index = {name: i for i, name in enumerate(labels)}
  train, test = (_listed(root / name, index) for name in LISTS.values())
  videos = {video for _, video, _ in train}
  both = sorted(videos & {video for _, video, _ in test})
  if both:
    raise UserError(
      f"the video {both[0]} ({len(both)} in all) is in {root / 'train.csv'} "
      "and in test.csv: take it out of one of them"
    )

  def rank(video: str) -> bytes:
    return hashlib.sha256(f"{seed}:{video}".encode()).digest()

  held = set(sorted(videos, key=rank)[: max(1, round(share * len(videos)))])
  if videos == held:
    raise UserError(
      f"{root / 'train.csv'} has {len(videos)} videos with a label under "
      "config.data.under, too few to hold out some for validation: add videos"
    )
  parts = ("validation" if video in held else "train" for _, video, _ in train)
  found = [Clip(*row, split) for row, split in zip(train, parts, strict=True)]
  return found + [Clip(*row, "test") for row in test]


def _listed(
  path: pathlib.Path, index: dict[str, int]
) -> list[tuple[str, str, tuple[int, ...]]]:
  """ID, video and labels of the clips of a list that have any, each once."""
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {path}: {error}: mend it") from error
  found = {}
  for number, line in enumerate(lines, start=1):
    if not line.strip() or line.startswith("#"):
      continue
    try:
      video, start, _, *names = next(csv.reader([line], skipinitialspace=True))
      clip = f"{video}_{round(1000 * float(start))}"
    except (ValueError, OverflowError) as error:
      raise UserError(
        f"{path}, line {number}: {line.strip()!r} is not "
        'YTID, start_seconds, end_seconds, "ID,ID"'
      ) from error
    listed = {name.strip() for name in ",".join(names).split(",")}
    labels = sorted(index[name] for name in listed & index.keys())
    if labels:
      found.setdefault(clip, (clip, video, tuple(labels)))
  if not found:
    raise UserError(
      f"{path} has no clip with a label under config.data.under: add clips or "
      "name other classes"
    )
  return list(found.values())


def files(root: pathlib.Path, clips: Sequence[Clip]) -> Files:
  """The sounds and the frames of clips, of those that have any."""
  with sources.readable(root):
    sounds = {p.name: p for p in (root / "audio").iterdir()}
    frames = {p.name: p for p in (root / "frames").iterdir()}
  count = collections.Counter(clip.video for clip in clips)
  found = Files({}, {})
  for clip in clips:
    names = [clip.id] + [clip.video] * (count[clip.video] == 1)
    for there, suffixes, to in (
      (sounds, SOUNDS, found.sounds),
      (frames, ("", ".jpg"), found.frames),
    ):
      present = [n + s for n in names for s in suffixes if n + s in there]
      if present:
        to[clip.id] = there[present[0]]
  return found


def choose_frame(
  path: pathlib.Path, key: str
) -> tuple[pathlib.Path, float | None]:
  """One frame, and its time, seconds; None where that is not known.

  Args:
    path: of a frame, or of a folder of them.
    key: decides which, at random.

  Raises:
    ValueError: the folder has none.
  """
  if not path.is_dir():
    return path, None
  frames = sorted(path.glob("*.jpg"))
  if not frames:
    raise ValueError(f"the folder {path} has no frame, *.jpg")
  number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
  frame = frames[number % len(frames)]
  known = _TIME.fullmatch(frame.stem)
  return frame, float(frame.stem) if known else None


def read_frame(path: pathlib.Path, size: int) -> bytes:
  """The middle square of a frame, as JPEG.

  Raises:
    ValueError: it cannot be decoded.
  """
  picture = ImageOps.fit(
    decoding.read_image(path), (size, size), Image.Resampling.LANCZOS
  )
  jpeg = io.BytesIO()
  picture.save(jpeg, "JPEG", quality=95)
  return jpeg.getvalue()


def around(
  length: int,
  time: float | None,
  seconds: float,
  margin: float,
  rate: int,
) -> slice:
  """The sound around a frame; all of it if the frame's time is not known.

  Args:
    length: of the sound of the clip, samples.
    time: of the frame, seconds.
    seconds: around the frame; at the ends of the clip the nearest there are.
    margin: seconds more on either side, as far as the clip goes.
    rate: of the sound, Hz.

  Raises:
    ValueError: the frame is of a time after the sound.
  """
  if time is None:
    return slice(length)
  if time > length / rate + seconds:
    raise ValueError(
      f"the frame is of {time} s, its sound ends at {length / rate:.1f} s"
    )
  kept, more = round(seconds * rate), round(margin * rate)
  last = max(0, length - kept)
  start = min(last, max(0, round((time - seconds / 2) * rate)))
  return slice(max(0, start - more), start + kept + more)


def read_files(
  root: pathlib.Path, clips: Sequence[Clip], seed: int
) -> dict[str, pathlib.Path]:
  """Lists the files that clips are read from, by their names in the folder.

  Args:
    root: of the folder.
    clips: from `scan`.
    seed: chooses the frames.
  """
  where = files(root, clips)
  found = [root / name for name in (*LISTS.values(), ONTOLOGY)]
  found += where.sounds.values()
  with sources.readable(root):
    for clip_id, path in where.frames.items():
      with contextlib.suppress(ValueError):  # A folder without a frame.
        found.append(choose_frame(path, f"{seed}:{clip_id}")[0])
  return sources.named(root, found)
