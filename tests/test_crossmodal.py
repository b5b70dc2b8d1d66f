"""Four directions against plain loops; CCA against planted correlations."""

import sys

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from vgsgan.common.errors import UserError
from vgsgan.evals import crossmodal as c


def _relevance(rng, n, levels=4):
  half = rng.integers(0, levels, (n, n))
  return np.maximum(half, half.T) + 3 * np.eye(n, dtype=int)


def _by_loops(queries, gallery, relevance, k, without_self):
  values = []
  for i, query in enumerate(queries):
    items = [j for j in range(len(gallery)) if not (without_self and i == j)]
    far = []
    for j in items:
      a, b = (x / (np.sqrt(x @ x) or 1) for x in (query, gallery[j]))
      far.append(np.sqrt(np.sum((a - b) ** 2)))
    gains = 2.0 ** relevance[i, items] - 1
    values.append(ndcg_score([gains], [-np.round(far, 10)], k=k))
  return np.mean(values)


def test_four_directions_equal_loops():
  rng = np.random.default_rng(0)
  for n, k in ((6, 2), (9, 30)):
    image, audio = rng.normal(size=(2, n, 4))
    # A dead clip, which is nearer to all than their opposites.
    image[2] = 0
    relevance = _relevance(rng, n)
    features = {"image": image, "audio": audio}
    got = c.four_directions(image, audio, relevance, k)
    assert len(got) == 4
    for one, queries in features.items():
      for other, gallery in features.items():
        expected = _by_loops(queries, gallery, relevance, k, one == other)
        value = got[f"{one}_to_{other}"][f"nDCG@{k}"]["value"]
        assert value == pytest.approx(expected, abs=1e-12)


def test_lengths_and_precision_have_no_effect():
  rng = np.random.default_rng(1)
  image, audio = rng.normal(size=(2, 20, 5)).astype(np.float32)
  relevance = _relevance(rng, 20)
  got = c.four_directions(image, audio, relevance, 5)
  lengths = 2.0 ** rng.integers(-3, 4, (20, 1))
  assert got == c.four_directions(image * lengths, audio / 8, relevance, 5)


@pytest.mark.parametrize("constant", [0.0, 0.3, np.nan])
def test_collapsed_features_are_chance(constant):
  relevance = _relevance(np.random.default_rng(2), 40)
  features = np.full((40, 7), constant, np.float32)
  for figures in c.four_directions(features, features, relevance).values():
    assert figures["nDCG@30"]["value"] == figures["nDCG@30"]["chance"]


def test_a_clip_finds_its_other_half_but_not_itself():
  """Only its own clip is relevant: then nothing can be found within."""
  features = np.random.default_rng(3).normal(size=(8, 3))
  relevance = np.eye(8) + np.roll(np.eye(8), 1, axis=1)
  got = c.four_directions(features, features, relevance, 1)
  assert got["image_to_audio"]["nDCG@1"]["value"] == 1
  assert got["image_to_image"]["nDCG@1"]["value"] < 1
  assert got["image_to_image"]["nDCG@1"]["chance"] == pytest.approx(1 / 7)
  assert got["audio_to_image"]["nDCG@1"]["chance"] == pytest.approx(2 / 8)


def test_within_equals_the_direction_of_one_modality():
  rng = np.random.default_rng(4)
  image, audio = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
  relevance = _relevance(rng, 5)
  got = c.four_directions(image, audio, relevance)
  assert got["image_to_image"] == c.within(image, relevance)
  assert got["audio_to_audio"] == c.within(audio, relevance)
  assert got["image_to_image"] != got["audio_to_audio"]


def _planted(rng, n, correlations, d, e):
  """Features whose canonical correlations are exactly these; their variates."""
  k = len(correlations)
  noise = rng.normal(size=(n, d + e))
  basis, _ = np.linalg.qr(noise - noise.mean(0))
  of_image, rest = basis[:, :d], basis[:, d:]
  rho = np.array(correlations)
  of_audio = rest.copy()
  of_audio[:, :k] = rho * of_image[:, :k] + np.sqrt(1 - rho**2) * rest[:, :k]
  image = of_image @ rng.normal(size=(d, d)) + rng.normal(size=d)
  audio = of_audio @ rng.normal(size=(e, e)) * 40 - 3
  return image, audio, of_image[:, :k], of_audio[:, :k]


def _correlations(one, other):
  return [np.corrcoef(a, b)[0, 1] for a, b in zip(one.T, other.T, strict=True)]


def test_cca_finds_planted_correlations():
  rng = np.random.default_rng(5)
  planted = [0.95, 0.7, 0.4]
  image, audio, u, v = _planted(rng, 60, planted, 5, 4)
  to_image, to_audio = c.canonical(image, audio, 3)
  one, other = to_image(image), to_audio(audio)
  np.testing.assert_allclose(_correlations(one, other), planted, atol=1e-9)
  for found, expected in ((one, u), (other, v)):
    same = np.abs(_correlations(found, expected))
    np.testing.assert_allclose(same, 1, atol=1e-9)
    np.testing.assert_allclose(np.cov(found.T), np.eye(3), atol=1e-9)


def test_projections_are_centred_on_the_clips_they_are_fitted_to():
  rng = np.random.default_rng(6)
  image, audio, *_ = _planted(rng, 50, [0.9, 0.5], 4, 6)
  to_image, to_audio = c.canonical(image[:40], audio[:40], 2)
  alone = np.concatenate([to_image(image[i : i + 1]) for i in range(50)])
  np.testing.assert_allclose(alone, to_image(image), atol=1e-9)
  np.testing.assert_allclose(to_image(image[:40]).mean(0), 0, atol=1e-9)
  np.testing.assert_allclose(to_audio(audio[:40]).mean(0), 0, atol=1e-9)


def _subspace(features):
  """Orthonormal basis of what the features span."""
  u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
  return u[:, s > 1e-5 * s[0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dead_and_dependent_features_change_nothing(dtype):
  rng = np.random.default_rng(7)
  image, audio, *_ = _planted(rng, 80, [0.9, 0.6, 0.3], 6, 5)
  image = np.concatenate([image, image[:, :3], np.full((80, 2), 0.3)], 1)
  audio = np.concatenate([np.zeros((80, 4)), audio, audio @ np.ones((5, 1))], 1)
  image, audio = image.astype(dtype), audio.astype(dtype)
  to_image, to_audio = c.canonical(image, audio, 128)
  got = _correlations(to_image(image), to_audio(audio))
  cosines = np.linalg.svd(
    _subspace(image).T @ _subspace(audio), compute_uv=False
  )
  np.testing.assert_allclose(got[:3], [0.9, 0.6, 0.3], atol=1e-4)
  assert len(got) >= len(cosines) == 5
  np.testing.assert_allclose(got[:3], cosines[:3], atol=1e-4)
  assert np.isfinite(to_image(image)).all()


def test_cca_makes_features_comparable():
  """Widths differ, the axes too; across, only CCA finds anything."""
  rng = np.random.default_rng(8)
  image, audio, *_ = _planted(rng, 200, [0.99] * 4, 6, 5)
  relevance = np.eye(100, dtype=int)
  relevance[:, 0] = 1
  to_image, to_audio = c.canonical(image[:100], audio[:100])
  got = c.four_directions(
    to_image(image[100:])[:, :4], to_audio(audio[100:])[:, :4], relevance, 5
  )
  for name in ("image_to_audio", "audio_to_image"):
    figure = got[name]["nDCG@5"]
    assert figure["value"] > 0.4 > 10 * figure["chance"]


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_cca_of_constant_features_is_chance(value):
  audio = np.random.default_rng(9).normal(size=(30, 4))
  image = np.full((30, 5), value)
  to_image, to_audio = c.canonical(image, audio)
  relevance = _relevance(np.random.default_rng(10), 30)
  got = c.four_directions(to_image(image), to_audio(audio), relevance)
  figure = got["audio_to_image"]["nDCG@30"]
  assert figure["value"] == figure["chance"]


def test_cca_refuses_few_clips_nan_and_a_missing_package(monkeypatch):
  features = np.random.default_rng(11).normal(size=(9, 3))
  with pytest.raises(UserError, match="CCA of 1 clips"):
    c.canonical(features[:1], features[:1])
  broken = features.copy()
  broken[4, 1] = np.nan
  with pytest.raises(UserError, match="audio features are not finite"):
    c.canonical(features, broken)
  monkeypatch.setitem(sys.modules, "cca_zoo.linear", None)
  with pytest.raises(UserError, match=r"\.\[retrieval\]"):
    c.canonical(features, features)
