"""Rendered scenes, each with others that differ in one stated attribute.

After the semantic test of "Learning Words by Drawing Images" (Surís et al.,
CVPR 2019), which edits the true image with the GAN. These are rendered, so
the difference is exact and no artefact of an editor can tell them apart.
"""

import functools
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from vgsgan.data.builders.clevrgan.pictures import SPLITS, Picture
from vgsgan.worlds import captions, scenes, voices
from vgsgan.worlds.attributes import ATTRIBUTES

NEGATIVES = 4
_SAME_KIND = 2  # Largest number of negatives that change the same kind.
_LEAST_AREA = 0.006  # Least share of the image that an object must cover.
_TRIES = 100
_KINDS = tuple(ATTRIBUTES)


@dataclass(frozen=True)
class Contrast:
  """One item of the test.

  Attributes:
    picture: the true picture; its `z` is empty.
    caption: true of it, and false of all negatives.
    voice: a training voice, which says this caption in tests alone.
    negatives: the other images.
    changed: index into ATTRIBUTES of the difference in each negative.
  """

  picture: Picture
  caption: str
  voice: str
  negatives: UInt8[np.ndarray, "k s s 3"]
  changed: Int[np.ndarray, "k"]


def contrast(
  seed: int, split: int, number: int, size: int, most: int
) -> Contrast:
  """Makes item `number` of the test, which depends on the arguments alone.

  Args:
    seed: seed of all items.
    split: its index in `pictures.SPLITS`; keeps the items apart from other
      pictures of the seed.
    number: number of the item.
    size: side of the images, pixels.
    most: length of the labels; at least `scenes.MOST`.
  """
  for attempt in range(_TRIES):
    key = jax.random.key(seed)
    for part in (split, number, attempt):
      key = jax.random.fold_in(key, part)
    rng = np.random.default_rng([seed, split, number, attempt])
    scene = jax.device_get(_sample(key))
    pixels, masks = jax.device_get(_render(scene, size))
    if masks[scene.present].mean((1, 2)).min() < _LEAST_AREA:
      continue
    labels = _left_to_right(scene, masks, most)
    picture = Picture(np.zeros(0, np.float32), pixels, *labels)
    caption = captions.caption(rng, picture.objects)
    edits = choose(rng, scene, caption)
    if edits:
      others = [_render(edited(scene, *edit), size)[0] for edit in edits]
      return Contrast(
        picture,
        caption,
        voices.choose(rng, caption, seed, SPLITS[split]),
        np.stack(jax.device_get(others)),
        np.array([kind for _, kind, _ in edits], np.int32),
      )
  raise RuntimeError(f"no scene with {NEGATIVES} others in {_TRIES} tries")


def choose(
  rng: np.random.Generator, scene: scenes.Scene, caption: str
) -> list[tuple[int, int, int]]:
  """Chooses changes (object, kind, value) that each make the caption false.

  They cover as many stated kinds as possible, and move no object into another.
  The list is empty if there are fewer than `NEGATIVES`.
  """
  possible = stated(scene, caption)
  changes = [
    (thing, kind, value)
    for thing, kind in possible
    for value in range(len(ATTRIBUTES[_KINDS[kind]]))
    if value != getattr(scene, _KINDS[kind])[thing]
  ]
  chosen: list[tuple[int, int, int]] = []
  for _ in range(_SAME_KIND):
    taken = {kind: 0 for kind in range(len(_KINDS))}
    for i in rng.permutation(len(changes)):
      change = changes[i]
      fresh = change not in chosen and not taken[change[1]]
      if fresh and scenes.gap(edited(scene, *change)) > 0:
        taken[change[1]] = 1
        chosen.append(change)
  return chosen[:NEGATIVES] if len(chosen) >= NEGATIVES else []


def stated(scene: scenes.Scene, caption: str) -> list[tuple[int, int]]:
  """Lists the objects and kinds of attributes that a caption surely states.

  If a word occurs as often as there are objects with that attribute, changing
  one of these makes the caption false.
  """
  word_counts = Counter(map(captions.canonical, caption.split()))
  statements = []
  for k, (kind, words) in enumerate(ATTRIBUTES.items()):
    values = getattr(scene, kind)
    for i in np.flatnonzero(scene.present):
      same = np.sum(scene.present & (values == values[i]))
      if word_counts[words[values[i]]] == same:
        statements.append((int(i), k))
  return statements


def edited(
  scene: scenes.Scene, thing: int, kind: int, value: int
) -> scenes.Scene:
  """Changes one attribute of one object of a scene."""
  values = np.array(getattr(scene, _KINDS[kind]))
  values[thing] = value
  return scene._replace(**{_KINDS[kind]: values})


def _left_to_right(
  scene: scenes.Scene, masks: Bool[np.ndarray, "m s s"], most: int
) -> tuple[Int[np.ndarray, "n 4"], Bool[np.ndarray, "n s s"]]:
  """Orders `attributes` and `masks` for a `Picture`."""
  names = np.stack([getattr(scene, kind) for kind in _KINDS], -1)
  order = sorted(
    np.flatnonzero(scene.present), key=lambda i: np.nonzero(masks[i])[1].mean()
  )
  attributes = np.full((most, len(_KINDS)), -1, np.int32)
  ordered_masks = np.zeros((most, *masks.shape[1:]), bool)
  attributes[: len(order)] = names[order]
  ordered_masks[: len(order)] = masks[order]
  return attributes, ordered_masks


@jax.jit
def _sample(key):
  return scenes.sample(key, 1, scenes.MOST)


@functools.partial(jax.jit, static_argnums=1)
def _render(scene, size: int):
  picture = scenes.render(scene, size)
  return jnp.rint(picture.image * 255).astype(jnp.uint8), picture.masks
