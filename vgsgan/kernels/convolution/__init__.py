"""The fastest k x k convolution of this machine.

On a CPU it is oneDNN's if the extra `onednn` is installed. Nothing outside this
package depends on oneDNN.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vgsgan.kernels.convolution import library, onednn

# Names of primitives that compute convolutions, besides JAX's own.
PRIMITIVES = (onednn.PRIMITIVE.name,)


def conv2d(
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "k k c f"],
  plain: Callable[[Any, Any], Any],
) -> Float[Array, "b h w f"]:
  """A convolution of stride 1, zero padded to the same size.

  Args:
    x: images, [b, h, w, c].
    kernel: [k, k, c, f], its side k odd.
    plain: `plain(x, kernel)` computes the same with JAX's own operations.

  Returns:
    [b, h, w, f].
  """
  if x.dtype == kernel.dtype == jnp.float32 and library.ready():
    return onednn.conv2d(x, kernel, plain)
  return plain(x, kernel)


def flops(equation: Any) -> float:
  """FLOPs of one equation of PRIMITIVES (two per multiply-add)."""
  return onednn.operations(equation)


def kind() -> tuple[int, str, str]:
  """The kind of convolutions that all processes of a run must share.

  Returns:
    A number, its meaning, and advice for processes whose numbers differ.
  """
  return (
    int(library.ready()),
    "whether oneDNN convolves (0 or 1)",
    "give all of them the extra onednn and a C++ compiler, or none",
  )
