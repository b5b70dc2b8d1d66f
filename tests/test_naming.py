"""The namer of places: its losses by hand, its figures, the packaged one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import places_world
from tests.filling import variables_of
from tests.running import run_config
from tests.test_options import load
from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.evals import naming
from vgsgan.models import pretrained
from vgsgan.models.namer import Namer
from vgsgan.parallel import mesh
from vgsgan.tasks import naming as task
from vgsgan.tools import export
from vgsgan.worlds import place_words, places
from vgsgan.worlds.place_words import KINDS, NUM_LABELS, SLICES, VOCABULARY


def test_labels_are_one_word_of_each_kind():
  words = np.array([[0, 3, 1, 15, 63, 7], [1, 7, 0, 0, 0, 15]], np.int32)
  every = [word for names in VOCABULARY.values() for word in names]
  found = np.asarray(places.labels(jnp.asarray(words)))
  assert found.shape == (2, NUM_LABELS) == (2, len(every))
  for row, indices in zip(found, words, strict=True):
    said = [
      names[i] for names, i in zip(VOCABULARY.values(), indices, strict=True)
    ]
    assert [every[i] for i in np.flatnonzero(row)] == said
    assert set(row) == {0.0, 1.0}


def test_losses_are_those_of_the_words():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(5, NUM_LABELS)).astype(np.float32)
  words = np.stack([rng.integers(0, 2, 5) for _ in KINDS], 1)
  found = task.losses(jnp.asarray(logits), jnp.asarray(words))
  for i, kind in enumerate(KINDS):
    part = np.float64(logits[:, SLICES[kind]])
    log_p = part - np.log(np.exp(part).sum(1, keepdims=True))
    right = log_p[np.arange(5), words[:, i]]
    np.testing.assert_allclose(found[kind], -right.mean(), rtol=1e-5)


def test_rows_do_not_depend_on_each_other_and_sides_are_checked():
  module = Namer(NUM_LABELS, (4, 6))
  images = jnp.asarray(
    np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
  )
  variables = variables_of(module, images)
  both = module.apply(variables, images, train=False)
  for i in range(3):
    alone = module.apply(variables, images[i : i + 1], train=False)
    for one, all_rows in zip(alone, both, strict=True):
      np.testing.assert_allclose(one[0], all_rows[i], atol=1e-5)
  assert both[1].shape == (3, 12)
  with pytest.raises(ValueError, match="multiples of 4"):
    module.init(jax.random.key(0), images[:, :6, :6], train=False)


def test_what_edits_do_by_hand():
  #        size color material thing place sky
  words = [[0, 0, 0, 0, 0, 0]] * 4
  asked = [[0, 1, 0, 0, 0, 0]] * 3 + [[0, 0, 0, 2, 0, 0]]
  before = [[0, 0, 0, 0, 0, 0]] * 3 + [[0, 0, 0, 3, 0, 0]]
  after = [
    [0, 1, 0, 0, 0, 0],  # As asked.
    [0, 0, 1, 0, 5, 0],  # Colour stays; material and place do not.
    [0, 2, 0, 0, 0, 0],  # Another colour than the one asked for.
    [0, 0, 0, 2, 0, 0],  # The noun that was to change.
  ]
  rows = [np.array(x) for x in (before, after, words, asked)]
  found = naming.edits(*rows, np.array([1, 1, 1, 3]))
  assert list(found) == ["all", "color", "thing"]
  assert found["color"] == {
    "falsified": pytest.approx(2 / 3),
    "true": pytest.approx(1 / 3),
    "asked": pytest.approx(1 / 3),
    "noun": pytest.approx(1 / 3),
    "other": pytest.approx(1 / 3),
    "clean": pytest.approx(1 / 3),
  }
  assert found["thing"]["asked"] == 1 and found["thing"]["noun"] == 0
  assert found["all"]["falsified"] == 0.75
  assert found["all"]["clean"] == 0.5


def test_shares_by_hand():
  real = np.zeros((4, 6), int)
  real[:, 1] = [0, 0, 1, 1]
  drawn = np.zeros((4, 6), int)
  drawn[:, 1] = [0, 0, 0, 1]
  found = naming.shares(drawn, real)
  assert found["color"] == {"least": 0.5, "most": 1.5}
  assert found["size"] == {"least": 1.0, "most": 1.0}


def test_the_packaged_namer_knows_fresh_images():
  namer = pretrained.load_namer("")
  keys = jax.random.split(jax.random.key(99), 400)
  counts = places.counts(16, 64, 16)
  scenes = jax.vmap(lambda key: places.sample(key, counts))(keys)
  images = jax.vmap(lambda scene: places.render(scene, 32).image)(scenes)
  logits, features = naming.predict(namer, np.asarray(images))
  found = naming.accuracy(naming.named(logits), np.asarray(scenes.words))
  assert found["thing"]["value"] > 0.9
  for kind in set(KINDS) - {"thing"}:
    assert found[kind]["value"] > 0.97, kind
    assert found[kind]["chance"] < 0.6
  assert features.shape == (400, 2 * namer.module.widths[-1])
  assert "data_dir" in namer.meta["config"]["data"]
  assert namer.meta["config"]["data"]["data_dir"].startswith("~")


def test_a_run_is_exported_and_read_back(tmp_path, monkeypatch):
  config = load("namer").get_config("smoke")
  config.namer.widths = (4, 6)
  config.data.num_threads = 1
  config.train.update({"batch": 8, "steps": 4, "eval_every": 4})
  config.eval.batch = 8
  splits = {
    name: places_world.records(16, seed)
    for seed, name in enumerate(("train", "validation", "test"))
  }
  monkeypatch.setattr(data, "load", lambda _: splits)
  assert run_config(config, tmp_path / "run") == 0
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert set(results["splits"]["test"]) == set(place_words.KINDS)
  export.export(tmp_path / "run", "namer", tmp_path / "namer.npz")
  assert pretrained.load_namer(tmp_path / "namer.npz").module.widths == (4, 6)
  with pytest.raises(UserError, match="holds no namer"):
    pretrained.load_namer(pretrained.PACKAGED["recogniser"])


def test_a_wrong_size_is_refused_by_name():
  config = load("namer").get_config("smoke")
  config.data.image_size = 20
  with pytest.raises(UserError, match=r"config\.data\.image_size"):
    task.build(config, mesh.make_mesh(1), {})
