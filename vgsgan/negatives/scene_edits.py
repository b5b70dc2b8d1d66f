"""Impostors of the world of places: scenes with other words.

An edit keeps the pose and gives one kind of word another value, so that the
rest of the image stays as it is. The other kinds of impostors are controls.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vgsgan.worlds import places
from vgsgan.worlds.place_words import KINDS, NOUNS

ATTRIBUTES = tuple(kind for kind in KINDS if kind not in NOUNS)
# Kinds of words that an edit may change, by its name.
EDITS = {
  "attribute": ATTRIBUTES,
  "noun": NOUNS,
  **{kind: (kind,) for kind in KINDS},
}
# Another scene; another with the same thing at the same place and sky.
CONTROLS = ("other", "same_noun")
IMPOSTORS = (*EDITS, *CONTROLS)


def impostor(
  name: str,
  key: Key[Array, ""],
  scene: places.Scene,
  said: Bool[Array, "b 6"],
  counts: tuple[int, ...],
  astray: float = 0.0,
) -> tuple[places.Scene, Float[Array, "b"]]:
  """Draws a scene of which the caption of each scene is false.

  Args:
    name: one of `IMPOSTORS`. The caption may be true of 'same_noun', as it may
      of any image of the same noun in a batch.
    key: a random key.
    scene: b scenes.
    said: kinds that their captions state.
    counts: number of words of each kind; see `places.counts`.
    astray: share of the edits that change a word which the caption does not
      state, or nothing if it states all; they count like the others.

  Returns:
    The scenes; weights, 0 where an edit would leave the caption true for want
    of a stated word to change, else 1.
  """
  keys = jax.random.split(key, 3)
  rows = len(scene.words)
  if name in EDITS:
    allowed = jnp.array(
      [k in EDITS[name] and n > 1 for k, n in zip(KINDS, counts, strict=True)]
    )
    weight = jnp.any(said & allowed, axis=1)
    miss = jax.random.bernoulli(keys[2], astray, (rows, 1))
    possible = jnp.where(miss, ~said, said) & allowed
    kind = jax.random.categorical(
      keys[0], jnp.where(possible, 0.0, -jnp.inf), axis=1
    )
    words = change(keys[1], scene.words, kind, counts)
    changes = jnp.any(possible, axis=1, keepdims=True) & weight[:, None]
    words = jnp.where(changes, words, scene.words)
    return scene._replace(words=words), weight.astype(jnp.float32)
  fresh = jax.vmap(lambda key: places.sample(key, counts))(
    jax.random.split(keys[0], rows)
  )
  if name == "same_noun":
    nouns = jnp.array([kind in NOUNS for kind in KINDS])
    fresh = fresh._replace(words=jnp.where(nouns, scene.words, fresh.words))
  return fresh, jnp.ones(rows)


def change(
  key: Key[Array, ""],
  words: Int[Array, "b 6"],
  kind: Int[Array, "b"],
  counts: tuple[int, ...],
) -> Int[Array, "b 6"]:
  """Gives one kind of word of each scene another value, all equally likely."""
  most = jnp.array(counts)[kind]
  steps = jax.random.randint(key, kind.shape, 1, jnp.maximum(most, 2))
  there = jnp.arange(words.shape[1]) == kind[:, None]
  return jnp.where(there, (words + steps[:, None]) % most[:, None], words)
