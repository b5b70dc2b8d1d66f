"""Labels of the stamps and their splits, before anything is decoded."""

import hashlib
import pathlib
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from vgsgan.data import splits
from vgsgan.data.builders.stamps.folder import Pair, Scan

# Shares of the records, or of the stamps if whole stamps are held out.
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.1


@dataclass(frozen=True)
class Index:
  """Pairs, recordings left out, and for each pair its labels and split.

  Attributes:
    pairs: sorted by name and language.
    strays: recordings left out, and why.
    image_id: label of the stamp.
    speech_id: equal for records that say the same in the same language.
    concept: equal for records whose stamps share, directly or through other
      stamps, a recording or a caption in any language.
    split: 'train', 'validation' or 'test'.
  """

  pairs: list[Pair]
  strays: list[tuple[pathlib.Path, str]]
  image_id: Int[np.ndarray, "n"]
  speech_id: Int[np.ndarray, "n"]
  concept: Int[np.ndarray, "n"]
  split: Shaped[np.ndarray, "n"]


def index(
  scan: Scan,
  protocol: str,
  seed: int,
  max_stamps: int | None,
) -> Index:
  """Labels pairs and assigns them to splits.

  Args:
    scan: the pairs.
    protocol: 'cells' or 'images', as in `vgsgan.data.splits`.
    seed: seed of the splits, and of the choice of stamps.
    max_stamps: takes only the first stamps in a seeded order; None for all.

  Raises:
    UserError: a split would be empty.
  """
  pairs = first_stamps(scan.pairs, max_stamps, seed)
  n = len(pairs)
  sounds = [digest(p.audio_path) for p in pairs]
  keys = [_caption_key(p.language, p.caption) for p in pairs]
  both = [[sound, *text] for sound, text in zip(sounds, keys, strict=True)]
  image_id = splits.components(n, [[p.name] for p in pairs])
  speech_id = splits.components(
    n, [[(p.language, k) for k in b] for p, b in zip(pairs, both, strict=True)]
  )
  # The English caption is always known, so two stamps of "A flower." are one
  # concept even if other languages tell them apart.
  concept = splits.components(
    n,
    [
      [p.name, *b, *_caption_key("en", p.english)]
      for p, b in zip(pairs, both, strict=True)
    ],
  )
  shares = (seed, TEST_SHARE, VALIDATION_SHARE)
  if protocol == "cells":
    split = splits.cells(image_id, splits.components(n, both), *shares)
  else:
    first = np.unique(image_id, return_index=True)[1]
    split = splits.images(concept[first], *shares)[image_id]
  return Index(pairs, scan.strays, image_id, speech_id, concept, split)


def first_stamps(pairs: list[Pair], count: int | None, seed: int) -> list[Pair]:
  """Keeps the pairs of the first stamps in a seeded order, in their order."""
  if count is None:
    return pairs

  def rank(name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()

  chosen = set(sorted({p.name for p in pairs}, key=rank)[:count])
  return [p for p in pairs if p.name in chosen]


def _caption_key(language: str, caption: str) -> Sequence[Hashable]:
  """Makes a key of a caption; a missing caption has none and equals none."""
  text = unicodedata.normalize("NFKC", caption).casefold()
  # Keep marks (M), which are letters in some scripts, and symbols (S): one
  # dollar is not one euro.
  text = "".join(c for c in text if unicodedata.category(c)[0] in "LMNS")
  return [(language, text)] if text else []


def digest(path: pathlib.Path) -> str:
  """Hashes the content of a file; returns the path if it is missing."""
  try:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
  except OSError:
    return str(path)  # Equals no digest; decoding will report the error.
