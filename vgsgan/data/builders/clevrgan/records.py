"""The records of Audio CLEVRGAN, our own and the published."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vgsgan.common import jsonfiles
from vgsgan.data.builders.clevrgan import pictures
from vgsgan.data.builders.scenes import encode
from vgsgan.worlds import captions, speech
from vgsgan.worlds.attributes import ATTRIBUTES


@dataclasses.dataclass(frozen=True)
class Item:
  """A record before its caption is spoken; '' stands for no speech."""

  id: str
  picture: pictures.Picture
  picture_id: str
  caption: str = ""
  voice: str = ""
  negatives: np.ndarray | None = None
  changed: np.ndarray | None = None


def features(size: int, most: int) -> tfds.features.FeaturesDict:
  """The features of a record; `builder.load` explains them."""

  def tensor(shape, dtype, encoding="none"):
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

  shape = (size, size)
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "z": tensor((None,), np.float32),
      "image": tfds.features.Image(shape=(*shape, 3), encoding_format="png"),
      "waveform": tensor((None,), np.int16, "bytes"),
      "caption": tfds.features.Text(),
      "voice": tfds.features.Text(),
      "language": tfds.features.Text(),
      "words": tfds.features.Text(),
      "attributes": tensor((most, len(ATTRIBUTES)), np.int32),
      "masks": tensor((most, *shape), np.uint8, "zlib"),
      "held_out": tfds.features.Scalar(np.bool_),
      "image_id": tfds.features.Scalar(np.int32),
      "speech_id": tfds.features.Scalar(np.int32),
      "concept": tfds.features.Scalar(np.int32),
      "negatives": tensor((None, *shape, 3), np.uint8, "zlib"),
      "changed": tensor((None,), np.int32),
    }
  )


class IdCounter:
  """Numbers keys of each sort 0, 1, 2... in the order of their first use."""

  def __init__(self):
    self._ids: dict[str, dict[Any, int]] = {}

  def __call__(self, sort: str, key: Any) -> int:
    ids = self._ids.setdefault(sort, {})
    return ids.setdefault(key, len(ids))


def record(
  item: Item, spoken: speech.Spoken, numbers: IdCounter
) -> dict[str, Any]:
  """Makes a record with the features."""
  picture = item.picture
  none = np.zeros((0, *picture.image.shape), np.uint8)
  # An item without a caption has a label of its own.
  speech_id = numbers("speech", item.caption or item.id)
  return {
    "id": item.id,
    "z": picture.z,
    "image": encode(picture.image),
    "waveform": spoken.waveform,
    "caption": item.caption,
    "voice": item.voice,
    "language": "en",
    "words": jsonfiles.dumps([_timed(*word) for word in spoken.words]),
    "attributes": picture.attributes,
    "masks": picture.masks.astype(np.uint8),
    "held_out": item.voice == speech.HELD_OUT,
    "image_id": numbers("image", item.picture_id),
    "speech_id": speech_id,
    "concept": speech_id,  # An image has one caption.
    "negatives": none if item.negatives is None else item.negatives,
    "changed": (
      np.zeros(0, np.int32) if item.changed is None else item.changed
    ),
  }


def _timed(spoken: str, start: float, end: float) -> dict[str, Any]:
  published = map(captions.canonical, spoken.split())
  word = next((name for name in published if name), None)
  times = {"start": round(start, 3), "end": round(end, 3)}
  return {"spoken": spoken, "word": word} | times
