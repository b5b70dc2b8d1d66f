"""k x k convolutions of stride 1, in forms that are also fast on a CPU.

They equal XLA's own convolution but for rounding. Accelerators use that one
wherever another form is not faster. A CPU uses `kernels.convolution`, or the
form below that was fastest on an AMD EPYC: `docs/performance_log.md`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from vgsgan.kernels import convolution

# With fewer input channels `_rows` is faster, forward and backward.
_ROWS_BELOW = 5

# With at most as many output channels `_two_columns` is faster, forward.
_PAIRS_UP_TO = 16


def conv2d(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k c f"]
) -> Float[Array, "b h w f"]:
  """Convolution, zero padded to the same size.

  Args:
    x: [b, h, w, c].
    kernel: [k, k, c, f], its side k odd.

  Returns:
    [b, h, w, f].
  """
  k, _, c, features = kernel.shape
  if k == 1:
    return x @ kernel.reshape(c, features)
  return convolution.conv2d(x, kernel, _by_xla)


def _by_xla(x, kernel):
  c, features = kernel.shape[2:]
  if c < _ROWS_BELOW:
    return _rows(x, kernel)
  if features <= _PAIRS_UP_TO and x.shape[2] % 2 == 0:
    return _pairs(x, kernel)
  return _plain(x, kernel)


def _plain(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _rows(x, kernel):
  """1-D convolution of each row, with its neighbours as channels."""
  k, _, c, features = kernel.shape
  b, h, w, _ = x.shape
  padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (0, 0), (0, 0)))
  rows = jnp.concatenate([padded[:, i : i + h] for i in range(k)], -1)
  kernel = kernel.transpose(1, 0, 2, 3).reshape(k, k * c, features)
  y = lax.conv_general_dilated(
    rows.reshape(b * h, w, k * c),
    kernel,
    (1,),
    "SAME",
    dimension_numbers=("NWC", "WIO", "NWC"),
  )
  return y.reshape(b, h, w, features)


@jax.custom_jvp
def _pairs(x, kernel):
  """Computes two columns at a time: few outputs do not fill a CPU's registers.

  Accelerators use the plain form.
  """
  return lax.platform_dependent(x, kernel, cpu=_two_columns, default=_plain)


def _pairs_jvp(primals, tangents):
  """Uses gradients of the plain form: those of a strided form are slow."""
  x, kernel = primals
  dx, dkernel = tangents
  dy = jnp.zeros((), x.dtype)
  if not isinstance(dx, SymbolicZero):
    dy = dy + _plain(dx, kernel)
  if not isinstance(dkernel, SymbolicZero):
    dy = dy + _plain(x, dkernel)
  y = _pairs(x, kernel)
  return y, jnp.broadcast_to(dy, y.shape)


_pairs.defjvp(_pairs_jvp, symbolic_zeros=True)


def _two_columns(x, kernel):
  """Convolution in steps of two columns, by the kernel and a shifted copy."""
  k, _, _, features = kernel.shape
  b, h, w, _ = x.shape
  pads = [((0, 0), (i, 1 - i), (0, 0), (0, 0)) for i in range(2)]
  both = jnp.concatenate([jnp.pad(kernel, pad) for pad in pads], -1)
  y = lax.conv_general_dilated(
    x,
    both,
    (1, 2),
    [(k // 2, k // 2)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return y.reshape(b, h, w, features)
