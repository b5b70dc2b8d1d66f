"""Drawn impostors: attempts, units, latent moves, and the selected edit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filling import normal
from vgsgan.negatives import edits, impostors
from vgsgan.parallel import mesh

KEY = jax.random.key(3)
MAKE_MESH = mesh.make_mesh


def test_by_attempt_undoes_interleave():
  pictures = normal(3, 5, 2, 2, 3)  # [rungs, b, ...]
  tree = impostors.interleave(lambda r: {"x": pictures[r]}, 3)
  for i in range(5):
    for r in range(3):
      np.testing.assert_array_equal(tree["x"][3 * i + r], pictures[r, i])
  np.testing.assert_array_equal(impostors.by_attempt(tree["x"], 3), pictures)


def test_rows_stay_on_their_device_when_interleaved():
  devices = MAKE_MESH(8)
  x = jax.device_put(normal(16, 2, 2, 3), mesh.batch_sharding(devices))

  @jax.jit
  def there_and_back(x):
    together = impostors.interleave(lambda r: x * (r + 1.0), 4)
    return together, impostors.by_attempt(together, 4)

  compiled = there_and_back.lower(x).compile()
  for collective in ("all-gather", "all-to-all", "collective-permute"):
    assert collective not in compiled.as_text()
  together, apart = compiled(x)
  assert together.sharding.is_equivalent_to(mesh.batch_sharding(devices), 4)
  for r in range(4):
    np.testing.assert_array_equal(apart[r], x * (r + 1.0))


def test_select_edit_takes_the_weakest_sufficient_edit():
  rng = np.random.default_rng(0)
  original = rng.normal(size=(6, 4, 4, 3)).astype("f4")
  noise = (
    rng.normal(size=(3, 6, 4, 4, 3))
    * np.array([0.2, 0.5, 1.0])[:, None, None, None, None]
  )
  pictures = (original + noise).astype("f4")
  pictures[:, 5] = original[5]  # Never enough.
  pictures[0, 0] = np.nan
  regions = rng.random((3, 6, 2, 2)) < 0.6
  regions[:, :, 0, 0] = True
  limits = (0.3, 0.5, 0.6)
  chosen, weight, metrics = impostors.select_edit(
    jnp.asarray(pictures),
    jnp.asarray(original),
    [jnp.asarray(region) for region in regions],
    limits,
  )
  rungs, found = [], []
  for i in range(6):
    expected = None
    for r in range(3):
      inside = np.kron(regions[r, i], np.ones((2, 2)))[..., None]
      change = np.linalg.norm(inside * (pictures[r, i] - original[i]))
      change /= np.linalg.norm(inside * original[i])
      if expected is None and change >= limits[r]:
        expected = r
        rungs.append(r)
        found.append(change)
    assert weight[i] == (expected is not None)
    picture = original[i] if expected is None else pictures[expected, i]
    np.testing.assert_array_equal(chosen[i], picture)
  assert weight[5] == 0 and len(set(rungs)) > 1
  np.testing.assert_allclose(metrics["rung"], np.mean(rungs), rtol=1e-5)
  np.testing.assert_allclose(metrics["change"], np.mean(found), rtol=1e-5)
  np.testing.assert_allclose(metrics["region"], regions[0].mean(), rtol=1e-5)


def test_ablate_units_uses_the_region_of_each_attempt():
  z = normal(2, 3)
  ranks = jnp.array([[0.0, 2, 1], [5, 1, 3]])
  units = [{"up1": edits.top_units(ranks, count)} for count in (1, 2)]
  regions = np.zeros((2, 2, 2, 2), bool)
  regions[0, :, 0, 0] = regions[1, :, :, 0] = True
  kept = {}

  def draw(z, keep):
    kept["z"], kept["up1"] = z, np.asarray(keep["up1"])
    return jnp.broadcast_to(z.sum(1)[:, None, None, None], (4, 8, 8, 3))

  drawn = impostors.ablate_units(
    draw, z, units, {"up1": (2, 2, 3)}, list(map(jnp.asarray, regions))
  )
  np.testing.assert_array_equal(drawn[:, :, 0, 0, 0], [z.sum(1)] * 2)
  best = [[1, 2, 0], [0, 2, 1]]
  for i, rung in itertools.product(range(2), range(2)):
    np.testing.assert_array_equal(kept["z"][2 * i + rung], z[i])
    expected = np.ones((2, 2, 3))
    for unit in best[i][: rung + 1]:
      expected[..., unit][regions[rung, i]] = 0
    np.testing.assert_array_equal(kept["up1"][2 * i + rung], expected)


@pytest.mark.parametrize("kind", impostors.LATENT)
def test_strengths_lie_along_one_direction_per_row(kind):
  z, directions = normal(5, 12), normal(3, 12, seed=2)
  drawn = impostors.move_latents(
    kind,
    KEY,
    lambda z, keep: z.reshape(-1, 2, 2, 3),
    z,
    (0.25, 0.5),
    4,
    lambda: directions,
  )
  weak, strong = np.float64(drawn.reshape(2, 5, 12) - z)
  if kind == "chunk":
    # fresh = (moved - sqrt(1 - s^2) z) / s, the same for both.
    changed = weak != 0
    assert changed.sum(1).tolist() == [4] * 5
    assert (changed.reshape(5, 3, 4).all(2)).sum(1).tolist() == [1] * 5
    fresh = [
      (move + (1 - np.sqrt(1 - s**2)) * z) / s
      for move, s in ((weak, 0.25), (strong, 0.5))
    ]
    np.testing.assert_allclose(
      fresh[0][changed], fresh[1][changed], rtol=1e-4, atol=1e-5
    )
    return
  np.testing.assert_allclose(2 * weak, strong, rtol=1e-4, atol=1e-6)
  assert len({row.tobytes() for row in weak}) == 5 or kind == "direction"
  if kind == "direction":
    steps = np.abs(weak[:, None] / (0.25 * directions) - 1) < 1e-3
    steps |= np.abs(weak[:, None] / (0.25 * directions) + 1) < 1e-3
    assert steps.all(2).any(1).all()


def test_clusters_are_selected_by_the_features_at_the_peak():
  b, d = 3, 6
  layers = {"up1": (2, 2, 4)}
  image_map = np.zeros((b, 2, 2, d), np.float32)
  rows, columns, told = [0, 1, 1], [1, 0, 1], [2, 0, 1]
  for i in range(b):
    # Elsewhere the next concept is louder.
    image_map[i, ..., 2 * ((told[i] + 1) % 3)] = 9
    image_map[i, rows[i], columns[i]] = 0
    image_map[i, rows[i], columns[i], 2 * told[i]] = 5
  units = normal(3, 4)
  clusters = impostors.Concepts(
    jnp.zeros(d),
    jnp.ones(d),
    jnp.asarray(np.kron(np.eye(3), [0.5, 0.5]), jnp.float32),
    {"up1": units},
  )
  place = jnp.zeros(b, int)
  found = edits.Peak(
    jnp.zeros((b, 2, 2)), place, *map(jnp.array, (rows, columns))
  )

  def chosen(counts, published):
    off = impostors.UNITS["cluster"](
      impostors.EditContext(
        KEY,
        layers,
        found,
        jnp.ones((b, 2, 2), bool),
        jnp.asarray(image_map),
        lambda keep: jnp.zeros(b),
        clusters,
        counts,
        published,
      )
    )
    return [rung["up1"].tolist() for rung in off]

  best = np.argsort(-np.asarray(units), 1)[told]
  expected = [
    [[float(c in row[:n]) for c in range(4)] for row in best] for n in (1, 3)
  ]
  assert chosen((1, 3), False) == expected
  # Only one concept has a positive score, so sampling returns it.
  assert chosen((1, 3), True) == expected


def test_published_clusters_after_the_first_are_sampled_by_score():
  """Concepts score 3, 1 and -1; each switches off a unit of its own."""
  b = 600
  clusters = impostors.Concepts(
    jnp.zeros(3), jnp.ones(3), jnp.eye(3), {"up1": jnp.eye(3)}
  )
  place = jnp.zeros(b, int)

  def chosen(published):
    off = impostors.UNITS["cluster"](
      impostors.EditContext(
        KEY,
        {"up1": (2, 2, 3)},
        edits.Peak(jnp.zeros((b, 1, 1)), place, place, place),
        jnp.ones((b, 1, 1), bool),
        jnp.broadcast_to(jnp.array([3.0, 1.0, -1.0]), (b, 1, 1, 3)),
        lambda keep: jnp.zeros(b),
        clusters,
        (1, 1, 1),
        published,
      )
    )
    return np.stack([rung["up1"] for rung in off])

  np.testing.assert_array_equal(chosen(False)[..., 0], 1)
  first, *others = chosen(True)
  np.testing.assert_array_equal(first[:, 0], 1)
  for units in others:
    np.testing.assert_allclose(units.mean(0), [0.75, 0.25, 0], atol=0.06)
  # Attempts sample independently: two agree only by chance.
  same = (others[0] == others[1]).all(1).mean()
  assert same == pytest.approx(0.75**2 + 0.25**2, abs=0.07)


def select_random(counts, published, b=300, key=KEY):
  layers = {"up1": (4, 4, 50), "up2": (8, 8, 40)}
  nothing = jnp.zeros((b, 1, 1))
  found = edits.peak(nothing[..., None], jnp.ones((b, 1), bool))
  return impostors.UNITS["random"](
    impostors.EditContext(
      key,
      layers,
      found,
      nothing > 0,
      nothing[..., None],
      lambda keep: jnp.zeros(b),
      None,
      counts,
      published,
    )
  )


def test_random_units_are_a_fixed_count_or_each_with_probability_half():
  plain, published = (
    [{n: np.asarray(x) for n, x in rung.items()} for rung in rungs]
    for rungs in (select_random((5, 9), False), select_random((5, 9), True))
  )
  for rung, count in zip(plain, (5, 9), strict=True):
    for off in rung.values():
      assert set(off.sum(1)) == {count} and set(np.unique(off)) == {0, 1}
  # A stronger edit is a weaker one and more.
  assert all((plain[0][name] <= plain[1][name]).all() for name in plain[0])
  for rung in published:
    assert set(rung) == {"up1", "up2"}
    for off in rung.values():
      assert set(np.unique(off)) == {0, 1}
      # Of 12,000 draws and more; of so many there are no two alike.
      assert abs(off.mean() - 0.5) < 0.02
      assert abs(off.mean(0) - 0.5).max() < 0.15
      assert len(np.unique(off, axis=0)) == len(off)
  alike = [
    published[0]["up1"] == published[1]["up1"],
    published[0]["up1"][:, :40] == published[0]["up2"],
    published[0]["up1"]
    == np.asarray(select_random((5,), True, key=jax.random.key(1))[0]["up1"]),
  ]
  assert all(abs(same.mean() - 0.5) < 0.03 for same in alike)
