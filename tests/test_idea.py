"""Pictures and sounds through one representation: networks and steps."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import idea_world
from tests.filling import filled, normal, same
from tests.idea_world import (
  GLOBAL_MAX,
  MAKE_MESH,
  SPECTROGRAM,
  TOWER,
  records,
  small,
)
from tests.placing import placed
from tests.test_options import load
from vgsgan.data import features
from vgsgan.evals import generated
from vgsgan.models import decoders, mixture
from vgsgan.parallel import mesh
from vgsgan.tasks import idea
from vgsgan.train.step import jit_step

KEY = jax.random.key(6)

quick_to_compile = idea_world.quick_to_compile


def batch_of(config, many=8):
  transform = idea.example(config.data)
  rng = np.random.default_rng(0)
  rows = [transform(x, rng) for x in records(many)]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def lively(state):
  """Without scales below 0, after which a ReLU may let nothing through."""

  def lift(path, x):
    scale = jax.tree_util.keystr(path[-1:], simple=True) == "scale"
    return 0.5 + jnp.abs(x) if scale else x

  return jax.tree_util.tree_map_with_path(lift, state)


def with_sgd(model, rate=0.1):
  """A random state, and plain slopes for updates.

  A discriminator tells pairs well apart.
  """
  model.tx = {name: optax.sgd(rate) for name in model.modules}
  made = lively(filled(jax.eval_shape(model.init, KEY), scale=0.3))
  opt_state = {
    name: tx.init(made.params[name]) for name, tx in model.tx.items()
  }
  made.batch_stats["average"]["params"] = made.params["generator"]
  if "discriminator" in made.params:
    last = made.params["discriminator"]["fc2"]
    last["kernel"] = 3 * last["kernel"]
  return made.replace(step=jnp.int32(0), opt_state=opt_state)


@pytest.fixture(scope="module")
def game():
  """The variant in which all parts of the loss are."""
  config = small("vae-gan", kl_weight=0.3, weight=0.7, drop=0.4)
  model = idea.Idea(config)
  batch = batch_of(config)
  # Two rows are of one clip: neither's sound is wrong for the other.
  batch["clip_id"] = jnp.array([0, 1, 2, 3, 4, 2, 6, 7])
  return model, with_sgd(model), jax.jit(model.step), batch


@pytest.fixture(scope="module")
def told(game):
  """What a state makes of pairs of which some are kept, as a function."""
  model, state, _, batch = game

  @jax.jit
  def run(pair, keep):
    latent = model.encode(state, pair, keep)
    return latent, model.decode(state, latent)

  return run, jax.jit(model.pair)(batch)


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_dropped_modality_has_no_influence(told, dropped):
  run, pair = told
  keep = np.ones((8, 2), bool)
  keep[:, dropped] = False
  other = list(pair)
  other[dropped] = jnp.asarray(normal(*pair[dropped].shape))
  same_latent, same_pair = run(tuple(other), keep)
  latent, made = run(pair, keep)
  np.testing.assert_array_equal(latent, same_latent)
  for one, two in zip(made, same_pair, strict=True):
    np.testing.assert_array_equal(one, two)
  # What is kept has, and so has what was dropped, if it is not.
  whole, _ = run(pair, np.ones((8, 2), bool))
  assert np.mean(np.abs(whole - latent).max(1) > 1e-3) > 0.5
  other = list(pair)
  other[1 - dropped] = jnp.asarray(normal(*pair[1 - dropped].shape))
  moved, _ = run(tuple(other), keep)
  assert np.mean(np.abs(moved - latent).max(1) > 1e-3) > 0.5


def test_modalities_are_dropped_row_by_row(told):
  run, pair = told
  keep = np.ones((8, 2), bool)
  keep[2, 0] = keep[5, 1] = False
  mixed, _ = run(pair, keep)
  for row, kept in ((2, [False, True]), (5, [True, False]), (0, [True, True])):
    alone, _ = run(pair, np.broadcast_to(kept, (8, 2)))
    np.testing.assert_allclose(mixed[row], alone[row], rtol=1e-5, atol=1e-6)


def dense_logits(model, params, stats, pairs, clip):
  """Logits of (picture, sound) features, by the two layers written out."""
  network = model.modules["discriminator"]
  variables = {"params": params, "batch_stats": stats}
  real, drawn = pairs
  both = tuple(np.concatenate(x) for x in zip(real, drawn, strict=True))
  embed = jax.jit(
    lambda both: network.apply(
      variables, both, True, method="embed", mutable=["batch_stats"]
    )
  )
  (pictures, sounds), _ = embed(tuple(map(jnp.asarray, both)))
  pictures, sounds = np.float64(pictures), np.float64(sounds)
  fc1, fc2 = (
    {k: np.float64(v) for k, v in params[name].items()}
    for name in ("fc1", "fc2")
  )

  def logit(picture, sound):
    hidden = np.concatenate([pictures[picture], sounds[sound]]) @ fc1["kernel"]
    return np.maximum(hidden + fc1["bias"], 0) @ fc2["kernel"] + fc2["bias"]

  b = len(real[0])
  return {
    "matched": [logit(i, i)[0] for i in range(b)],
    "drawn": [logit(b + i, b + i)[0] for i in range(b)],
    "mismatched": [
      [logit(i, j)[0] for j in range(b) if clip[j] != clip[i]] for i in range(b)
    ],
  }


def shown_by_hand(inputs, made, keep):
  """What is kept alone stands beside what was made of it."""
  shown = [np.array(x) for x in made]
  for row, (picture, sound) in enumerate(np.asarray(keep)):
    if not sound:
      shown[0][row] = inputs[0][row]
    if not picture:
      shown[1][row] = inputs[1][row]
  return shown


def test_pair_features_are_the_maxima_of_their_maps():
  maps = {"picture": normal(3, 2, 2, 4), "sound": normal(3, 3, 2, 4, seed=2)}
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(mixture, "global_max", GLOBAL_MAX)
    seen = mixture.PairDiscriminator.embed(
      types.SimpleNamespace(
        picture=lambda x, train: maps["picture"],
        sound=lambda x, train: maps["sound"],
      ),
      (normal(3, 8, 8, 3), normal(3, 16, 8, 1)),
      False,
    )
  for got, map_ in zip(seen, maps.values(), strict=True):
    expected = [
      [max(row[..., c].ravel()) for c in range(4)] for row in np.asarray(map_)
    ]
    np.testing.assert_array_equal(got, np.float32(expected))


def test_three_kinds_of_pairs_have_the_right_targets(game):
  """Only real pairs that match are real, to the loss that is minimised."""
  model, state, step, batch = game
  params, stats = state.params, state.batch_stats
  inputs = jax.jit(model.inputs)(batch)
  noise = model.noise(jnp.int32(0), 8)
  generate = jax.jit(model.generate)
  (made, known), _ = generate(
    params["generator"], stats["generator"], inputs, noise
  )
  keep = np.asarray(noise.keep)
  assert not keep.all() and keep.all(1).any()
  shown = shown_by_hand(inputs.pair, made, keep)
  clip = np.asarray(batch["clip_id"])
  logits = dense_logits(
    model,
    params["discriminator"],
    stats["discriminator"],
    (inputs.pair, shown),
    clip,
  )
  told, _ = jax.jit(functools.partial(model.apply, "discriminator"))(
    params["discriminator"],
    stats["discriminator"],
    inputs.pair,
    tuple(map(jnp.asarray, shown)),
    inputs.clip,
  )
  apart = [[j for j in range(8) if clip[j] != clip[i]] for i in range(8)]
  assert sorted(map(len, apart)) == [6, 6, 7, 7, 7, 7, 7, 7]
  found = told._asdict() | {
    "mismatched": [told.mismatched[i][np.array(apart[i])] for i in range(8)]
  }
  for name, values in logits.items():
    for got, value in zip(found[name], values, strict=True):
      np.testing.assert_allclose(got, value, rtol=1e-3, atol=1e-4)
  real = {
    name: [1 / (1 + np.exp(-np.array(row))) for row in rows]
    for name, rows in logits.items()
  }
  expected = -np.mean(np.log(real["matched"]))
  for name in ("drawn", "mismatched"):
    expected -= 0.5 * np.mean([np.mean(np.log(1 - x)) for x in real[name]])
  _, metrics = step(state, batch)
  assert float(metrics["loss_discriminator"]) == pytest.approx(
    expected, rel=1e-3
  )
  for name, target in (("matched", 1), ("drawn", 0), ("mismatched", 0)):
    right = np.mean((np.hstack(real[name]) > 0.5) == target)
    assert float(metrics[f"right_{name}"]) == pytest.approx(right)

  value, _ = jax.jit(model.generator_loss)(
    params["generator"], params, stats, inputs, noise
  )
  variance = np.exp(np.float64(known.log_variance))
  kl = variance + np.square(np.float64(known.mean)) - 1 - np.log(variance)
  errors = [
    np.mean((np.float64(a) - np.float64(b)) ** 2)
    for a, b in zip(made, inputs.pair, strict=True)
  ]
  expected = 0.7 * sum(errors) + 0.3 * kl.sum(1).mean() / 2
  expected -= np.log(real["drawn"]).mean()
  assert float(value) == pytest.approx(expected, rel=1e-3)


def test_the_discriminator_moves_first_and_each_by_its_own_loss(game):
  model, state, step, batch = game
  after, metrics = step(state, batch)
  for name in ("generator", "discriminator"):
    # Plain slopes: the update is the gradient whose length is logged.
    moved = [
      np.float64(a) - np.float64(b)
      for a, b in zip(
        jax.tree.leaves(state.params[name]),
        jax.tree.leaves(after.params[name]),
        strict=True,
      )
    ]
    length = np.sqrt(sum(np.sum(x**2) for x in moved))
    assert length == pytest.approx(
      0.1 * float(metrics[f"grad_norm_{name}"]), rel=1e-3
    )
  # The generator's part is judged by the discriminator after its update.
  inputs, noise = jax.jit(model.inputs)(batch), model.noise(jnp.int32(0), 8)
  loss = jax.jit(model.generator_loss)
  found = [
    float(
      loss(
        state.params["generator"],
        state.params | {"discriminator": d},
        state.batch_stats,
        inputs,
        noise,
      )[0]
    )
    for d in (state.params["discriminator"], after.params["discriminator"])
  ]
  logged = float(metrics["loss_generator"])
  assert abs(found[1] - logged) < 1e-3 * abs(logged)
  assert abs(found[0] - logged) > abs(found[1] - logged)


def test_the_default_networks_fit_the_default_data():
  config = load("generation").get_config("idea-vae-gan")
  with pytest.MonkeyPatch.context() as patched:
    for module in (decoders, mixture):
      patched.setattr(module, "tower", TOWER)
    patched.setattr(features, "spectrogram", SPECTROGRAM)
    model = idea.Idea(config)
    state = jax.eval_shape(model.init, KEY)
  pair = model.nothing()
  assert [x.shape for x in pair] == [(2, 32, 32, 3), (2, 96, 64, 1)]
  kernels = state.params["discriminator"]
  # L3-Net: two maxima side by side, 128 units, one logit.
  assert kernels["fc1"]["kernel"].shape == (64 + 64, 128)
  assert kernels["fc2"]["kernel"].shape == (128, 1)
  assert set(kernels) == {"picture", "sound", "fc1", "fc2"}


def test_plain_autoencoders_have_no_discriminator(game):
  model = idea.Idea(small("ae"))
  assert set(model.modules) == {"generator"}
  assert model.noise(jnp.int32(0), 4).latent is None
  state = jax.eval_shape(model.init, KEY)
  assert set(state.params) == {"generator"}
  assert set(game[1].params) == {"generator", "discriminator"}


def test_steps_are_equal_on_1_and_8_devices(game, monkeypatch):
  model, state, step, batch = game
  one, metrics = jax.device_get(step(state, batch))
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  devices = MAKE_MESH(8, model=2)
  there = placed(state, devices)
  update = jit_step(model.step, there, devices)
  eight, others = jax.device_get(update(there, mesh.shard(batch, devices)))
  for name in metrics:
    np.testing.assert_allclose(
      metrics[name], others[name], rtol=1e-3, atol=1e-5, err_msg=name
    )
  for a, b in zip(
    jax.tree.leaves((one.params, one.batch_stats)),
    jax.tree.leaves((eight.params, eight.batch_stats)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
  assert not same(one.params, jax.device_get(state.params))


def test_each_modality_is_learned_from_the_other():
  """On a few pairs: errors fall far below those of the mean clip."""
  config = small("ae", picture_decoder=(16,), sound_decoder=(16,), drop=0.45)
  config.idea.widths = (8,)
  model = idea.Idea(config)
  model.tx = {"generator": optax.adam(1e-2)}
  state, step = jax.jit(model.init)(KEY), jax.jit(model.step)
  batch = batch_of(config, 12)
  first = None
  for _ in range(240):
    state, metrics = step(state, batch)
    first = first or jax.device_get(metrics)
  assert float(metrics["loss"]) < 0.3 * float(first["loss"])

  @functools.partial(jax.jit, static_argnums=1)
  def errors(batch, kept):
    pair = model.pair(batch)
    keep = jnp.broadcast_to(jnp.array(kept), (12, 2))
    made = model.decode(state, model.encode(state, pair, keep))
    return pair, made

  for kept in ((True, False), (False, True)):
    for real, made in zip(*errors(batch, kept), strict=True):
      found = generated.squared_error(np.asarray(real), np.asarray(made))
      assert found["value"] < 0.5 * found["chance"], kept
