"""Self-attention over the places of a map (SAGAN; BigGAN, appendix B)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.models.layers import max_pool
from vgsgan.models.spectral import conv2d


class SelfAttention(nn.Module):
  """Adds attended features to each place, with a gain that starts at 0.

  Zhang et al., "Self-Attention Generative Adversarial Networks" (ICML 2019,
  section 3), with keys and values pooled over 2 x 2 places.

  Attributes:
    spectral: whether weights are divided by their spectral norm.
    dtype: of the convolutions; attention weights are computed in float32.
  """

  spectral: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b h w c"]:
    b, h, w, c = x.shape
    narrow, half = max(1, c // 8), max(1, c // 2)

    def project(units: int, name: str):
      return conv2d(units, 1, name, self.spectral, train, self.dtype)(x)

    def places(maps):
      return maps.reshape(b, -1, maps.shape[-1])

    def pool(maps):
      return max_pool(maps, (2, 2), (2, 2))

    query = places(project(narrow, "query"))
    key = places(pool(project(narrow, "key")))
    value = places(pool(project(half, "value")))
    logits = jnp.einsum(
      "bqd,bkd->bqk", query, key, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    attended = jnp.einsum("bqk,bkd->bqd", weights, value)
    attended = attended.reshape(b, h, w, half)
    gain = self.param("gain", nn.initializers.zeros, ()).astype(self.dtype)
    out = conv2d(c, 1, "out", self.spectral, train, self.dtype)
    return x + gain * out(attended)
