"""The words of the world of places, and its captions."""

import itertools

import numpy as np

from vgsgan.worlds import captions
from vgsgan.worlds.attributes import ATTRIBUTES

# Sizes, colours and materials are those of the other world.
_SHARED = ("size", "color", "material")
THINGS = (
  "coin",
  "crate",
  "tent",
  "star",
  "cross",
  "kite",
  "flower",
  "egg",
  "arrow",
  "house",
  "heart",
  "gear",
  "bow",
  "cup",
  "boat",
  "leaf",
)
PLACES = tuple(
  (
    "airport attic bakery barn beach bridge cabin canyon castle cave chapel "
    "cinema circus cliff desert dock factory farm field forest fountain garage "
    "garden glacier harbor hotel island jungle kitchen lake library market "
    "meadow mill mine mountain museum office orchard palace park pier pond "
    "prairie prison pub river school shop stable stadium station studio swamp "
    "temple theater tower tunnel valley village volcano warehouse waterfall zoo"
  ).split()
)
SKIES = tuple(
  (
    "dawn noon dusk midnight fog hail thunder drizzle spring summer autumn "
    "winter moonlight sunshine blizzard sandstorm"
  ).split()
)
NOUNS = ("thing", "place", "sky")  # The kinds that nouns name.
VOCABULARY = {kind: ATTRIBUTES[kind] for kind in _SHARED} | {
  "thing": THINGS,
  "place": PLACES,
  "sky": SKIES,
}
KINDS = tuple(VOCABULARY)
# Labels of a scene: one of the words of each kind is 1. Where they stand.
_ENDS = tuple(itertools.accumulate(map(len, VOCABULARY.values())))
SLICES = {
  kind: slice(end - len(names), end)
  for (kind, names), end in zip(VOCABULARY.items(), _ENDS, strict=True)
}
NUM_LABELS = _ENDS[-1]

# Captions may say nouns and attributes, one of the two, or there are none.
SAID = ("all", "attributes", "nouns", "nothing")
_TEMPLATES = (
  "{0} at the {1} in {2}",
  "there is {0} at the {1} in {2}",
  "in {2} at the {1} there is {0}",
  "{2} at the {1} with {0}",
  "in {2} we see {0} at the {1}",
)
_WITHOUT_PLACE = ("{0}", "there is {0}", "this is {0}", "we see {0}")


def caption(
  rng: np.random.Generator, words: dict[str, str], said: str = "all"
) -> str:
  """Makes a true caption of a scene; `rng` alone determines its form.

  Nouns are always said. Size, colour and material are omitted as in
  `captions.caption`.

  Args:
    rng: draws the template, the omissions and the synonyms.
    words: the scene's word of each kind.
    said: one of `SAID`; without nouns the thing is an "object" or a "thing",
      without attributes it is "a" thing.

  Returns:
    Lower case text such as "a tiny red boat at the harbor in fog".
  """
  named = {kind: words[kind] for kind in _SHARED} if said != "nouns" else {}
  noun = words["thing"] if said != "attributes" else None
  phrase = captions.noun_phrase(rng, named, noun)
  templates = _TEMPLATES if said != "attributes" else _WITHOUT_PLACE
  template = templates[int(rng.integers(len(templates)))]
  return template.format(phrase, words["place"], words["sky"])


def stated(text: str) -> list[bool]:
  """For each kind, whether a caption states its word.

  >>> stated("a tiny boat at the harbor in fog")
  [True, False, False, True, True, True]
  """
  words = words_of(text)
  return [bool(words & set(names)) for names in VOCABULARY.values()]


def words_of(text: str) -> set[str]:
  """The words of a caption, with synonyms as the words that they stand for."""
  return {captions.canonical(word) or word for word in text.split()}


def others(spoken: str) -> list[str]:
  """All spoken forms of the other words of an attribute; [] for other words.

  >>> others("tiny")
  ['large', 'big', 'huge']
  """
  word = captions.canonical(spoken)
  kinds = [kind for kind in _SHARED if word in VOCABULARY[kind]]
  return [
    form
    for kind in kinds
    for other in VOCABULARY[kind]
    if other != word
    for form in (other, *captions.SYNONYMS.get(other, ()))
  ]
