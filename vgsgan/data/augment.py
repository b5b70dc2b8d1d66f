"""Random changes of a batch that leave its captions true, on the device.

All draws are made in the global view, so they do not depend on how many
devices share the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def shift_and_flip(
  key: Key[Array, ""], images: Float[Array, "b h w c"], pixels: int, flip: bool
) -> Float[Array, "b h w c"]:
  """Moves each picture by up to `pixels` either way and mirrors every other.

  The border is repeated outwards, which on the stamps' white squares is white.
  """
  key_shift, key_flip = jax.random.split(key)
  b, h, w, c = images.shape
  if flip:
    mirrored = jax.random.bernoulli(key_flip, 0.5, (b, 1, 1, 1))
    images = jnp.where(mirrored, images[:, :, ::-1], images)
  if not pixels:
    return images
  pad = (pixels, pixels)
  padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)), mode="edge")
  corner = jax.random.randint(key_shift, (b, 2), 0, 2 * pixels + 1)

  def crop(image, yx):
    return jax.lax.dynamic_slice(image, (yx[0], yx[1], 0), (h, w, c))

  return jax.vmap(crop)(padded, corner)


def _bands(
  key: Key[Array, ""], rows: int, length: Int[Array, "b"], widest: Array, t: int
) -> Bool[Array, "b t"]:
  """One random band of up to `widest` places in each row's first `length`."""
  key_width, key_start = jax.random.split(key)
  width = jax.random.uniform(key_width, (rows, 1)) * widest
  room = jnp.maximum(length[:, None] - width, 0)
  start = jax.random.uniform(key_start, (rows, 1)) * room
  place = jnp.arange(t)[None]
  return (place >= start) & (place < start + width)


def mask_bands(
  key: Key[Array, ""],
  features: Float[Array, "b t f"],
  num_frames: Int[Array, "b"],
  time_share: float,
  frequencies: int,
) -> Float[Array, "b t f"]:
  """Silences one stretch of time and one band of frequencies in each clip.

  SpecAugment's two masks (Park et al., 2019, section 2) without the warping.

  Args:
    key: of this step.
    features: log-mel, dB.
    num_frames: valid frames.
    time_share: the longest stretch, as a share of the clip.
    frequencies: the widest band, in mel bands.
  """
  b, t, f = features.shape
  key_time, key_mel = jax.random.split(key)
  longest = (time_share * num_frames)[:, None]
  in_time = _bands(key_time, b, num_frames, longest, t)
  every_band = jnp.full((b,), f)
  widest = jnp.full((b, 1), float(frequencies))
  in_mel = _bands(key_mel, b, every_band, widest, f)
  floor = features.min(axis=(1, 2), keepdims=True)
  return jnp.where(in_time[:, :, None] | in_mel[:, None], floor, features)
