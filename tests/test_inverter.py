"""The encoder of latents: a run, its figures, its file, its devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import drawing_world
from tests.drawing_world import (
  GAN,
  KEY,
  MAKE_MESH,
  B,
  model_of,
  on,
  one_line,
  state_of,
)
from tests.filling import filled, normal, variables_of
from tests.running import run_config
from tests.test_options import load
from vgsgan import data, tasks
from vgsgan.common.errors import UserError
from vgsgan.data.builders.scenes import encode
from vgsgan.models import pretrained, weights
from vgsgan.models.generator import Generator
from vgsgan.models.inverter import Inverter
from vgsgan.parallel import mesh
from vgsgan.tasks import inversion as task
from vgsgan.tools import export

quick_to_compile = drawing_world.quick_to_compile
generator = drawing_world.generator
records = drawing_world.records
batch = drawing_world.batch


def test_an_encoder_refuses_a_side_it_cannot_halve():
  with pytest.raises(ValueError, match="multiple of 8, not 36"):
    Inverter(5, (4, 4, 4)).init(KEY, jnp.zeros((1, 36, 36, 3)))


@pytest.fixture(scope="module")
def little(tmp_path_factory):
  """The file of a random generator of 8 pixels and 4 numbers."""
  gan = GAN | {"channels": (8, 8), "chunk": 2}
  module = Generator(gan["channels"], gan["chunk"], spectral=False)
  path = tmp_path_factory.mktemp("networks") / "generator.npz"
  tree = variables_of(module, jnp.zeros((1, module.latent_size)), scale=0.5)
  weights.save_params(path, tree, {"config": {"gan": gan}})
  return str(path)


def config_of(little):
  config = load("inversion").get_config("smoke")
  config.data.update({"generator": little, "image_size": 8})
  config.inverter.channels = (16, 16)
  config.inversion.limit = 0.5
  config.transfer_guard = "disallow"
  config.train.update({"steps": 300, "batch": 32, "eval_every": 300})
  config.train.update({"log_every": 50, "save_every": 0})
  config.optim.lr = 3e-3
  config.eval.update({"batch": 8, "samples": 40})
  return config


@pytest.fixture(scope="module")
def finished(little, tmp_path_factory):
  """A finished run, on two devices, and its encoder's file."""
  folder = tmp_path_factory.mktemp("run")
  network = pretrained.load_generator(little)
  drawn = network.module.apply(network.variables, normal(B, 4), train=False)
  drawn = np.rint(127.5 * (np.asarray(drawn) + 1)).astype(np.uint8)
  noise = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), "u1")
  drawn, noise = (
    [{"image": encode(image), "id": b"any"} for image in images]
    for images in (drawn, noise)
  )
  splits = {"train": drawn, "validation": drawn, "test": noise}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mesh, "make_mesh", lambda n=2, model=1: MAKE_MESH(n, model))
    patch.setattr(data, "load", lambda config: splits)
    assert run_config(config_of(little), folder / "run") == 0
    export.export(folder / "run", "inverter", folder / "inverter.npz")
  return folder


def test_a_trained_encoder_beats_another_pictures_latent(finished):
  results = json.loads((finished / "run/results.json").read_text())
  splits = results["splits"]
  drawn, stored = (splits["validation"][k] for k in ("drawn", "stored"))
  for found in (drawn, stored):
    for name in ("error", "encoder_error"):
      assert found[name]["value"] < 0.8 * found[name]["chance"]
    assert found["error"]["value"] <= found["encoder_error"]["value"]
    shares = found["let_through"]
    assert shares["value"] > shares["chance"] + 0.3
  assert drawn["pictures"] == 40 and stored["pictures"] == B
  assert drawn["latent_r2"]["value"] > 0.2 > 0 > drawn["latent_r2"]["chance"]
  assert drawn["latent_correlation"]["value"] > 0.4
  assert abs(drawn["latent_correlation"]["chance"]) < 0.2
  # Nothing that a generator draws is like noise: the gate is shut.
  noise = splits["test"]["stored"]
  assert noise["let_through"]["value"] == 0 and noise["pictures"] == 3
  assert splits["test"]["drawn"]["error"] != drawn["error"]


def test_an_exported_encoder_is_read_back(finished, little, tmp_path):
  path = finished / "inverter.npz"
  found = pretrained.load_inverter(path, 8, 4)
  assert found.module == Inverter(4, (16, 16))
  assert found.meta["results"]["splits"]["test"]["stored"]["pictures"] == 3
  pictures = normal(2, 8, 8, 3)
  assert found.module.apply(found.variables, pictures).shape == (2, 4)
  for sizes in ((32, 4), (8, 20)):
    with pytest.raises(UserError) as refused:
      pretrained.load_inverter(path, *sizes)
    one_line(refused, "finds 4 numbers in pictures of 8 px", "data.generator")
  with pytest.raises(UserError) as refused:
    pretrained.load_inverter(little, 8, 4)
  one_line(refused, "holds no inverter")
  more = found.variables["params"] | {"up": {"bias": np.zeros(3, np.float32)}}
  weights.save_params(tmp_path / "more.npz", {"params": more}, found.meta)
  with pytest.raises(UserError) as refused:
    pretrained.load_inverter(tmp_path / "more.npz", 8, 4)
  one_line(refused, "holds no inverter: params/up/bias is missing, too many")


def test_latents_depend_on_seed_and_step_but_not_devices(little):
  one, two = (task.Inversion(config_of(little), MAKE_MESH(n)) for n in (1, 2))
  draw = jax.jit(lambda s, i: one.latents(s, i, 4), static_argnums=0)
  other = jax.jit(lambda s, i: two.latents(s, i, 4), static_argnums=0)
  seen = [np.asarray(draw(s, i)) for s in range(3) for i in range(2)]
  assert len({row.tobytes() for z in seen for row in z}) == 24
  np.testing.assert_array_equal(seen[3], other(1, 1))


@pytest.mark.parametrize("batch", [8, 10**9])
def test_evaluation_counts_are_equal_on_1_and_8_devices(little, batch):
  """As many as the config says, and the same ones."""
  config = config_of(little)
  config.eval.update({"batch": batch, "samples": 13})
  config.inversion.steps = 0
  image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), "u1")
  splits = {"validation": [{"image": encode(x)} for x in image]}
  results = []
  for count in (1, 8):
    grid = MAKE_MESH(count)
    made = tasks.build(config, grid, splits)
    state = jax.device_put(jax.jit(made.init)(KEY), mesh.replicated(grid))
    results.append(made.evaluate(state, "validation", lambda: None))
  one, eight = (dict(jax.tree.leaves_with_path(found)) for found in results)
  assert one.keys() == eight.keys()
  assert results[0]["drawn"]["pictures"] == 13
  for path, value in one.items():
    assert eight[path] == pytest.approx(value, rel=1e-4, abs=1e-5), path


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"data": {"image_size": 64}}, "config.data.image_size=64 px"),
    ({"inverter": {"channels": (4,) * 6}}, "config.inverter.channels"),
  ],
)
def test_a_wrong_encoder_is_refused_in_one_line(little, fields, said):
  config = config_of(little)
  config.update(fields)
  with pytest.raises(UserError) as refused:
    task.Inversion(config, MAKE_MESH(1))
  one_line(refused, said)


def test_figures_equal_a_case_worked_by_hand():
  true = np.array([[0.0, 1], [2, 1], [4, 4]])
  assert task.r2(true, true) == 1
  assert task.r2(true, np.broadcast_to(true.mean(0), (3, 2))) == 0
  assert task.r2(true, true + [[1, 0]] * 3) == pytest.approx(1 - 3 / 14)
  assert task.correlation(true, 3 * true - 5) == pytest.approx(1)
  assert task.correlation(true, true * [1, -2]) == pytest.approx(0)
  rows = {"guess": np.array([1.0, 2, 4]), "error": np.array([0.5, 0.6, 9])}
  found = task.figures(rows, np.array([1.0, 0.6, 3]), 0.6)
  assert found == {
    "error": {"value": 0.6, "chance": 1.0},
    "encoder_error": {"value": 2.0, "chance": 1.0},
    "let_through": {"value": pytest.approx(2 / 3), "chance": 1 / 3},
    "pictures": 3,
  }


def test_latents_are_equal_on_1_and_8_devices(generator, batch, tmp_path):
  path = str(tmp_path / "inverter.npz")
  module = Inverter(16, (4, 4, 4))
  shapes = jax.eval_shape(module.init, KEY, jnp.zeros((1, 32, 32, 3)))
  meta = {"inverter": {"channels": (4, 4, 4)}, "data": {"image_size": 32}}
  weights.save_params(path, filled(shapes, scale=0.1), {"config": meta})
  batch = {name: x for name, x in batch.items() if name != "z"}
  model = model_of(generator, curriculum="chunk@0", inverter=path)
  model.config.edits.update({"inversion_steps": 2, "inversion_limit": 10.0})
  made = jax.eval_shape(model.init, KEY).batch_stats["inverter"]
  shape = lambda x: (x.shape, x.dtype)  # noqa: E731
  assert jax.tree.map(shape, made) == jax.tree.map(shape, dict(shapes))
  state = state_of(model)
  state.batch_stats["inverter"] = model.inverter.variables

  @jax.jit
  def latents(state, batch):
    pictures, _, _ = model.inputs(batch, None)
    return model.latents(state.params, state.batch_stats, batch, pictures)

  one, eight = (
    jax.device_get(latents(*on(MAKE_MESH(n), state, batch))) for n in (1, 8)
  )
  assert one.metrics["inverted"] == 1 and np.abs(one.z).max() > 0.1
  np.testing.assert_array_equal(one.counts, eight.counts)
  np.testing.assert_allclose(one.z, eight.z, rtol=1e-2, atol=1e-3)
  # Rounding decides here and there about one of the 255 steps of a pixel.
  off = np.abs(one.missed - eight.missed)
  assert off.max() < 1.01 / 255 and np.mean(off > 1e-4) < 0.01
