"""The recogniser: its network, loss, objects, figures, and a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.running import run_config
from tests.test_options import load
from vgsgan.common.errors import UserError
from vgsgan.data import augment
from vgsgan.evals import recognition as figures
from vgsgan.models import weights
from vgsgan.models.image import space_to_depth
from vgsgan.models.recogniser import Recogniser, depth_to_space, features
from vgsgan.parallel import mesh
from vgsgan.tasks import recognition
from vgsgan.tools import export
from vgsgan.train import workdirs
from vgsgan.worlds import recognise, scenes
from vgsgan.worlds.attributes import ATTRIBUTES, WORDS

SMALL = Recogniser((8, 12, 16))


def logits_of(mask, words, strength=12.0):
  """Logits [s, t, 16] that are sure of one object."""
  found = np.full((*mask.shape, 16), 0.0)
  found[..., 0] = np.where(mask, strength, -strength)
  for word in words:
    found[mask, 1 + WORDS.index(word)] = strength
  return found


def blank(size=32):
  return np.zeros((size, size), bool)


# The network.


@pytest.mark.parametrize("size", [32, 64])
def test_each_pixel_has_logits(size):
  images = jnp.zeros((2, size, size, 3))
  variables = SMALL.init(jax.random.key(0), images, train=False)
  logits, pooled = SMALL.apply(variables, images, train=False)
  assert logits.shape == (2, size, size, 1 + len(WORDS))
  np.testing.assert_array_equal(features(SMALL, variables, images), pooled)
  assert pooled.shape == (2, 16)


def test_the_network_is_small():
  image = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(
    lambda: Recogniser().init(jax.random.key(0), image, train=False)
  )
  count = sum(x.size for x in jax.tree.leaves(shapes["params"]))
  assert 2e5 < count < 6e5


def test_sides_must_be_multiples_of_8():
  with pytest.raises(ValueError, match="multiples of 8"):
    SMALL.init(jax.random.key(0), jnp.zeros((1, 20, 20, 3)), train=False)


def test_depth_to_space_undoes_space_to_depth():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 5)))
  np.testing.assert_array_equal(depth_to_space(space_to_depth(x)), x)


def test_a_pixel_sees_its_whole_object():
  """The gradient of a pixel's logits reaches across 24 of 64 pixels."""
  images = jax.random.uniform(jax.random.key(1), (1, 64, 64, 3))
  variables = SMALL.init(jax.random.key(0), images, train=False)

  def center(images):
    return SMALL.apply(variables, images, train=False)[0][0, 32, 32].sum()

  seen = np.abs(jax.grad(center)(images)[0]).max(-1) > 0
  assert seen[32, 20:44].all() and seen[20:44, 32].all()


# The loss.


def test_the_loss_equals_loops():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 8, 8, 16)).astype(np.float32)
  masks = np.zeros((2, 8, 8, 2), np.float32)
  masks[0, 1:3, 1:4, 0] = 1
  masks[0, 5:8, 5:8, 1] = 1
  masks[1, 2:4, 2:4, 0] = 1
  attributes = np.array(
    [[[0, 3, 1, 2], [1, 7, 0, 0]], [[1, 0, 0, 1], [-1] * 4]]
  )
  got = recognition.object_loss(
    jnp.asarray(logits), jnp.asarray(masks), jnp.asarray(attributes)
  )
  there = masks.max(-1) > 0
  p = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
  binary = -np.log(np.where(there, p, 1 - p)).mean()
  assert float(got["object"]) == pytest.approx(binary, rel=1e-5)
  start = 1
  for i, (kind, words) in enumerate(ATTRIBUTES.items()):
    part = logits[..., start : start + len(words)].astype(np.float64)
    log_p = part - np.log(np.exp(part).sum(-1, keepdims=True))
    means = [
      -log_p[b][masks[b, :, :, n] > 0][:, attributes[b, n, i]].mean()
      for b, n in ((0, 0), (0, 1), (1, 0))
    ]
    assert float(got[kind]) == pytest.approx(np.mean(means), rel=1e-5)
    start += len(words)


def test_images_without_objects_have_a_finite_loss():
  got = recognition.object_loss(
    jnp.zeros((1, 8, 8, 16)), jnp.zeros((1, 8, 8, 2)), -jnp.ones((1, 2, 4), int)
  )
  assert float(got["object"]) == pytest.approx(np.log(2))
  assert all(float(got[kind]) == 0 for kind in ATTRIBUTES)


def test_degraded_images_stay_close_and_in_range():
  images = jax.random.uniform(jax.random.key(0), (64, 16, 16, 3))
  key = jax.random.key(1)
  got = augment.degrade(key, images, 0.0, 0.0, 0.0)
  np.testing.assert_allclose(got, images, atol=1e-6)
  flat = jnp.full((64, 16, 16, 3), 0.5)
  np.testing.assert_allclose(
    augment.degrade(key, flat, 1.0, 0.0, 0.0), flat, atol=1e-6
  )
  # A degree of its own for each picture, up to the one asked for.
  brighter = augment.degrade(key, flat, 0.0, 0.0, 0.2).mean((1, 2, 3)) / 0.5
  assert brighter.min() >= 0.8 and brighter.max() <= 1.2
  assert brighter.min() < 0.83 and brighter.max() > 1.17
  noise = augment.degrade(key, flat, 0.0, 0.1, 0.0).std((1, 2, 3))
  assert noise.min() < 0.01 and 0.08 < noise.max() < 0.11
  soft = augment.degrade(key, images, 1.0, 0.0, 0.0).std((1, 2, 3))
  assert soft.min() < 0.6 * images.std() and soft.max() > 0.9 * images.std()
  every = augment.degrade(key, images, 1.0, 1.0, 1.0)
  assert every.min() >= 0 and every.max() <= 1


# Objects.


def test_objects_are_listed_left_to_right_with_words():
  right, left = blank(), blank()
  right[10:20, 22:30] = True
  left[4:8, 2:7] = True
  first = ("large", "cyan", "metal", "sphere")
  second = ("small", "red", "rubber", "cube")
  logits = logits_of(right, first)
  logits[left] = logits_of(left, second)[left]
  found = recognise.objects(logits)
  assert [tuple(o[kind] for kind in ATTRIBUTES) for o in found] == [
    second,
    first,
  ]
  np.testing.assert_array_equal(found[0]["mask"], left)
  assert found[0]["box"] == (4 / 32, 2 / 32, 8 / 32, 7 / 32)
  masks = jnp.asarray(np.stack([left, right]))
  for got, box in zip(found, scenes.boxes(masks), strict=True):
    np.testing.assert_allclose(got["box"], box, atol=1e-6)
  assert all(0.99 < p <= 1 for p in found[0]["confidence"].values())


def test_an_unsure_word_is_left_out():
  mask = blank()
  mask[10:20, 10:20] = True
  logits = logits_of(mask, ("large", "cyan", "metal"))  # No shape: a third.
  (found,) = recognise.objects(logits)
  assert found["shape"] is None and found["color"] == "cyan"
  assert found["confidence"]["shape"] == pytest.approx(1 / 3)
  (found,) = recognise.objects(logits, sure=0.3)
  assert found["shape"] == "cube"


def test_touching_objects_are_split_by_colour_and_edges_are_not():
  one, other = blank(), blank()
  one[10:20, 8:15] = True
  other[12:22, 15:24] = True
  logits = logits_of(one, ("red",))
  logits[other] = logits_of(other, ("blue",))[other]
  # The edge between them is of some third colour.
  edge = blank()
  edge[12:15, 15:16] = True
  logits[edge] = logits_of(edge, ("purple",))[edge]
  found = recognise.objects(logits)
  assert [o["color"] for o in found] == ["red", "blue"]
  assert (found[0]["mask"] | found[1]["mask"]).sum() == (one | other).sum()
  assert not (found[0]["mask"] & found[1]["mask"]).any()
  same = logits_of(one | other, ("red",))
  assert len(recognise.objects(same)) == 1


def test_specks_and_empty_images_give_no_object():
  speck = blank()
  speck[3:5, 3:5] = True
  assert recognise.objects(logits_of(speck, ("red",))) == []
  assert recognise.objects(logits_of(blank(), ())) == []


# Figures.


def test_figures_equal_a_case_worked_by_hand():
  where, what, logits = [], [], []
  for shift, word in ((0, "cube"), (3, "sphere")):
    mask = blank()
    mask[10:20, 5 + shift : 15 + shift] = True
    words = ("large", "cyan", "metal", word)
    where.append(np.stack([mask, blank()]))
    what.append(np.array([[1, 6, 1, 0], [-1] * 4]))  # Both are large cubes.
    logits.append(logits_of(mask, words))
  got = figures.found_objects(logits, where, what)
  assert got["count"] == {"value": 1.0, "chance": 1.0}
  assert (got["found"], got["named"]) == (1.0, 1.0)
  assert got["right"] == pytest.approx(7 / 8)
  means = np.stack(
    [x[m[0]].mean(0) for x, m in zip(logits, where, strict=True)]
  )
  known = figures.given_masks(means, np.array([[1, 6, 1, 0], [1, 6, 1, 2]]))
  assert known["shape"] == {"value": 0.5, "chance": 0.5}
  assert known["color"] == {"value": 1.0, "chance": 1.0}
  assert known["objects"] == 2


@pytest.mark.parametrize(
  ("rows", "found"), [(20, 1.0), (39, 1.0), (40, 0.0), (11, 1.0), (10, 0.0)]
)
def test_an_object_is_found_if_its_iou_exceeds_half(rows, found):
  """Too much of the picture is as wrong as too little: 20 rows are right."""
  true, seen = blank(48), blank(48)
  true[2:22, 4:14] = True
  seen[2 : 2 + rows, 4:14] = True
  words = ("large", "red", "rubber", "cube")
  got = figures.found_objects(
    [logits_of(seen, words)], [true[None]], [np.zeros((1, 4), int)]
  )
  assert got["count"]["value"] == 1
  assert got["found"] == found  # 20/20, 20/39, 20/40, 11/20, 10/20.


def test_no_detection_gives_figures_of_0():
  mask = blank()
  mask[10:20, 5:15] = True
  got = figures.found_objects(
    [logits_of(blank(), ())], [mask[None]], [np.array([[0, 0, 0, 0]])]
  )
  assert got["count"]["value"] == 0
  assert (got["found"], got["named"], got["right"]) == (0.0, 0.0, 0.0)


# A whole run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run, on two devices: as in test_trainer."""
  folder = tmp_path_factory.mktemp("run")
  config = load("recogniser").get_config("smoke")
  config.transfer_guard = "disallow"
  config.data.data_dir = str(folder / "data")
  config.data.update({"num_train": 24, "num_validation": 8, "num_test": 8})
  config.train.update({"steps": 4, "batch": 8, "eval_every": 2, "log_every": 1})
  config.train.save_every = 2
  config.eval.batch = 8
  with pytest.MonkeyPatch.context() as patch:
    two = mesh.make_mesh(2, model=2)
    patch.setattr(mesh, "make_mesh", lambda model: two)
    assert run_config(config, folder / "run") == 0
  return folder / "run"


def test_a_run_ends_with_figures_and_chance(finished):
  results = json.loads((finished / "results.json").read_text())
  for split in ("validation", "test"):
    known = results["splits"][split]["given_masks"]
    for kind in ATTRIBUTES:
      assert {"value", "chance"} <= known[kind].keys()
      assert 0 <= known[kind]["value"] <= 1
    assert results["splits"][split]["alone"]["count"]["chance"] > 0


def test_an_exported_network_is_read_back(finished, tmp_path):
  path = tmp_path / "recogniser.npz"
  export.export(finished, "recogniser", path)
  variables, meta = weights.load_params(path)
  assert meta["config"]["recogniser"]["widths"] == [8, 16, 32]
  assert meta["results"]["splits"]["test"]["given_masks"]["objects"] >= 8
  model = Recogniser(tuple(meta["config"]["recogniser"]["widths"]))
  images = jnp.zeros((2, 16, 16, 3))
  logits, _ = model.apply(variables, images, train=False)
  assert np.isfinite(logits).all()
  fresh = model.init(jax.random.key(0), images, train=False)
  assert jax.tree.structure(fresh) == jax.tree.structure(variables)
  with pytest.raises(UserError, match=r"--network=.*mean 'recogniser'"):
    export.export(finished, "recognizer", path)
  with pytest.raises(UserError, match="no run in"):
    export.export(tmp_path, "recogniser", path)
  with (
    workdirs.alone(finished),
    pytest.raises(UserError, match="another run is using"),
  ):
    export.export(finished, "recogniser", path)


def test_records_without_masks_are_refused():
  config = load("recogniser").get_config("smoke")
  config.data.scenes = "clevr"
  with pytest.raises(UserError, match="has no masks"):
    recognition.build(config, mesh.make_mesh(1), {})


def test_a_wrong_size_is_refused_by_name():
  config = load("recogniser").get_config("smoke")
  config.data.image_size = 20
  with pytest.raises(UserError, match=r"config\.data\.image_size"):
    recognition.build(config, mesh.make_mesh(1), {})
