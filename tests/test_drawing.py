"""Drawing: edits inside the step, on any devices, and what they teach."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import drawing_world
from tests.drawing_world import KEY, MAKE_MESH, RATE, B, model_of, on, state_of
from tests.filling import same
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.losses import scores
from vgsgan.negatives import impostors
from vgsgan.parallel import mesh
from vgsgan.tasks import drawing
from vgsgan.train.step import jit_step

quick_to_compile = drawing_world.quick_to_compile
generator = drawing_world.generator
records = drawing_world.records
batch = drawing_world.batch


# ------------------------------------------------------- edits, by the model


def edits_of(model, state, batch, key):
  """Every kind of edit of a batch, with the scores of some."""
  pictures, mel, frames = model.inputs(batch, None)
  args = state.params, state.batch_stats
  maps, _ = model.maps(*args, pictures, mel, frames, train=True)
  made = {
    kind: model.edit(kind, key, *args, batch, pictures, maps)
    for kind in impostors.KINDS
  }
  shown = {"drawn": model.draw(*args)(batch["z"], {}), "real": pictures}
  seen = {k: made[k][0] for k in ("random", "gradient")}
  score = {
    name: scores.paired(model.score, model.edit_maps(*args, x), *maps[1:])
    for name, x in (seen | {"real": pictures}).items()
  }
  return made, shown, score


@pytest.fixture(scope="module")
def editing(generator):
  """A model, its state, and `edits_of` on 1 and 8 devices, compiled once."""
  model = model_of(generator)
  run = jax.jit(functools.partial(edits_of, model))

  def on_devices(devices, state, batch, key=KEY):
    return jax.device_get(run(*on(MAKE_MESH(devices), state, batch), key))

  return model, state_of(model), on_devices


def test_every_edit_is_equal_on_1_and_8_devices(editing, batch):
  _, state, run = editing
  (one, shown, _), (eight, _, _) = (run(n, state, batch) for n in (1, 8))
  real = shown["real"]
  assert set(one) == set(impostors.KINDS)
  for kind, (pictures, weight, metrics) in one.items():
    others, weights, figures = eight[kind]
    assert pictures.shape == real.shape and weight.shape == (B,)
    np.testing.assert_array_equal(weight, weights, err_msg=kind)
    assert weight.tolist() == [1] * B  # Any change is enough here.
    # Rounding decides here and there about one of the 255 steps of a pixel.
    off = np.abs(pictures - others) > 1e-3
    assert off.mean() < 1e-3, kind
    assert np.abs(pictures - others).max() < 1.01 / 255 / 0.224, kind
    for name, value in metrics.items():
      np.testing.assert_allclose(value, figures[name], rtol=1e-3, atol=1e-5)
    assert 0 < metrics["region"] <= 1 and metrics["rung"] == 0
    assert np.isfinite(metrics["change"]) and metrics["change"] > 0
    for i in range(B):
      assert np.abs(pictures[i] - real[i]).max() > 1 / 255 / 0.224, (kind, i)


def test_a_pair_without_an_edit_keeps_its_image(editing, batch):
  _, state, run = editing
  _, shown, _ = run(1, state, batch)
  off = np.abs(shown["drawn"] - shown["real"])
  assert np.mean(off > 1e-4) < 1e-3
  assert off.max() < 1.01 / 255 / 0.224


def test_every_row_draws_its_own_negatives_on_its_device(editing, batch):
  _, state, run = editing
  alike = {name: np.repeat(x[:1], B, axis=0) for name, x in batch.items()}
  made, _, _ = run(8, state, alike)
  different = {
    kind: len({row.round(2).tobytes() for row in pictures})
    for kind, (pictures, _, _) in made.items()
  }
  for kind in ("random", "gaussian", "chunk"):
    assert different[kind] == B, different
  assert different["direction"] > 1
  # And what is computed of the row alone is the same for all.
  assert different["cluster"] == different["gradient"] == 1


def test_keys_change_random_edits_alone(editing, batch):
  _, state, run = editing
  one, _, _ = run(1, state, batch)
  other, _, _ = run(1, state, batch, jax.random.key(9))
  for kind in impostors.KINDS:
    equal = np.array_equal(one[kind][0], other[kind][0])
    assert equal == (kind in ("cluster", "gradient")), kind


def test_attributed_units_lower_the_score_more_than_random_ones(
  editing, batch, learning
):
  _, state, run = editing
  for _ in range(10):
    state, _ = learning.step("regular")(state, batch, learning.changes)
  falls = {"random": [], "gradient": []}
  for seed in range(5):
    _, _, score = run(1, state, batch, jax.random.key(seed))
    for kind, found in falls.items():
      found.append(np.mean(score["real"] - score[kind]))
  assert np.mean(falls["gradient"]) > max(0, 1.5 * np.mean(falls["random"]))


# --------------------------------------------------------------- whole steps


class Learning:
  """Steps of a model whose least changes are an argument."""

  def __init__(self, model):
    self.model = model
    self.state = state_of(model)
    self.changes = jnp.zeros(2)
    self.never = jnp.full(2, jnp.inf)
    self.step = functools.cache(
      lambda kind: jax.jit(functools.partial(self.plain_step, kind))
    )

  def plain_step(self, kind, state, batch, changes):
    model = copy.copy(self.model)
    model.attempts = model.attempts._replace(changes=changes)
    return model.phase_step(kind)(state, batch)


@pytest.fixture(scope="module")
def learning(generator):
  return Learning(model_of(generator))


def test_every_kind_of_step_keeps_the_shapes_of_the_state(learning, batch):
  state = learning.state
  for kind in ("regular", *impostors.KINDS):
    after, metrics = jax.eval_shape(
      learning.model.phase_step(kind), state, batch
    )
    shape = lambda x: (np.shape(x), np.asarray(x).dtype)  # noqa: E731
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
      shape, state
    )
    more = {"change", "rung", "region", "edits", "edited"}
    assert (
      more <= set(metrics) if kind != "regular" else not more & set(metrics)
    )


def test_a_step_learns_and_the_frozen_generator_stays(learning, batch):
  state = learning.state
  after, metrics = learning.step("random")(state, batch, learning.changes)
  assert all(map(np.isfinite, jax.tree.leaves(metrics)))
  assert metrics["edits"] == 1 and 0 <= metrics["edited"] <= 1
  assert set(after.params) == {"speech", "image"}
  for name in ("speech", "image"):
    assert not same(after.params[name], state.params[name])
  for name in ("generator", "generator_params", "concepts"):
    assert same(after.batch_stats[name], state.batch_stats[name])
  assert not same(after.batch_stats["speech"], state.batch_stats["speech"])


def test_an_edit_that_never_counts_leaves_the_regular_update(learning, batch):
  state = learning.state
  never, metrics = learning.step("random")(state, batch, learning.never)
  counts, _ = learning.step("random")(state, batch, learning.changes)
  regular, plain = learning.step("regular")(state, batch, learning.never)
  assert metrics["edits"] == metrics["edited"] == 0
  np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-6)
  equal_trees(never, regular)
  assert not nearly(counts.params, regular.params)


def test_an_edit_of_an_unknown_latent_never_counts(learning, batch):
  unknown = batch | {"z": np.full_like(batch["z"], np.nan)}
  regular, _ = learning.step("regular")(learning.state, batch, learning.never)
  after, metrics = learning.step("random")(
    learning.state, unknown, learning.changes
  )
  assert metrics["edits"] == 0
  equal_trees(after, regular)


def test_info_nce_ignores_edits_that_do_not_count(generator, batch):
  learning = Learning(model_of(generator, loss="infonce"))

  # Without the update, which is most of what there is to compile.
  @functools.partial(jax.jit, static_argnums=0)
  def loss(kind, state, batch, changes):
    return learning.plain_step(kind, state, batch, changes)[1]["loss"]

  regular, never, counts = (
    float(loss(kind, learning.state, batch, changes))
    for kind, changes in (
      ("regular", learning.never),
      ("random", learning.never),
      ("random", learning.changes),
    )
  )
  np.testing.assert_allclose(never, regular, rtol=1e-6)
  # One more impostor can only raise it.
  assert counts > 1.001 * never


def nearly(one, other, atol=1e-6):
  return all(
    np.allclose(a, b, rtol=1e-5, atol=atol)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  )


@pytest.mark.parametrize("kind", impostors.KINDS)
def test_edits_are_not_normalised_by_statistics_of_their_own(kind):
  """Rows would be mixed, and originals normalised by other statistics."""
  config = drawing_world.small("", curriculum=f"regular@0,{kind}@5")
  drawing.check(config)
  config.image.norm = "batch"
  with pytest.raises(UserError) as refused:
    drawing.check(config)
  said = "config.image.norm='batch'", "set it to group"
  drawing_world.one_line(refused, *said)
  # Without edits nothing is compared.
  config.edits.curriculum, config.loss.name = "regular@0", "regular"
  drawing.check(config)


def equal_trees(one, other, rtol=1e-5, atol=1e-6):
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(one),
    jax.tree.leaves(other),
    strict=True,
  ):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def trained(generator):
  """Learning with a generator that learns, of pictures that are not rounded."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(features, "quantize", lambda pixels: pixels)
    yield Learning(model_of(generator, train_generator=True))


def test_the_generator_follows_the_slope_of_the_loss(trained, batch):
  state, step = trained.state, trained.step("random")
  assert "generator_params" not in state.batch_stats
  after, _ = step(state, batch, trained.changes)
  slope = jax.tree.map(
    lambda a, b: np.float64(a - b) / RATE,
    state.params["generator"],
    after.params["generator"],
  )
  assert same(after.batch_stats["generator"], state.batch_stats["generator"])
  length = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(slope)))
  assert length > 1e-3

  def loss(along):
    weights = jax.tree.map(
      lambda a, b: np.float32(a + along / length * b),
      state.params["generator"],
      slope,
    )
    params = state.params | {"generator": weights}
    moved = state.replace(params=params)
    return float(step(moved, batch, trained.changes)[1]["loss"])

  # As short as float32 allows: the loss has many corners.
  reach = 2e-4
  found = (loss(reach) - loss(-reach)) / (2 * reach)
  np.testing.assert_allclose(found, length, rtol=0.03)
  # An edit that does not count teaches the generator nothing.
  never, _ = step(state, batch, trained.never)
  assert same(never.params["generator"], state.params["generator"])
  assert not same(never.params["image"], state.params["image"])


def test_a_step_is_equal_on_1_and_8_devices(trained, batch, monkeypatch):
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  model = copy.copy(trained.model)
  model.mesh = MAKE_MESH(8, model=2)
  there = on(model.mesh, trained.state, batch)
  step = jit_step(model.phase_step("random"), there[0], model.mesh)
  eight, others = jax.device_get(step(*there))
  one, metrics = jax.device_get(
    trained.step("random")(trained.state, batch, trained.changes)
  )
  for name, value in metrics.items():
    np.testing.assert_allclose(
      value, others[name], rtol=1e-3, atol=1e-5, err_msg=name
    )
  equal_trees(one.batch_stats, eight.batch_stats, rtol=1e-3, atol=1e-5)
  old = trained.state.params
  for name in ("speech", "image", "generator"):
    moved, other = (
      np.concatenate(
        [
          np.ravel(a - b)
          for a, b in zip(
            jax.tree.leaves(after.params[name]),
            jax.tree.leaves(old[name]),
            strict=True,
          )
        ]
      )
      for after in (one, eight)
    )
    assert np.linalg.norm(moved) > 1e-3
    # A unit at its ReLU's corner may fall to either side of it.
    off = np.linalg.norm(moved - other) / np.linalg.norm(moved)
    assert off < 5e-3, name
