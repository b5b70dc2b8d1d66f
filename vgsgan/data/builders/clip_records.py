"""The form of records in all sets of images with sounds.

A record is `id`, UTF-8 bytes; `clip_id`, int32, over all splits, equal for
records of the same clip; `image`, an encoded square image; `waveform`, int16
[n]; and `labels`, int32 [l], indices into the labels of the data set's
hierarchy.
"""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from vgsgan.data.hierarchy import Hierarchy


def features(size: int, encoding: str) -> tfds.features.FeaturesDict:
  """Features of a record; `encoding` of the image is 'png' or 'jpeg'."""
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "clip_id": tfds.features.Scalar(np.int32),
      "image": tfds.features.Image(
        shape=(size, size, 3), encoding_format=encoding
      ),
      # Bytes, because a list of integers parses many times slower.
      "waveform": tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding="bytes"
      ),
      "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
    }
  )


def stored(hierarchy: Hierarchy) -> dict[str, list]:
  """Converts a hierarchy to the `hierarchy` of a builder's metadata."""
  return {name: list(v) for name, v in dataclasses.asdict(hierarchy).items()}


def hierarchy(builder: tfds.core.DatasetBuilder) -> Hierarchy:
  """Reads the hierarchy that the `labels` of a prepared data set index."""
  fields = builder.info.metadata["hierarchy"]
  return Hierarchy(
    names=tuple(fields["names"]),
    edges=tuple((parent, child) for parent, child in fields["edges"]),
    labels=tuple(fields["labels"]),
  )
