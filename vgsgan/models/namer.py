"""Names the thing, the place, the sky and the attributes of an image."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.correspondence import global_max
from vgsgan.models.image import space_to_depth
from vgsgan.models.layers import Conv2D, Norm


class Namer(nn.Module):
  """Logits of every word of the world of places.

  The first convolutions see squares of 2 x 2 pixels folded into channels; each
  stage halves the side, so that the last map says where things are. It is read
  as a whole and by its largest values: a thing may stand anywhere.

  Attributes:
    words: number of words, of all kinds together.
    widths: channels of each stage.
    dtype: of the computation; parameters, logits and features are float32.
  """

  words: int
  widths: tuple[int, ...] = (32, 64, 96)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "b s s 3"], train: bool
  ) -> tuple[Float[Array, "b {self.words}"], Float[Array, "b d"]]:
    """Names a batch of images.

    Args:
      image: RGB in [0, 1]; sides are multiples of 2**len(widths).
      train: whether BatchNorm uses, and stores, the batch's statistics.

    Returns:
      Logits, to be normalised per kind; and the last layer's inputs (d =
      2 * widths[-1]), by which `evals.frechet` compares two sets of images.

    Raises:
      ValueError: a side is not a multiple of 2**len(widths).
    """
    if image.shape[1] % 2 ** len(self.widths):
      raise ValueError(
        f"sides must be multiples of {2 ** len(self.widths)}, not "
        f"{image.shape[1]}"
      )
    x = space_to_depth(4.0 * (image - 0.5)).astype(self.dtype)
    for stage, units in enumerate(self.widths, start=1):
      if stage > 1:
        x = nn.avg_pool(x, (2, 2), (2, 2))
      for layer in (1, 2):
        name = f"{stage}_{layer}"
        x = Conv2D(units, use_bias=False, dtype=self.dtype, name=f"conv{name}")(
          x
        )
        x = nn.relu(
          Norm("batch", dtype=self.dtype, name=f"norm{name}")(x, train)
        )
    x = x.astype(jnp.float32)
    whole = nn.Dense(self.widths[-1], name="whole")(x.reshape(len(x), -1))
    features = jnp.concatenate([nn.relu(whole), global_max(x)], -1)
    return nn.Dense(self.words, name="words")(features), features
