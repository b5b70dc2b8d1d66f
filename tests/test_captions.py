"""The grammar of captions: true, complete, and only what is known."""

import re

import numpy as np
import pytest

from vgsgan.worlds import captions
from vgsgan.worlds.attributes import ATTRIBUTES, KIND, WORDS


def random_objects(rng, n, known=0.7):
  return [
    {
      kind: str(rng.choice(words)) if rng.random() < known else None
      for kind, words in ATTRIBUTES.items()
    }
    for _ in range(n)
  ]


def noun_phrases(text):
  """(article, words) of each noun phrase, left to right in the picture."""
  joints = (
    r"^there is |^this is |^we see |^from left to right, "
    r"|, | and | left of | right of | next to "
  )
  phrases = [p.split() for p in re.split(joints, text) if p]
  if " right of " in text:
    phrases.reverse()
  return phrases


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_captions_state_only_known_and_true_attributes(n, seed):
  rng = np.random.default_rng([n, seed])
  for _ in range(20):
    objects = random_objects(rng, n)
    text = captions.caption(rng, objects)
    phrases = noun_phrases(text)
    assert len(phrases) == n, text
    for thing, (article, *words) in zip(objects, phrases, strict=True):
      assert article == ("an" if words[0][0] in "aeiou" else "a"), text
      stated = [captions.canonical(word) for word in words]
      if thing["shape"] is None:
        assert words[-1] in captions.NOUNS and stated.pop() is None, text
      else:
        assert stated[-1] == thing["shape"], text
      assert all(thing[KIND[word]] == word for word in stated), text
      order = [list(ATTRIBUTES).index(KIND[word]) for word in stated]
      assert order == sorted(set(order)), text
      others = [thing[kind] for kind in ("size", "color", "material")]
      assert len(stated) > (thing["shape"] is not None) or not any(others)


def test_attributes_and_synonyms_have_their_frequencies():
  rng = np.random.default_rng(0)
  full = {"size": "large", "color": "red", "material": "metal", "shape": "cube"}
  texts = [captions.caption(rng, [full]) for _ in range(4000)]
  said = {k: 0 for k in ("size", "color", "material", "shape")}
  published = 0
  for text in texts:
    for word in text.split():
      if captions.canonical(word):
        said[KIND[captions.canonical(word)]] += 1
        published += word == "large"
  # Kept, or kept as the last of three when all were dropped.
  expected = 0.7 + 0.3**3 / 3
  for kind in ("size", "color", "material"):
    assert said[kind] / 4000 == pytest.approx(expected, abs=0.03)
  assert said["shape"] == 4000
  assert published / said["size"] == pytest.approx(0.75, abs=0.03)


def test_captions_use_every_word_and_synonym():
  rng = np.random.default_rng(0)
  texts = [
    captions.caption(rng, random_objects(rng, int(rng.integers(1, 4))))
    for _ in range(2000)
  ]
  said = {word.strip(",") for text in texts for word in text.split()}
  synonyms = {word for words in captions.SYNONYMS.values() for word in words}
  assert said >= set(WORDS) | synonyms | {*captions.NOUNS, "a", "an"}
  assert all(text == text.lower() for text in texts)


def test_canonical_maps_synonyms_to_words():
  assert [captions.canonical(word) for word in WORDS] == list(WORDS)
  synonyms = [word for words in captions.SYNONYMS.values() for word in words]
  assert len(synonyms) == len(set(synonyms)) and not set(synonyms) & set(WORDS)
  assert captions.canonical("ball,") == "sphere"
  for word in ("a", "left", "there", "object", "thing", ""):
    assert captions.canonical(word) is None


def test_equal_generators_give_equal_captions():
  objects = random_objects(np.random.default_rng(1), 3)
  texts = {
    captions.caption(np.random.default_rng(5), objects) for _ in range(5)
  }
  assert len(texts) == 1
  rng = np.random.default_rng(5)
  assert len({captions.caption(rng, objects) for _ in range(50)}) > 20


def test_unknown_objects_have_neutral_captions():
  unknown = [dict.fromkeys(ATTRIBUTES), {}]
  text = captions.caption(np.random.default_rng(0), unknown)
  assert not any(captions.canonical(word) for word in text.split())


@pytest.mark.parametrize(
  "objects", [[], [{"color": "pink"}], [{"color": "large"}]]
)
def test_missing_objects_and_wrong_words_are_refused(objects):
  with pytest.raises(ValueError, match=r"needs an object|is no color"):
    captions.caption(np.random.default_rng(0), objects)
