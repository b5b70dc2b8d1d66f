"""Scores against plain loops over locations and frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgsgan.kernels import maxsim
from vgsgan.losses import scores

KINDS = tuple(scores.ALL_PAIRS)


def _maps(seed=0, b=3, c=4, h=2, w=3, t=5, d=6):
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(b, h, w, d)).astype(np.float32)
  audio = rng.normal(size=(c, t, d)).astype(np.float32)
  frames = rng.integers(1, t + 1, size=c)
  return images, audio, np.arange(t) < frames[:, None]


def _plain(kind, images, audio, valid):
  """One pair at a time, from the definitions."""
  out = np.zeros((len(images), len(audio)))
  for i, image in enumerate(images.astype(np.float64)):
    for j, clip in enumerate(audio.astype(np.float64)):
      locations = image.reshape(-1, image.shape[-1])
      frames = clip[valid[j]]
      dots = [[x @ y for y in frames] for x in locations]
      x, y = locations.mean(0), frames.mean(0)
      out[i, j] = {
        "dot": x @ y,
        "cosine": x @ y / np.sqrt((x @ x) * (y @ y)),
        "sisa": np.mean(dots),
        "misa": np.mean([max(column) for column in zip(*dots, strict=True)]),
        "sima": np.mean([max(row) for row in dots]),
      }[kind]
  return out


@pytest.mark.parametrize("kind", KINDS)
def test_all_pairs_follow_their_definitions(kind):
  for seed in range(5):
    images, audio, valid = _maps(seed)
    got = scores.score(kind, *map(jnp.asarray, (images, audio, valid)))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
      got, _plain(kind, images, audio, valid), rtol=1e-5, atol=1e-6
    )


def test_scores_equal_a_case_worked_by_hand():
  # Two locations, (1, 0) and (0, 2); frames (1, 1), (3, 0) and one of padding.
  images = jnp.array([[[[1.0, 0.0], [0.0, 2.0]]]])
  audio = jnp.array([[[1.0, 1.0], [3.0, 0.0], [9.0, 9.0]]])
  valid = jnp.array([[True, True, False]])
  # Matchmap: location 1: 1, 3; location 2: 2, 0.
  assert scores.sisa(images, audio, valid)[0, 0] == 1.5
  assert scores.misa(images, audio, valid)[0, 0] == 2.5
  assert scores.sima(images, audio, valid)[0, 0] == 2.5
  np.testing.assert_array_equal(
    scores.matchmap(images[0], audio[0])[0], [[1, 3, 9], [2, 0, 18]]
  )


def test_matchmap_of_pairs_is_the_matchmap_of_each():
  images, audio, _ = map(jnp.asarray, _maps(b=4))
  together = scores.matchmap(images, audio)
  assert together.shape == (4, 2, 3, 5)
  for i in range(4):
    np.testing.assert_allclose(
      together[i], scores.matchmap(images[i], audio[i]), rtol=1e-6
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [1e30, np.nan])
def test_padding_has_no_effect(kind, normalize, padding):
  images, audio, valid = _maps(1)

  def run(audio):
    total = lambda i, a: jnp.sum(  # noqa: E731
      jnp.sin(scores.score(kind, i, a, jnp.asarray(valid), normalize))
    )
    return jax.value_and_grad(total, (0, 1))(
      jnp.asarray(images), jnp.asarray(audio)
    )

  value, gradients = run(audio)
  padded = np.where(valid[..., None], audio, np.float32(padding))
  value_padded, gradients_padded = run(padded)
  assert value == value_padded
  jax.tree.map(np.testing.assert_array_equal, gradients, gradients_padded)
  assert not np.any(np.asarray(gradients[1])[~valid])


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_frames_scores_zero(kind):
  images, audio, valid = map(jnp.asarray, _maps(2))
  valid = valid.at[1].set(False)

  def run(images, audio):
    return scores.score(kind, images, audio, valid)

  assert not np.any(run(images, audio)[:, 1])
  image_grad, audio_grad = jax.grad(lambda *x: run(*x).sum(), (0, 1))(
    images, audio
  )
  assert np.all(np.isfinite(image_grad)) and np.all(np.isfinite(audio_grad))
  assert not np.any(audio_grad[1])


@pytest.mark.parametrize("kind", ["misa", "sima"])
def test_tiles_do_not_change_scores(kind, monkeypatch):
  images, audio, valid = map(jnp.asarray, _maps(3, b=5))

  def run():
    total = lambda i, a: jnp.sum(jnp.sin(scores.score(kind, i, a, valid)))  # noqa: E731
    return jax.value_and_grad(total, (0, 1))(images, audio)

  whole = run()
  # Two images with two clips of five and four: the last tiles are not full.
  monkeypatch.setattr(maxsim, "TILE", 2 * 2 * 2 * 3 * audio.shape[1])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole,
    run(),
  )


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_maps_give_float32_scores(kind):
  images, audio, valid = map(jnp.asarray, _maps(4))
  low = scores.score(
    kind, images.astype(jnp.bfloat16), audio.astype(jnp.bfloat16), valid
  )
  assert low.dtype == jnp.float32
  np.testing.assert_allclose(
    low, scores.score(kind, images, audio, valid), atol=0.1
  )


@pytest.mark.parametrize("kind", KINDS)
def test_normalized_scores_are_bounded_and_ignore_lengths(kind):
  images, audio, valid = map(jnp.asarray, _maps(5))
  got = scores.score(kind, images, audio, valid, normalize=True)
  assert np.all(np.abs(got) <= 1 + 1e-6)
  longer = images * jnp.array([1e-3, 7.0, 1e4])[:, None, None, None]
  np.testing.assert_allclose(
    got, scores.score(kind, longer, audio, valid, normalize=True), atol=1e-5
  )


def test_l2_normalize_gives_length_1_or_zero():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]])
  np.testing.assert_allclose(
    scores.l2_normalize(x), [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6
  )
  gradient = jax.grad(lambda x: scores.l2_normalize(x)[:, 0].sum())(x)
  # d(x / |x|) / dx = (1 - x^2) / |x|, and nothing where there is no direction.
  np.testing.assert_allclose(
    gradient, [[0.64 / 5, -0.48 / 5], [0, 0], [0, 0]], rtol=1e-5
  )


@pytest.mark.parametrize("kind", sorted(scores.ALL_PAIRS))
@pytest.mark.parametrize("normalize", [False, True])
def test_nan_stays_in_the_scores(kind, normalize):
  """A NaN stays in its row and column; a length of NaN is not too short."""
  rng = np.random.default_rng(3)
  images = rng.normal(size=(3, 4, 4, 8)).astype(np.float32)
  audio = rng.normal(size=(4, 5, 8)).astype(np.float32)
  valid = np.ones((4, 5), bool)
  images[1, 2, 3, 0], audio[2, 1, 7] = np.nan, np.nan
  run = jax.jit(lambda *x: scores.score(kind, *x, normalize))
  got = run(*map(jnp.asarray, (images, audio, valid)))
  expected = np.zeros((3, 4), bool)
  expected[1], expected[:, 2] = True, True
  np.testing.assert_array_equal(np.isnan(got), expected)


def test_nan_stays_in_the_distance():
  image = jnp.ones((2, 1, 1, 3)).at[1, 0, 0, 0].set(jnp.nan)
  got = scores.calibrated_distance(
    image, jnp.zeros((1, 1, 3)), jnp.float32(1), jnp.float32(2)
  )
  np.testing.assert_allclose(got[:, 0], [2 - 3**0.5, np.nan], rtol=1e-6)


def test_vectors_down_to_the_shortest_have_a_direction():
  """Lengths of 1.1e-6 and 0.9e-6 lie on either side of the bound of 1e-6."""
  x = jnp.array([[0.66e-6, 0.88e-6], [0.54e-6, 0.72e-6]])
  np.testing.assert_allclose(
    scores.l2_normalize(x), [[0.6, 0.8], [0, 0]], rtol=1e-5
  )
  x = jnp.array([[1.26, 1.68], [1.14, 1.52]])
  np.testing.assert_allclose(
    scores.l2_normalize(x, 2.0), [[0.6, 0.8], [0, 0]], rtol=1e-6
  )


def test_an_unknown_kind_names_the_nearest():
  images, audio, valid = map(jnp.asarray, _maps())
  with pytest.raises(ValueError, match="did you mean 'misa'"):
    scores.score("MISAA", images, audio, valid)
