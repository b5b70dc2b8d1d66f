"""How good drawn pictures are, to a recogniser that never drew."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vgsgan.evals import frechet
from vgsgan.models.pretrained import Network
from vgsgan.worlds import recognise
from vgsgan.worlds.attributes import ATTRIBUTES

# [n, s, s, 3] in [0, 1] -> features [n, d], and objects of each picture.
Look = Callable[[np.ndarray], tuple[np.ndarray, list[list[recognise.Object]]]]


def looker(judge: Network, block: int = 100) -> Look:
  """A recogniser as a function of pictures on the host."""

  @jax.jit
  def apply(variables, images):
    return judge.module.apply(variables, images, train=False)

  def look(images):
    features, seen = [], []
    for first in range(0, len(images), block):
      rows = images[first : first + block]
      filled = np.concatenate(
        [rows, np.zeros_like(images[: block - len(rows)])]
      )
      logits, pooled = jax.device_get(
        apply(judge.variables, jax.device_put(filled))
      )
      features.append(pooled[: len(rows)])
      seen += [recognise.objects(x) for x in logits[: len(rows)]]
    return np.concatenate(features), seen

  return look


def score(
  look: Look,
  real: Float[np.ndarray, "n s s 3"],
  drawn: Float[np.ndarray, "m s s 3"],
) -> dict[str, Any]:
  """`evals.generation.compare` of what is seen, and `sure`: the share of
  pictures with something in them of which every attribute is sure."""
  of_real, seen_real = look(real)
  of_drawn, seen_drawn = look(drawn)
  return frechet.compare(of_real, of_drawn) | {
    "sure": {"value": sure(seen_drawn), "real": sure(seen_real)}
  }


def sure(seen: list[list[recognise.Object]]) -> float:
  """Share of the pictures that show something, and nothing unsure."""
  known = [
    bool(objects)
    and all(o[kind] is not None for o in objects for kind in ATTRIBUTES)
    for objects in seen
  ]
  return float(np.mean(known))
