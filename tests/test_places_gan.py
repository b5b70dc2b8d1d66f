"""The GAN of places: its figures, its choice, and the packaged generator."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import places_world
from tests.running import run_config
from tests.test_options import load
from vgsgan import data
from vgsgan.evals import naming
from vgsgan.models import pretrained
from vgsgan.tasks import gan_worlds
from vgsgan.tools import export
from vgsgan.worlds import places
from vgsgan.worlds.place_words import KINDS, NOUNS


@pytest.mark.parametrize("arg", ["smoke", "unlabelled,smoke"])
def test_a_run_has_figures_of_its_edits_if_it_has_words(
  tmp_path, monkeypatch, arg
):
  config = load("places_gan").get_config(arg)
  config.data.update({"image_size": 32, "num_threads": 1})
  config.data.update({"things": 4, "places": 4, "skies": 2})
  config.gan.update({"channels": (6, 4, 4, 4), "chunk": 4})
  config.gan.discriminator_channels = (4, 4, 4, 6)
  config.train.update({"batch": 8, "steps": 2, "eval_every": 1})
  config.eval.update({"batch": 8, "samples": 12})
  splits = {
    name: places_world.records(12, seed)
    for seed, name in enumerate(("train", "validation", "test"))
  }
  monkeypatch.setattr(data, "load", lambda _: splits)
  assert run_config(config, tmp_path / "run") == 0
  found = json.loads((tmp_path / "run" / "results.json").read_text())
  test = found["splits"]["test"]
  assert set(test["shares"]) == set(KINDS)
  assert test["recall"].keys() == {"value", "real"}
  labelled = arg == "smoke"
  assert ("edits" in test) == ("named" in test) == labelled
  export.export(tmp_path / "run", "generator", tmp_path / "generator.npz")
  if labelled:
    # Each kind in turn.
    assert set(test["edits"]) == {"all", *KINDS}
    network = pretrained.places_generator(
      tmp_path / "generator.npz", config.data
    )
    assert network.module.image_size == 32


def test_words_are_asked_for_one_kind_after_another():
  config = load("places_gan").get_config("smoke")
  config.data.update({"things": 3, "places": 4, "skies": 1})
  words = np.stack([np.arange(30) % 2] * 5 + [np.zeros(30, int)], 1)
  asked, changed = gan_worlds.Places.asked(
    jax.random.key(0), words.astype(np.int32), config.data
  )
  assert list(changed[:5]) == [0, 1, 2, 3, 4]  # All have one sky.
  counts = places.counts(3, 4, 1)
  for row, new, kind in zip(words, asked, changed, strict=True):
    assert list(np.flatnonzero(row != new)) == [kind]
    assert 0 <= new[kind] < counts[kind]


def test_the_packaged_generator_changes_what_it_is_asked_to():
  network = pretrained.places_generator(
    "", load("places_gan").get_config("").data
  )
  counts = places.counts(16, 16, 16)
  keys = jax.random.split(jax.random.key(7), 600)
  words = np.asarray(
    jax.vmap(lambda key: places.sample(key, counts).words)(keys)
  )
  z = jax.random.normal(jax.random.key(8), (600, network.module.latent_size))

  @jax.jit
  def draw(words):
    labels = places.labels(words)
    drawn = network.module.apply(network.variables, z, labels, train=False)
    return 0.5 + 0.5 * drawn

  asked, changed = gan_worlds.Places.asked(
    jax.random.key(9), words, load("places_gan").get_config("").data
  )
  judge = pretrained.load_namer("")
  logits, _ = naming.predict(judge, np.asarray(draw(words)))
  after, _ = naming.predict(judge, np.asarray(draw(jnp.asarray(asked))))
  found = naming.edits(
    naming.named(logits), naming.named(after), words, asked, changed
  )
  assert found["all"]["true"] < 0.05 and found["all"]["noun"] < 0.15
  for kind in set(KINDS) - set(NOUNS):
    assert found[kind]["asked"] > 0.95, kind
  assert network.meta["config"]["data"]["data_dir"].startswith("~")
