"""The published Audio CLEVRGAN as a TFDS data set.

Its folder, natural or synthetic, as github.com/surisdi/learning-by-drawing
describes and reads it:

    name_list_train.txt  name_list_val.txt  name_list_test.txt   an ID a line
    audio/ID.wav  images/ID.jpg  text/ID.txt                     text: optional

An ID is a number, perhaps in a folder (`active/123`): which latent the picture
was drawn from. Some recordings have a suffix, `ID_amt.wav` of people and
`ID_synthetic.wav`. Records are those of `builders.clevrgan`, of which nothing
is recognised. Their `z` are of the published generator, a progressive GAN.
"""

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import Float, Int, Int16, UInt8
from PIL import Image
from tqdm import tqdm

from vgsgan.data.builders import preparing
from vgsgan.data.builders.clevrgan_records import (
  Item,
  Numbers,
  features,
  record,
)
from vgsgan.data.builders.stamps_folder import read_recording
from vgsgan.errors import UserError
from vgsgan.options import check_at_least
from vgsgan.worlds import clevrgan, speech

LISTS = {"train": "train", "validation": "val", "test": "test"}
SUFFIXES = ("", "_amt", "_synthetic")  # Of recordings, in order of preference.
LATENTS, LATENT_SIZE = 200000, 512
_ROWS = 4000  # Latents drawn at a time.
_LAYOUT = (
  "config.data.source must be a folder of Audio CLEVRGAN, with "
  "name_list_train.txt, name_list_val.txt, name_list_test.txt, audio/ID.wav, "
  "images/ID.jpg and, where there is text, text/ID.txt"
)


@dataclasses.dataclass(kw_only=True, eq=False)
class ClevrganFolderConfig(tfds.core.BuilderConfig):
  """What to prepare. `name` follows from the rest: one folder for each.

  Attributes:
    name: derived; what is passed is not used.
    source: the folder.
    image_size: side of the square pictures, pixels.
    sample_rate: of the waveforms, Hz.
    max_bad_share: share of the pairs that may be missing or undecodable.
    fingerprint: of the source; `prepare` fills it in.
  """

  name: str = ""
  source: str = ""
  image_size: int = 128
  sample_rate: int = 16000
  max_bad_share: float = 0.01
  fingerprint: str = ""

  def __post_init__(self):
    check_at_least("data.image_size", self.image_size, 1)
    check_at_least("data.sample_rate", self.sample_rate, 1)
    check_at_least("data.max_bad_share", self.max_bad_share, 0)
    parts = (
      f"{self.image_size}px",
      f"{self.sample_rate}hz",
      f"source_{self.fingerprint}",
    )
    self.name = "-".join(parts)


@dataclasses.dataclass(frozen=True)
class Pair:
  """One line of a list.

  Attributes:
    id: of the picture, without a suffix.
    row: of its latent.
    audio, image: where they should be.
    caption: '' where there is no text.
  """

  id: str
  row: int
  audio: pathlib.Path
  image: pathlib.Path
  caption: str


class ClevrganFolder(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; `prepare` is the way in."""

  # See builders/stamps.py.
  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Audio CLEVRGAN: samples of a GAN trained on pictures like CLEVR's, "
        "described aloud (Surís et al., CVPR 2019)."
      ),
      features=features(self.builder_config.image_size, 1),
      supervised_keys=None,
      homepage="https://github.com/surisdi/learning-by-drawing",
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download: the folder is there.
    found = scan(self.builder_config.source)
    total = sum(map(len, found.values()))
    self.info.metadata.update(pairs=total, bad=[])
    rows = np.unique([p.row for pairs in found.values() for p in pairs])
    latents = dict(zip(rows.tolist(), latents_of(rows), strict=True))
    bar = tqdm(total=total, desc="clevrgan", unit="pair", disable=None)
    numbers = Numbers()
    return {
      split: self._generate_examples(split, pairs, latents, numbers, bar)
      for split, pairs in found.items()
    }

  def _generate_examples(self, split, pairs, latents, numbers, bar):
    config = self.builder_config
    nothing = clevrgan.labels([], 1, config.image_size)
    for pair in pairs:
      key = f"{split}:{pair.id}"
      bar.update()
      try:
        waveform = _heard(pair.audio, config.sample_rate)
        image = read_picture(pair.image, config.image_size)
      except ValueError as error:
        self.info.metadata["bad"].append([key, str(error)])
        preparing.check_bad(self.info.metadata, config.max_bad_share)
        continue
      picture = clevrgan.Picture(latents[pair.row], image, *nothing)
      item = Item(key, picture, pair.id, pair.caption)
      yield key, record(item, speech.Spoken(waveform, ()), numbers)


def scan(source: str | pathlib.Path) -> dict[str, list[Pair]]:
  """The pairs that the lists name, by split; files may be missing.

  Raises:
    UserError: no folder, a list or a folder is missing, a list is empty or
      has a line that is no ID.
  """
  root = pathlib.Path(source).expanduser()
  if not source or not root.is_dir():
    raise UserError(f"no folder {str(source)!r}: {_LAYOUT}")
  lists = {split: f"name_list_{name}.txt" for split, name in LISTS.items()}
  wanted = [*lists.values(), "audio", "images"]
  missing = [name for name in wanted if not (root / name).exists()]
  if missing:
    raise UserError(f"{root} has no {', no '.join(missing)}: {_LAYOUT}")
  return {split: _listed(root, name) for split, name in lists.items()}


def _listed(root: pathlib.Path, name: str) -> list[Pair]:
  """The pairs of one list, each once."""
  try:
    lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {root / name}: {error}") from error
  pairs = {}
  for number, line in enumerate(lines, start=1):
    if line.strip():
      pair = _pair(root, line.strip())
      if pair is None:
        raise UserError(
          f"{root / name}, line {number}: {line.strip()!r} is no ID, which is "
          f"a number below {LATENTS}, perhaps in a folder, as active/123"
        )
      pairs.setdefault(pair.id, pair)
  if not pairs:
    raise UserError(f"{root / name} is empty: an ID a line was expected")
  return list(pairs.values())


def _pair(root: pathlib.Path, line: str) -> Pair | None:
  """The files of a line; None if it is no ID."""
  path = pathlib.PurePosixPath(line)
  for suffix in SUFFIXES[1:]:
    path = path.with_name(path.name.removesuffix(suffix))
  digits = path.name
  outside = path.is_absolute() or ".." in path.parts
  if outside or not (digits.isdecimal() and int(digits) < LATENTS):
    return None
  sounds = [root / "audio" / f"{path}{suffix}.wav" for suffix in SUFFIXES]
  text = root / "text" / f"{path}.txt"
  return Pair(
    str(path),
    int(digits),
    next((sound for sound in sounds if sound.exists()), sounds[0]),
    root / "images" / f"{path}.jpg",
    _text(text) if text.exists() else "",
  )


def _text(path: pathlib.Path) -> str:
  return " ".join(path.read_text("utf-8-sig", errors="replace").split())


def _heard(path: pathlib.Path, sample_rate: int) -> Int16[np.ndarray, "n"]:
  """As `read_recording`; ValueError also where there is only silence."""
  waveform = read_recording(path, sample_rate)
  if not waveform.any():
    raise ValueError(f"the recording {path} is silent")
  return waveform


def read_picture(path: pathlib.Path, size: int) -> UInt8[np.ndarray, "s s 3"]:
  """Decodes a square picture.

  Raises:
    ValueError: the file is missing, cannot be decoded, or is not square.
  """
  try:
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
      picture = opened.convert("RGB")
  except Exception as error:  # Decoders raise anything.
    raise ValueError(f"cannot decode the picture {path}: {error}") from error
  if picture.width != picture.height:
    raise ValueError(f"the picture {path} is not square")
  if picture.width != size:
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
  return np.asarray(picture)


def latents_of(rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n 512"]:
  """The published latents, float32.

  Rows of `RandomState(1).standard_normal(200000 * 512).reshape(200000, 512)`,
  of which only a few thousand are held at a time (the whole is 0.8 GB), and
  none after the last that is wanted.

  Args:
    rows: below 200000.
  """
  state = np.random.RandomState(1)
  found = np.empty((len(rows), LATENT_SIZE), np.float32)
  for start in range(0, int(rows.max(initial=-1)) + 1, _ROWS):
    block = state.standard_normal(_ROWS * LATENT_SIZE).reshape(_ROWS, -1)
    here = (rows >= start) & (rows < start + _ROWS)
    found[here] = block[rows[here] - start]
  return found


def prepare(
  config: ClevrganFolderConfig, data_dir: str | pathlib.Path
) -> ClevrganFolder:
  """Prepares a data set, unless it is already prepared, and returns it.

  Args:
    config: what to prepare.
    data_dir: where TFDS keeps data sets; 'clevrgan_folder/NAME/VERSION' in it.

  Returns:
    The builder. `builder.info.metadata` names what was left out: 'bad'.

  Raises:
    UserError: the source is not laid out as expected, too many of its pairs
      are missing or undecodable, or the disk is full.
  """
  data_dir = pathlib.Path(data_dir).expanduser()
  config = dataclasses.replace(config, fingerprint=fingerprint(config.source))
  builder = preparing.prepare_once(
    lambda: ClevrganFolder(
      config=config, data_dir=data_dir, file_format="array_record"
    ),
    _megabytes,
  )
  metadata = builder.info.metadata
  preparing.check_bad(metadata, config.max_bad_share)
  counts = (len(metadata["bad"]), metadata["pairs"])
  logging.info("%s: %d of %d pairs left out", builder.data_dir, *counts)
  return builder


def fingerprint(source: str | pathlib.Path) -> str:
  """Eight hex digits of the IDs, the texts, and the sizes of the files."""
  digest = hashlib.sha256()
  for split, pairs in scan(source).items():
    for pair in pairs:
      files = (pair.audio, pair.image)
      sizes = [f.stat().st_size if f.exists() else -1 for f in files]
      entry = (split, pair.id, pair.audio.name, pair.caption, *sizes)
      digest.update(repr(entry).encode())
  return digest.hexdigest()[:8]


def load(builder: ClevrganFolder, split: str) -> Sequence[dict]:
  """The records of 'train', 'validation' or 'test'; see `clevrgan.load`."""
  as_stored = {"image": tfds.decode.SkipDecoding()}
  return builder.as_data_source(split, decoders=as_stored)


def _megabytes(builder: ClevrganFolder) -> int:
  """A guess: ten seconds of speech and an uncompressed picture each."""
  config = builder.builder_config
  size = 10 * 2 * config.sample_rate + 3 * config.image_size**2
  return 1 + round(builder.info.metadata.get("pairs", 0) * size / 1e6)
