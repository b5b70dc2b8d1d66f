"""Pictures and sounds through one representation: networks, steps, runs."""

import functools
import json
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.filling import filled, normal, quick_jit, same
from tests.placing import placed
from tests.test_options import load
from vgsgan import data, judges, mesh, trainer
from vgsgan.data import features
from vgsgan.data.builders.scenes import encode
from vgsgan.errors import UserError
from vgsgan.evals import generated
from vgsgan.evals.generated import Clips
from vgsgan.models import decoders, mixture
from vgsgan.models.layers import Norm
from vgsgan.tasks import idea, idea_figures

KEY = jax.random.key(6)
MAKE_MESH = mesh.make_mesh
SAMPLES = 1600
COLOURS = ((230, 40, 40), (40, 200, 60), (60, 80, 230))
TONES = (300.0, 900.0, 2400.0)  # Hertz.


TOWER, GLOBAL_MAX = decoders.tower, mixture.global_max
SPECTROGRAM = features.spectrogram


class ShortTower(nn.Module):
  """Squares of 4 x 4 numbers, one layer: quicker to compile than L3-Net's."""

  units: int

  @nn.compact
  def __call__(self, x, train):
    b, h, w, c = x.shape
    x = x.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
    x = nn.Dense(self.units)(x.reshape(b, h // 4, w // 4, -1))
    return nn.relu(Norm(name="norm")(x, train))


def short_spectrogram(waveform, num_samples, *, frames, num_mels, **_):
  """As for how it follows the clip: levels of differences of the samples."""
  step = waveform.shape[1] // frames
  sound = waveform[:, : step * frames].reshape(-1, frames, step) / 16384.0
  bands = [
    jnp.std(sound[..., k:] - sound[..., :-k], axis=-1)
    for k in range(1, num_mels + 1)
  ]
  return jnp.tanh(jnp.stack(bands, axis=-1) - 0.5)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
  with pytest.MonkeyPatch.context() as patched:
    for module in (decoders, mixture):
      patched.setattr(
        module, "tower", lambda widths, pools, dtype: ShortTower(widths[-1])
      )
    patched.setattr(features, "spectrogram", short_spectrogram)
    # The gradient of a maximum goes where x equals it, which code that was not
    # optimised may compute anew, and round in another way.
    patched.setattr(mixture, "global_max", lambda x: jnp.mean(x, (1, 2)))
    yield


def small(kind, **fields):
  """A config of few numbers: 8 pixels, a fifth of a second, 8 bands."""
  config = load("generation").get_config(f"idea-{kind},smoke")
  config.data.update({"image_size": 8, "sample_rate": 8000, "seconds": 0.2})
  config.data.update({"frames": 16, "num_mels": 8, "num_threads": 1})
  config.idea.update({"picture_decoder": (4,), "sound_decoder": (4,)})
  config.idea.update({"widths": (4,), "pools": 1, "latent": 5, "features": 6})
  config.idea.update(fields)
  config.train.update({"batch": 8, "steps": 4, "log_every": 1})
  config.train.update({"eval_every": 2, "save_every": 2})
  config.eval.update({"batch": 4, "fitted": 12})
  return config


def record(number, rng):
  """A noisy colour and the tone that goes with it, of 0.3 s."""
  label = number % 3
  picture = np.array(COLOURS[label]) + rng.normal(0, 8, (8, 8, 3))
  time = np.arange(2400) / 8000
  sound = 0.3 * np.sin(2 * np.pi * (TONES[label] * time + rng.random()))
  sound += rng.normal(0, 0.01, sound.shape)
  return {
    "id": f"{number}".encode(),
    "clip_id": number,
    "image": encode(np.clip(picture, 0, 255).astype(np.uint8)),
    "waveform": (32767 * sound).astype(np.int16),
    "labels": np.array([label], np.int32),
  }


def records(many, seed=0):
  rng = np.random.default_rng(seed)
  return [record(number, rng) for number in range(many)]


def splits():
  return {
    "train": records(24, 0),
    "validation": records(9, 1),
    "test": records(10, 2),
  }


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
  return model, with_sgd(model), quick_jit(model.step), batch_of(config)


# ----------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def told(game):
  """What a state makes of pairs of which some are kept, as a function."""
  model, state, _, batch = game

  @quick_jit
  def run(pair, keep):
    latent = model.encode(state, pair, keep)
    return latent, model.decode(state, latent)

  return run, quick_jit(model.inputs)(batch)


@pytest.mark.parametrize("dropped", [0, 1])
def test_what_is_dropped_has_no_influence(told, dropped):
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


def test_each_row_is_dropped_by_itself(told):
  run, pair = told
  keep = np.ones((8, 2), bool)
  keep[2, 0] = keep[5, 1] = False
  mixed, _ = run(pair, keep)
  for row, kept in ((2, [False, True]), (5, [True, False]), (0, [True, True])):
    alone, _ = run(pair, np.broadcast_to(kept, (8, 2)))
    np.testing.assert_allclose(mixed[row], alone[row], rtol=1e-5, atol=1e-6)


def dense_logits(model, params, stats, pairs):
  """Logits of (picture, sound) features, by the two layers written out."""
  network = model.modules["discriminator"]
  variables = {"params": params, "batch_stats": stats}
  real, drawn = pairs
  both = tuple(np.concatenate(x) for x in zip(real, drawn, strict=True))
  look = quick_jit(
    lambda both: network.apply(
      variables, both, True, method="look", mutable=["batch_stats"]
    )
  )
  (pictures, sounds), _ = look(tuple(map(jnp.asarray, both)))
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
      [logit(i, j)[0] for j in range(b) if j != i] for i in range(b)
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


def test_pairs_are_judged_by_the_largest_values_of_their_maps():
  maps = {"picture": normal(3, 2, 2, 4), "sound": normal(3, 3, 2, 4, seed=2)}
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(mixture, "global_max", GLOBAL_MAX)
    seen = mixture.PairDiscriminator.look(
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
  inputs = quick_jit(model.inputs)(batch)
  key = jax.random.fold_in(jax.random.key(model.config.seed), 0)
  chances = model.chances(key, 8)
  generate = quick_jit(model.generate)
  (made, known), _ = generate(
    params["generator"], stats["generator"], inputs, chances
  )
  keep = np.asarray(chances.keep)
  assert not keep.all() and keep.all(1).any()
  shown = shown_by_hand(inputs, made, keep)
  logits = dense_logits(
    model, params["discriminator"], stats["discriminator"], (inputs, shown)
  )
  told, _ = quick_jit(functools.partial(model.apply, "discriminator"))(
    params["discriminator"],
    stats["discriminator"],
    inputs,
    tuple(map(jnp.asarray, shown)),
  )
  for name, values in logits.items():
    np.testing.assert_allclose(
      getattr(told, name), values, rtol=1e-3, atol=1e-4
    )
  real = {k: 1 / (1 + np.exp(-np.array(x))) for k, x in logits.items()}
  expected = -np.mean(np.log(real["matched"]))
  expected -= 0.5 * np.mean(np.log(1 - real["drawn"]))
  expected -= 0.5 * np.mean(np.log(1 - real["mismatched"]))
  _, metrics = step(state, batch)
  assert float(metrics["loss_discriminator"]) == pytest.approx(
    expected, rel=1e-3
  )
  for name, target in (("matched", 1), ("drawn", 0), ("mismatched", 0)):
    right = np.mean((real[name] > 0.5) == target)
    assert float(metrics[f"right_{name}"]) == pytest.approx(right)

  value, _ = quick_jit(model.generator_loss)(
    params["generator"], params, stats, inputs, chances
  )
  variance = np.exp(np.float64(known.log_variance))
  kl = variance + np.square(np.float64(known.mean)) - 1 - np.log(variance)
  errors = [
    np.mean((np.float64(a) - np.float64(b)) ** 2)
    for a, b in zip(made, inputs, strict=True)
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
  key = jax.random.fold_in(jax.random.key(model.config.seed), 0)
  inputs, chances = (
    quick_jit(model.inputs)(batch),
    model.chances(key, 8),
  )
  loss = quick_jit(model.generator_loss)
  found = [
    float(
      loss(
        state.params["generator"],
        state.params | {"discriminator": d},
        state.batch_stats,
        inputs,
        chances,
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


def test_without_an_adversary_there_is_none(game):
  model = idea.Idea(small("ae"))
  assert set(model.modules) == {"generator"}
  assert model.chances(KEY, 4).noise is None
  state = jax.eval_shape(model.init, KEY)
  assert set(state.params) == {"generator"}
  assert set(game[1].params) == {"generator", "discriminator"}


def test_eight_devices_do_as_one(game, monkeypatch):
  model, state, step, batch = game
  one, metrics = jax.device_get(step(state, batch))
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  devices = MAKE_MESH(8, model=2)
  there = placed(state, devices)
  monkeypatch.setattr(jax, "jit", quick_jit)
  update = trainer.jit_step(model.step, there, devices)
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


def test_either_is_learned_from_the_other():
  """On a few pairs: errors fall far below those of the mean clip."""
  config = small("ae", picture_decoder=(16,), sound_decoder=(16,), drop=0.45)
  config.idea.widths = (8,)
  model = idea.Idea(config)
  model.tx = {"generator": optax.adam(1e-2)}
  state, step = quick_jit(model.init)(KEY), quick_jit(model.step)
  batch = batch_of(config, 12)
  first = None
  for _ in range(240):
    state, metrics = step(state, batch)
    first = first or jax.device_get(metrics)
  assert float(metrics["loss"]) < 0.3 * float(first["loss"])

  @functools.partial(quick_jit, static_argnums=1)
  def errors(batch, kept):
    pair = model.inputs(batch)
    keep = jnp.broadcast_to(jnp.array(kept), (12, 2))
    made = model.decode(state, model.encode(state, pair, keep))
    return pair, made

  for kept in ((True, False), (False, True)):
    for real, made in zip(*errors(batch, kept), strict=True):
      found = generated.squared_error(np.asarray(real), np.asarray(made))
      assert found["value"] < 0.5 * found["chance"], kept


# ------------------------------------------------------------------ figures


def ideal_judges():
  """Of colours and tones: the class is the nearest, pairs match if equal."""

  def image(pixels):
    features = pixels.mean((1, 2))
    away = np.abs(features[:, None] - np.array(COLOURS) / 255.0).sum(2)
    return features, -away

  def audio(spectrograms):
    features = spectrograms.mean(1)
    return features, features[:, [1, 4, 7]]

  def match(pixels, spectrograms):
    one, other = image(pixels)[1], audio(spectrograms)[1]
    return np.where(one.argmax(1) == other.argmax(1), 2.0, -3.0)

  return judges.Judges(image=image, audio=audio, match=match)


def clips_of(labels, rng):
  """Clips that `ideal_judges` understand."""
  pictures = np.array(COLOURS)[labels][:, None, None] / 127.5 - 1
  sounds = -np.ones((len(labels), 16, 8))
  for row, label in zip(sounds, labels, strict=True):
    row[:, (1, 4, 7)[label]] = 1
  pictures = pictures + rng.normal(0, 0.02, (len(labels), 8, 8, 3))
  return Clips(
    np.float32(pictures), np.float32(sounds + rng.normal(0, 0.02, sounds.shape))
  )


def test_judged_figures_of_clips_whose_classes_are_known():
  rng = np.random.default_rng(0)
  labels = np.array([0, 1, 2, 1, 0, 2, 1, 1, 0, 2, 0, 1])
  wrong = np.array([0, 1, 2, 1, 0, 2, 2, 2, 1, 0, 2, 0])  # Half of them.
  # Like those in a third.
  partly = np.where(np.arange(12) < 4, wrong, (wrong + 1) % 3)
  real, other = clips_of(labels, rng), clips_of(wrong, rng)
  third = clips_of(partly, rng)
  made = {
    "from_both": clips_of(labels, rng),
    "from_picture": Clips(third.picture, other.sound),
    "from_sound": Clips(other.picture, third.sound),
    "sampled": other,
  }
  found = idea_figures.judged(
    ideal_judges(), real, np.stack([labels, np.full(12, -1)], 1), made
  )
  accuracy = {k: x["value"] for k, x in found["match"]["accuracy"].items()}
  assert accuracy == {
    "from_both": 1.0,
    "from_picture": pytest.approx(1 / 3),
    "from_sound": pytest.approx(1 / 3),
    "sampled": 1.0,  # Wrong, but of one mind.
    "given_picture": 0.5,
    "given_sound": 0.5,
  }
  apart = np.mean(labels == np.roll(labels, 1))
  for figure in found["match"]["accuracy"].values():
    assert figure["real"] == 1 and figure["mismatched"] == apart
  assert found["match"]["score"]["given_sound"]["value"] == -0.5
  for name in ("picture_from_sound", "sound_from_picture"):
    figure = found["class"][name]
    assert (figure["value"], figure["real"]) == (0.5, 1.0)
    assert figure["chance"] == pytest.approx(np.bincount(labels).max() / 12)
  for part in ("picture", "sound", "pair"):
    assert set(found[part]["frechet"]) == set(made)


def test_what_does_not_belong_together_shows_in_pairs_alone():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 400)
  real, again = clips_of(labels, rng), clips_of(labels, rng)
  shuffled = Clips(again.picture, again.sound[rng.permutation(400)])
  made = {"again": again, "shuffled": shuffled}
  found = idea_figures.likeness(
    *idea_figures.looked(idea_figures.coarse, real, made)
  )
  away = {
    part: {name: x["value"] for name, x in figures["frechet"].items()}
    for part, figures in found.items()
  }
  for part in ("picture", "sound"):
    assert away[part]["shuffled"] < 2 * away[part]["again"] + 0.05
  assert away["pair"]["shuffled"] > 20 * away["pair"]["again"]


def test_the_likest_pairs_are_kept_whatever_judges_find():
  def results(away, judged):
    def found(value):
      return {"pair": {"frechet": {"from_both": {"value": value}}}}

    return {"coarse": found(away), "judged": found(judged)}

  near, far = results(1.0, 9.0), results(2.0, 3.0)
  assert idea_figures.likest(near) > idea_figures.likest(far)


def test_spectrograms_stand_upright():
  sound = np.zeros((1, 3, 2))
  sound[0, 2, 0] = 1  # The last frame, the lowest band.
  np.testing.assert_array_equal(
    idea_figures.upright(sound)[0, :, :, 0], [[0, 0, 0], [0, 0, 1]]
  )


# --------------------------------------------------------------- whole runs


@pytest.fixture
def in_memory(monkeypatch):
  monkeypatch.setattr(
    mesh, "make_mesh", lambda n=2, model=1: MAKE_MESH(n, model)
  )
  monkeypatch.setattr(jax, "jit", quick_jit)
  monkeypatch.setattr(data, "load", lambda config: splits())


@pytest.mark.parametrize("kind", idea.KINDS)
def test_a_whole_run_of_every_kind(kind, tmp_path, monkeypatch, in_memory):
  config = small(kind)
  config.transfer_guard = "disallow"
  if kind == "gan":
    monkeypatch.setattr(judges, "load", lambda *named: ideal_judges())
    config.judges.update({"classifier": "a", "correspondence": "b"})
  assert trainer.run(config, tmp_path, "train") == 0
  results = json.loads((tmp_path / "results.json").read_text())
  found = results["splits"]["test"]
  assert found["clips"] == 10
  for part in ("picture", "sound"):
    for name in ("from_both", "from_picture", "from_sound"):
      figure = found["squared_error"][part][name]
      assert figure["value"] > 0 and figure["chance"] > 0
  names = {"from_both", "from_picture", "from_sound", "sampled"}
  names |= {"prior"} if kind.startswith("vae") else set()
  for part in ("picture", "sound", "pair"):
    assert set(found["coarse"][part]["frechet"]) == names
  assert ("judged" in found) == (kind == "gan")
  if kind == "gan":
    assert found["judged"]["class"]["picture_from_sound"]["real"] == 1
    assert set(found["judged"]["match"]) == {"accuracy", "score"}
    table = load("generation").get_config("table").compare
    columns = dict(table.columns)
    assert set(table.numbers) < set(columns)
    for name, path in columns.items():
      figure = results
      for part in path.split("."):
        figure = figure[part]
      assert {"value", "chance"} <= figure.keys()
      if name not in table.numbers:
        assert 0 <= figure["value"] <= 1
  with Image.open(tmp_path / "pictures" / "4.png") as opened:
    assert opened.size == (9 * 8, (1 + len(names)) * 8)
  with Image.open(tmp_path / "spectrograms" / "4.png") as opened:
    assert opened.size == (9 * 16, (1 + len(names)) * 8)


def test_one_pair_is_no_batch_for_a_discriminator_of_pairs():
  config = small("gan")
  config.train.batch = 1
  with pytest.raises(UserError, match=r"config\.train\.batch=1 must be at"):
    idea.Idea(config)
  config.train.update({"batch": 6, "accumulate": 6})
  with pytest.raises(UserError, match=r"accumulate=6 .* lower it to 3 at most"):
    idea.Idea(config)
  config.train.accumulate = 3
  idea.Idea(config)


@pytest.mark.parametrize(
  ("section", "fields", "said"),
  [
    ("idea", {"kind": "aee"}, "config.idea.kind='aee' is unknown"),
    ("idea", {"drop": 0.6}, "config.idea.drop=0.6 must be from 0 to 0.5"),
    ("idea", {"widths": ()}, "config.idea.widths=(): name the channels"),
    ("idea", {"sound_decoder": (8, -8)}, "config.idea.sound_decoder=(8, -8)"),
    ("idea", {"latent": 0}, "config.idea.latent=0 must be at least 1"),
    (
      "idea",
      {"sound_decoder": (4, 4, 4, 4)},
      "4 widths of a decoder need sides that are multiples of 16, not (16, 8)",
    ),
    (
      "data",
      {"spectrogram": "mel"},
      "config.data.spectrogram='mel' is unknown",
    ),
    ("idea", {"picture_decoder": (4,) * 4}, "multiples of 16, not (8, 8)"),
    ("data", {"seconds": 0.0}, "config.data.seconds=0.0 must be at least"),
  ],
)
def test_a_wrong_value_is_named_in_one_line(section, fields, said):
  config = small("ae")
  config[section].update(fields)
  with pytest.raises(UserError) as refused:
    idea.Idea(config)
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)
