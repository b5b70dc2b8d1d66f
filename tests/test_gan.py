"""The GAN: its losses by hand, its step, whole runs."""

import collections
import copy
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.filling import KEY, filled, normal, same, variables_of
from tests.placing import placed
from tests.running import run_config
from tests.test_options import load
from tests.test_trainer import lines, signal_at
from vgsgan import data, tasks
from vgsgan.common.errors import UserError
from vgsgan.data.builders import scenes
from vgsgan.evals import frechet
from vgsgan.losses import generative
from vgsgan.models.generator import Generator
from vgsgan.parallel import mesh
from vgsgan.tasks import gan, gan_evaluation, gan_worlds
from vgsgan.train.checkpoints import manager
from vgsgan.train.state import TrainState
from vgsgan.train.step import jit_step
from vgsgan.worlds.attributes import ATTRIBUTES, WORDS

MAKE_MESH = mesh.make_mesh


# ---------------------------------------------------------- what is trained


def test_hinge_by_hand():
  real, drawn_ = jnp.array([2.0, 0.5, -1.0]), jnp.array([-2.0, 0.0, 3.0])
  assert generative.hinge(real, drawn_) == (0 + 0.5 + 2) / 3 + (0 + 1 + 4) / 3


def test_orthogonality_is_the_loop():
  rng = np.random.default_rng(0)
  tree = {
    "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)), "bias": np.ones(4)},
    "dense": rng.normal(size=(3, 5)),
    "gain": np.float64(3),
  }
  expected = 0.0
  for weight in (tree["conv"]["kernel"].reshape(18, 4), tree["dense"]):
    for i in range(weight.shape[1]):
      for j in range(weight.shape[1]):
        if i != j:
          expected += (weight[:, i] @ weight[:, j]) ** 2
  tree = jax.tree.map(lambda x: jnp.asarray(x, "float32"), tree)
  np.testing.assert_allclose(
    generative.orthogonality(tree), expected, rtol=1e-5
  )
  assert generative.orthogonality({"w": 3.0 * jnp.eye(4)}) == 0


def test_penalty_r1_by_hand():
  images = normal(3, 4, 4, 3)
  steep = jnp.arange(3.0)[:, None, None, None]
  # The slope of row i's score at a picture x is i x.
  got = generative.penalty_r1(
    lambda x: jnp.sum(steep * x**2 / 2, axis=(1, 2, 3)), images
  )
  squares = np.square(np.float64(images)).sum((1, 2, 3))
  np.testing.assert_allclose(got, (squares * [0, 1, 4]).mean(), rtol=1e-5)


def test_words_present_by_hand():
  rng = np.random.default_rng(0)
  sizes = [len(words) for words in ATTRIBUTES.values()]
  attributes = np.stack([rng.integers(-1, n, (20, 3)) for n in sizes], -1)
  attributes[0] = -1
  got = np.asarray(gan_worlds.Scenes.labels(jnp.asarray(attributes, jnp.int32)))
  assert got.shape == (20, len(WORDS)) and not got[0].any()
  for row, scene in zip(got, attributes, strict=True):
    said = {
      words[place]
      for thing in scene
      for words, place in zip(ATTRIBUTES.values(), thing, strict=True)
      if place >= 0
    }
    assert {w for w, on in zip(WORDS, row, strict=True) if on} == said


# ----------------------------------------------------------------- one step


@pytest.fixture
def simple():
  """A GAN of two numbers: all pixels are `shade`, a score is `slope` times one.

  Real images are 1, 1, -1 and 1.
  """
  config = small(shift=0, r1=0.4, r1_rows=2)
  config.gan.orthogonal = 0.0
  model = gan.Gan(config)
  model.tx = dict.fromkeys(gan.NETWORKS, optax.sgd(0.1))

  def draw(params, stats, latent, labels):
    ones = jnp.ones((len(latent), 8, 8, 3))
    return params["shade"] * ones, stats

  def judge(params, stats, images, labels, train=False):
    return params["slope"] * images[:, 0, 0, 0], stats

  model.draw, model.judge = draw, judge
  params = {
    "generator": {"shade": jnp.float32(0.6)},
    "discriminator": {"slope": jnp.float32(0.5)},
  }
  stats = {"generator": {}, "discriminator": {}}
  stats["average"] = {"params": params["generator"], "batch_stats": {}}
  state = TrainState(
    jnp.int32(0),
    params,
    stats,
    {name: model.tx[name].init(params[name]) for name in params},
  )
  levels = np.array([255, 255, 0, 255], np.uint8)[:, None, None, None]
  batch = {"image": np.broadcast_to(levels, (4, 8, 8, 3))}
  return jax.device_get(jax.jit(model.step)(state, batch))


def test_the_discriminator_learns_by_hand(simple):
  """Real scores 0.5, 0.5, -0.5, 0.5, drawn ones 0.3.

  Hinges: (0.5 + 0.5 + 1.5 + 0.5) / 4 of the real, 1.3 of the drawn. R1 is the
  square of the slope.
  """
  state, metrics = simple
  assert metrics["r1"] == pytest.approx(0.25)
  loss = 0.75 + 1.3 + 0.5 * 0.4 * 0.25
  assert metrics["loss_discriminator"] == pytest.approx(loss)
  # By the slope: -0.5, the mean of the real; 0.6, the drawn; and 0.4 * 0.5.
  slope = 0.5 - 0.1 * (-0.5 + 0.6 + 0.2)
  assert state.params["discriminator"]["slope"] == pytest.approx(slope)
  assert metrics["right"] == pytest.approx((0.75 + 0.0) / 2)


def test_the_generator_learns_by_hand(simple):
  """It is drawn towards what the discriminator, by now of 0.47, calls real."""
  state, metrics = simple
  assert metrics["loss_generator"] == pytest.approx(-0.47 * 0.6)
  assert metrics["loss"] == pytest.approx(2.1 - 0.282)
  shade = state.params["generator"]["shade"]
  assert shade == pytest.approx(0.6 + 0.1 * 0.47)
  # The average keeps a tenth of what it was: min(0.999, 1 / 10).
  average = state.batch_stats["average"]["params"]["shade"]
  assert average == pytest.approx(0.1 * 0.6 + 0.9 * 0.647)


def small(arg="", **fields):
  config = load("scenes_gan").get_config(arg)
  config.data.image_size = 8
  config.gan.update(
    {"channels": (6, 4), "chunk": 4, "discriminator_channels": (4, 6)}
  )
  config.gan.update({"shift": 2, "r1_rows": 2} | fields)
  return config


def batch_of(b=16, size=8, seed=0):
  rng = np.random.default_rng(seed)
  sizes = [len(words) for words in ATTRIBUTES.values()]
  return {
    "image": rng.integers(0, 256, (b, size, size, 3)).astype(np.uint8),
    "masks": np.zeros((b, 2, size, size), np.uint8),
    "attributes": np.stack([rng.integers(-1, n, (b, 2)) for n in sizes], -1),
  }


def with_sgd(config):
  """A model whose learning rates are in its state: one program for all."""
  model = gan.Gan(config)
  sgd = optax.inject_hyperparams(optax.sgd)
  model.tx = {name: sgd(learning_rate=0.1) for name in gan.NETWORKS}
  # Not as at the start, where attention has no say yet.
  made = filled(jax.eval_shape(model.init, KEY), scale=0.3)
  opt_state = {
    name: model.tx[name].init(made.params[name]) for name in made.params
  }
  made.batch_stats["average"]["params"] = made.params["generator"]
  return model, made.replace(step=jnp.int32(0), opt_state=opt_state)


def at_rates(state, **rates):
  opt_state = dict(state.opt_state)
  for name, rate in rates.items():
    inside = copy.copy(opt_state[name].hyperparams)
    inside["learning_rate"] = jnp.float32(rate)
    opt_state[name] = opt_state[name]._replace(hyperparams=inside)
  return state.replace(opt_state=opt_state)


Plain = collections.namedtuple("Plain", "model state step batch")


@pytest.fixture(scope="module")
def plain():
  config = small("labels", average=0.15, r1=0.3, orthogonal=0.02)
  config.gan.update({"attention": 1, "discriminator_attention": 1})
  model, state = with_sgd(config)
  step = jax.jit(model.step)

  # From the host each time: what came out of a step compiles nothing anew.
  def run(state, batch):
    return jax.device_get(step(jax.device_get(state), batch))

  return Plain(model, state, run, batch_of())


def test_each_network_moves_by_its_own_optimiser_alone(plain):
  _, state, step, batch = plain
  rates = {"both": (0.1, 0.1), "generator": (0.1, 0), "discriminator": (0, 0.1)}
  after, metrics = {}, {}
  for name, (g, d) in rates.items():
    set_to = at_rates(state, generator=g, discriminator=d)
    after[name], metrics[name] = step(set_to, batch)
  old, new = state.params, {k: v.params for k, v in after.items()}
  assert same(new["discriminator"]["generator"], old["generator"])
  assert same(new["generator"]["discriminator"], old["discriminator"])
  assert not same(new["both"]["generator"], old["generator"])
  # The discriminator is updated first, and cannot tell what comes after;
  # what the generator then learns from is the new one.
  moved = new["both"]["discriminator"]
  assert same(new["discriminator"]["discriminator"], moved)
  assert not same(moved, old["discriminator"])
  assert not same(new["generator"]["generator"], new["both"]["generator"])
  loss_d, loss_g = (
    {k: float(v[f"loss_{name}"]) for k, v in metrics.items()}
    for name in ("discriminator", "generator")
  )
  assert loss_d["both"] == loss_d["generator"] == loss_d["discriminator"]
  assert loss_g["both"] == loss_g["discriminator"] != loss_g["generator"]


@pytest.mark.parametrize("name", gan.NETWORKS)
def test_an_update_follows_the_slope_of_the_loss_that_is_logged(plain, name):
  _, state, step, batch = plain
  other = next(n for n in gan.NETWORKS if n != name)
  still = at_rates(state, **{name: 1.0, other: 0.0})
  after, metrics = step(still, batch)
  slope = jax.tree.map(
    lambda a, b: np.float64(a) - np.float64(b),
    state.params[name],
    after.params[name],
  )
  length = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(slope)))
  np.testing.assert_allclose(metrics[f"grad_norm_{name}"], length, rtol=1e-4)
  found = []
  # So near that no unit of the discriminator is switched, where R1 would jump.
  for sign in (1, -1):
    params = jax.tree.map(
      lambda a, b, sign=sign: a + jnp.float32(sign * 1e-4 / length * b),
      state.params[name],
      slope,
    )
    moved = still.replace(params=still.params | {name: params})
    found.append(float(step(moved, batch)[1][f"loss_{name}"]))
  np.testing.assert_allclose((found[0] - found[1]) / 2e-4, length, rtol=0.02)


def test_the_average_in_closed_form_over_two_steps(plain):
  _, state, step, batch = plain
  one, _ = step(state, batch)
  two, _ = step(one, batch)
  assert int(two.step) == 2
  # Decay min(0.15, 1 / 10), then min(0.15, 2 / 11).
  for p0, p1, p2, average in zip(
    *(jax.tree.leaves(s.params["generator"]) for s in (state, one, two)),
    jax.tree.leaves(two.batch_stats["average"]["params"]),
    strict=True,
  ):
    expected = 0.15 * (0.1 * p0 + 0.9 * p1) + 0.85 * p2
    np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6)


def test_batch_statistics_and_random_numbers_move_on(plain):
  _, state, step, batch = plain
  still = at_rates(state, generator=0.0, discriminator=0.0)
  one, first = step(still, batch)
  two, second = step(one, batch)
  assert same(one.params, two.params)
  for name in ("generator", "average"):
    old, new = one.batch_stats[name], two.batch_stats[name]
    assert not same(still.batch_stats[name], old) and not same(old, new)
  assert first["score_drawn"] != second["score_drawn"]
  again, repeated = step(still, batch)
  assert same(one, again) and same(first, repeated)


def test_steps_are_equal_on_1_and_8_devices(plain, monkeypatch):
  _, state, step, batch = plain
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  devices = MAKE_MESH(8, model=2)
  there = mesh.shard(batch, devices)
  assert len(there["image"].sharding.device_set) == 8
  one, metrics = step(state, batch)
  there = (
    placed(state, devices),
    there,
  )
  update = jit_step(plain.model.step, there[0], devices)
  eight, others = jax.device_get(update(*there))
  assert all(map(np.isfinite, metrics.values()))
  for name in metrics:
    np.testing.assert_allclose(
      metrics[name], others[name], rtol=1e-3, atol=1e-5, err_msg=name
    )
  for part in ("params", "batch_stats"):
    for (path, a), b, before in zip(
      jax.tree_util.tree_leaves_with_path(getattr(one, part)),
      jax.tree.leaves(getattr(eight, part)),
      jax.tree.leaves(getattr(state, part)),
      strict=True,
    ):
      text = jax.tree_util.keystr(path)
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=text)
      # The gradient of some biases is 0 (what follows normalises it away).
      assert np.any(a != before) or "bias" in text, text


def test_labels_steer_images():
  module = Generator((4, 3), 2, num_labels=5, spectral=False)
  z, labels = normal(2, 4), normal(2, 5, seed=2)
  variables = variables_of(module, z, labels)
  run = jax.jit(lambda x: module.apply(variables, z, x, train=False))
  images = run(labels), run(labels.at[1, 3].add(1.0))
  np.testing.assert_array_equal(images[0][0], images[1][0])
  assert np.abs(images[0][1] - images[1][1]).max() > 1e-3


# --------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("scenes")


@pytest.fixture
def two_devices(monkeypatch):
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: MAKE_MESH(2, model))
  monkeypatch.setattr(scenes, "_BATCH", 8)


def tiny(folder):
  config = load("scenes_gan").get_config("labels,smoke")
  config.data.update({"image_size": 8, "data_dir": str(folder)})
  config.data.update({"num_train": 12, "num_validation": 8, "num_test": 8})
  config.gan.update(
    {"channels": (6, 4), "chunk": 4, "discriminator_channels": (4, 6)}
  )
  # State of its own, that has to be saved too; the penalty is tested above.
  config.gan.update({"spectral": True, "discriminator_spectral": True})
  config.gan.r1 = 0.0
  config.train.update({"batch": 8, "steps": 6, "log_every": 1})
  config.train.update({"eval_every": 3, "save_every": 2})
  config.eval.update({"batch": 8, "samples": 12})
  return config


def saved_state(workdir, config):
  devices = mesh.make_mesh()
  task = tasks.build(config, devices, data.load(config.data))
  shapes = jax.eval_shape(lambda: task.init(jax.random.key(0)))
  saved = manager.Checkpoints(workdir / "checkpoints", best="selection")
  abstract = mesh.abstract(shapes, devices)
  state, _ = saved.restore(config.train.steps, abstract)
  saved.close()
  return jax.device_get(state)


def test_samples_are_equal_on_1_and_8_devices(folder):
  config = tiny(folder)
  config.eval.update({"batch": 10**9, "samples": 13})
  splits, sheets = data.load(config.data), []
  for count in (1, 8):
    grid = MAKE_MESH(count)
    task = tasks.build(config, grid, splits)
    state = jax.device_put(jax.jit(task.init)(KEY), mesh.replicated(grid))
    sheets.append(task.images(state)["samples"])
  one, eight = sheets
  assert one.shape == eight.shape == (8, 13 * 8, 3)
  # A rounding moves a pixel by one of its steps.
  np.testing.assert_allclose(one.astype(int), eight.astype(int), atol=1)


def test_a_whole_run_and_one_in_parts(
  folder, tmp_path, monkeypatch, two_devices
):
  config = tiny(folder)
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  distance, sizes = frechet.frechet_distance, set()

  def noted(one, other):
    sizes.add((len(one), len(other)))
    return distance(one, other)

  monkeypatch.setattr(frechet, "frechet_distance", noted)
  assert run_config(config, whole) == 0
  # All are of half of the real, or the real would be no reference.
  assert sizes == {(4, 4)}
  sheets = sorted(whole.glob("samples/*"))
  assert [path.name for path in sheets] == ["3.png", "6.png"]
  with Image.open(sheets[-1]) as opened:
    assert opened.size == (8 * 8, 8) and opened.mode == "RGB"
  results = json.loads((whole / "results.json").read_text())
  for split in ("validation", "test"):
    found = results["splits"][split]
    for name in ("frechet_distance", "frechet_pixels"):
      assert found[name]["value"] > 0 and found[name]["real"] > 0
    assert found["pictures"] == 4  # Half of the real ones.
  figures = [
    line["frechet_distance/value"]
    for line in lines(whole)
    if line["split"] == "validation"
  ]
  # The smaller distance is the better.
  assert results["step"] == 3 * (1 + int(np.argmin(figures)))

  with monkeypatch.context() as patched:
    signal_at(patched, signal.SIGTERM, 5)
    status = run_config(config, parts)
  assert status == 128 + signal.SIGTERM
  assert not (parts / "results.json").exists()
  assert run_config(config, parts) == 0
  assert lines(whole) == lines(parts)
  assert same(saved_state(whole, config), saved_state(parts, config))
  for name in ("results.json", "samples/3.png", "samples/6.png"):
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


@pytest.mark.parametrize(
  ("section", "field", "value", "said"),
  [
    ("data", "image_size", 32, "config.data.image_size=32, but 2 entries"),
    ("gan", "discriminator_channels", (8,) * 9, "config.gan: "),
  ],
)
def test_a_wrong_value_is_named_in_one_line(section, field, value, said):
  config = small()
  config[section][field] = value
  with pytest.raises(UserError) as refused:
    gan.build(config, MAKE_MESH(1), {})
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)


def test_a_sheet_arranges_images_in_rows():
  shades = np.arange(5) / 4
  images = np.broadcast_to(shades[:, None, None, None], (5, 2, 2, 3))
  found = gan_evaluation.sheet(images, 2)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(
    found[::2, ::2, 0], np.array([[0, 63], [127, 191]])
  )
