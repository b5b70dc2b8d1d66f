"""Latents of pictures by least squares, the gate, and edits with them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import drawing_world
from tests.drawing_world import KEY, B, model_of, one_line, state_of
from tests.filling import normal, same
from tests.test_drawing import equal_trees
from tests.test_options import load
from vgsgan.common.errors import UserError
from vgsgan.data.builders.scenes import encode
from vgsgan.data.examples import DrawnPairExample
from vgsgan.models import pretrained
from vgsgan.negatives import inversion
from vgsgan.tasks import drawing, drawing_words

quick_to_compile = drawing_world.quick_to_compile
generator = drawing_world.generator
records = drawing_world.records
batch = drawing_world.batch


# ------------------------------------------------------- a linear generator

SIDE, WIDTH = 4, 5
MATRIX = normal(WIDTH, SIDE * SIDE * 3)


def linear(z):
  return (z @ MATRIX).reshape(-1, SIDE, SIDE, 3)


def origin(pictures):
  return jnp.zeros((len(pictures), WIDTH))


def ridge(pictures, prior):
  """The minimum of error^2 + prior mean(z^2), by the normal equations."""
  found = []
  for picture in np.float64(pictures):
    contrast = np.sum((picture - picture.mean((0, 1))) ** 2)
    a = np.float64(MATRIX)
    left = a @ a.T / contrast + prior / WIDTH * np.eye(WIDTH)
    found.append(np.linalg.solve(left, a @ picture.ravel() / contrast))
  return np.stack(found)


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_a_linear_generator_is_inverted_in_as_many_steps_as_latents(prior):
  pictures = linear(normal(6, WIDTH, seed=2)) + normal(6, 4, 4, 3, seed=3)
  expected = ridge(pictures, prior)
  found = inversion.invert(linear, origin, pictures, WIDTH, prior)
  # From 0 on the latent grows, so that the error falls as long as the sum does.
  np.testing.assert_allclose(found.latent, expected, rtol=1e-3, atol=1e-4)
  near = inversion.invert(
    linear, lambda _: jnp.float32(expected), pictures, 1, prior
  )
  # And there it stays.
  np.testing.assert_allclose(near.latent, expected, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(near.drawn, linear(near.latent), atol=1e-5)


def test_error_never_rises_with_more_steps():
  def draw(z):
    return jnp.tanh(0.5 * linear(z))

  pictures = draw(normal(16, WIDTH, seed=2))
  guess = normal(16, WIDTH, seed=4)
  errors = np.stack(
    [
      inversion.invert(draw, lambda _: guess, pictures, steps).error
      for steps in range(5)
    ]
  )
  assert (np.diff(errors, axis=0) <= 1e-6).all()
  assert np.median(errors[4]) < 0.8 * np.median(errors[0])
  alone = inversion.relative_error(draw(guess), pictures)
  np.testing.assert_allclose(errors[0], alone, rtol=1e-5)


def test_rows_are_independent_even_of_nan():
  pictures = np.array(normal(4, SIDE, SIDE, 3))
  together = inversion.invert(linear, origin, jnp.asarray(pictures), 3)
  alone = inversion.invert(linear, origin, jnp.asarray(pictures[2:3]), 3)
  for one, other in zip(together, alone, strict=True):
    np.testing.assert_allclose(one[2:3], other, rtol=1e-4, atol=1e-5)
  pictures[0] = np.nan
  found = inversion.search(linear, origin, jnp.asarray(pictures), 3, 10.0)
  np.testing.assert_array_equal(found.counts, [0, 1, 1, 1])
  assert not found.z[0].any() and not found.missed[0].any()
  np.testing.assert_allclose(found.z[1:], together.latent[1:], rtol=1e-5)
  np.testing.assert_allclose(
    linear(found.z[1:]) + found.missed[1:], pictures[1:], atol=1e-5
  )
  assert found.metrics["inverted"] == 0.75
  error = found.metrics["inversion_error"]
  np.testing.assert_allclose(error, np.median(together.error[1:]), rtol=1e-5)


def test_search_has_no_gradient():
  """Or a generator that learns from edits would learn to be inverted."""
  pictures = normal(4, SIDE, SIDE, 3)

  def total(scale):
    draw = lambda z: scale * linear(z)  # noqa: E731
    found = inversion.search(draw, origin, scale * pictures, 2, 10.0)
    return jnp.sum(found.z) + jnp.sum(found.missed) + jnp.sum(found.counts)

  value, slope = jax.value_and_grad(total)(jnp.float32(1.5))
  assert value != 0 and slope == 0


def test_relative_error_is_0_for_the_image_and_1_for_its_mean_colour():
  pictures = normal(3, SIDE, SIDE, 3) + jnp.array([1.0, 2.0, 3.0])
  flat = jnp.broadcast_to(
    jnp.mean(pictures, axis=(1, 2), keepdims=True), pictures.shape
  )
  half = (pictures + flat) / 2
  for drawn, error in ((pictures, 0.0), (half, 0.5), (flat, 1.0)):
    found = inversion.relative_error(drawn, pictures)
    np.testing.assert_allclose(found, [error] * 3, atol=1e-6)
    scaled = inversion.relative_error(7 * drawn - 3, 7 * pictures - 3)
    np.testing.assert_allclose(scaled, found, atol=1e-5)


def test_the_gate_rejects_nan():
  error = jnp.array([0.0, 0.5, 0.51, jnp.nan, jnp.inf])
  np.testing.assert_array_equal(inversion.gate(error, 0.5), [1, 1, 0, 0, 0])
  np.testing.assert_array_equal(
    inversion.gate(error, float("inf")), [1, 1, 1, 0, 0]
  )


def test_complete_adds_the_missed_part_to_every_edit():
  rng = np.random.default_rng(0)
  picture, drawn = (
    rng.integers(60, 196, (2, 4, 4, 3)).astype("f4") / 255 for _ in range(2)
  )
  step = 8 / 255
  edits = jnp.asarray(np.repeat(drawn, 3, axis=0))
  edits = edits.at[1::3].add(step)
  found = inversion.complete(edits, jnp.asarray(picture - drawn))
  for row in range(2):
    for rung, change in enumerate((0, step, 0)):
      np.testing.assert_allclose(
        found[3 * row + rung], picture[row] + change, atol=1e-6
      )
  beyond = inversion.complete(edits + 1, jnp.asarray(picture - drawn))
  assert beyond.max() <= 1


# --------------------------------------------------------------- in drawing


def oracle(model, state, z):
  """The model and the state with an encoder that says `z`."""
  module = types.SimpleNamespace(apply=lambda variables, _: variables["z"])
  model.inverter = pretrained.Network(module, {}, {})
  stats = state.batch_stats | {"inverter": {"z": z}}
  return state.replace(batch_stats=stats)


def without_z(batch):
  return {name: x for name, x in batch.items() if name != "z"}


def test_a_perfect_encoder_gives_the_edits_of_given_latents(generator, batch):
  model = model_of(generator, curriculum="chunk@0")
  model.config.edits.update({"inversion_steps": 0, "inversion_limit": 0.1})
  state = state_of(model)

  def made(state, batch):
    pictures, mel, frames = model.inputs(batch, None)
    args = state.params, state.batch_stats
    maps, _ = model.maps(*args, pictures, mel, frames, train=True)
    return [
      model.edit(kind, KEY, *args, batch, pictures, maps)
      for kind in ("chunk", "gradient")
    ]

  known = jax.jit(made)(state, batch)
  state = oracle(model, state, batch["z"])
  found = jax.jit(lambda *args: made(*args))(state, without_z(batch))
  for one, other in zip(known, found, strict=True):
    assert other[2]["inverted"] == 1 and other[2]["inversion_error"] < 0.02
    np.testing.assert_array_equal(one[1], other[1])
    off = np.abs(one[0] - other[0])
    assert np.mean(off > 1e-3) < 1e-2
    assert off.max() < 2.01 / 255 / 0.224


def test_rejected_images_have_no_weight(generator, batch):
  model = model_of(generator, curriculum="chunk@0", train_generator=True)
  model.config.edits.update({"inversion_steps": 0, "inversion_limit": 0.5})
  state = state_of(model)
  never = np.full_like(batch["z"], np.nan)
  half = np.where(np.arange(B)[:, None] < B // 2, never, batch["z"])
  batch = without_z(batch)
  regular, plain = jax.jit(model.phase_step("regular"))(state, batch)
  step = jax.jit(model.phase_step("chunk"))

  after, metrics = step(oracle(model, state, never), batch)
  assert metrics["inverted"] == metrics["edits"] == 0
  np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-6)
  equal_trees(after.params, regular.params)
  assert same(after.params["generator"], state.params["generator"])

  after, metrics = step(oracle(model, state, half), batch)
  assert metrics["inverted"] == metrics["edits"] == 0.5
  assert all(map(np.isfinite, jax.tree.leaves(metrics)))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))
  assert not same(after.params["generator"], state.params["generator"])


# ------------------------------------------------------------------ records


def test_records_need_no_latent():
  record = {
    "waveform": np.zeros(8, np.int16),
    "image": encode(np.zeros((4, 4, 3), np.uint8)),
    "concept": 1,
    "image_id": 2,
    "speech_id": 3,
  }
  transform = DrawnPairExample(8, False)
  rng = np.random.default_rng(0)
  assert "z" not in transform(record, rng)
  example = transform(record | {"z": [1.0, 2.0]}, rng)
  assert example["z"].dtype == np.float32 and example["z"].tolist() == [1, 2]


def test_records_without_latents_need_an_encoder():
  config = load("solids").get_config("infonce_chunk,smoke")
  config.data.dataset = "stamps"

  def check(*kinds, inverter="", record=()):
    config.edits.inverter = inverter
    phases = dict(enumerate(("regular", *kinds)))
    drawing.check_latents(config, phases, 2, dict(record))

  check()
  check("chunk", record={"z": [0.0, 1.0]})
  with pytest.raises(UserError) as refused:
    check("chunk", record={"z": [0.0, 1.0, 2.0]})
  one_line(refused, "has no latents of config.data.generator")
  check("chunk", "gradient", inverter="inverter.npz")
  with pytest.raises(UserError) as refused:
    check("chunk")
  one_line(refused, "config.data.dataset='stamps'", "config.edits.inverter")
  with pytest.raises(UserError) as refused:
    check("cluster", inverter="inverter.npz")
  one_line(refused, "cluster needs latents", "use gradient")


def test_recordings_are_grouped_by_voice_or_language():
  voices = [{"held_out": False, "language": b"en"}, {"held_out": True}]
  assert {k: v.tolist() for k, v in drawing_words.groups(voices).items()} == {
    "training_voices": [True, False],
    "held_out_voice": [False, True],
  }
  languages = [{"language": b"fr"}, {"language": b"ro"}]
  assert set(drawing_words.groups(languages)) == {"fr", "ro"}
  assert drawing_words.groups([{"id": b"1"}]) == {}
