"""Captions of a picture of objects: synonyms, and much left unsaid.

A small grammar of noun phrases in the manner of CLEVR's questions (Johnson et
al., CVPR 2017), whose synonyms these mostly are.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vgsgan.worlds.attributes import ATTRIBUTES, KIND, WORDS

# Colours have none.
SYNONYMS = {
  "small": ("tiny", "little"),
  "large": ("big", "huge"),
  "rubber": ("matte",),
  "metal": ("metallic", "shiny"),
  "cube": ("block", "box"),
  "sphere": ("ball",),
  "cylinder": ("tube",),
}
NOUNS = ("object", "thing")  # Of an object of unknown shape.
DROPPED = 0.3  # How often a size, a colour or a material is not said.
PUBLISHED = 0.75  # How often the word itself is said, not a synonym.

# By the number of objects; {0} is the leftmost.
_TEMPLATES = {
  1: ("{0}", "there is {0}", "this is {0}", "we see {0}"),
  2: (
    "{0} and {1}",
    "there is {0} and {1}",
    "{0} left of {1}",
    "there is {0} left of {1}",
    "{1} right of {0}",
    "there is {1} right of {0}",
    "{0} next to {1}",
    "there is {0} next to {1}",
  ),
}
_LISTS = (
  "{0} and {1}",
  "there is {0} and {1}",
  "from left to right, {0} and {1}",
)

_CANONICAL = {word: word for word in WORDS} | {
  synonym: word for word, others in SYNONYMS.items() for synonym in others
}


def caption(
  rng: np.random.Generator, objects: Sequence[Mapping[str, str | None]]
) -> str:
  """Says something true of some objects; the text depends on `rng` alone.

  Every object is mentioned, with its shape where that is known. Each of its
  size, colour and material is left out with probability `DROPPED`, but never
  all that are known.

  Args:
    rng: draws what is said, and how.
    objects: at least one, from left to right in the picture. Each has a word
      of ATTRIBUTES, or None where it is unknown, for "size", "color",
      "material" and "shape".

  Returns:
    Lower case text, as "a tiny red cube left of a metal sphere".

  Raises:
    ValueError: no objects, or a word that is not of its attribute.
  """
  if not objects:
    raise ValueError("a caption needs an object")
  phrases = [_phrase(rng, o) for o in objects]
  if len(phrases) in _TEMPLATES:
    return _one_of(rng, _TEMPLATES[len(phrases)]).format(*phrases)
  return _one_of(rng, _LISTS).format(", ".join(phrases[:-1]), phrases[-1])


def canonical(word: str) -> str | None:
  """The word of WORDS that a word of a caption states, None where none.

  >>> canonical("shiny"), canonical("cube,"), canonical("thing")
  ('metal', 'cube', None)
  """
  return _CANONICAL.get(word.strip(",."))


def _phrase(rng: np.random.Generator, thing: Mapping[str, str | None]) -> str:
  """A noun phrase with its article: size, colour, material, shape."""
  known = []
  for kind in ATTRIBUTES:
    word = thing.get(kind)
    if word is not None and KIND.get(word) != kind:
      raise ValueError(f"{word!r} is no {kind}: {ATTRIBUTES[kind]}")
    if word is not None and kind != "shape":
      known.append(word)
  kept = [word for word in known if rng.random() >= DROPPED]
  if known and not kept:
    kept = [_one_of(rng, known)]
  shape = thing.get("shape")
  noun = _one_of(rng, NOUNS) if shape is None else _spoken(rng, shape)
  phrase = " ".join([*(_spoken(rng, word) for word in kept), noun])
  return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _spoken(rng: np.random.Generator, word: str) -> str:
  if word not in SYNONYMS or rng.random() < PUBLISHED:
    return word
  return _one_of(rng, SYNONYMS[word])


def _one_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
  return choices[int(rng.integers(len(choices)))]
