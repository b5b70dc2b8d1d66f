"""Reads a folder of Tux Paint stamps: images and their spoken captions.

A stamp is `NAME.png` or `NAME.svg` with `NAME.txt` (its caption in about 70
languages) and one recording for each language, `NAME_desc_XX.ogg`, a person
reading that caption. `NAME.ogg` without `_desc` is a sound effect: no speech.
"""

import io
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vgsgan.common.errors import UserError
from vgsgan.data import decoding
from vgsgan.data.builders import sources

PACKAGE = (
  "install the Debian package tuxpaint-stamps-default (161 MB download, 230 MB "
  "unpacked) with `apt-get install tuxpaint-stamps-default`, or unpack the "
  "upstream tuxpaint-stamps archive and pass its folder with "
  "--config.data.source=DIR"
)
# Images of the program Tux Paint itself, which Debian's package of stamps
# brings along. No recordings belong to them.
NO_STAMPS = "cartoon/tux"
IMAGE_SUFFIXES = (".png", ".svg")  # The first wins.
SOUND_SUFFIXES = (".ogg", ".wav")
_RECORDING = re.compile(
  r"(?P<stem>.+)_desc(_(?P<language>[a-z]{2,3}(_[A-Z]{2})?))?\.(ogg|wav)"
)


@dataclass(frozen=True)
class Pair:
  """One image and one recording that describes it.

  Attributes:
    name: the stamp, as "animals/amphibians/frog".
    image_path: path of the image, PNG or SVG.
    audio_path: path of the recording, Ogg or WAV.
    language: language in the file name ("fr", "pt_BR"); "en" if it has none.
    caption: the caption read aloud, '' if the text is missing.
    english: the English caption, '' if the text is missing.
  """

  name: str
  image_path: pathlib.Path
  audio_path: pathlib.Path
  language: str
  caption: str
  english: str


@dataclass(frozen=True)
class Scan:
  """Pairs sorted by name and language; recordings left out, and why."""

  pairs: list[Pair]
  strays: list[tuple[pathlib.Path, str]]


def scan(
  root: str | pathlib.Path, languages: Sequence[str], symbols: bool
) -> Scan:
  """Lists the pairs of a folder in some languages.

  Args:
    root: the folder of the stamps, or the one that has them in `stamps/`.
    languages: the languages to list.
    symbols: lists `symbols/` (letters, coins, chess) too.

  Returns:
    The pairs, and the recordings of any language that belong to no image
    or are misnamed.

  Raises:
    UserError: no such folder, one unpacked in part, or an unknown language.
  """
  root = stamps_root(root)
  pairs, strays = [], []
  with sources.readable(root):
    for folder, names in _folders(root, symbols):
      paired, unpaired = _scan_folder(root, folder, names)
      pairs += paired
      strays += unpaired
  if not pairs:
    raise UserError(f"{root} has no picture with a recording: {PACKAGE}")
  present = sorted({p.language for p in pairs})
  for language in languages:
    if language not in present:
      raise UserError(
        f"language '{language}' has no recording in {root}; "
        f"--config.data.languages can be any of: {' '.join(present)}"
      )
  pairs = [p for p in pairs if p.language in languages]
  return Scan(sorted(pairs, key=lambda p: (p.name, p.language)), sorted(strays))


def stamps_root(root: str | pathlib.Path) -> pathlib.Path:
  """Finds the folder of the stamps; UserError if missing or half unpacked."""
  root = sources.folder(root, PACKAGE)
  with sources.readable(root):
    if (root / "stamps").is_dir():
      root = root / "stamps"
    folders = _folders(root, True)
    tops = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
  for top in tops:
    inside = [names for folder, names in folders if folder.is_relative_to(top)]
    names = [name for file_names in inside for name in file_names]
    images = any(name.endswith(IMAGE_SUFFIXES) for name in names)
    recordings = any(_RECORDING.fullmatch(name) for name in names)
    if (images or top == root) and not recordings:
      raise UserError(f"{top} has no recordings of speech: {PACKAGE}")
    if recordings and not images:
      raise UserError(f"{top} has recordings but no pictures: {PACKAGE}")
  return root


def read_files(
  root: str | pathlib.Path, pairs: Sequence[Pair]
) -> dict[str, pathlib.Path]:
  """Lists the files that pairs are read from, by their names in the folder."""
  root = stamps_root(root)
  paths = [path for p in pairs for path in (p.image_path, p.audio_path)]
  paths += [root / f"{p.name}.txt" for p in pairs]
  return sources.named(root, paths)


def _folders(
  root: pathlib.Path, symbols: bool
) -> list[tuple[pathlib.Path, list[str]]]:
  contents = []
  for folder, folders, names in sources.walk(root):
    excluded = [root / NO_STAMPS, *([] if symbols else [root / "symbols"])]
    folders[:] = [f for f in folders if pathlib.Path(folder, f) not in excluded]
    contents.append((pathlib.Path(folder), sorted(names)))
  return sorted(contents)


def _scan_folder(
  root: pathlib.Path, folder: pathlib.Path, names: list[str]
) -> tuple[list[Pair], list[tuple[pathlib.Path, str]]]:
  """Lists the pairs and the strays of one folder, without its subfolders."""
  existing, paired = set(names), set()
  captions: dict[str, dict[str, str]] = {}
  pairs, strays = [], []
  for name in names:  # Sorted: .ogg comes before .wav.
    if "_desc" not in name or not name.endswith(SOUND_SUFFIXES):
      continue
    path = folder / name
    match = _RECORDING.fullmatch(name)
    if match is None or "_desc" in match["stem"]:
      strays.append((path, "misnamed: not NAME_desc_LANGUAGE.ogg or .wav"))
      continue
    stem, language = match["stem"], match["language"] or "en"
    image = next(
      (stem + s for s in IMAGE_SUFFIXES if stem + s in existing), None
    )
    if image is None:
      strays.append((path, f"no picture {stem}.png or {stem}.svg beside it"))
    elif (stem, language) in paired:
      strays.append((path, f"a second recording of {stem} in '{language}'"))
    else:
      paired.add((stem, language))
      if stem not in captions:
        captions[stem] = _captions(folder / f"{stem}.txt")
      texts = captions[stem]
      pairs.append(
        Pair(
          name=(folder / stem).relative_to(root).as_posix(),
          image_path=folder / image,
          audio_path=path,
          language=language,
          caption=texts.get(language, ""),
          english=texts.get("en", ""),
        )
      )
  return pairs, strays


def _captions(path: pathlib.Path) -> dict[str, str]:
  """Reads captions by language; none if the file is missing or not UTF-8."""
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError):
    return {}
  texts = {"en": lines[0].strip()} if lines else {}
  for line in lines[1:]:
    key, _, text = line.partition("=")
    if key.endswith(".utf8"):
      texts[key.removesuffix(".utf8")] = text.strip()
  return texts


def read_image(path: str | pathlib.Path, size: int) -> bytes:
  """Decodes an image onto the middle of a white square.

  Args:
    path: path of an image; see `decoding.read_image`.
    size: side of the square, pixels.

  Returns:
    The square as PNG bytes, RGB.

  Raises:
    ValueError: the file cannot be decoded, or shows nothing.
  """
  # Draw vector drawings large; resizing smooths them.
  rgba = decoding.read_image(path, "RGBA", drawn_px=4 * size)
  # White first, so that colours of transparent pixels do not bleed into edges.
  white = Image.new("RGBA", rgba.size, "white")
  image = Image.alpha_composite(white, rgba).convert("RGB")
  if image.getextrema() == ((255, 255),) * 3:
    raise ValueError(f"the picture {path} is blank (is it only text?)")
  scale = size / max(image.size)
  width, height = (max(1, round(side * scale)) for side in image.size)
  image = image.resize((width, height), Image.Resampling.LANCZOS)
  square = Image.new("RGB", (size, size), "white")
  square.paste(image, ((size - width) // 2, (size - height) // 2))
  png = io.BytesIO()
  square.save(png, "PNG")
  return png.getvalue()
