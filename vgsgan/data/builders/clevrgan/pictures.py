"""Draws the images of our Audio CLEVRGAN with a GAN, and captions them.

The data of "Learning Words by Drawing Images" (Surís et al., CVPR 2019) are
samples of a GAN, so that their latents are known, and people's descriptions of
them. Here a recogniser finds the objects of a sample and a grammar describes
them. An image depends on the seed, its split and its number there alone (to the
rounding of the device that draws); a caption depends on the recogniser too.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from vgsgan.common.errors import UserError
from vgsgan.models.pretrained import Network
from vgsgan.worlds import captions, recognise, voices
from vgsgan.worlds.attributes import ATTRIBUTES

# Their order keeps their random numbers apart.
SPLITS = ("train", "validation", "test", "probe", "words", "semantic")
_BATCH = 250  # Images drawn at a time.
_TRIES = 100  # Latents tried for an image.

# (split, numbers [b], tries [b]) -> latents, pixels, logits.
Draw = Callable[[int, np.ndarray, np.ndarray], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Picture:
  """An image with its latent and labels.

  Attributes:
    z: the latent it was drawn from.
    image: its pixels.
    attributes: attributes of its objects from left to right, indices in the
      order of ATTRIBUTES; -1 if unknown, or if there is no object.
    masks: masks of its objects.
  """

  z: Float[np.ndarray, "z"]
  image: UInt8[np.ndarray, "s s 3"]
  attributes: Int[np.ndarray, "n 4"]
  masks: Bool[np.ndarray, "n s s"]

  @property
  def objects(self) -> list[dict[str, str | None]]:
    """A word or None under each kind of ATTRIBUTES, from left to right."""
    return [
      {
        kind: ATTRIBUTES[kind][i] if i >= 0 else None
        for kind, i in zip(ATTRIBUTES, row, strict=True)
      }
      for row, mask in zip(self.attributes, self.masks, strict=True)
      if mask.any()
    ]


def drawing(
  generator: Network, recogniser: Network, seed: int, truncation: float
) -> Draw:
  """Compiles a function that draws images and recognises their objects.

  Args:
    generator: a generator without labels.
    recogniser: the network that recognises objects.
    seed: seed of all latents.
    truncation: largest number in a latent; 0 for no limit.

  Returns:
    `(split, numbers [b], tries [b]) -> (z [b, z], uint8 images [b, s, s, 3],
    logits [b, s, s, 16])`; rows depend on their number and try alone.

  Raises:
    UserError: the generator wants labels.
  """
  if generator.module.num_labels:
    raise UserError(
      "config.data.generator draws what labels say; a generator without "
      "labels is needed: train it without configs/scenes_gan.py:labels"
    )

  def latent(split, number, attempt):
    key = jax.random.key(seed)
    for part in (split, number, attempt):
      key = jax.random.fold_in(key, part)
    shape = (generator.module.latent_size,)
    if not truncation:
      return jax.random.normal(key, shape)
    return jax.random.truncated_normal(key, -truncation, truncation, shape)

  @jax.jit
  def draw(variables, judge, split, numbers, tries):
    z = jax.vmap(latent, (None, 0, 0))(split, numbers, tries)
    drawn = generator.module.apply(variables, z, train=False)
    pixels = jnp.rint(jnp.clip(127.5 * (drawn + 1), 0, 255)).astype(jnp.uint8)
    # Recognises the stored pixels, which differ from `drawn` by rounding.
    logits, _ = recogniser.module.apply(judge, pixels / 255.0, train=False)
    return z, pixels, logits

  return functools.partial(draw, generator.variables, recogniser.variables)


def pictures(
  draw: Draw, split: int, count: int, most: int
) -> Iterator[Picture]:
  """Draws `count` pictures of 1 to `most` objects, in order.

  A picture is drawn again from the next latent if the recogniser finds no
  object, too many, or one whose shape and colour are both unsure.

  Raises:
    UserError: a hundred latents in a row give no usable picture.
  """
  fresh = ((number, 0) for number in range(count))
  retries: list[tuple[int, int]] = []
  finished: dict[int, Picture] = {}
  following = 0
  while following < count:
    jobs = retries + list(itertools.islice(fresh, _BATCH - len(retries)))
    # Batches are drawn whole, to compile once.
    filled = np.array(jobs + [(0, 0)] * (_BATCH - len(jobs)), np.int32)
    rows = jax.device_get(draw(split, filled[:, 0], filled[:, 1]))
    retries = []
    for (number, attempt), z, image, logits in zip(jobs, *rows, strict=False):
      objects = recognise.objects(logits)
      if usable(objects, most):
        finished[number] = Picture(z, image, *labels(objects, most, len(image)))
      else:
        retries.append((number, _next(attempt)))
    while following in finished:
      yield finished.pop(following)
      following += 1


def usable(objects: Sequence[Mapping[str, Any]], most: int) -> bool:
  """Tells whether an image with these objects can be captioned."""
  if not 1 <= len(objects) <= most:
    return False
  return all(o["shape"] is not None or o["color"] is not None for o in objects)


def _next(attempt: int) -> int:
  if attempt + 1 == _TRIES:
    raise UserError(
      f"in none of {_TRIES} pictures in a row are objects recognised: "
      "config.data.generator and config.data.recogniser do not fit, or were "
      "not trained long enough"
    )
  return attempt + 1


def labels(
  objects: Sequence[Mapping[str, Any]], most: int, size: int
) -> tuple[Int[np.ndarray, "n 4"], Bool[np.ndarray, "n s s"]]:
  """Makes `attributes` and `masks` of a `Picture` from `recognise.objects`."""
  attributes = np.full((most, len(ATTRIBUTES)), -1, np.int32)
  masks = np.zeros((most, size, size), bool)
  for i, thing in enumerate(objects):
    masks[i] = thing["mask"]
    for k, (kind, words) in enumerate(ATTRIBUTES.items()):
      if thing[kind] is not None:
        attributes[i, k] = words.index(thing[kind])
  return attributes, masks


def describe(
  picture: Picture, seed: int, split: int, number: int
) -> tuple[str, str]:
  """Makes a caption, and chooses a voice that may say it in the split."""
  rng = np.random.default_rng([seed, split, number])
  caption = captions.caption(rng, picture.objects)
  return caption, voices.choose(rng, caption, seed, SPLITS[split])
