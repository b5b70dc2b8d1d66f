"""Rendered scenes beside others that differ in one attribute that is said.

After the semantic test of "Learning Words by Drawing Images" (Surís et al.,
CVPR 2019), which edits the true picture with the GAN. These are rendered:
what differs is exact, and no artefact of an editor can tell them apart.
"""

import functools
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from vgsgan.data.builders.clevrgan.pictures import Picture, choose_voice
from vgsgan.worlds import captions, scenes
from vgsgan.worlds.attributes import ATTRIBUTES

NEGATIVES = 4
_SAME_KIND = 2  # Of the negatives, at most, change one kind.
_LEAST_AREA = 0.006  # Of the picture: how much of an object must be seen.
_TRIES = 100
_KINDS = tuple(ATTRIBUTES)


@dataclass(frozen=True)
class Contrast:
  """One item of the test.

  Attributes:
    picture: the true one; its `z` is empty.
    caption: true of it, and of none of the others.
    voice: a training voice, which says this in tests alone.
    negatives: the other pictures.
    changed: which of ATTRIBUTES differs in each, by its index.
  """

  picture: Picture
  caption: str
  voice: str
  negatives: UInt8[np.ndarray, "k s s 3"]
  changed: Int[np.ndarray, "k"]


def contrast(
  seed: int, split: int, number: int, size: int, most: int
) -> Contrast:
  """Item `number` of the test; it depends on the arguments alone.

  Args:
    seed: of all items.
    split: its index in `clevrgan.SPLITS`; keeps the items apart from other
      pictures of the seed.
    number: of the item.
    size: side of the pictures, pixels.
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
    known = _left_to_right(scene, masks, most)
    picture = Picture(np.zeros(0, np.float32), pixels, *known)
    caption = captions.caption(rng, picture.objects)
    edits = choose(rng, scene, caption)
    if edits:
      others = [_render(edited(scene, *edit), size)[0] for edit in edits]
      return Contrast(
        picture,
        caption,
        choose_voice(rng, caption, seed, split),
        np.stack(jax.device_get(others)),
        np.array([kind for _, kind, _ in edits], np.int32),
      )
  raise RuntimeError(f"no scene with {NEGATIVES} others in {_TRIES} tries")


def choose(
  rng: np.random.Generator, scene: scenes.Scene, caption: str
) -> list[tuple[int, int, int]]:
  """Changes (object, kind, value), each of which makes the caption false.

  As many kinds as are said, no object into another; none if there are not
  `NEGATIVES`.
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
  """Objects and kinds of attributes that a caption certainly states.

  Where it says a word as often as there are objects of which that is true,
  the caption is false of the scene once one of them is otherwise.
  """
  said = Counter(map(captions.canonical, caption.split()))
  found = []
  for k, (kind, words) in enumerate(ATTRIBUTES.items()):
    values = getattr(scene, kind)
    for i in np.flatnonzero(scene.present):
      same = np.sum(scene.present & (values == values[i]))
      if said[words[values[i]]] == same:
        found.append((int(i), k))
  return found


def edited(
  scene: scenes.Scene, thing: int, kind: int, value: int
) -> scenes.Scene:
  """The scene with another value of one attribute of one object."""
  values = np.array(getattr(scene, _KINDS[kind]))
  values[thing] = value
  return scene._replace(**{_KINDS[kind]: values})


def _left_to_right(
  scene: scenes.Scene, masks: Bool[np.ndarray, "m s s"], most: int
) -> tuple[Int[np.ndarray, "n 4"], Bool[np.ndarray, "n s s"]]:
  """`attributes` and `masks` of a `Picture`."""
  names = np.stack([getattr(scene, kind) for kind in _KINDS], -1)
  there = sorted(
    np.flatnonzero(scene.present), key=lambda i: np.nonzero(masks[i])[1].mean()
  )
  attributes = np.full((most, len(_KINDS)), -1, np.int32)
  found = np.zeros((most, *masks.shape[1:]), bool)
  attributes[: len(there)] = names[there]
  found[: len(there)] = masks[there]
  return attributes, found


@jax.jit
def _sample(key):
  return scenes.sample(key, 1, scenes.MOST)


@functools.partial(jax.jit, static_argnums=1)
def _render(scene, size: int):
  picture = scenes.render(scene, size)
  return jnp.rint(picture.image * 255).astype(jnp.uint8), picture.masks
