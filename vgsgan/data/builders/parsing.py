"""Parses the examples that TFDS has stored.

TFDS walks through nested and ragged features at every record, in Python, where
threads wait for each other. All data sets made here have flat features, whose
readers are chosen once.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

Parse = Callable[[bytes], dict[str, Any]]


def parser(features: tfds.features.FeaturesDict) -> Parse:
  """Makes a function that parses stored examples as TFDS would.

  Features that are not flat are left to TFDS.

  Args:
    features: features of the data set.

  Returns:
    `bytes -> record`: arrays, numbers, texts as UTF-8 bytes, and `image` still
    encoded, since TFDS would decode it with either OpenCV or PIL.
  """
  readers = {name: _reader(name, kind) for name, kind in features.items()}
  if None in readers.values():
    as_stored = {"image": tfds.decode.SkipDecoding()}
    return functools.partial(
      features.deserialize_example_np, decoders=as_stored
    )

  def parse(stored: bytes) -> dict[str, Any]:
    values = tf_example_pb2.Example.FromString(stored).features.feature
    if missing := readers.keys() - values.keys():
      raise ValueError(f"it has no {', '.join(sorted(missing))}")
    return {name: read(values[name]) for name, read in readers.items()}

  return parse


def _reader(name: str, feature: Any) -> Callable[[Any], Any] | None:
  """The function that takes a feature's value out of its message.

  None if the kind or the shape is not handled here.
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
  if np.dtype(info.np_dtype).hasobject:  # TFDS encodes these.
    return lambda value: feature.decode_example_np(_bytes_of(value))
  shape = [-1 if side is None else side for side in info.shape]
  return lambda value: np.array(_numbers_of(value), info.np_dtype).reshape(
    shape
  )


def _bytes_of(value: Any) -> bytes:
  (content,) = value.bytes_list.value
  return content


def _number_of(value: Any) -> float | int:
  (number,) = _numbers_of(value)
  return number


def _numbers_of(value: Any) -> Any:
  return getattr(value, value.WhichOneof("kind")).value
