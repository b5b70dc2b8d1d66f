"""Losses with edited impostors against plain loops, on any number of devices.

The loops are in float64 and use nothing of vgsgan; their derivatives by the
scores are differences, exact for the linear pieces of hinges.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vgsgan.losses import contrastive, objectives, scores

B = 8
MARGIN = 0.7
KEY = jax.random.key(11)
LOG_SCALE = 0.9
NAMES = (*objectives.DRAWN, "info_nce")


def _objective(name, log_scale=LOG_SCALE, margin=MARGIN):
  if name == "info_nce":
    return objectives.info_nce(jnp.asarray(log_scale, jnp.float32))
  return objectives.drawn(name, margin)


def _plain(name, table, edit, weight, allowed, noise, log_scale, margin=MARGIN):
  """Loss of each pair; `table[i, j]` is image i with caption j."""
  out = []
  for i in range(len(table)):
    others = [j for j in range(len(table)) if allowed[i, j]]
    own, scale = table[i, i], math.exp(log_scale)

    def hinge(score, own=own):
      return max(0.0, margin + score - own)

    caption = table[i, max(others, key=lambda j: noise[0, i, j])]
    image = table[max(others, key=lambda j: noise[1, i, j]), i]
    regular = hinge(caption) + hinge(image)
    hard_caption = max(hinge(table[i, j]) for j in others)
    hard_image = max(hinge(table[j, i]) for j in others)
    edited = hinge(edit[i]) if weight[i] else 0.0
    columns = [table[j, i] for j in others] + [edit[i]] * int(weight[i])
    nce = [
      math.log1p(sum(math.exp(scale * (x - own)) for x in row))
      for row in ([table[i, j] for j in others], columns)
    ]
    clamp = lambda x: min(max(x, 0.0), 5.0)  # noqa: E731
    out.append(
      {
        "regular": regular,
        "hard": regular + hard_caption + hard_image,
        "edited": regular + edited,
        "both": clamp(regular) + clamp(hard_caption + max(hard_image, edited)),
        "info_nce": sum(nce) / 2,
      }[name]
    )
  return np.array(out)


def _random_pairs(seed, b=6):
  rng = np.random.default_rng(seed)
  allowed = ~np.eye(b, dtype=bool)
  allowed[0, 2] = allowed[2, 0] = False
  weight = (rng.random(b) < 0.6).astype(np.float32)
  table = 2 * rng.normal(size=(b, b)).astype(np.float32)
  edit = (np.diag(table) + rng.normal(size=b)).astype(np.float32)
  return table, edit, weight, allowed, rng.random((2, b, b)).astype("f4")


def _rows(table, allowed, noise):
  table, allowed, noise = map(jnp.asarray, (table, allowed, noise))
  positive = jnp.diag(table)
  forward = objectives.Rows(positive, table, allowed, noise[0])
  backward = objectives.Rows(positive, table.T, allowed.T, noise[1])
  return forward, backward


def _edited_rows(table, allowed, noise, edit, weight):
  """Rows whose captions have an edited image as one more impostor."""
  forward, backward = _rows(table, allowed, noise)
  edited = objectives.Edited(jnp.asarray(edit), jnp.asarray(weight))
  return forward, backward._replace(edited=edited)


# ----------------------------------------------------------- the objectives


def test_losses_equal_a_case_worked_by_hand():
  # Two pairs; margin 1. Image 0 scores 2 with its caption and 4.5 with the
  # other; caption 0 scores 1.5 with the other image, 3 with its edited image.
  table = np.array([[2.0, 4.5], [1.5, 9.0]], np.float32)
  forward, backward = _rows(
    table, ~np.eye(2, dtype=bool), np.zeros((2, 2, 2), "f4")
  )
  edited = objectives.Edited(jnp.array([3.0, 30.0]), jnp.ones(2))
  expected = {
    "regular": [3.5 + 0.5, 0],
    "hard": [2 * (3.5 + 0.5), 0],
    "edited": [3.5 + 0.5 + 2, 22],
    # 3.5 + max(0.5, 2) is over 5, and so is 22.
    "both": [4 + 5, 5],
  }
  for name, value in expected.items():
    got = objectives.drawn(name)(forward, backward._replace(edited=edited))
    np.testing.assert_array_equal(got, value)
  none = edited._replace(weight=jnp.zeros(2))
  got = objectives.drawn("both")(forward, backward._replace(edited=none))
  np.testing.assert_array_equal(got, [4 + 4, 0])


@pytest.mark.parametrize("margin", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", NAMES)
def test_objectives_equal_loops(name, margin):
  clamped = 0
  for seed in range(10):
    table, edit, weight, allowed, noise = _random_pairs(seed)
    got = _objective(name, margin=margin)(
      *_edited_rows(table, allowed, noise, edit, weight),
    )
    expected = _plain(
      name, table, edit, weight, allowed, noise, LOG_SCALE, margin
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
    clamped += np.sum(expected >= 5)
  assert clamped > 0 or name == "info_nce" or margin < 1


def test_regular_and_hard_are_triplets():
  table, edit, weight, allowed, noise = _random_pairs(1)
  rows = _edited_rows(table, allowed, noise, edit, weight)
  for name, kinds in (
    ("regular", ("sampled",)),
    ("hard", ("sampled", "hardest")),
  ):
    np.testing.assert_array_equal(
      objectives.drawn(name, 0.4)(*rows),
      objectives.triplet(kinds, 0.4)(*rows),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [1e30, np.nan, np.inf, -np.inf])
def test_masked_edits_have_no_effect(name, content):
  table, edit, weight, allowed, noise = _random_pairs(2)
  assert 0 < weight.sum() < len(weight)
  # Hard, but nothing at its clamp: there would be no gradient.
  table, edit = table / 4, edit / 4 + 1

  def run(edit, table, log_scale):
    forward, backward = _rows(table, allowed, noise)
    edited = objectives.Edited(edit, jnp.asarray(weight))
    return _objective(name, log_scale)(
      forward, backward._replace(edited=edited)
    ).sum()

  def all_of(edit):
    arguments = (edit, jnp.asarray(table), jnp.float32(LOG_SCALE))
    return jax.value_and_grad(run, (0, 1, 2))(*map(jnp.asarray, arguments))

  value, gradients = all_of(edit)
  other, others = all_of(np.where(weight > 0, edit, np.float32(content)))
  assert value == other
  jax.tree.map(np.testing.assert_array_equal, gradients, others)
  assert not np.any(np.asarray(others[0])[weight == 0])
  takes_part = name not in ("regular", "hard")
  assert np.any(np.asarray(others[0])) == takes_part


@pytest.mark.parametrize("name", ["edited", "both", "info_nce"])
def test_masked_edits_give_the_loss_without_edits(name):
  table, edit, weight, allowed, noise = _random_pairs(3)
  none = np.zeros_like(weight)
  got = _objective(name)(
    *_edited_rows(table, allowed, noise, np.full_like(edit, np.nan), none),
  )
  expected = _plain(name, table, edit, none, allowed, noise, LOG_SCALE)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["edited", "both", "info_nce"])
def test_a_diverged_edit_is_not_hidden(name):
  table, edit, weight, allowed, noise = _random_pairs(2)
  edit = np.where(weight > 0, np.nan, edit).astype(np.float32)
  got = _objective(name)(
    *_edited_rows(table, allowed, noise, edit, weight),
  )
  np.testing.assert_array_equal(np.isnan(got), weight > 0)


def test_info_nce_with_an_edit_in_closed_form():
  # Equal scores: the caption has one impostor more than the image.
  flat = objectives.Rows(
    jnp.zeros(3), jnp.zeros((3, 7)), jnp.ones((3, 7), bool)
  )
  edited = objectives.Edited(jnp.zeros(3), jnp.array([1.0, 0.0, 1.0]))
  got = objectives.info_nce(jnp.float32(2.0))(
    flat, flat._replace(edited=edited)
  )
  with_edit = (np.log(8) + np.log(9)) / 2
  np.testing.assert_allclose(got, [with_edit, np.log(8), with_edit], rtol=1e-6)


def test_missing_edits_and_unknown_losses_are_refused():
  with pytest.raises(ValueError, match="unknown loss 'negatives_both'"):
    objectives.drawn("negatives_both")
  table, _, _, allowed, noise = _random_pairs(0)
  for name in ("edited", "both"):
    with pytest.raises(ValueError, match=f"{name!r} needs edits"):
      objectives.drawn(name)(*_rows(table, allowed, noise))


# ------------------------------------------------------------ whole batches


def _batch():
  rng = np.random.default_rng(5)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  image = draw(B, 2, 3, 4)
  weight = np.array([1, 0, 1, 1, 0, 1, 1, 1], np.float32)
  return {
    "image": image,
    "audio": draw(B, 5, 4),
    "valid": np.arange(5) < np.array([5, 1, 3, 2, 4, 2, 3, 1])[:, None],
    "image_id": np.array([0, 1, 2, 0, 4, 5, 6, 0]),
    "speech_id": np.array([0, 1, 2, 3, 4, 1, 6, 7]),
    "edit": image + 0.5 * draw(B, 2, 3, 4),
    "weight": weight,
  }


def _all_losses(learnt, batch, kind, mesh):
  """Every (loss, metrics) with edits; what is masked is not even finite."""
  mix = lambda x: jnp.tanh(x @ learnt["mix"])  # noqa: E731
  masked = batch["weight"][:, None, None, None] == 0
  edit_map = jnp.where(masked, jnp.nan, mix(batch["edit"]))
  return {
    name: contrastive.contrastive(
      mix(batch["image"]),
      mix(batch["audio"]),
      batch["valid"],
      batch["image_id"],
      batch["speech_id"],
      score=functools.partial(scores.score, kind),
      objective=_objective(name, learnt["log_scale"]),
      edited=(edit_map, batch["weight"]),
      key=KEY,
      mesh=mesh,
    )
    for name in NAMES
  }


def _learnt():
  mix = np.random.default_rng(6).normal(size=(4, 4)).astype(np.float32)
  return {"mix": jnp.asarray(mix), "log_scale": jnp.float32(LOG_SCALE)}


def _tables(learnt, batch, kind):
  """Scores of all pairs and of the edits, one pair at a time."""
  mix = lambda x: jnp.tanh(x @ learnt["mix"])  # noqa: E731
  audio = mix(batch["audio"])

  def one(image, clip, frames):
    dots = jnp.einsum("hwd,td->hwt", image, clip[:frames])
    if kind == "misa":
      return dots.max((0, 1)).mean()
    a, b = image.mean((0, 1)), clip[:frames].mean(0)
    return a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)

  clips = list(zip(audio, batch["valid"].sum(1), strict=True))
  table = [
    [one(image, *clip) for clip in clips] for image in mix(batch["image"])
  ]
  edit = [
    one(image, *clip) if weight else jnp.float32(0)
    for image, clip, weight in zip(
      mix(batch["edit"]), clips, batch["weight"], strict=True
    )
  ]
  return jnp.array(table), jnp.array(edit)


@functools.cache
def _expected(kind):
  batch, learnt = _batch(), _learnt()
  noise = np.asarray(jax.random.uniform(KEY, (2, B, B)))
  same = (batch["image_id"][:, None] == batch["image_id"]) | (
    batch["speech_id"][:, None] == batch["speech_id"]
  )
  (table, edit), pull = jax.vjp(
    jax.jit(lambda learnt: _tables(learnt, batch, kind)), learnt
  )
  point = np.concatenate([np.ravel(table), edit, [LOG_SCALE]]).astype(float)

  def run(name, point):
    table, edit = point[: B * B].reshape(B, B), point[B * B : -1]
    pairs = _plain(name, table, edit, batch["weight"], ~same, noise, point[-1])
    return pairs.mean()

  out = {}
  for name in NAMES:
    steps = 1e-5 * np.eye(len(point))
    slope = np.array(
      [(run(name, point + e) - run(name, point - e)) / 2e-5 for e in steps]
    ).astype(np.float32)
    down = (
      jnp.asarray(slope[: B * B].reshape(B, B)),
      jnp.asarray(slope[B * B : -1]),
    )
    gradient = pull(down)[0] | {"log_scale": slope[-1]}
    out[name] = run(name, point), gradient
  own, kept = np.diag(table), batch["weight"] > 0
  return out, {
    "edits": kept.mean(),
    "edited": np.mean(np.asarray(edit)[kept] < own[kept]),
    "positive": own.mean(),
    "impostor": np.asarray(table)[~same].mean(),
  }


# What is spread over devices does not depend on how a pair is scored.
CASES = [("misa", n) for n in (None, 1, 2, 4, 8)] + [("cosine", 4)]


@pytest.mark.parametrize(("kind", "devices"), CASES)
def test_values_and_gradients_are_equal_on_any_number_of_devices(kind, devices):
  batch, mesh = _batch(), None
  if devices:
    auto = (jax.sharding.AxisType.Auto,)
    some = jax.devices()[:devices]
    mesh = jax.make_mesh((devices,), ("data",), auto, devices=some)
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))

  def run(learnt, batch):
    results = _all_losses(learnt, batch, kind, mesh)
    values = {name: value for name, (value, _) in results.items()}
    return values, (values, results["both"][1])

  gradients, (values, metrics) = jax.device_get(
    jax.jit(jax.jacrev(run, has_aux=True))(_learnt(), batch)
  )
  expected, shares = _expected(kind)
  for name, (value, gradient) in expected.items():
    np.testing.assert_allclose(values[name], value, rtol=1e-5, err_msg=name)
    for leaf, slope in gradient.items():
      np.testing.assert_allclose(
        gradients[name][leaf],
        slope,
        rtol=2e-5,
        atol=3e-6,
        err_msg=f"{name}: {leaf}",
      )
  for name, share in shares.items():
    np.testing.assert_allclose(metrics[name], share, rtol=1e-5, err_msg=name)
  assert len(metrics) == 6


def test_a_batch_without_any_edit_has_finite_metrics():
  batch = _batch()
  batch["weight"] = np.zeros(B, np.float32)
  results = _all_losses(
    _learnt(), jax.tree.map(jnp.asarray, batch), "misa", None
  )
  assert np.isfinite(results["both"][0])
  assert results["both"][1]["edits"] == results["both"][1]["edited"] == 0
  np.testing.assert_array_equal(results["edited"][0], results["regular"][0])


def _metrics(**changed):
  """Metrics of pairs that all look and sound alike, but for `changed`."""
  ones = jnp.ones((B, 2, 2, 1))
  batch = {
    "image_map": -ones,
    "audio_map": jnp.ones((B, 3, 1)),
    "valid": jnp.ones((B, 3), bool),
    "image_id": jnp.arange(B),
    "speech_id": jnp.arange(B),
    "edited": (-ones, jnp.ones(B)),
  }
  return contrastive.contrastive(
    **batch | changed,
    score=scores.misa,
    objective=objectives.drawn("edited"),
    key=KEY,
  )[1]


def test_a_collapsed_model_has_accuracy_0():
  got = _metrics()
  assert got["image_to_speech"] == got["speech_to_image"] == 0
  assert got["edited"] == 0 and got["edits"] == 1
  assert got["positive"] == got["impostor"] == -1


def test_an_anchor_without_impostors_counts_as_right():
  got = _metrics(image_id=jnp.zeros(B, int))
  assert got["image_to_speech"] == got["speech_to_image"] == 1
  assert got["positive"] == -1 and got["impostor"] == 0


@pytest.mark.parametrize("kind", scores.ALL_PAIRS)
def test_paired_scores_are_the_diagonal(kind):
  rng = np.random.default_rng(8)
  images = jnp.asarray(rng.normal(size=(4, 2, 3, 6)), jnp.float32)
  audio = jnp.asarray(rng.normal(size=(4, 5, 6)), jnp.float32)
  valid = jnp.arange(5) < jnp.array([5, 1, 0, 3])[:, None]
  score = functools.partial(scores.score, kind, normalize=True)
  results = [
    jax.vjp(jax.jit(function), images, audio)
    for function in (
      lambda i, a: scores.paired(score, i, a, valid),
      lambda i, a: jnp.diag(score(i, a, valid)),
    )
  ]
  (own, pull), (diagonal, pull_diagonal) = results
  np.testing.assert_allclose(own, diagonal, rtol=1e-5, atol=1e-6)
  weights = jnp.arange(1.0, 5.0)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    pull(weights),
    pull_diagonal(weights),
  )


@pytest.mark.parametrize("name", ["edited", "both", "info_nce"])
def test_an_edited_caption_is_to_images_as_an_edited_image_to_captions(name):
  table, edit, weight, allowed, noise = _random_pairs(4)
  forward, backward = _edited_rows(table, allowed, noise, edit, weight)
  got = _objective(name)(backward, forward)  # The directions exchanged.
  np.testing.assert_allclose(
    got, _objective(name)(forward, backward), rtol=1e-6
  )


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_edited_captions_enter_the_loss_on_every_device(devices):
  batch, learnt = jax.tree.map(jnp.asarray, _batch()), _learnt()
  weight, valid = batch["weight"], batch["valid"]
  mesh = None
  if devices > 1:
    auto = (jax.sharding.AxisType.Auto,)
    some = jax.devices()[:devices]
    mesh = jax.make_mesh((devices,), ("data",), auto, devices=some)

  def encoded(mix):
    image, audio = (jnp.tanh(batch[x] @ mix) for x in ("image", "audio"))
    return image, audio, jnp.flip(audio, 1) + 0.1

  def loss(image, audio, **fields):
    labels = jnp.arange(B), jnp.arange(B)
    common = {"score": scores.misa, "key": KEY}
    return contrastive.contrastive(
      image, audio, valid, *labels, **common, **fields
    )

  def with_edits(mix):
    image, audio, wrong = encoded(mix)
    # What does not count is not even finite.
    masked = jnp.where(weight[:, None, None] > 0, wrong, jnp.nan)
    return loss(
      image,
      audio,
      objective=objectives.drawn("edited"),
      edited_audio=(masked, valid, weight),
      mesh=mesh,
    )

  def expected(mix):
    image, audio, wrong = encoded(mix)
    plain, _ = loss(image, audio, objective=objectives.drawn("regular"))
    own = jnp.diag(scores.misa(image, audio, valid))
    other = jnp.diag(scores.misa(image, wrong, valid))
    hinge = jnp.where(weight > 0, jnp.maximum(1 + other - own, 0), 0)
    share = jnp.sum((other < own) & (weight > 0)) / jnp.sum(weight)
    return plain + hinge.mean(), share

  one, two = (
    jax.jit(jax.value_and_grad(f, has_aux=True))(learnt["mix"])
    for f in (with_edits, expected)
  )
  (value, metrics), gradient = one
  (right, share), slope = two
  np.testing.assert_allclose(value, right, rtol=1e-5)
  np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics["caption_edited"], share, rtol=1e-6)
  np.testing.assert_allclose(metrics["caption_edits"], weight.mean())
  assert "edited" not in metrics
