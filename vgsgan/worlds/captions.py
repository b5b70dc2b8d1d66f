"""Captions of objects in an image, with synonyms and omitted attributes.

A small grammar of noun phrases like those of CLEVR's questions (Johnson et al.,
CVPR 2017), with mostly the same synonyms.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vgsgan.worlds.attributes import ATTRIBUTES, KIND, WORDS

# Synonyms of the words; colours have none.
SYNONYMS = {
  "small": ("tiny", "little"),
  "large": ("big", "huge"),
  "rubber": ("matte",),
  "metal": ("metallic", "shiny"),
  "cube": ("block", "box"),
  "sphere": ("ball",),
  "cylinder": ("tube",),
}
NOUNS = ("object", "thing")  # For an object of unknown shape.
DROPPED = 0.3  # Probability that a size, colour or material is omitted.
PUBLISHED = 0.75  # Probability of the word itself rather than a synonym.

# Templates by the number of objects; {0} is the leftmost.
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
  synonym: word for word, synonyms in SYNONYMS.items() for synonym in synonyms
}


def caption(
  rng: np.random.Generator, objects: Sequence[Mapping[str, str | None]]
) -> str:
  """Makes a true caption of some objects; `rng` alone determines the text.

  It mentions every object, with its shape if known. Size, colour and material
  are omitted with probability `DROPPED` each, but never all known ones.

  Args:
    rng: draws the template, the omissions and the synonyms.
    objects: at least one, from left to right in the image. For "size", "color",
      "material" and "shape" each has a word of ATTRIBUTES, or None if unknown.

  Returns:
    Lower case text such as "a tiny red cube left of a metal sphere".

  Raises:
    ValueError: there are no objects, or a word is not of its attribute.
  """
  if not objects:
    raise ValueError("a caption needs an object")
  phrases = [noun_phrase(rng, o, o.get("shape")) for o in objects]
  if len(phrases) in _TEMPLATES:
    return _choose(rng, _TEMPLATES[len(phrases)]).format(*phrases)
  return _choose(rng, _LISTS).format(", ".join(phrases[:-1]), phrases[-1])


def canonical(word: str) -> str | None:
  """The word of WORDS that a word of a caption states, or None.

  >>> canonical("shiny"), canonical("cube,"), canonical("thing")
  ('metal', 'cube', None)
  """
  return _CANONICAL.get(word.strip(",."))


def noun_phrase(
  rng: np.random.Generator, thing: Mapping[str, str | None], noun: str | None
) -> str:
  """A noun phrase with its article: size, colour, material, noun.

  Args:
    rng: draws the omissions and the synonyms.
    thing: words as in `caption`; a kind may be missing.
    noun: word for the thing; None if it is unknown.

  Raises:
    ValueError: a word is not of its attribute.
  """
  words = []
  for kind in ATTRIBUTES:
    word = thing.get(kind)
    if word is not None and KIND.get(word) != kind:
      raise ValueError(f"{word!r} is no {kind}: {ATTRIBUTES[kind]}")
    if word is not None and kind != "shape":
      words.append(word)
  kept = [word for word in words if rng.random() >= DROPPED]
  if words and not kept:
    kept = [_choose(rng, words)]
  spoken = _choose(rng, NOUNS) if noun is None else _spoken(rng, noun)
  phrase = " ".join([*(_spoken(rng, word) for word in kept), spoken])
  return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _spoken(rng: np.random.Generator, word: str) -> str:
  if word not in SYNONYMS or rng.random() < PUBLISHED:
    return word
  return _choose(rng, SYNONYMS[word])


def _choose(rng: np.random.Generator, choices: Sequence[str]) -> str:
  return choices[int(rng.integers(len(choices)))]
