"""Records that all sets of pictures with sounds share.

A record is `id`, UTF-8 bytes; `clip_id`, int32, over all splits, equal for
what is the same clip; `image`, an encoded square picture; `waveform`, int16
[n]; and `labels`, int32 [l], indices into the labels of the data set's
hierarchy.
"""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from vgsgan.data.hierarchy import Hierarchy


def features(size: int, encoding: str) -> tfds.features.FeaturesDict:
  """Features of such a record; `encoding` of pictures is 'png' or 'jpeg'."""
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "clip_id": tfds.features.Scalar(np.int32),
      "image": tfds.features.Image(
        shape=(size, size, 3), encoding_format=encoding
      ),
      # As bytes: a list of integers parses many times slower.
      "waveform": tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding="bytes"
      ),
      "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
    }
  )


def stored(hierarchy: Hierarchy) -> dict[str, list]:
  """A hierarchy as the `hierarchy` of a builder's metadata."""
  return {name: list(v) for name, v in dataclasses.asdict(hierarchy).items()}


def hierarchy(builder: tfds.core.DatasetBuilder) -> Hierarchy:
  """The hierarchy that a prepared data set's `labels` are of."""
  found = builder.info.metadata["hierarchy"]
  return Hierarchy(
    names=tuple(found["names"]),
    edges=tuple((parent, child) for parent, child in found["edges"]),
    labels=tuple(found["labels"]),
  )
