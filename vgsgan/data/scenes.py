"""A picture of a scene and what is in it, as arrays of fixed shape."""

import numpy as np

from vgsgan.data import pipeline
from vgsgan.data.examples import decode


class SceneExample:
  """A record of `builders.scenes`, made into arrays of fixed shape.

  `image` uint8 [s, s, 3]; `masks` uint8 [n, s, s]; `attributes` int32 [n, 4],
  -1 where there is no object.
  """

  def __call__(
    self, record: pipeline.Record, rng: np.random.Generator
  ) -> pipeline.Example:
    del rng  # What is random is drawn on the device.
    return {
      "image": decode(record["image"]),
      "masks": np.asarray(record["masks"], np.uint8),
      "attributes": np.asarray(record["attributes"], np.int32),
    }
