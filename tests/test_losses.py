"""Losses against loops over pairs, on one device and on many."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from vgsgan.data.builders.clevrgan import pictures as clevrgan_pictures
from vgsgan.data.builders.clevrgan import records as clevrgan_records
from vgsgan.data.examples import DrawnPairExample
from vgsgan.kernels import maxsim
from vgsgan.losses import contrastive, objectives, primitives, scores
from vgsgan.worlds import speech

B = 8
OBJECTIVES = {
  "sampled": ("sampled",),
  "semi_hard": ("semi_hard",),
  "hardest": ("hardest",),
  "all": ("all",),
}
MARGIN = 0.5
KEY = jax.random.key(7)


def _mesh(n):
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((n,), ("data",), auto, devices=jax.devices()[:n])


def _batch():
  rng = np.random.default_rng(0)
  return {
    "image": rng.normal(size=(B, 3, 3, 2)).astype(np.float32),
    "audio": rng.normal(size=(B, 4, 3)).astype(np.float32),
    "frames": np.array([4, 1, 3, 2, 4, 2, 3, 1]),
    # One image thrice and one recording twice, on different devices.
    "image_id": np.array([0, 1, 2, 0, 4, 5, 6, 0]),
    "speech_id": np.array([0, 1, 2, 3, 4, 1, 6, 7]),
  }


def _parameters():
  rng = np.random.default_rng(1)
  shapes = {"conv": (2, 2, 2, 5), "bias": (5,), "audio": (3, 5)}
  parameters = {
    name: jnp.asarray(0.4 * rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }
  return parameters | {"log_scale": jnp.float32(0.7)}


def _encode(parameters, image, audio):
  maps = jax.lax.conv_general_dilated(
    image,
    parameters["conv"],
    (1, 1),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return jnp.tanh(maps + parameters["bias"]), audio @ parameters["audio"]


def _losses(parameters, batch, kind, mesh, exchange="gather"):
  """Every objective's (loss, metrics), with the code under test."""
  image, audio = _encode(parameters, batch["image"], batch["audio"])
  valid = jnp.asarray(jnp.arange(4) < batch["frames"][:, None])

  def one(objective):
    return contrastive.contrastive(
      image,
      audio,
      valid,
      jnp.asarray(batch["image_id"]),
      jnp.asarray(batch["speech_id"]),
      score=functools.partial(scores.score, kind),
      objective=objective,
      key=KEY,
      mesh=mesh,
      exchange=exchange,
    )

  results = {
    name: one(objectives.triplet(negatives, MARGIN))
    for name, negatives in OBJECTIVES.items()
  }
  results["info_nce"] = one(objectives.info_nce(parameters["log_scale"]))
  return results


def _pair_score(kind, image, clip):
  """One image's map [h, w, d] with one clip's valid frames [t, d]."""
  places = image.reshape(-1, image.shape[-1])
  dots = jnp.tensordot(places, clip, axes=(1, 1))
  a, b = places.sum(0) / len(places), clip.sum(0) / len(clip)
  return {
    "dot": lambda: jnp.vdot(a, b),
    "cosine": lambda: (
      jnp.vdot(a, b) / jnp.sqrt(jnp.vdot(a, a) * jnp.vdot(b, b))
    ),
    "sisa": lambda: dots.sum() / dots.size,
    "misa": lambda: dots.max(0).sum() / len(clip),
    "sima": lambda: dots.max(1).sum() / len(places),
  }[kind]()


def _plain_table(parameters, batch, kind):
  """Scores of all pairs on one device, clip after clip without padding."""
  image, audio = _encode(parameters, batch["image"], batch["audio"])
  columns = [
    jax.vmap(functools.partial(_pair_score, kind), (0, None))(image, clip[:t])
    for clip, t in zip(audio, batch["frames"], strict=True)
  ]
  return jnp.stack(columns, axis=1)


def _plain_losses(table, log_scale, batch, noise):
  """Every objective's loss from its definition, in float64."""
  totals = dict.fromkeys((*OBJECTIVES, "info_nce"), 0.0)
  for direction in range(2):
    for i in range(B):
      row = table[:, i] if direction else table[i]
      # A pair that shares anything with this one may be true as well.
      others = [
        j
        for j in range(B)
        if batch["image_id"][i] != batch["image_id"][j]
        and batch["speech_id"][i] != batch["speech_id"][j]
      ]
      hinge = {j: max(0, MARGIN + row[j] - row[i]) for j in others}
      semi = max([hinge[j] for j in others if row[j] < row[i]], default=0)
      drawn = hinge[max(others, key=lambda j: noise[direction, i, j])]
      odds = sum(
        math.exp(math.exp(log_scale) * (row[j] - row[i])) for j in others
      )
      totals["sampled"] += drawn / B
      totals["semi_hard"] += semi / B
      totals["hardest"] += max(hinge.values()) / B
      totals["all"] += sum(hinge.values()) / len(others) / B
      totals["info_nce"] += math.log1p(odds) / B / 2
  return totals


@functools.cache
def _plain(kind, captions=None):
  """Losses and their gradients without any code of vgsgan.

  The derivatives by the scores are differences (the hinges are linear pieces,
  so these are exact); from the scores on to the parameters it is JAX.

  Args:
    kind: of the score.
    captions: what pairs of eight images say; None for the batch's own labels.
  """
  batch, parameters = _batch(), _parameters()
  if captions:
    batch |= {"image_id": np.arange(B), "speech_id": captions}
  noise = np.asarray(jax.random.uniform(KEY, (2, B, B)))
  function = functools.partial(_plain_table, batch=batch, kind=kind)
  table, pull = jax.vjp(jax.jit(function), parameters)
  point = np.append(np.asarray(table, np.float64), parameters["log_scale"])

  def run(point):
    totals = _plain_losses(point[:-1].reshape(B, B), point[-1], batch, noise)
    return np.array(list(totals.values()))

  step = 1e-5 * np.eye(len(point))
  slopes = np.array([run(point + e) - run(point - e) for e in step]) / 2e-5
  names = (*OBJECTIVES, "info_nce")
  gradients = {}
  for name, slope in zip(names, slopes.T, strict=True):
    cotangent = jnp.asarray(slope[:-1].reshape(B, B), jnp.float32)
    gradients[name] = pull(cotangent)[0] | {"log_scale": slope[-1]}
  return dict(zip(names, run(point), strict=True)), gradients


# What is spread over devices does not depend on how a pair is scored: one
# matchmap score and one pooled one go over all counts.
COUNTS = {
  "gather": {
    "dot": (8,),
    "sisa": (4,),
    "sima": (2, 8),
    "cosine": (1, 2, 4, 8),
    "misa": (1, 2, 4, 8),
  },
  "ring": {"sima": (4,), "cosine": (2,), "misa": (2, 4, 8)},
}
CASES = [
  (exchange, kind, n)
  for exchange, kinds in COUNTS.items()
  for kind, counts in kinds.items()
  for n in counts
]


@pytest.mark.parametrize(("exchange", "kind", "devices"), CASES)
def test_values_and_gradients_are_equal_on_any_number_of_devices(
  exchange, kind, devices, monkeypatch
):
  # Two pairs' matchmaps at once.
  monkeypatch.setattr(maxsim, "TILE", 32)
  batch, expected = _batch(), _plain(kind)
  metrics = _compare(batch, expected, exchange, kind, devices)
  _check_metrics(metrics, kind)


@pytest.mark.parametrize(
  ("exchange", "devices"), [("gather", 1), ("gather", 8), ("ring", 8)]
)
def test_equal_captions_and_recordings_are_not_impostors(exchange, devices):
  # 0 and 5 are one recording, 2 says the same in another voice.
  texts = tuple("abacdaeb")
  voices = "xyyxyxxx"
  picture = clevrgan_pictures.Picture(
    np.zeros(2, np.float32),
    np.zeros((8, 8, 3), np.uint8),
    np.full((1, 4), -1, np.int32),
    np.zeros((1, 8, 8), bool),
  )
  numbers = clevrgan_records.IdCounter()
  silence = speech.Spoken(np.zeros(0, np.int16), ())
  rng = np.random.default_rng(0)
  examples = []
  for i, (text, voice) in enumerate(zip(texts, voices, strict=True)):
    # Of what is recognised, no two are alike.
    seen = dataclasses.replace(picture, attributes=picture.attributes + i)
    item = clevrgan_records.Item(str(i), seen, str(i), text, voice)
    record = clevrgan_records.record(item, silence, numbers)
    examples.append(DrawnPairExample(10, False)(record, rng))
  batch = _batch() | {
    f"{name}_id": np.array([e[f"{name}_concept"] for e in examples])
    for name in ("image", "speech")
  }
  _compare(batch, _plain("misa", texts), exchange, "misa", devices)


def _compare(batch, expected, exchange, kind, devices):
  """Compares values and gradients; returns the metrics."""
  mesh = _mesh(devices)
  on = functools.partial(jax.sharding.NamedSharding, mesh)
  batch = jax.device_put(batch, on(jax.sharding.PartitionSpec("data")))
  parameters = jax.device_put(_parameters(), on(jax.sharding.PartitionSpec()))

  def loss(parameters, batch):
    results = _losses(parameters, batch, kind, mesh, exchange)
    values = {name: result[0] for name, result in results.items()}
    return values, (values, results["all"][1])

  gradients, (values, metrics) = jax.device_get(
    jax.jit(jax.jacrev(loss, has_aux=True))(parameters, batch)
  )
  expected, expected_gradients = expected
  assert set(values) == set(expected)
  for name in expected:
    np.testing.assert_allclose(values[name], expected[name], rtol=1e-5)
    for leaf, gradient in gradients[name].items():
      np.testing.assert_allclose(
        gradient,
        expected_gradients[name][leaf],
        rtol=1e-5,
        atol=2e-6,
        err_msg=f"{name}: {leaf}",
      )
    assert (gradients[name]["log_scale"] != 0) == (name == "info_nce")
    assert np.any(gradients[name]["conv"]), name
  return metrics


def _check_metrics(metrics, kind):
  batch = _batch()
  image, audio = _encode(_parameters(), batch["image"], batch["audio"])
  valid = jnp.arange(4) < batch["frames"][:, None]
  table = np.asarray(scores.score(kind, image, audio, valid))
  rival = (batch["image_id"][:, None] != batch["image_id"]) & (
    batch["speech_id"][:, None] != batch["speech_id"]
  )
  own = np.diag(table)
  expected = {
    "image_to_speech": np.mean(
      [own[i] > table[i][rival[i]].max() for i in range(B)]
    ),
    "speech_to_image": np.mean(
      [own[i] > table[:, i][rival[i]].max() for i in range(B)]
    ),
    "positive": own.mean(),
    "impostor": table[rival].mean(),
  }
  assert set(metrics) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_a_score_may_have_parameters(exchange):
  maps = jnp.asarray(_batch()["image"])
  audio = jnp.asarray(_batch()["audio"])[..., :2]
  ids = jnp.arange(B)

  def loss(slope, mesh):
    score = lambda *x: slope * scores.sisa(*x)  # noqa: E731
    return contrastive.contrastive(
      maps,
      audio,
      jnp.ones((B, 4), bool),
      ids,
      ids,
      score=score,
      objective=objectives.triplet(("all",)),
      mesh=mesh,
      exchange=exchange,
    )[0]

  one, many = (
    jax.jit(jax.grad(functools.partial(loss, mesh=mesh)))(jnp.float32(2.0))
    for mesh in (None, _mesh(4))
  )
  assert one != 0
  np.testing.assert_allclose(one, many, rtol=1e-5)


def test_the_order_of_the_batch_has_no_effect():
  batch, parameters = _batch(), _parameters()
  run = jax.jit(lambda batch: _losses(parameters, batch, "misa", None))
  whole = run(batch)
  order = np.random.default_rng(3).permutation(B)
  shuffled = {name: value[order] for name, value in batch.items()}
  other = run(shuffled)
  for name in ("semi_hard", "hardest", "all", "info_nce"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
      whole[name],
      other[name],
    )


def test_a_batch_of_one_image_has_no_loss():
  batch = _batch() | {"image_id": np.zeros(B, int)}

  def total(parameters, mesh):
    return sum(
      loss for loss, _ in _losses(parameters, batch, "misa", mesh).values()
    )

  value, gradient = jax.jit(
    jax.value_and_grad(functools.partial(total, mesh=_mesh(2)))
  )(_parameters())
  assert value == 0
  for leaf in jax.tree.leaves(gradient):
    assert not np.any(leaf)


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="3 devices cannot share a batch of 8"):
    _losses(_parameters(), _batch(), "dot", _mesh(3))


# ------------------------------------------------------------- margin_rank


def _rank(positive, row, allowed, negatives, noise=None, margin=1.0):
  arrays = [jnp.asarray([x]) for x in (positive, row, allowed)]
  noise = None if noise is None else jnp.asarray([noise])
  return float(primitives.margin_rank(*arrays, margin, negatives, noise)[0])


def test_margin_rank_equals_a_case_worked_by_hand():
  row, allowed = [5.0, 1.5, 2.0, 0.0, 9.0], [True] * 4 + [False]
  assert _rank(2.0, row, allowed, "hardest") == 4.0
  # 2.0 is no semi-hard impostor: not strictly below.
  assert _rank(2.0, row, allowed, "semi_hard") == 0.5
  assert _rank(-1.0, row, allowed, "semi_hard") == 0.0
  assert _rank(2.0, row, allowed, "all") == (4.0 + 0.5 + 1.0 + 0.0) / 4
  noise = [0.1, 0.2, 0.8, 0.3, 0.9]
  assert _rank(2.0, row, allowed, "sampled", noise) == 1.0
  for kind in primitives.NEGATIVES:
    assert _rank(2.0, row, [False] * 5, kind, noise) == 0.0


def _random_rows(seed, q=6, n=7):
  rng = np.random.default_rng(seed)
  allowed = rng.random((q, n)) < 0.6
  allowed[0] = False
  floats = [rng.normal(size=shape) for shape in ((q,), (q, n))]
  noise = rng.random((q, n))
  arrays = (*floats, allowed, noise)
  return [jnp.asarray(x, x.dtype if x.dtype == bool else "f4") for x in arrays]


@pytest.mark.parametrize("kind", primitives.NEGATIVES)
def test_margin_rank_follows_its_negatives(kind):
  for seed in range(20):
    positive, row, allowed, noise = _random_rows(seed)

    def run(positive, row, noise=noise, allowed=allowed, margin=0.3):
      return primitives.margin_rank(positive, row, allowed, margin, kind, noise)

    got = run(positive, row)
    # Zero exactly where the margin is kept, for the strictest kinds.
    worst = np.max(np.where(allowed, row, -np.inf), axis=1)
    kept = np.asarray(positive) - worst >= 0.3
    if kind in ("hardest", "all"):
      np.testing.assert_array_equal(got == 0, kept)
    assert np.all(np.asarray(got)[kept] == 0) and got[0] == 0
    # What is not allowed has no effect, whatever it is.
    for content in (1e30, jnp.nan, jnp.inf):
      other = jnp.where(allowed, row, content)
      np.testing.assert_array_equal(got, run(positive, other))
    # Order of candidates does not matter.
    order = np.random.default_rng(seed).permutation(row.shape[1])
    again = run(positive, row[:, order], noise[:, order], allowed[:, order])
    np.testing.assert_allclose(got, again, rtol=1e-6)
    # A common shift of a row's scores cancels.
    np.testing.assert_allclose(got, run(positive + 4, row + 4), atol=1e-5)
    gradient = jax.grad(lambda *x: run(*x).sum(), (0, 1))(positive, other)
    assert all(np.all(np.isfinite(g)) for g in gradient)
    assert not np.any(np.asarray(gradient[1])[~np.asarray(allowed)])
    np.testing.assert_allclose(gradient[0], -gradient[1].sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", primitives.NEGATIVES)
def test_a_diverged_score_is_not_hidden(kind):
  assert math.isnan(_rank(np.nan, [1.0, 2.0], [True] * 2, kind, [0.1, 0.2]))


def test_triplet_sums_its_kinds():
  positive, row, allowed, noise = _random_rows(2)
  both = objectives.triplet(("sampled", "semi_hard"), 2.0)
  forward = objectives.Rows(positive, row, allowed, noise)
  backward = objectives.Rows(positive, *_random_rows(3)[1:])
  expected = [
    primitives.margin_rank(*rows[:3], 2.0, kind, rows.noise)
    for kind in ("sampled", "semi_hard")
    for rows in (forward, backward)
  ]
  np.testing.assert_allclose(both(forward, backward), sum(expected), rtol=1e-6)
  assert all(map(np.any, expected))


def test_unknown_negatives_are_refused():
  with pytest.raises(ValueError, match="unknown negatives 'hard'"):
    _rank(1.0, [0.0], [True], "hard")
  with pytest.raises(ValueError, match="pass a key"):
    _rank(1.0, [0.0], [True], "sampled")
  for wrong in ((), ("hard",)):
    with pytest.raises(ValueError, match="one or more of"):
      objectives.triplet(wrong)


# ------------------------------------------------------ soft_ce and InfoNCE


def test_soft_ce_equals_the_closed_form():
  for seed in range(10):
    _, logits, allowed, targets = _random_rows(seed)
    np.testing.assert_allclose(
      primitives.soft_ce(logits, targets / targets.sum(1, keepdims=True)),
      optax.softmax_cross_entropy(
        logits, targets / targets.sum(1, keepdims=True)
      ),
      rtol=1e-5,
    )
    got = primitives.soft_ce(50 * logits, targets, allowed)
    for i in range(1, len(logits)):
      kept = np.asarray(allowed[i])
      row = 50 * np.asarray(logits[i], float)[kept]
      expected = targets[i][kept] @ (scipy.special.logsumexp(row) - row)
      np.testing.assert_allclose(got[i], expected, rtol=1e-5)
    assert got[0] == 0


@pytest.mark.parametrize("content", [1e30, np.nan, np.inf, -np.inf])
def test_soft_ce_ignores_masked_columns(content):
  _, logits, allowed, targets = _random_rows(1)

  def run(logits):
    return primitives.soft_ce(logits, targets, allowed).sum()

  value, gradient = jax.value_and_grad(run)(logits)
  filled = jnp.where(allowed, logits, content)
  assert run(filled) == value
  other = jax.grad(run)(filled)
  np.testing.assert_array_equal(other, gradient)
  assert np.all(np.isfinite(other))
  assert not np.any(np.asarray(other)[~np.asarray(allowed)])


def test_soft_ce_ignores_infinite_logits_of_weight_0():
  logits = jnp.array([[0.0, -jnp.inf]])
  targets = jnp.array([[1.0, 0.0]])
  value, gradient = jax.value_and_grad(
    lambda x: primitives.soft_ce(x, targets).sum()
  )(logits)
  assert value == 0 and np.all(np.isfinite(gradient))


def test_info_nce_has_its_chance_and_bound():
  flat = objectives.Rows(
    jnp.zeros(4), jnp.zeros((4, 9)), jnp.ones((4, 9), bool)
  )
  chance = objectives.info_nce(jnp.float32(1.0))(flat, flat)
  np.testing.assert_allclose(chance, np.log(10), rtol=1e-6)

  positive, row = jnp.array([0.5]), jnp.array([[0.51, 0.3]])

  def loss(log_scale):
    rows = objectives.Rows(positive, row, jnp.ones((1, 2), bool))
    return objectives.info_nce(log_scale)(rows, rows)[0]

  bound = jnp.log(objectives.MAX_LOGIT_SCALE)
  np.testing.assert_allclose(loss(bound), loss(bound + 2), rtol=1e-5)
  np.testing.assert_allclose(
    loss(bound), np.log1p(np.exp(1.0) + np.exp(-20.0)), rtol=1e-4
  )
  # It can come back from beyond.
  assert jax.grad(loss)(bound + 2) > 0
