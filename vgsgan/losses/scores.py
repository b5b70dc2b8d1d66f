"""Scores between images and spoken captions, from their feature maps.

An image is a map `[h, w, d]`, a clip is a map `[t, d]` with a mask of its valid
frames. Their matchmap is the dot product of every location with every frame;
SISA, MISA and SIMA are three ways of pooling it to one number (Harwath et al.,
"Jointly Discovering Visual Objects and Spoken Words from Raw Sensory Input",
ECCV 2018, section 3.4).

The matchmaps of all pairs are never held in memory: see `kernels.maxsim`.
Every all-pairs score here takes `images [b, h, w, d]`, `audio [c, t, d]` and
`valid [c, t]`, and gives `[b, c]` in float32 for maps of any dtype. Frames that
are not valid have no effect on values or gradients. A clip without any valid
frame scores 0 with every image, with no gradient.
"""

import difflib
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vgsgan.kernels.maxsim import maxsim

# Multiplies float32 in float32 on every platform: otherwise a TPU would round
# operands to bfloat16, a GPU to TF32.
_EXACT = jax.lax.Precision.HIGHEST


def l2_normalize(
  x: Float[Array, "*shape d"], shortest: float = 1e-6
) -> Float[Array, "*shape d"]:
  """Divides each vector of the last axis by its length, computed in float32.

  A vector shorter than `shortest` becomes zero, with zero gradient. (The plain
  formula would give NaN, or a gradient of 1 / length.)
  """
  x32 = x.astype(jnp.float32)
  squared = jnp.sum(jnp.square(x32), axis=-1, keepdims=True)
  # Not `squared > ...`: it would hide the NaN of a diverged model.
  has_direction = ~(squared <= shortest**2)
  # The inner `where` keeps 0 ** -1.5 out of the backward pass.
  scale = jax.lax.rsqrt(jnp.where(has_direction, squared, 1.0))
  return jnp.where(has_direction, x32 * scale, 0.0).astype(x.dtype)


def matchmap(
  image: Float[Array, "*b h w d"], audio: Float[Array, "*b t d"]
) -> Float[Array, "*b h w t"]:
  """Dot product of every location with every frame of the same pair.

  Args:
    image: a map `[h, w, d]`, or a batch `[b, h, w, d]`.
    audio: a map `[t, d]`, or the paired batch `[b, t, d]`.

  Returns:
    `[h, w, t]` or `[b, h, w, t]` in float32; padded frames are not masked.
  """
  return jnp.einsum(
    "...hwd,...td->...hwt",
    image,
    audio,
    precision=_EXACT,
    preferred_element_type=jnp.float32,
  )


def pooled(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
  normalize: bool,
) -> Float[Array, "b c"]:
  """Dot product (or cosine) of the mean location and the mean valid frame."""
  image = jnp.mean(images.astype(jnp.float32), axis=(1, 2))
  clip = _mean_valid(audio.astype(jnp.float32), valid[..., None], axis=1)
  if normalize:
    image, clip = l2_normalize(image), l2_normalize(clip)
  return jnp.matmul(image, clip.T, precision=_EXACT)


def dot(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
) -> Float[Array, "b c"]:
  """Dot product of the two means."""
  return pooled(images, audio, valid, normalize=False)


def cosine(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
) -> Float[Array, "b c"]:
  """Cosine of the two means, in [-1, 1]."""
  return pooled(images, audio, valid, normalize=True)


def sisa(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
) -> Float[Array, "b c"]:
  """Sum image, sum audio: the mean of the matchmap over h, w and valid t."""
  # The mean of the products is the product of the means, without a matchmap.
  return pooled(images, audio, valid, normalize=False)


def misa(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
) -> Float[Array, "b c"]:
  """Max image, sum audio: best location of each frame, mean over valid t."""
  sums = maxsim(*_places(images), audio, valid)
  return sums / jnp.maximum(jnp.sum(valid, axis=-1), 1)


def sima(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
) -> Float[Array, "b c"]:
  """Sum image, max audio: best valid frame of each location, mean over h, w."""
  places, exist = _places(images)
  return maxsim(audio, valid, places, exist).T / exist.shape[1]


ALL_PAIRS: dict[str, Callable[[Array, Array, Array], Array]] = {
  "dot": dot,
  "cosine": cosine,
  "sisa": sisa,
  "misa": misa,
  "sima": sima,
}


def score(
  kind: str,
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c t d"],
  valid: Bool[Array, "c t"],
  normalize: bool = False,
) -> Float[Array, "b c"]:
  """Scores every image with every clip.

  Args:
    kind: a name in `ALL_PAIRS`.
    images: maps of b images.
    audio: maps of c clips.
    valid: True for frames, False for padding.
    normalize: scales every location and frame to length 1 first, so that the
      matchmap holds cosines.

  Raises:
    ValueError: `kind` is unknown; the message names the nearest.
  """
  if kind not in ALL_PAIRS:
    near = difflib.get_close_matches(kind.lower(), ALL_PAIRS, n=1, cutoff=0.0)
    raise ValueError(
      f"unknown score {kind!r}: did you mean {near[0]!r}? "
      f"There are {', '.join(ALL_PAIRS)}."
    )
  if normalize:
    # Masking in the score is too late: NaN padding would already reach the
    # gradient of the normalisation.
    images = l2_normalize(images)
    audio = l2_normalize(jnp.where(valid[..., None], audio, 0))
  return ALL_PAIRS[kind](images, audio, valid)


def calibrated_distance(
  images: Float[Array, "b 1 1 d"],
  audio: Float[Array, "c 1 d"],
  scale: Float[Array, ""],
  bias: Float[Array, ""],
) -> Float[Array, "b c"]:
  """`bias - scale * |image - audio|`: the logit of AVE-Net.

  The two-way softmax over `W |v - a| + b` of "Objects that Sound" (ECCV 2018,
  section 3) has one logit. It is positive below the distance `bias / scale`, so
  there is no margin to choose. The gradient of a distance of 0 is 0.
  """
  image = images[:, 0, 0].astype(jnp.float32)
  clip = audio[:, 0].astype(jnp.float32)
  products = jnp.matmul(image, clip.T, precision=_EXACT)
  squared = _squares(image)[:, None] + _squares(clip) - 2 * products
  apart = ~(squared <= 1e-12)  # Keeps NaN, as in `l2_normalize`.
  distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
  return bias - scale * distance


def calibrated_peak(
  images: Float[Array, "b h w d"],
  audio: Float[Array, "c 1 d"],
  scale: Float[Array, ""],
  bias: Float[Array, ""],
) -> Float[Array, "b c"]:
  """`max over places of scale * <image, audio> + bias`: the logit of AVOL-Net.

  "Objects that Sound" (ECCV 2018, section 4); the sigmoid that follows there
  does not change which place is the maximum.
  """
  valid = jnp.ones(audio.shape[:2], bool)
  return misa(scale * images, audio, valid) + bias


def fusion(
  images: Float[Array, "b 1 1 d"],
  audio: Float[Array, "c 1 d"],
  params: Mapping[str, Array],
) -> Float[Array, "b c"]:
  """The logit of L3-Net: two layers over the joined vectors.

  Concatenation, fc1 with ReLU, fc2 (ICCV 2017, section 3; the logit is the
  difference of its two outputs). Since fc1 is linear, its two halves are
  applied before the pairs are formed.

  Args:
    images: pooled features.
    audio: pooled features.
    params: `image` and `audio` [d, k], `hidden` [k], `out` [k], `bias` [].
  """
  layer = functools.partial(jnp.matmul, precision=_EXACT)
  image = layer(images[:, 0, 0], params["image"])
  clip = layer(audio[:, 0], params["audio"])
  hidden = jax.nn.relu(image[:, None] + clip + params["hidden"])
  scores = layer(hidden, params["out"]) + params["bias"]
  return scores.astype(jnp.float32)


def _squares(x: Array) -> Array:
  return jnp.sum(jnp.square(x), axis=-1)


def paired(
  score: Callable[[Array, Array, Array], Array],
  images: Float[Array, "b h w d"],
  audio: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
) -> Float[Array, "b"]:
  """Scores each image with its own clip only: the diagonal of all pairs.

  Args:
    score: an all-pairs score that treats every pair independently.
    images: maps of b images.
    audio: maps of their clips.
    valid: True for frames, False for padding.
  """

  def score_pair(image: Array, clip: Array, frames: Array) -> Array:
    return score(image[None], clip[None], frames[None])[0, 0]

  return jax.vmap(score_pair)(images, audio, valid)


def _mean_valid(x: Array, valid: Array, axis: int) -> Array:
  """Mean over `axis` of the valid entries; 0 if none is valid."""
  count = jnp.sum(valid, axis=axis, dtype=jnp.float32)
  total = jnp.sum(jnp.where(valid, x, 0.0), axis=axis)
  return total / jnp.maximum(count, 1.0)


def _places(images: Array) -> tuple[Array, Array]:
  """Flattens locations to `[b, h w, d]`, with a mask that is True."""
  places = images.reshape(len(images), -1, images.shape[-1])
  return places, jnp.ones(places.shape[:2], bool)
