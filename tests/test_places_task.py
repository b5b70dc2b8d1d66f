"""The task `places`: impostors inside the step, and its tests of words."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import drawing_world, places_world
from vgsgan import tasks
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.data.examples import PlaceExample, decode
from vgsgan.losses import scores
from vgsgan.negatives import scene_edits
from vgsgan.parallel import mesh
from vgsgan.tasks import places as task
from vgsgan.tasks import places_evaluation
from vgsgan.tasks.grounding_evaluation import Reader
from vgsgan.train.state import TrainState
from vgsgan.worlds import place_words, places

quick_to_compile = drawing_world.quick_to_compile


@pytest.fixture(scope="module")
def model():
  config = places_world.small()
  return task.Places(config, mesh.make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def batch():
  transform = PlaceExample(5120, False, wrong=True)
  rng = np.random.default_rng(0)
  records = places_world.records(16)
  records[3]["wrong"] = np.zeros(0, np.int16)  # One has none.
  rows = [transform(record, rng) for record in records]
  return jax.tree.map(lambda *x: jnp.stack(x), *rows)


@pytest.mark.parametrize("name", ["attribute", "noun", "same_noun"])
def test_an_impostor_is_the_image_of_its_scene(model, batch, name):
  key = jax.random.key(5)
  images = features.normalize_image(batch["image"])
  drawn, weight, _ = jax.jit(
    lambda batch: model.edit(name, key, {}, {}, batch, images, None)
  )(batch)
  scene = places.Scene(batch["attributes"], batch["pose"])
  expected, counted = scene_edits.impostor(
    name, key, scene, batch["said"], model.counts
  )
  np.testing.assert_array_equal(weight, counted)
  for i in range(16):
    one = places.Scene(expected.words[i], expected.pose[i])
    stored = np.rint(np.asarray(places.render(one, 32).image) * 255)
    shown = features.normalize_image(stored.astype(np.uint8)[None])[0]
    # One step of 1/255 where rounding falls to the other side.
    np.testing.assert_allclose(drawn[i], shown, atol=0.02)
    if not weight[i]:
      np.testing.assert_allclose(drawn[i], images[i], atol=0.02)


def test_an_image_that_is_rendered_again_is_the_stored_one(batch):
  for record in places_world.records(4):
    scene = places.Scene(record["attributes"], record["pose"])
    again = np.rint(np.asarray(places.render(scene, 32).image) * 255)
    assert np.abs(decode(record["image"]) - again).max() <= 1


def test_every_impostor_makes_a_step_and_the_curriculum_switches(model, batch):
  state = jax.eval_shape(model.init, jax.random.key(0))
  plain = {"loss", "image_to_speech", "speech_to_image", "positive", "impostor"}
  for name in ("regular", *scene_edits.IMPOSTORS):
    after, metrics = jax.eval_shape(model.phase_step(name), state, batch)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
      lambda x: x.shape, state
    )
    assert plain <= set(metrics)
    assert ({"edits", "edited"} <= set(metrics)) == (name != "regular")


def test_a_wrong_caption_is_one_more_impostor_of_its_image(model, batch):
  """The loss with wrong captions, put together from the parts."""
  state = jax.jit(model.init)(jax.random.key(1))
  step = jax.jit(model.phase_step("caption"))
  _, metrics = step(state, batch)
  assert metrics["caption_edits"] == 15 / 16 and "edits" not in metrics
  assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
  images, mel, _ = model.inputs(batch, jax.random.key(9))
  assert len(mel) == 2 * len(images)
  alone = {k: v for k, v in batch.items() if "wrong" not in k}
  wrong = alone | {
    "waveform": batch["wrong"],
    "num_samples": batch["num_wrong"],
  }
  # Without augmentation a row is the same beside any others.
  plain = model.inputs(alone, None)[1], model.inputs(wrong, None)[1]
  still = places_world.small()
  still.data.augment.update({"tempo": 0.0, "vocal_tract": 0.0})
  quiet = task.Places(still, model.mesh)
  both = quiet.inputs(batch, jax.random.key(9))[1]
  np.testing.assert_allclose(both[::2], plain[0], atol=1e-5)
  np.testing.assert_allclose(both[1::2], plain[1], atol=1e-5)


class OneAtATime(Reader):
  """A reader whose scores are products of made-up features."""

  def __init__(self, config):
    self.config = config

  @staticmethod
  def score(images, speech, valid):
    flat = images.mean((1, 2)) @ speech.mean(1).T
    return flat + 0 * valid.sum()

  def read(self, state, records, poll):
    del state, poll
    return {
      "images": np.stack([r["image_map"] for r in records]),
      "speech": np.stack([r["speech_map"] for r in records]),
      "valid": np.ones((len(records), 3), bool),
    }


def test_words_are_scored_with_the_images_of_their_pairs():
  rng = np.random.default_rng(0)
  config = places_world.small()
  config.eval.block = 4

  def mapped(record):
    maps = {"image_map": rng.normal(size=(2, 2, 5)).astype(np.float32)}
    return (
      record | maps | {"speech_map": rng.normal(size=(3, 5)).astype(np.float32)}
    )

  two = [mapped(record) for record in places_world.records(24)]
  for a, b in zip(two[::2], two[1::2], strict=True):
    b["changed"] = a["changed"]
    b["attributes"] = np.array(a["attributes"])
    b["attributes"][a["changed"]] = (a["attributes"][a["changed"]] + 1) % 2
  alone = [
    mapped({"caption": word.encode(), "changed": kind, "held_out": False})
    for kind, names in enumerate(place_words.VOCABULARY.values())
    for word in names[:2]
  ]
  state = TrainState.create({}, {}, optax.sgd(0.1))
  results = places_evaluation.words(
    OneAtATime(config), state, two, alone, lambda: None
  )

  def one(image, speech):
    return image["image_map"].mean((0, 1)) @ speech["speech_map"].mean(0)

  wins = {kind: [] for kind in place_words.KINDS}
  back = {kind: [] for kind in place_words.KINDS}
  by_word = {}
  for a, b in zip(two[::2], two[1::2], strict=True):
    kind = place_words.KINDS[a["changed"]]
    wins[kind] += [one(a, a) > one(b, a), one(b, b) > one(a, b)]
    back[kind] += [one(a, a) > one(a, b), one(b, b) > one(b, a)]
    for word in alone:
      if word["changed"] != a["changed"]:
        continue
      index = place_words.VOCABULARY[kind].index(word["caption"].decode())
      for right, wrong in ((a, b), (b, a)):
        if right["attributes"][a["changed"]] == index:
          by_word.setdefault((kind, index), []).append(
            one(right, word) > one(wrong, word)
          )
  pairs = results["pairs"]
  for kind in place_words.KINDS:
    assert pairs["speech_to_image"][kind]["value"] == np.mean(wins[kind])
    assert pairs["image_to_speech"][kind]["value"] == np.mean(back[kind])
    means = [np.mean(v) for (k, _), v in by_word.items() if k == kind]
    value = results["words"]["training_voices"][kind]["value"]
    assert value == pytest.approx(np.mean(means))


def test_pairs_are_read_row_by_row(model):
  """A real reader keeps the images of pairs in the order of the records."""
  transform = PlaceExample(5120, False)
  reader = Reader(model, transform, model.mesh)
  state = jax.jit(model.init)(jax.random.key(0))
  records = places_world.records(12)
  rows = reader.read(state, records, lambda: None)
  both = places_evaluation._pair_scores(reader, rows)
  every = np.asarray(
    jax.jit(scores.ALL_PAIRS["misa"])(
      *(
        scores.l2_normalize(jnp.asarray(rows[name]))
        for name in ("images", "speech")
      ),
      rows["valid"],
    )
  )
  for i, block in enumerate(both):
    part = slice(2 * i, 2 * i + 2)
    np.testing.assert_allclose(block, every[part, part], atol=1e-5)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"edits": {"curriculum": "regular@0,chunk@1"}}, "chunk"),
    ({"image": {"norm": "batch"}}, "image.norm"),
    ({"loss": {"name": "regular"}}, "has no use for the edits"),
    ({"train": {"batch": 1}}, "batch=1"),
    ({"data": {"said": "verbs"}}, "said"),
    ({"data": {"said": "nothing"}}, "no captions"),
    ({"edits": {"curriculum": "regular@0,caption@1"}}, "data.wrong=True"),
    ({"data": {"things": 17}}, "things=17"),
  ],
)
def test_a_wrong_config_is_refused_in_one_line(fields, words):
  config = places_world.small()
  config.update(fields)
  with pytest.raises(UserError, match=words) as refused:
    tasks.check(config)
  assert "\n" not in str(refused.value)
