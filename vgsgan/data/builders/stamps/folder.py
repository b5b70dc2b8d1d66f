"""Reads a folder of Tux Paint stamps: pictures and what people say of them.

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
# Pictures of the program Tux Paint, of which Debian's package of stamps brings
# along the whole: no recordings belong to them.
NO_STAMPS = "cartoon/tux"
PICTURES = (".png", ".svg")  # In order of preference.
SOUNDS = (".ogg", ".wav")
_RECORDING = re.compile(
  r"(?P<stem>.+)_desc(_(?P<language>[a-z]{2,3}(_[A-Z]{2})?))?\.(ogg|wav)"
)


@dataclass(frozen=True)
class Pair:
  """One picture and one recording that describes it.

  Attributes:
    name: the stamp, as "animals/amphibians/frog".
    image_path: of the picture, PNG or SVG.
    audio_path: of the recording, Ogg or WAV.
    language: as in the file name ("fr", "pt_BR"); "en" where it has none.
    caption: what is read, '' where the text is missing.
    english: the English caption, '' where the text is missing.
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
    languages: those wanted.
    symbols: whether `symbols/` (letters, coins, chess) is wanted.

  Returns:
    The pairs, and the recordings of any language that belong to no picture
    or are misnamed.

  Raises:
    UserError: no such folder, one unpacked in part, or an unknown language.
  """
  root = stamps_root(root)
  pairs, strays = [], []
  with sources.readable(root):
    for folder, names in _folders(root, symbols):
      found, lost = _scan_folder(root, folder, names)
      pairs += found
      strays += lost
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
  """The folder that has the stamps; UserError if missing or half unpacked."""
  root = sources.folder(root, PACKAGE)
  with sources.readable(root):
    if (root / "stamps").is_dir():
      root = root / "stamps"
    folders = _folders(root, True)
    tops = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
  for top in tops:
    inside = [names for folder, names in folders if folder.is_relative_to(top)]
    names = [name for some in inside for name in some]
    pictures = any(name.endswith(PICTURES) for name in names)
    recordings = any(_RECORDING.fullmatch(name) for name in names)
    if (pictures or top == root) and not recordings:
      raise UserError(f"{top} has no recordings of speech: {PACKAGE}")
    if recordings and not pictures:
      raise UserError(f"{top} has recordings but no pictures: {PACKAGE}")
  return root


def read_files(
  root: str | pathlib.Path, pairs: Sequence[Pair]
) -> dict[str, pathlib.Path]:
  """Lists the files that pairs are read from, by their names in the folder."""
  root = stamps_root(root)
  found = [path for p in pairs for path in (p.image_path, p.audio_path)]
  found += [root / f"{p.name}.txt" for p in pairs]
  return sources.named(root, found)


def _folders(
  root: pathlib.Path, symbols: bool
) -> list[tuple[pathlib.Path, list[str]]]:
  found = []
  for folder, folders, names in sources.walk(root):
    leave = [root / NO_STAMPS, *([] if symbols else [root / "symbols"])]
    folders[:] = [f for f in folders if pathlib.Path(folder, f) not in leave]
    found.append((pathlib.Path(folder), sorted(names)))
  return sorted(found)


def _scan_folder(
  root: pathlib.Path, folder: pathlib.Path, names: list[str]
) -> tuple[list[Pair], list[tuple[pathlib.Path, str]]]:
  """The pairs and the strays of one folder, without those below it."""
  have, seen = set(names), set()
  captions: dict[str, dict[str, str]] = {}
  pairs, strays = [], []
  for name in names:  # Sorted: .ogg comes before .wav.
    if "_desc" not in name or not name.endswith(SOUNDS):
      continue
    path = folder / name
    match = _RECORDING.fullmatch(name)
    if match is None or "_desc" in match["stem"]:
      strays.append((path, "misnamed: not NAME_desc_LANGUAGE.ogg or .wav"))
      continue
    stem, language = match["stem"], match["language"] or "en"
    image = next((stem + s for s in PICTURES if stem + s in have), None)
    if image is None:
      strays.append((path, f"no picture {stem}.png or {stem}.svg beside it"))
    elif (stem, language) in seen:
      strays.append((path, f"a second recording of {stem} in '{language}'"))
    else:
      seen.add((stem, language))
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
  """Captions by language; none where the file is missing or not UTF-8."""
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


def read_picture(path: str | pathlib.Path, size: int) -> bytes:
  """Decodes a picture onto the middle of a white square.

  Args:
    path: see `decoding.read_image`.
    size: side of the square, pixels.

  Returns:
    The square as PNG bytes, RGB.

  Raises:
    ValueError: the file cannot be decoded, or shows nothing.
  """
  # A vector drawing is drawn large, and resized well.
  rgba = decoding.read_image(path, "RGBA", drawn_px=4 * size)
  # White first: what is behind transparent pixels must not bleed into edges.
  white = Image.new("RGBA", rgba.size, "white")
  picture = Image.alpha_composite(white, rgba).convert("RGB")
  if picture.getextrema() == ((255, 255),) * 3:
    raise ValueError(f"the picture {path} is blank (is it only text?)")
  scale = size / max(picture.size)
  width, height = (max(1, round(side * scale)) for side in picture.size)
  picture = picture.resize((width, height), Image.Resampling.LANCZOS)
  square = Image.new("RGB", (size, size), "white")
  square.paste(picture, ((size - width) // 2, (size - height) // 2))
  png = io.BytesIO()
  square.save(png, "PNG")
  return png.getvalue()
