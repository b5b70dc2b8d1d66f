"""Writes a small folder of stamps, with the traps of the real one."""

import colorsys
import pathlib
from collections.abc import Sequence

import numpy as np
import soundfile
from PIL import Image, ImageDraw

CATEGORIES = ("animals/birds", "food", "household/tools")
NOUNS = ("bird", "pear", "hammer")
MODES = ("RGBA", "LA", "P", "RGB", "svg")


def make(
  root: str | pathlib.Path,
  n_stamps: int = 12,
  languages: Sequence[str] = ("fr", "ro", "ru"),
  seconds: float = 0.3,
) -> pathlib.Path:
  """Writes stamps with one recording for each language.

  Stamp k is `CATEGORIES[k % 3]/NOUN{k}`, its picture of mode `MODES[k % 5]`
  (RGBA, LA, P with transparency, RGB, or SVG only). The first language is
  44.1 kHz stereo Ogg, the last 8 kHz mono WAV, the others 44.1 kHz mono Ogg.
  Stamps 0 and 3 have equal captions in the first language; stamps 1 and 4
  have byte-identical recordings in the second (if there are two); stamp 5
  has no captions. Beside them lie a recording whose picture was renamed, a
  misnamed one, a sound effect and `symbols/`.

  Args:
    root: created if missing.
    n_stamps: at least 6.
    languages: of the recordings; "en" gives `NAME_desc.ogg`.
    seconds: length of the recordings.

  Returns:
    `root` as a path.
  """
  root = pathlib.Path(root)
  for k in range(n_stamps):
    folder = root / CATEGORIES[k % 3]
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{NOUNS[k % 3]}{k}"
    picture(stem, MODES[k % 5], hue=k / n_stamps)
    if k != 5:
      captions(stem, 0 if k == 3 else k, k, languages)
    for i, language in enumerate(languages):
      recording(stem, language, i, len(languages), k, seconds)
  if len(languages) > 1:
    twins = [
      next(root.rglob(f"{noun}_desc_{languages[1]}.*"))
      for noun in ("pear1", "pear4")
    ]
    twins[1].write_bytes(twins[0].read_bytes())
  _strays(root, languages[0], seconds)
  return root


def picture(stem: pathlib.Path, mode: str, hue: float) -> None:
  """A disc of one hue; all round it is transparent, or white for RGB."""
  red, green, blue = (int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.9, 0.7))
  if mode == "svg":
    stem.with_name(f"{stem.name}.svg").write_text(
      '<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="30pt">'
      f'<circle cx="20" cy="20" r="15" fill="rgb({red},{green},{blue})"/></svg>'
    )
    return
  # Black behind the transparent pixels: it must not show.
  image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
  disc = (red, green, blue, 255)
  ImageDraw.Draw(image).ellipse((10, 5, 30, 25), fill=disc)
  if mode == "RGB":
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
  elif mode == "LA":
    image = image.convert("LA")
  elif mode == "P":
    indices = (np.asarray(image)[..., 3] > 0).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([0, 0, 0, red, green, blue])
    image.info["transparency"] = 0
  image.save(stem.with_name(f"{stem.name}.png"))


def captions(
  stem: pathlib.Path, first: int, k: int, languages: Sequence[str]
) -> None:
  """`NAME.txt`: English, then the languages; `first` counts in the first."""
  lines = [f"Thing number {k}."]
  for i, language in enumerate(languages):
    if language != "en":
      number = first if i == 0 else k
      lines.append(f"{language}.utf8=Chose № {number}, «{language}».")
  text = "\n".join(lines) + "\n"
  stem.with_name(f"{stem.name}.txt").write_text(text, encoding="utf8")


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray:
  """Four harmonics that swell and fade, roughly like a voice."""
  time = np.arange(int(seconds * rate)) / rate
  sound = sum(np.sin(2 * np.pi * hertz * h * time) / h**2 for h in (1, 2, 3, 4))
  return 0.4 * sound * np.sin(np.pi * time / seconds) ** 0.5


def recording(
  stem: pathlib.Path, language: str, i: int, n: int, k: int, seconds: float
) -> None:
  """`NAME_desc_XX`: a pitch for the stamp, a little higher by language."""
  tail = "_desc" if language == "en" else f"_desc_{language}"
  hertz = 120 + 15 * k + 4 * i
  if i == n - 1 and n > 1:
    path, rate = stem.with_name(f"{stem.name}{tail}.wav"), 8000
  else:
    path, rate = stem.with_name(f"{stem.name}{tail}.ogg"), 44100
  sound = tone(hertz, seconds, rate)
  if i == 0:
    sound = np.stack([sound, 0.5 * sound], axis=1)
  write(path, sound, rate)


def write(path: pathlib.Path, sound: np.ndarray, rate: int) -> None:
  """Writes Ogg Vorbis or 16-bit WAV by the suffix."""
  kinds = {".ogg": ("OGG", "VORBIS"), ".wav": ("WAV", "PCM_16")}
  form, subtype = kinds[path.suffix]
  soundfile.write(path, sound, rate, format=form, subtype=subtype)


def _strays(root: pathlib.Path, language: str, seconds: float) -> None:
  sound = tone(200, seconds, 44100)
  write(root / "food" / f"apricot_whole_desc_{language}.ogg", sound, 44100)
  write(root / "food" / f"pear1_desc_{language}.ogg.ogg", sound, 44100)
  write(root / "food" / "pear1.ogg", sound, 44100)
  letters = root / "symbols" / "letters"
  letters.mkdir(parents=True, exist_ok=True)
  picture(letters / "a", "RGBA", 0.5)
  write(letters / f"a_desc_{language}.ogg", tone(230, seconds, 44100), 44100)
