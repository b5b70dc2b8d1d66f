"""Scores generated images with a recogniser that took no part in training."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vgsgan.evals import frechet
from vgsgan.models.pretrained import Network
from vgsgan.worlds import recognise
from vgsgan.worlds.attributes import ATTRIBUTES

# Images [n, s, s, 3] in [0, 1] -> features [n, d], and objects of each image.
Predict = Callable[
  [np.ndarray], tuple[np.ndarray, list[list[recognise.Object]]]
]


def blocks(
  network: Network, images: Float[np.ndarray, "n s s 3"], block: int = 100
) -> Iterator[tuple[np.ndarray, ...]]:
  """Yields the outputs of a network for `block` images on the host at a time.

  Every block has one shape; rows that fill the last are left out.
  """
  for first in range(0, len(images), block):
    rows = images[first : first + block]
    filled = np.zeros((block, *images.shape[1:]), np.float32)
    filled[: len(rows)] = rows
    outputs = jax.device_get(
      _apply(network.module, network.variables, jax.device_put(filled))
    )
    yield tuple(x[: len(rows)] for x in outputs)


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, variables, images):
  return module.apply(variables, images, train=False)


def predictor(judge: Network) -> Predict:
  """A recogniser as a function of images on the host."""

  def predict(images):
    features, objects = [], []
    for logits, pooled in blocks(judge, images):
      features.append(pooled)
      objects += [recognise.objects(x) for x in logits]
    return np.concatenate(features), objects

  return predict


def score(
  predict: Predict,
  real: Float[np.ndarray, "n s s 3"],
  drawn: Float[np.ndarray, "m s s 3"],
) -> dict[str, Any]:
  """Figures of `frechet.compare` on predicted features, and `sure`.

  Args:
    predict: as from `predictor`.
    real: real images in [0, 1].
    drawn: generated images in [0, 1].
  """
  real_features, real_objects = predict(real)
  drawn_features, drawn_objects = predict(drawn)
  return frechet.compare(real_features, drawn_features) | {
    "sure": {"value": sure(drawn_objects), "real": sure(real_objects)}
  }


def sure(images: list[list[recognise.Object]]) -> float:
  """Share of images with objects, all of whose attributes are certain."""
  certain = [
    bool(objects)
    and all(o[kind] is not None for o in objects for kind in ATTRIBUTES)
    for objects in images
  ]
  return float(np.mean(certain))
