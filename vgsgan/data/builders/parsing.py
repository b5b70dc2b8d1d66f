"""Parses the examples that TFDS has stored.

TFDS finds its way through nested and ragged features at every record, in
Python, where threads wait for each other. Of flat features, which all data sets
made here have, the way is found once.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

Parse = Callable[[bytes], dict[str, Any]]


def parser(features: tfds.features.FeaturesDict) -> Parse:
  """Makes a record of the bytes of a stored example, as TFDS would.

  Features that are not flat are left to TFDS.

  Args:
    features: of the data set.

  Returns:
    `bytes -> record`: arrays, numbers, texts as UTF-8 bytes, and `image` as it
    is stored: TFDS would decode it with OpenCV or PIL, whichever there is.
  """
  readers = {name: _reader(name, kind) for name, kind in features.items()}
  if None in readers.values():
    as_stored = {"image": tfds.decode.SkipDecoding()}
    return functools.partial(
      features.deserialize_example_np, decoders=as_stored
    )

  def parse(stored: bytes) -> dict[str, Any]:
    found = tf_example_pb2.Example.FromString(stored).features.feature
    if missing := readers.keys() - found.keys():
      raise ValueError(f"it has no {', '.join(sorted(missing))}")
    return {name: read(found[name]) for name, read in readers.items()}

  return parse


def _reader(name: str, feature: Any) -> Callable[[Any], Any] | None:
  """The function that takes a feature's value out of its message.

  None if it is of a kind, or of a shape, that is not known here.
  """
  kind = type(feature)
  if kind is tfds.features.Text:
    return _bytes_of
  if kind is tfds.features.Image:
    return _bytes_of if name == "image" else None
  info = feature.get_serialized_info()
  if kind is tfds.features.Scalar:
    return lambda value: np.array(_number_of(value), info.np_dtype).item()
  if kind is not tfds.features.Tensor or isinstance(info, dict):
    return None
  if np.dtype(info.np_dtype).hasobject:  # Encoded.
    return lambda value: feature.decode_example_np(_bytes_of(value))
  shape = [-1 if side is None else side for side in info.shape]
  return lambda value: np.array(_numbers_of(value), info.np_dtype).reshape(
    shape
  )


def _bytes_of(value: Any) -> bytes:
  (found,) = value.bytes_list.value
  return found


def _number_of(value: Any) -> float | int:
  (found,) = _numbers_of(value)
  return found


def _numbers_of(value: Any) -> Any:
  return getattr(value, value.WhichOneof("kind")).value
