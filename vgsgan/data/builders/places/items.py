"""The contents of the records of the world of places, before they are made."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from vgsgan.data.builders.places.config import PlacesConfig
from vgsgan.worlds import place_words, places, speech, voices
from vgsgan.worlds.place_words import KINDS, VOCABULARY

# Their order keeps their random numbers apart.
SPLITS = ("train", "validation", "test", "validation_pairs", "pairs", "words")
_TRIES = 1000


@dataclasses.dataclass(frozen=True)
class Item:
  """A record before it is rendered and spoken; '' stands for no speech."""

  id: str
  scene: places.Scene
  caption: str
  voice: str
  image: str  # Equal for records of one image.
  changed: int = -1
  wrong: str = ""


def splits(config: PlacesConfig) -> tuple[str, ...]:
  """The splits of a data set; without speech there are no tests of words."""
  return SPLITS if config.said != "nothing" else SPLITS[:3]


def items(config: PlacesConfig, split: str) -> list[Item]:
  """The contents of the records of a split, in order."""
  index = SPLITS.index(split)
  if split == "words":
    return _words(config)
  if split.endswith("pairs"):
    scenes = _scenes(config, index, config.pairs)
    pairs = (
      _pair(config, split, number, _row(scenes, number))
      for number in range(config.pairs)
    )
    return [item for pair in pairs for item in pair]
  contents = []
  count = getattr(config, split)
  scenes = _scenes(config, index, count)
  for number in range(count):
    rng = np.random.default_rng([config.seed, index, number])
    scene = _row(scenes, number)
    name = f"{split}{number:0{len(str(count))}d}"
    if config.said == "nothing":
      contents.append(Item(name, scene, "", "", name))
      continue
    caption = place_words.caption(rng, named(scene), config.said)
    voice = voices.choose(rng, caption, config.seed, split)
    item = Item(name, scene, caption, voice, name)
    if config.wrong and split == "train":
      item = dataclasses.replace(item, wrong=_wrong(rng, item, config.seed))
    contents.append(item)
    if split == "test":
      voice = speech.ALL_HELD_OUT[int(rng.integers(len(speech.ALL_HELD_OUT)))]
      contents.append(Item(f"{name}_again", scene, caption, voice, name))
  return contents


def _wrong(rng: np.random.Generator, item: Item, seed: int) -> str:
  """The caption with another word for one attribute that it states.

  The voice is one that may say it in training; '' if it may say none of them.
  """
  words = item.caption.split()
  texts = [
    " ".join([*words[:i], form, *words[i + 1 :]])
    for i, word in enumerate(words)
    for form in place_words.others(word)
  ]
  allowed = [
    text for text in texts if item.voice in voices.speakers(text, seed, "train")
  ]
  return allowed[int(rng.integers(len(allowed)))] if allowed else ""


def _other(
  rng: np.random.Generator, scene: places.Scene, kind: int, count: int
) -> places.Scene:
  """The scene with another of the first `count` words of a kind."""
  words = scene.words.copy()
  words[kind] = (words[kind] + int(rng.integers(1, count))) % count
  return scene._replace(words=words)


def kinds(config: PlacesConfig) -> list[int]:
  """Indices of the kinds of words that tell scenes apart."""
  counts = config.words
  return [i for i, count in enumerate(counts) if count > 1]


def named(scene: places.Scene) -> dict[str, str]:
  """The words of one scene, by their kinds."""
  return {
    kind: VOCABULARY[kind][index]
    for kind, index in zip(KINDS, scene.words, strict=True)
  }


def _pair(
  config: PlacesConfig, split: str, number: int, scene: places.Scene
) -> tuple[Item, Item]:
  """A scene and another; they and their captions differ in one word.

  One voice says both. Captions that do not say the kind are equal.
  """
  changing = kinds(config)
  kind = changing[number % len(changing)]
  count = config.words[kind]
  said = config.said in ("all", _sort(kind))
  for attempt in range(_TRIES):
    seed = [config.seed, SPLITS.index(split), number, attempt]
    both = scene, _other(np.random.default_rng(seed), scene, kind, count)
    texts = [
      place_words.caption(np.random.default_rng(seed), named(x), config.said)
      for x in both
    ]
    common = set.intersection(
      *(set(voices.speakers(text, config.seed, split)) for text in texts)
    )
    if common and _changes(*texts) == said:
      return tuple(
        Item(
          f"{split}{number}{side}",
          x,
          text,
          min(common),
          f"{number}{side}",
          kind,
        )
        for side, x, text in zip("ab", both, texts, strict=True)
      )
  raise RuntimeError(f"no captions of pair {number} in {_TRIES} tries")


def _sort(kind: int) -> str:
  return "nouns" if KINDS[kind] in place_words.NOUNS else "attributes"


def _changes(text: str, other: str) -> int:
  """Number of words in which captions differ, besides articles."""
  both = list(itertools.zip_longest(text.split(), other.split()))
  return sum(a != b and {a, b} != {"a", "an"} for a, b in both)


def _words(config: PlacesConfig) -> list[Item]:
  """Every word that occurs, by every voice."""
  nowhere = places.Scene(
    np.zeros(len(KINDS), np.int32), np.zeros(len(places.POSE), np.float32)
  )
  counts = config.words
  return [
    Item(f"{word}:{voice}", nowhere, word, voice, "words", kind)
    for kind, count in enumerate(counts)
    for word in VOCABULARY[KINDS[kind]][:count]
    for voice in (*speech.VOICES, *speech.ALL_HELD_OUT)
  ]


def _scenes(config: PlacesConfig, split: int, count: int) -> places.Scene:
  """Scenes that depend on the seed, their split and their number alone."""

  @jax.jit
  @jax.vmap
  def draw(number):
    root = jax.random.fold_in(jax.random.key(config.seed), split)
    key = jax.random.fold_in(root, number)
    return places.sample(key, config.words)

  return jax.device_get(draw(jnp.arange(count)))


def _row(scenes: places.Scene, number: int) -> places.Scene:
  return places.Scene(*(values[number] for values in scenes))
