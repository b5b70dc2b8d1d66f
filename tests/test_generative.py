"""Losses of autoencoders and GANs, and figures of what they make: by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.spatial.distance
import scipy.stats

from tests.filling import normal
from vgsgan.evals import generated
from vgsgan.evals.generated import Clips
from vgsgan.losses import generative
from vgsgan.tasks import alternating, idea
from vgsgan.tasks.generation_evaluation import as_distributed

KEY = jax.random.key(7)


def test_squared_error_averages_over_each_example():
  one, other = (
    np.float64(normal(3, 2, 4, 5)),
    np.float64(normal(3, 2, 4, 5, seed=2)),
  )
  expected = [
    sum((a - b) ** 2 for a, b in zip(x.ravel(), y.ravel(), strict=True)) / 40
    for x, y in zip(one, other, strict=True)
  ]
  got = generative.squared_error(jnp.float32(one), jnp.float32(other))
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  half = generative.squared_error(jnp.bfloat16(one), jnp.bfloat16(other))
  assert half.dtype == jnp.float32


def test_kl_divergence_equals_the_integral():
  mean = np.array([[0.0, 0.7, -1.3], [2.0, 0.0, 0.1]])
  log_variance = np.array([[0.0, -1.0, 0.8], [-2.0, 0.5, 0.0]])

  def integral(m, v):
    q, p = scipy.stats.norm(m, np.exp(v / 2)), scipy.stats.norm()
    found, _ = scipy.integrate.quad(
      lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -20, 20, points=[m]
    )
    return found

  expected = [
    sum(map(integral, *rows)) for rows in zip(mean, log_variance, strict=True)
  ]
  args = jnp.float32(mean), jnp.float32(log_variance)
  np.testing.assert_allclose(
    generative.kl_divergence(*args), expected, rtol=1e-4
  )
  # And it pulls towards N(0, I), where it rests.
  slopes = jax.grad(
    lambda *x: jnp.sum(generative.kl_divergence(*x)), argnums=(0, 1)
  )(*args)
  for slope, value in zip(slopes, (mean, log_variance), strict=True):
    np.testing.assert_array_equal(np.sign(slope), np.sign(value))


LOGITS = np.array([-30.0, -4.0, -0.5, 0.0, 1.0, 6.0])


def test_losses_of_the_generator_are_logarithms_of_probabilities():
  probability = 1 / (1 + np.exp(-LOGITS))
  logits = jnp.float32(LOGITS)
  np.testing.assert_allclose(
    generative.non_saturating(logits), -np.log(probability), rtol=1e-5
  )
  np.testing.assert_allclose(
    generative.minimax(logits), np.log1p(-probability), rtol=1e-5
  )


def test_only_the_minimax_loss_saturates_at_a_sure_discriminator():
  def slope(name, logit):
    loss = generative.GENERATOR_LOSSES[name]
    return float(jax.grad(lambda x: loss(x[None])[0])(jnp.float32(logit)))

  for logit in LOGITS:
    probability = 1 / (1 + np.exp(-logit))
    # Both want a higher probability of being real.
    assert slope("non_saturating", logit) == pytest.approx(probability - 1)
    assert slope("minimax", logit) == pytest.approx(-probability)
  assert slope("minimax", -30.0) > -1e-12
  assert slope("non_saturating", -30.0) == -1


def test_the_discriminators_loss_equals_a_case_worked_by_hand():
  real, drawn, other = (np.float64(normal(5, seed=i)) for i in (1, 2, 3))

  def log(x):
    return np.log(1 / (1 + np.exp(-x)))

  expected = -log(real) - log(-drawn)
  args = tuple(map(jnp.float32, (real, drawn, other)))
  np.testing.assert_allclose(
    generative.discriminator(*args[:2]), expected, rtol=1e-5
  )
  expected = -log(real) - 0.5 * (log(-drawn) + log(-other))
  np.testing.assert_allclose(
    generative.discriminator(*args), expected, rtol=1e-5
  )
  several = np.float64(normal(5, 3, seed=4))
  expected = [
    -log(real[i]) - 0.5 * (log(-drawn[i]) + sum(log(-several[i])) / 3)
    for i in range(5)
  ]
  np.testing.assert_allclose(
    generative.discriminator(*args[:2], jnp.float32(several)),
    expected,
    rtol=1e-5,
  )
  # Some of them do not count, in the last row none.
  counts = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]])
  expected = [
    -log(real[i])
    - 0.5 * (log(-drawn[i]) + log(-several[i]) @ row / max(1, sum(row)))
    for i, row in enumerate(counts)
  ]
  np.testing.assert_allclose(
    generative.discriminator(
      *args[:2], jnp.float32(several), impostors=jnp.array(counts == 1)
    ),
    expected,
    rtol=1e-5,
  )


def test_one_of_two_is_dropped_and_never_both():
  for share in (0.0, 0.3, 0.5):
    keep = np.asarray(idea.drop_one(KEY, 20000, share))
    assert keep.any(1).all()
    np.testing.assert_allclose(1 - keep.mean(0), share, atol=0.012)
  assert idea.drop_one(KEY, 100, 0.0).all()
  # One half each: exactly one is kept.
  assert (idea.drop_one(KEY, 100, 0.5).sum(1) == 1).all()


def test_the_average_forgets_its_start_and_then_reaches_back():
  average, values = jnp.float32(100.0), normal(400)
  steps = [(jnp.int32(i), x) for i, x in enumerate(values)]
  seen = []
  for step, value in steps:
    average = alternating.averaged(step, 0.9, {"w": average}, {"w": value})["w"]
    seen.append(float(average))
  by_hand = 100.0
  for i, value in enumerate(np.float64(values)):
    decay = min(0.9, (1 + i) / (10 + i))
    by_hand = decay * by_hand + (1 - decay) * value
    assert seen[i] == pytest.approx(by_hand, rel=1e-4, abs=1e-5)
  assert np.abs(np.array(seen[100:])).max() < 1.5


def test_rows_take_on_the_mean_and_the_covariance_of_others():
  rng = np.random.default_rng(0)
  like = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 4)) + [1, 2, 3, 4]
  noise = rng.normal(size=(200, 4))
  # Exactly white, so that the result is exact.
  noise -= noise.mean(0)
  noise = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T)).T)
  got = as_distributed(np.float32(noise), np.float32(like))
  np.testing.assert_allclose(got.mean(0), like.mean(0), rtol=1e-4)
  np.testing.assert_allclose(
    np.cov(got.T), np.cov(like.T), rtol=1e-3, atol=1e-4
  )
  one = as_distributed(np.float32(noise[:, :1]), like[:, :1])
  assert np.var(one, ddof=1) == pytest.approx(np.var(like[:, 0], ddof=1), 1e-3)


# ------------------------------------------------------------------ figures


def test_the_mean_row_is_the_chance_of_squared_errors():
  real, made = (np.asarray(normal(6, 3, 2, seed=i)) for i in (1, 2))
  found = generated.squared_error(real, made)
  assert found["value"] == pytest.approx(np.mean((real - made) ** 2))
  assert found["chance"] == pytest.approx(np.var(real, axis=0).mean())
  flat = generated.flat(real)
  assert generated.squared_error(real, flat)["value"] == pytest.approx(
    found["chance"]
  )


def test_coarse_features_are_means_of_cells():
  rows = np.asarray(normal(2, 8, 6, 3))
  found = generated.coarse(rows, 2)
  # Sides that are no multiple: 3 rows and 2, of 5.
  odd = generated.coarse(rows[:, :5, :2], 2)[:, :3]
  np.testing.assert_allclose(odd, rows[:, :3, 0].mean(1), rtol=1e-5)
  expected = [
    [
      rows[i, 4 * y : 4 * y + 4, 3 * x : 3 * x + 3, c].mean()
      for y in range(2)
      for x in range(2)
      for c in range(3)
    ]
    for i in range(2)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def gap(one, other):
  """The distance of two normal distributions of independent numbers."""
  means = one.mean(0) - other.mean(0)
  deviations = one.std(0, ddof=1) - other.std(0, ddof=1)
  return means @ means + deviations @ deviations


def test_frechet_distances_are_of_halves_that_share_no_clip():
  rng = np.random.default_rng(0)
  real, made = rng.normal(size=(40, 1)), 2 * rng.normal(size=(40, 1)) + 3
  flat = generated.flat(real)
  named = generated.likeness(real, flat, {"made": made, "copied": real})
  found = named["frechet"]["made"]
  assert found["value"] == pytest.approx(gap(real[::2], made[1::2]))
  assert found["real"] == pytest.approx(gap(real[::2], real[1::2]))
  assert found["chance"] == pytest.approx(gap(real[::2], flat[1::2]))
  assert found["real"] < found["chance"] < found["value"]
  # A copy of every picture is no better than other real ones.
  copied = named["frechet"]["copied"]
  assert copied["value"] == copied["real"] > 0


def test_spread_is_the_mean_distance_of_two_rows():
  rows = np.asarray(normal(9, 4))
  expected = scipy.spatial.distance.pdist(np.float64(rows)).mean()
  assert generated.spread(rows) == pytest.approx(expected)
  assert generated.spread(generated.flat(rows)) == 0


def test_diversity_comes_with_that_of_the_real():
  real, made = (np.asarray(normal(8, 3, seed=i)) for i in (1, 2))
  found = generated.likeness(real, generated.flat(real), {"a": made, "b": real})
  of_real = generated.spread(real)
  assert found["diversity"] == {
    "a": {"value": generated.spread(made), "real": of_real, "chance": 0.0},
    "b": {"value": of_real, "real": of_real, "chance": 0.0},
  }


def test_matches_come_with_real_and_mismatched_references():
  shades = np.float32([0.1, 0.4, 0.2, 0.9])
  real = Clips(
    np.broadcast_to(shades[:, None, None, None], (4, 2, 2, 3)),
    np.broadcast_to(shades[:, None, None], (4, 3, 2)),
  )

  def match(clips):
    apart = np.abs(clips.picture.mean((1, 2, 3)) - clips.sound.mean((1, 2)))
    return 0.25 - apart

  brighter = Clips(real.picture + np.float32(0.3), real.sound)
  found = generated.matches(match, real, {"same": real, "brighter": brighter})
  # Each picture with the sound before it: 0.8, 0.3, 0.2 and 0.7 apart.
  assert found["accuracy"]["same"] == {
    "value": 1.0,
    "real": 1.0,
    "mismatched": 0.25,
    "chance": 0.25,
  }
  assert found["accuracy"]["brighter"]["value"] == 0
  score = found["score"]["brighter"]
  assert score["value"] == pytest.approx(-0.05)
  assert score["real"] == pytest.approx(0.25)
  assert score["mismatched"] == pytest.approx(0.25 - 0.5)


def test_recognised_counts_any_label_and_its_chance_is_the_commonest_class():
  rng = np.random.default_rng(0)
  labels = np.array([[0, -1], [1, 2], [2, -1], [0, 1], [2, -1], [1, -1]])
  answers, of_real = rng.integers(0, 3, 6), np.array([0, 2, 2, 1, 0, 1])

  def share(answers):
    return np.mean([a in row for a, row in zip(answers, labels, strict=True)])

  found = generated.recognised(np.eye(3)[answers], np.eye(3)[of_real], labels)
  assert found["value"] == pytest.approx(share(answers))
  assert found["real"] == pytest.approx(5 / 6)
  always = [share(np.full(6, label)) for label in range(3)]
  assert found["chance"] == pytest.approx(max(always))
