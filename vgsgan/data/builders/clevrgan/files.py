"""Reads the folder of the published Audio CLEVRGAN, and makes its latents.

The folder, natural or synthetic, has the layout that
github.com/surisdi/learning-by-drawing describes and reads:

    name_list_train.txt  name_list_val.txt  name_list_test.txt   an ID a line
    audio/ID.wav  images/ID.jpg  text/ID.txt                     text: optional

An ID is the number of the latent that the image was drawn from, perhaps in a
folder (`active/123`). Some recordings have a suffix: `ID_amt.wav` of people and
`ID_synthetic.wav`. Images may also be `images/ID.png`. A folder of images other
than the published ones may bring their latents: `z.npy`, an array [n, z] of
float32 whose row ID takes the place of the published latent.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vgsgan.common.errors import UserError, one_line
from vgsgan.data import decoding
from vgsgan.data.builders import sources

LISTS = {"train": "train", "validation": "val", "test": "test"}
SUFFIXES = ("", "_amt", "_synthetic")  # For recordings; the first wins.
LATENTS_FILE = "z.npy"
LATENTS, LATENT_SIZE = 200000, 512
_ROWS = 4000  # Latents drawn at a time.
_LAYOUT = (
  "a folder of Audio CLEVRGAN has name_list_train.txt, name_list_val.txt, "
  "name_list_test.txt, audio/ID.wav, images/ID.jpg and, where there is text, "
  "text/ID.txt"
)


@dataclass(frozen=True)
class Pair:
  """One line of a list.

  Attributes:
    id: ID of the image, without a suffix.
    row: row of its latent, in `z.npy` or else the published latents.
    audio, image: expected paths.
    caption: '' if there is no text.
  """

  id: str
  row: int
  audio: pathlib.Path
  image: pathlib.Path
  caption: str


def scan(
  source: str | pathlib.Path, splits: Sequence[str] = tuple(LISTS)
) -> dict[str, list[Pair]]:
  """Lists the pairs that the lists of some splits name; files may be missing.

  Raises:
    UserError: no folder, a list or a folder is missing, a list is empty or
      has a line that is no ID, two lists share one, or `z.npy` cannot be read.
  """
  root = sources.folder(source, _LAYOUT)
  lists = {split: _list_file(split) for split in splits}
  missing = [
    *(name for name in lists.values() if not (root / name).is_file()),
    *(name for name in ("audio", "images") if not (root / name).is_dir()),
  ]
  if missing:
    raise UserError(f"{root} has no {', no '.join(missing)}: {_LAYOUT}")
  own = own_latents(root)
  limit = LATENTS if own is None else len(own)
  with sources.readable(root):
    by_split = {
      split: _listed(root, name, limit) for split, name in lists.items()
    }
  listed: dict[str, str] = {}
  for split, pairs in by_split.items():
    for pair in pairs:
      other = listed.setdefault(pair.id, lists[split])
      if other != lists[split]:
        raise UserError(
          f"{root}: {pair.id} is in {other} and in {lists[split]}; what is "
          "tested must not be trained on: take it out of one"
        )
  return by_split


def _list_file(split: str) -> str:
  return f"name_list_{LISTS[split]}.txt"


def _listed(root: pathlib.Path, name: str, limit: int) -> list[Pair]:
  """Reads the pairs of one list, each once."""
  try:
    lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {root / name}: {error}") from error
  pairs = {}
  for number, line in enumerate(lines, start=1):
    if line.strip():
      pair = _pair(root, line.strip(), limit)
      if pair is None:
        raise UserError(
          f"{root / name}, line {number}: {line.strip()!r} is no ID, which is "
          f"a number below {limit}, perhaps in a folder, as active/123"
        )
      pairs.setdefault(pair.id, pair)
  if not pairs:
    raise UserError(f"{root / name} is empty: an ID a line was expected")
  return list(pairs.values())


def _pair(root: pathlib.Path, line: str, limit: int) -> Pair | None:
  """Finds the files of a line; None if it is no ID."""
  path = pathlib.PurePosixPath(line)
  digits = path.name
  for suffix in SUFFIXES[1:]:
    digits = digits.removesuffix(suffix)
  outside = path.is_absolute() or ".." in path.parts
  if outside or not (digits.isdecimal() and int(digits) < limit):
    return None
  path = path.with_name(digits)
  sounds = [root / "audio" / f"{path}{suffix}.wav" for suffix in SUFFIXES]
  images = [root / "images" / f"{path}{kind}" for kind in (".jpg", ".png")]
  text = _text_file(root, str(path))
  return Pair(
    str(path),
    int(digits),
    _first(sounds),
    _first(images),
    _text(text) if text.exists() else "",
  )


def _first(paths: Sequence[pathlib.Path]) -> pathlib.Path:
  """The first path that exists, or else the first."""
  return next((path for path in paths if path.exists()), paths[0])


def _text_file(root: pathlib.Path, pair_id: str) -> pathlib.Path:
  return root / "text" / f"{pair_id}.txt"


def _text(path: pathlib.Path) -> str:
  return " ".join(path.read_text("utf-8-sig", errors="replace").split())


def read_image(path: pathlib.Path, size: int) -> UInt8[np.ndarray, "s s 3"]:
  """Decodes a square image.

  Raises:
    ValueError: the file is missing, cannot be decoded, or is not square.
  """
  image = decoding.read_image(path)
  if image.width != image.height:
    raise ValueError(f"the picture {path} is not square")
  if image.width != size:
    image = image.resize((size, size), Image.Resampling.LANCZOS)
  return np.asarray(image)


def latents_of(rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n 512"]:
  """Computes some of the published latents, float32.

  They are rows of `RandomState(1).standard_normal(200000 * 512).reshape(200000,
  512)`. Only a few thousand are held at a time (the whole is 0.8 GB), and none
  is drawn after the last of `rows`.

  Args:
    rows: indices below 200000.
  """
  state = np.random.RandomState(1)
  z = np.empty((len(rows), LATENT_SIZE), np.float32)
  for start in range(0, int(rows.max(initial=-1)) + 1, _ROWS):
    block = state.standard_normal(_ROWS * LATENT_SIZE).reshape(_ROWS, -1)
    in_block = (rows >= start) & (rows < start + _ROWS)
    z[in_block] = block[rows[in_block] - start]
  return z


def own_latents(root: pathlib.Path) -> Float[np.ndarray, "n z"] | None:
  """Opens the latents that a folder brings, on disk; None if it has none.

  Raises:
    UserError: `z.npy` is something else, or holds infinities. NaN stands for
      an unknown latent.
  """
  path = root / LATENTS_FILE
  if not path.exists():
    return None
  try:
    # Strict: reads neither pickles nor archives.
    z = np.lib.format.open_memmap(path, mode="r")
    if z.ndim != 2 or z.dtype != np.float32 or np.isinf(z).any():
      raise ValueError(f"it holds {z.dtype}{list(z.shape)}")
  except (OSError, ValueError) as error:
    reason = one_line(error)
    raise UserError(
      f"{path} is no array [n, z] of float32, a latent a row: {reason}"
    ) from error
  return z


def latents(
  source: str | pathlib.Path, rows: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n z"]:
  """Reads the latents of some rows: the folder's own or else the published."""
  own = own_latents(sources.expanded(source))
  return latents_of(rows) if own is None else np.array(own[rows])


def read_files(
  source: str | pathlib.Path, splits: Sequence[str]
) -> dict[str, pathlib.Path]:
  """Lists the files to read from a folder, by name; see `scan`."""
  root = sources.expanded(source)
  paths = [root / LATENTS_FILE]
  for split, pairs in scan(source, splits).items():
    paths.append(root / _list_file(split))
    for pair in pairs:
      paths += [pair.audio, pair.image, _text_file(root, pair.id)]
  return sources.named(root, paths)
