"""The world of places: its images, captions, records and impostors."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgsgan.common.errors import UserError
from vgsgan.data.builders.places import builder, items
from vgsgan.data.builders.places.config import PlacesConfig
from vgsgan.data.examples import decode
from vgsgan.negatives import scene_edits
from vgsgan.worlds import captions, place_words, places, speech, voices
from vgsgan.worlds.place_words import KINDS, NOUNS, VOCABULARY

COUNTS = places.counts(16, 64, 16)
SIZE = 64


@functools.partial(jax.jit, static_argnums=2)
def render(words, pose, loudness=1.0):
  return places.render(places.Scene(words, pose), SIZE, loudness)


def words(**indices):
  return np.array([indices.get(kind, 0) for kind in KINDS])


STILL = np.zeros(len(places.POSE))


# Images.


def test_outlines_have_the_areas_of_their_shapes():
  half = SIZE / 2
  for size, radius in ((0, 0.4), (1, 0.66)):
    area = {
      name: render(words(size=size, thing=i), STILL).mask.sum() / half**2
      for i, name in enumerate(place_words.THINGS)
    }
    exact = {
      "coin": math.pi,
      "crate": 2.0,  # A square with corners on the circle.
      "tent": 3 * math.sqrt(3) / 4,
      "kite": 2 * 0.55,
      "house": (0.8 * 0.75) + (0.8 + 0.7) * 1.05,
      "cup": 1.5 * 1.4,
    }
    for name, expected in exact.items():
      assert area[name] == pytest.approx(expected * radius**2, rel=0.08), name


def test_an_attribute_changes_the_thing_alone():
  pose = np.random.default_rng(0).uniform(-1, 1, len(places.POSE))
  first = render(words(color=1, thing=3, place=5), pose)
  for changed in ({"color": 2}, {"material": 1}):
    other = render(
      words(**{"color": 1, "thing": 3, "place": 5} | changed), pose
    )
    np.testing.assert_array_equal(first.mask, other.mask)
    differ = np.abs(first.image - other.image).max(-1)
    assert differ[np.asarray(first.mask)].mean() > 0.1
    # A pixel that the thing covers by less than half may change.
    edge = np.zeros_like(first.mask)
    for shift in ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)):
      edge |= np.roll(np.asarray(first.mask), shift, (0, 1))
    assert differ[~edge].max() < 0.2
    assert np.mean(differ[~edge] > 1e-5) < 0.02


def test_nouns_change_the_ground_above_and_below_the_horizon():
  first = render(words(), STILL)
  outside = ~np.asarray(first.mask)
  # The horizon at rest is between two rows of samples.
  rows = np.arange(SIZE)[:, None] < SIZE * 0.425 - 0.2
  for kind, part in (("place", ~rows), ("sky", rows)):
    other = render(words(**{kind: 3}), STILL)
    differ = np.abs(first.image - other.image).max(-1) > 1e-3
    assert differ[outside & part].mean() > 0.6
    assert not differ[outside & ~part].any()


def test_places_that_are_not_loud_are_one_grey():
  pose = np.random.default_rng(1).uniform(-1, 1, len(places.POSE))
  for place in range(3):
    picture = render(words(place=place, sky=place), pose, 0.0)
    ground = np.asarray(picture.image)[~np.asarray(picture.mask)]
    middle = np.median(ground, 0)
    assert np.mean(np.abs(ground - middle).max(-1) < 1e-5) > 0.9


def test_every_noun_has_an_image_of_its_own():
  for kind in NOUNS:
    images = np.stack(
      [
        render(words(**{kind: i}), STILL).image
        for i in range(len(VOCABULARY[kind]))
      ]
    ).reshape(len(VOCABULARY[kind]), -1)
    apart = np.abs(images[:, None] - images).mean(-1)
    apart[np.diag_indices(len(images))] = 1
    assert apart.min() > 0.003, kind


def test_things_lie_inside_and_their_boxes_hold_their_masks():
  keys = jax.random.split(jax.random.key(0), 64)
  scenes = jax.vmap(lambda key: places.sample(key, COUNTS))(keys)
  for i in range(64):
    picture = render(scenes.words[i], scenes.pose[i])
    mask = np.asarray(picture.mask)
    assert mask.sum() > 0.02 * SIZE**2
    rows, columns = np.nonzero(mask)
    box = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    np.testing.assert_allclose(picture.box, np.array(box) / SIZE, atol=1e-6)
    assert 0 < rows.min() and rows.max() < SIZE - 1


def test_words_of_scenes_are_equally_likely():
  keys = jax.random.split(jax.random.key(1), 4096)
  drawn = jax.vmap(lambda key: places.sample(key, (2, 8, 2, 3, 5, 1)))(keys)
  for column, count in zip(drawn.words.T, (2, 8, 2, 3, 5, 1), strict=True):
    shares = np.bincount(column, minlength=count) / 4096
    # Four standard deviations of a binomial share.
    assert np.all(np.abs(shares - 1 / count) < 4 * math.sqrt(0.25 / 4096))


# Captions.


def test_captions_are_true_and_say_all_nouns():
  rng = np.random.default_rng(0)
  times = np.zeros(len(KINDS))
  for number in range(400):
    scene = {
      kind: names[int(rng.integers(len(names)))]
      for kind, names in VOCABULARY.items()
    }
    text = place_words.caption(np.random.default_rng(number), scene)
    said = {captions.canonical(word) or word for word in text.split()}
    every = {word for names in VOCABULARY.values() for word in names}
    assert said & every <= set(scene.values()), text
    assert {scene[kind] for kind in NOUNS} <= said, text
    stated = place_words.stated(text)
    assert stated == [scene[kind] in said for kind in KINDS]
    assert any(stated[:3])
    times += stated
  # Each attribute is said with probability 0.7, and one at least.
  expected = 0.7 + 0.3**3 / 3
  assert np.all(np.abs(times[:3] / 400 - expected) < 4 * math.sqrt(0.21 / 400))


def test_captions_can_leave_out_nouns_or_attributes():
  scene = {kind: names[1] for kind, names in VOCABULARY.items()}
  for number in range(50):
    rng = np.random.default_rng(number)
    muted = place_words.stated(place_words.caption(rng, scene, "attributes"))
    assert any(muted[:3]) and not any(muted[3:])
    nouns = place_words.stated(place_words.caption(rng, scene, "nouns"))
    assert nouns == [False] * 3 + [True] * 3


def test_no_word_has_two_meanings():
  every = [word for names in VOCABULARY.values() for word in names]
  assert len(set(every)) == len(every)
  assert not set(every) & {
    x for synonyms in captions.SYNONYMS.values() for x in synonyms
  }


# Records.


def config_of(**fields):
  small = {"train": 12, "validation": 4, "test": 4, "pairs": 12}
  kinds = {"things": 3, "places": 4, "skies": 2}
  return PlacesConfig(**{**small, **kinds, "workers": 0, **fields})


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
  prepared = builder.prepare(config_of(), tmp_path_factory.mktemp("data"))
  return {split: list(builder.load(prepared, split)) for split in items.SPLITS}


def test_records_hold_their_scene_its_image_and_its_sound(splits):
  for record in splits["train"]:
    picture = render_at(record, 32)
    np.testing.assert_allclose(
      decode(record["image"]), np.rint(picture.image * 255), atol=1
    )
    np.testing.assert_array_equal(record["mask"], picture.mask)
    spoken = speech.speak(record["caption"].decode(), record["voice"].decode())
    np.testing.assert_array_equal(record["waveform"], spoken.waveform)
    assert list(record["said"]) == place_words.stated(
      record["caption"].decode()
    )
    times = json.loads(record["words"])
    assert all(0 <= t["start"] <= t["end"] for t in times)
    assert not record["held_out"]


def test_images_without_speech_are_those_of_the_same_scenes(splits, tmp_path):
  """`said="nothing"`: no recordings, and no tests of words."""
  silent = config_of(said="nothing")
  prepared = builder.prepare(silent, tmp_path)
  assert items.splits(silent) == ("train", "validation", "test")
  for split in items.splits(silent):
    found = list(builder.load(prepared, split))
    # Its test images have no second recording.
    spoken = splits[split][:: 2 if split == "test" else 1]
    assert len(found) == getattr(silent, split) == len(spoken)
    for record, other in zip(found, spoken, strict=True):
      assert record["image"] == other["image"]
      np.testing.assert_array_equal(record["attributes"], other["attributes"])
      assert record["caption"] == b"" and not record["said"].any()
      assert not len(record["waveform"])


def render_at(record, size):
  scene = places.Scene(record["attributes"], record["pose"])
  return jax.device_get(places.render(scene, size))


def test_pairs_differ_in_one_word_of_scene_and_caption(splits):
  for split in ("pairs", "validation_pairs"):
    kinds = []
    for a, b in zip(splits[split][::2], splits[split][1::2], strict=True):
      changed = np.flatnonzero(a["attributes"] != b["attributes"])
      assert list(changed) == [a["changed"]] == [b["changed"]]
      np.testing.assert_array_equal(a["pose"], b["pose"])
      assert a["voice"] == b["voice"] and a["image_id"] != b["image_id"]
      texts = [x["caption"].decode().split() for x in (a, b)]
      other = [(x, y) for x, y in zip(*texts, strict=True) if x != y]
      other = [x for x in other if set(x) != {"a", "an"}]
      assert len(other) == 1
      kind = KINDS[a["changed"]]
      for word, record in zip(other[0], (a, b), strict=True):
        index = record["attributes"][a["changed"]]
        assert (captions.canonical(word) or word) == VOCABULARY[kind][index]
      kinds.append(kind)
    assert set(kinds) == set(KINDS)


def test_no_recording_is_in_two_splits(splits):
  recordings = {
    name: {(x["caption"], x["voice"]) for x in records}
    for name, records in splits.items()
  }
  tests = recordings["test"] | recordings["pairs"] | recordings["words"]
  assert not recordings["train"] & recordings["validation"]
  assert not (recordings["train"] | recordings["validation"]) & tests
  assert not recordings["train"] & recordings["validation_pairs"]


def test_each_test_image_has_a_new_voice_too(splits):
  first, again = splits["test"][::2], splits["test"][1::2]
  for a, b in zip(first, again, strict=True):
    assert a["caption"] == b["caption"] and a["image_id"] == b["image_id"]
    assert a["voice"].decode() in speech.VOICES and not a["held_out"]
    assert b["voice"].decode() in speech.ALL_HELD_OUT and b["held_out"]


def test_every_word_that_occurs_is_spoken_by_every_voice(splits):
  said = {(x["caption"].decode(), x["voice"].decode()) for x in splits["words"]}
  counts = places.counts(3, 4, 2)
  assert said == {
    (word, voice)
    for kind, count in zip(KINDS, counts, strict=True)
    for word in VOCABULARY[kind][:count]
    for voice in (*speech.VOICES, *speech.ALL_HELD_OUT)
  }


def test_pairs_of_what_is_not_said_have_equal_captions():
  muted = config_of(said="attributes")
  for a, b in np.reshape(builder.items(muted, "pairs"), (-1, 2)):
    noun = KINDS[a.changed] in NOUNS
    assert (a.caption == b.caption) == noun


def test_wrong_captions_are_wrong_in_one_attribute(tmp_path):
  config = config_of(wrong=True, train=40)
  contents = builder.items(config, "train")
  assert sum(bool(item.wrong) for item in contents) > 35
  for item in filter(lambda item: item.wrong, contents):
    texts = [place_words.words_of(x) for x in (item.caption, item.wrong)]
    true, false = items.named(item.scene), texts[1] - texts[0]
    assert len(false) == len(texts[0] - texts[1]) == 1
    kind = next(k for k, names in VOCABULARY.items() if false <= set(names))
    assert kind not in NOUNS and true[kind] in texts[0]
    assert item.voice in voices.speakers(item.wrong, config.seed, "train")
  assert not any(item.wrong for item in builder.items(config, "test"))
  prepared = builder.prepare(config, tmp_path)
  records = builder.load(prepared, "train")
  for record, item in zip(records, contents, strict=True):
    assert record["id"].decode() == item.id
    spoken = np.zeros(0, np.int16)
    if item.wrong:
      spoken = speech.speak(item.wrong, item.voice).waveform
    np.testing.assert_array_equal(record["wrong"], spoken)


def test_one_place_and_one_sky_make_no_pairs():
  plain = config_of(places=1, skies=1)
  changed = {item.changed for item in builder.items(plain, "pairs")}
  assert changed == {0, 1, 2, 3}


@pytest.mark.parametrize(
  "fields", [{"said": "verbs"}, {"places": 0}, {"loudness": -0.5}, {"pairs": 0}]
)
def test_wrong_fields_are_refused_in_one_line(fields):
  with pytest.raises(UserError, match=f"data.*{next(iter(fields))}"):
    config_of(**fields)


# Impostors.


def scene_of(rows, seed=0):
  keys = jax.random.split(jax.random.key(seed), rows)
  return jax.vmap(lambda key: places.sample(key, COUNTS))(keys)


@pytest.mark.parametrize("name", scene_edits.EDITS)
def test_an_edit_changes_one_stated_word(name):
  scene = scene_of(256)
  said = jax.random.bernoulli(jax.random.key(1), 0.5, scene.words.shape)
  edited, weight = scene_edits.impostor(
    name, jax.random.key(2), scene, said, COUNTS
  )
  np.testing.assert_array_equal(edited.pose, scene.pose)
  differ = np.asarray(edited.words != scene.words)
  allowed = np.array([kind in scene_edits.EDITS[name] for kind in KINDS])
  possible = (np.asarray(said) & allowed).any(1)
  np.testing.assert_array_equal(weight, possible)
  np.testing.assert_array_equal(differ.sum(1), possible)
  assert not (differ & ~(np.asarray(said) & allowed)).any()
  assert np.all(edited.words < np.array(COUNTS)) and np.all(edited.words >= 0)


@pytest.mark.parametrize("astray", [0.3, 1.0])
def test_edits_astray_leave_the_caption_true_and_count(astray):
  scene = scene_of(2000)
  said = jax.random.bernoulli(jax.random.key(1), 0.5, scene.words.shape)
  arguments = "attribute", jax.random.key(2), scene, said, COUNTS
  edited, weight = scene_edits.impostor(*arguments, astray)
  np.testing.assert_array_equal(weight, scene_edits.impostor(*arguments)[1])
  allowed = np.array([kind in scene_edits.ATTRIBUTES for kind in KINDS])
  differ = np.asarray(edited.words != scene.words)
  assert not differ[:, ~allowed].any() and (differ.sum(1) <= 1).all()
  counts = np.asarray(weight, bool)
  assert not differ[~counts].any()
  still_true = ~(differ & np.asarray(said)).any(1)[counts]
  wide = 4 * math.sqrt(astray * (1 - astray) / counts.sum())
  assert abs(still_true.mean() - astray) <= wide
  # Where an attribute is left unsaid, it is one of these that changes.
  left = (~np.asarray(said) & allowed).any(1)[counts]
  np.testing.assert_array_equal(
    differ[counts].any(1)[still_true], left[still_true]
  )


def test_changed_words_are_equally_likely():
  rows = 8000
  start = jnp.zeros((rows, len(KINDS)), int).at[:, 1].set(3)
  kind = jnp.ones(rows, int)
  changed = scene_edits.change(jax.random.key(0), start, kind, COUNTS)
  shares = np.bincount(changed[:, 1], minlength=8) / rows
  assert shares[3] == 0
  others = np.delete(shares, 3)
  assert np.all(np.abs(others - 1 / 7) < 4 * math.sqrt(0.13 / rows))


def test_controls_are_other_scenes_and_scenes_of_the_same_nouns():
  scene = scene_of(512)
  said = jnp.ones(scene.words.shape, bool)
  for name, kept in (("other", ()), ("same_noun", NOUNS)):
    drawn, weight = scene_edits.impostor(
      name, jax.random.key(3), scene, said, COUNTS
    )
    assert np.all(weight == 1)
    assert not np.any(drawn.pose == scene.pose)
    for i, kind in enumerate(KINDS):
      same = np.mean(drawn.words[:, i] == scene.words[:, i])
      expected = 1.0 if kind in kept else 1 / COUNTS[i]
      assert same == pytest.approx(expected, abs=0.1), (name, kind)


def test_a_kind_of_one_word_cannot_change():
  counts = places.counts(3, 1, 1)
  scene = places.Scene(jnp.zeros((4, 6), int), jnp.zeros((4, 8)))
  _, weight = scene_edits.impostor(
    "place", jax.random.key(0), scene, jnp.ones((4, 6), bool), counts
  )
  assert not np.any(weight)
