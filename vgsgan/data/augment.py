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
  """Moves each image by up to `pixels` either way and mirrors every other.

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
  """Hides one stretch of time and one band of frequencies in each clip.

  SpecAugment's two masks (Park et al., 2019, section 2), filled with the clip's
  mean.

  Args:
    key: random key of the step.
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
  count = jnp.maximum(num_frames, 1)[:, None, None] * f
  valid = (jnp.arange(t) < num_frames[:, None])[..., None]
  total = jnp.where(valid, features, 0.0).sum((1, 2), keepdims=True)
  hidden = (in_time[:, :, None] | in_mel[:, None]) & valid
  return jnp.where(hidden, total / count, features)


def _hat(places: Float[Array, "b n"], size: int) -> Float[Array, "b n m"]:
  """Weights of linear interpolation at `places` of an axis of `size`."""
  return jax.nn.relu(1.0 - jnp.abs(places[..., None] - jnp.arange(size)))


def stretch(
  key: Key[Array, ""],
  features: Float[Array, "b t f"],
  num_frames: Int[Array, "b"],
  tempo: float,
  vocal_tract: float,
) -> tuple[Float[Array, "b t f"], Int[Array, "b"]]:
  """Speaks each clip slower or faster, and by a longer or shorter throat.

  The mel axis is scaled as a vocal tract of another length scales formants
  (Jaitly and Hinton, "Vocal Tract Length Perturbation", 2013, here linear in
  mel), the time axis independently.

  Args:
    key: random key of the step.
    features: log-mel, dB; the floor outside the valid frames.
    num_frames: valid frames.
    tempo: time is scaled by a factor from 1 - tempo to 1 + tempo.
    vocal_tract: the mel axis is scaled by a factor from 1 - vocal_tract to
      1 + vocal_tract.

  Returns:
    Features of the same shape and their valid frames, cut at t.
  """
  b, t, f = features.shape
  key_time, key_mel = jax.random.split(key)
  slower = 1.0 + jax.random.uniform(
    key_time, (b, 1), minval=-tempo, maxval=tempo
  )
  longer = 1.0 + jax.random.uniform(
    key_mel, (b, 1), minval=-vocal_tract, maxval=vocal_tract
  )
  last = (num_frames[:, None] - 1).astype(jnp.float32)
  in_time = _hat(jnp.minimum(jnp.arange(t) / slower, last), t)
  in_mel = _hat(jnp.minimum(jnp.arange(f) * longer, f - 1.0), f)
  stretched = jnp.einsum("bnt,btf,bmf->bnm", in_time, features, in_mel)
  frames = 1 + jnp.floor(last[:, 0] * slower[:, 0]).astype(jnp.int32)
  return stretched, jnp.minimum(frames, t)


def degrade(
  key: Key[Array, ""],
  images: Float[Array, "b h w 3"],
  blur: float,
  noise: float,
  brightness: float,
) -> Float[Array, "b h w 3"]:
  """Blurs, brightens and adds noise to each image, to a random degree.

  Args:
    key: random key of the step.
    images: RGB in [0, 1]; the result has the same range.
    blur: the largest share of a 3 x 3 binomial blur in the image.
    noise: the largest standard deviation of the noise.
    brightness: the largest relative change of brightness.
  """
  keys = jax.random.split(key, 4)

  def degree(k, least, most):
    return jax.random.uniform(k, (len(images), 1, 1, 1), minval=least) * most

  padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  wide = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
  soft = (wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]) / 16
  images += degree(keys[0], 0.0, blur) * (soft - images)
  images *= 1 + degree(keys[1], -1.0, brightness)
  grain = jax.random.normal(keys[2], images.shape)
  images += degree(keys[3], 0.0, noise) * grain
  return jnp.clip(images, 0.0, 1.0)
