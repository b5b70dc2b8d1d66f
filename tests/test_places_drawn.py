"""Drawn images of places: originals, edits, controls, and who may draw them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import drawing_world, places_world
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.data.examples import PlaceExample
from vgsgan.models import pretrained, weights
from vgsgan.negatives import scene_edits
from vgsgan.parallel import mesh
from vgsgan.tasks import places as task
from vgsgan.tools import drawn_runs, show
from vgsgan.worlds import place_words, places
from vgsgan.worlds.place_words import KINDS, VOCABULARY

quick_to_compile = drawing_world.quick_to_compile


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("drawn") / "generator.npz"
  places_world.save_generator(path)
  return path


@pytest.fixture(scope="module")
def model(path):
  config = places_world.small("drawn_attribute,smoke")
  config.edits.generator = str(path)
  return task.Places(config, mesh.make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def batch():
  transform = PlaceExample(5120, False)
  rng = np.random.default_rng(0)
  records = places_world.records(16)
  for record in records[:3]:  # Their captions state no attribute.
    record["said"] = np.arange(6) > 2
  rows = [transform(record, rng) for record in records]
  return jax.tree.map(lambda *x: jnp.stack(x), *rows)


@pytest.fixture(scope="module")
def state(model):
  return jax.jit(model.init)(jax.random.key(0))


def apart(a, b):
  """Largest difference of the pixels of each image, in levels of 255."""
  return np.abs(np.float64(a) - np.float64(b)).max((1, 2, 3))


def levels(images):
  return np.rint(255 * np.asarray(images))


def test_an_original_is_of_its_image_and_its_words_alone(model, batch, state):
  draw = jax.jit(lambda batch: model.originals(state.batch_stats, batch))
  plain = draw(batch)
  assert plain.dtype == jnp.uint8
  order = np.random.default_rng(1).permutation(16)
  turned = draw(jax.tree.map(lambda x: x[order], batch))
  assert apart(turned, plain[order]).max() <= 1  # To rounding.
  other = draw(batch | {"image_id": batch["image_id"] + 100})
  assert (apart(other, plain) > 5).all()
  words = batch["attributes"].at[:, 1].add(1) % jnp.array(model.counts)
  assert (apart(draw(batch | {"attributes": words}), plain) > 1).all()


def made(model, batch, state, name):
  key = jax.random.key(5)
  images = jnp.zeros((16, 32, 32, 3))

  @jax.jit
  def make(batch_stats, batch):
    return model.edit(name, key, {}, batch_stats, batch, images, None)[:2]

  drawn, weight = make(state.batch_stats, batch)
  return features.pixels(drawn), np.asarray(weight)


def test_an_edit_is_the_same_latent_with_another_word(model, batch, state):
  drawn, weight = made(model, batch, state, "attribute")
  scene = places.Scene(batch["attributes"], batch["pose"])
  changed, expected = scene_edits.impostor(
    "attribute", jax.random.key(5), scene, batch["said"], model.counts
  )
  np.testing.assert_array_equal(weight, expected)
  generator = pretrained.places_generator(
    model.config.edits.generator, model.config.data
  )
  images = generator.module.apply(
    generator.variables,
    model.latents(batch),
    places.labels(changed.words),
    train=False,
  )
  assert apart(drawn, levels(0.5 + 0.5 * images)).max() <= 1
  # Where no attribute is said the edit is the original.
  plain = model.originals(state.batch_stats, batch)
  assert 0 < weight.sum() < 16
  assert apart(drawn, plain)[weight == 0].max() <= 1
  assert apart(drawn, plain)[weight == 1].min() > 1


@pytest.mark.parametrize("name", scene_edits.CONTROLS)
def test_a_control_is_drawn_from_another_latent(model, batch, state, name):
  drawn, weight = made(model, batch, state, name)
  assert weight.all()
  assert (apart(drawn, model.originals(state.batch_stats, batch)) > 5).all()


def test_a_step_trains_on_drawn_images_and_keeps_the_generator(
  model, batch, state
):
  step = jax.jit(model.phase_step("attribute"))
  after, metrics = step(state, batch)
  grey = batch | {"image": jnp.zeros_like(batch["image"])}
  again, same = step(state, grey)  # The rendered images are not used.
  np.testing.assert_array_equal(metrics["loss"], same["loss"])
  jax.tree.map(np.testing.assert_array_equal, after.params, again.params)
  jax.tree.map(
    np.testing.assert_array_equal,
    after.batch_stats["generator"],
    state.batch_stats["generator"],
  )
  assert np.isfinite(metrics["loss"]) and metrics["edited"] >= 0


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"things": 16}, r"config\.data\.things=16, but .* has learnt 4"),
    ({"places": 64}, r"config\.data\.places=64"),
    ({"loudness": 0.5}, r"config\.data\.loudness=0\.5"),
  ],
)
def test_a_generator_of_other_images_is_refused(path, fields, words):
  config = places_world.small("drawn_attribute,smoke")
  config.data.update(fields)
  with pytest.raises(UserError, match=words):
    pretrained.places_generator(path, config.data)


def test_a_generator_of_another_world_is_refused(path, tmp_path):
  data = places_world.small().data
  with pytest.raises(UserError, match=r"configs/places_gan\.py"):
    pretrained.places_generator(pretrained.PACKAGED["generator"], data)
  tree, meta = weights.load_params(path)
  meta["config"]["gan"]["labels"] = False
  weights.save_params(tmp_path / "none.npz", tree, meta)
  with pytest.raises(UserError, match=r"configs/places_gan\.py"):
    pretrained.places_generator(tmp_path / "none.npz", data)


def spoken(record, *words):
  """A record whose caption has these words, a tenth of a second each."""
  times = [
    {"spoken": word, "start": i / 10, "end": (i + 1) / 10}
    for i, word in enumerate(words)
  ]
  caption = " ".join(words)
  return record | {
    "words": json.dumps(times),
    "caption": caption.encode(),
    "said": np.array(place_words.stated(caption)),
  }


def test_a_shown_edit_makes_the_marked_word_false(model, state):
  names = [
    {
      kind: VOCABULARY[kind][i]
      for kind, i in zip(KINDS, r["attributes"], strict=True)
    }
    for r in places_world.records(4)
  ]
  records = [
    spoken(record, "a", word[kind], word["thing"])
    for record, word, kind in zip(
      places_world.records(4),
      names,
      ("size", "color", "material", "color"),
      strict=True,
    )
  ]
  run = drawn_runs.Restored(model, 4, state)
  found = show.chosen(run, records, drawn_runs.kind_of(run, ""), (0, 1, 2, 3))
  for row, record, kind in zip(
    found, records, ("size", "color", "material", "color"), strict=True
  ):
    assert row.best == 1 and row.counts
    assert row.instead in VOCABULARY[kind] and row.instead != row.words[1]
    # The shown pictures are those of the caption's words and of the other's.
    words = np.array(record["attributes"])
    for picture in (row.image, row.edited):
      example = PlaceExample(5120, False)(record, np.random.default_rng(0))
      one = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
      drawn = model.originals(
        state.batch_stats, one | {"attributes": jnp.asarray(words)[None]}
      )
      assert apart(drawn, picture[None]).max() <= 1
      words[KINDS.index(kind)] = VOCABULARY[kind].index(row.instead)
  with pytest.raises(UserError, match="--kind='colour'"):
    drawn_runs.kind_of(run, "colour")
