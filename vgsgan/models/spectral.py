"""Layers of the GAN's networks, with optional spectral normalisation.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks"
(ICLR 2018): weights are divided by an estimate of their largest singular
value, with one power iteration per step. The estimates are in `batch_stats`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vgsgan.models.layers import Conv2D


def conv2d(
  features: int,
  kernel: int,
  name: str,
  spectral: bool,
  train: bool,
  dtype: Any = jnp.float32,
) -> Callable:
  """A convolution with orthogonal initialisation; its norm is in float32."""
  init = nn.initializers.orthogonal()
  layer = Conv2D(features, kernel, dtype=dtype, kernel_init=init, name=name)
  return normed(layer, spectral, train)


def dense(
  features: int, name: str, spectral: bool, train: bool, use_bias: bool = True
) -> Callable:
  """A linear layer with orthogonal initialisation."""
  init = nn.initializers.orthogonal()
  layer = nn.Dense(features, use_bias=use_bias, kernel_init=init, name=name)
  return normed(layer, spectral, train)


class SpectralNorm(nn.SpectralNorm):
  """Flax's, with a float32 power iteration where products would be rounded."""

  def _spectral_normalize(self, path, vs, update_stats):
    with jax.default_matmul_precision("highest"):
      return super()._spectral_normalize(path, vs, update_stats)


def normed(layer: nn.Module, spectral: bool, train: bool) -> Callable:
  """The layer, with weights divided by their spectral norm if `spectral`."""
  if not spectral:
    return layer
  norm = SpectralNorm(layer, name=f"{layer.name}_spectral")
  return lambda x: norm(x, update_stats=train)
