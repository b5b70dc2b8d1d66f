"""Reads a folder of clips of video laid out after AudioSet.

    train.csv  test.csv             AudioSet's segments: lines that begin with #
                                    are comments, others are
                                    YTID, start_seconds, end_seconds, "ID,ID"
    ontology.json                   AudioSet's classes
    audio/CLIP.wav                  or .flac, .ogg: the sound of the clip
    frames/CLIP/T.jpg, ...          frames of it, or frames/CLIP.jpg, only one

CLIP is `YTID_START` with the start in milliseconds, as in AudioSet's strong
labels (`s9d-2nhuJCQ_30000` starts at 30 s), or YTID alone, if no other clip is
of that video. T is the time of the frame from the start of the clip, seconds,
with a point, as 3.0. Frames with other names have no known time.
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
SOUNDS = (".wav", ".flac", ".ogg")  # The first wins.
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
  """Finds the folder; UserError if it or a part of it is missing."""
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
  """Reads the classes that are labels, and their hierarchy.

  Args:
    root: the folder.
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
  from_ontology(
    nodes, [n["id"] for n in nodes if "id" in n]
  )  # Checks all nodes.
  children = {node["id"]: node["child_ids"] for node in nodes}
  todo = []
  for wanted in under:
    matches = [n["id"] for n in nodes if wanted in (n["id"], n["name"])]
    if not matches:
      hint = nearest(wanted, [n["name"] for n in nodes])
      raise UserError(
        f"config.data.under: {path} has no class {wanted!r}; {hint}"
      )
    todo += matches
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
  """Lists the clips of both lists that have a label.

  Args:
    root: the folder; sounds and frames may be missing.
    labels: IDs of the labels.
    share: share of the videos of `train.csv` for validation.
    seed: chooses these videos.

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
  clips = [Clip(*row, split) for row, split in zip(train, parts, strict=True)]
  return clips + [Clip(*row, "test") for row in test]


def _listed(
  path: pathlib.Path, index: dict[str, int]
) -> list[tuple[str, str, tuple[int, ...]]]:
  """Reads ID, video and labels of a list's clips with a label, each once."""
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {path}: {error}: mend it") from error
  clips = {}
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
    ids = {name.strip() for name in ",".join(names).split(",")}
    labels = sorted(index[name] for name in ids & index.keys())
    if labels:
      clips.setdefault(clip, (clip, video, tuple(labels)))
  if not clips:
    raise UserError(
      f"{path} has no clip with a label under config.data.under: add clips or "
      "name other classes"
    )
  return list(clips.values())


def files(root: pathlib.Path, clips: Sequence[Clip]) -> Files:
  """Finds the sounds and the frames of clips; either may be missing."""
  with sources.readable(root):
    sounds = {p.name: p for p in (root / "audio").iterdir()}
    frames = {p.name: p for p in (root / "frames").iterdir()}
  count = collections.Counter(clip.video for clip in clips)
  result = Files({}, {})
  for clip in clips:
    names = [clip.id] + [clip.video] * (count[clip.video] == 1)
    for paths, suffixes, chosen in (
      (sounds, SOUNDS, result.sounds),
      (frames, ("", ".jpg"), result.frames),
    ):
      present = [n + s for n in names for s in suffixes if n + s in paths]
      if present:
        chosen[clip.id] = paths[present[0]]
  return result


def choose_frame(
  path: pathlib.Path, key: str
) -> tuple[pathlib.Path, float | None]:
  """Chooses a frame; also returns its time in seconds, None if not known.

  Args:
    path: path of a frame, or of a folder of frames.
    key: seeds the choice.

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
  timed = _TIME.fullmatch(frame.stem)
  return frame, float(frame.stem) if timed else None


def read_frame(path: pathlib.Path, size: int) -> bytes:
  """Reads the middle square of a frame, as JPEG.

  Raises:
    ValueError: it cannot be decoded.
  """
  image = ImageOps.fit(
    decoding.read_image(path), (size, size), Image.Resampling.LANCZOS
  )
  jpeg = io.BytesIO()
  image.save(jpeg, "JPEG", quality=95)
  return jpeg.getvalue()


def around(
  length: int,
  time: float | None,
  seconds: float,
  margin: float,
  rate: int,
) -> slice:
  """Slices the sound around a frame; all of it if the time is not known.

  Args:
    length: length of the clip's sound, samples.
    time: time of the frame, seconds.
    seconds: length of the section around the frame; moved inwards at the ends.
    margin: extra seconds on either side, as far as the clip goes.
    rate: sample rate, Hz.

  Raises:
    ValueError: the frame comes after the end of the sound.
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
    root: the folder.
    clips: from `scan`.
    seed: chooses the frames.
  """
  clip_files = files(root, clips)
  paths = [root / name for name in (*LISTS.values(), ONTOLOGY)]
  paths += clip_files.sounds.values()
  with sources.readable(root):
    for clip_id, path in clip_files.frames.items():
      with contextlib.suppress(ValueError):  # The folder may have no frame.
        paths.append(choose_frame(path, f"{seed}:{clip_id}")[0])
  return sources.named(root, paths)
