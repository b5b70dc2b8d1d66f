"""Concepts made between updates: when, of what, and from planted ones."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from tests import drawing_world
from tests.filling import normal, same
from vgsgan.data.examples import DrawnPairExample
from vgsgan.losses import scores
from vgsgan.models import pretrained
from vgsgan.negatives import concepts
from vgsgan.parallel import mesh
from vgsgan.tasks import drawing_concepts
from vgsgan.train.state import TrainState

MAKE_MESH = mesh.make_mesh

quick_to_compile = drawing_world.quick_to_compile
generator = drawing_world.generator
records = drawing_world.records


def planted(n=300, d=9, side=4):
  """Two concepts, of dimensions 2 to 5 and 6 to 8, and who draws them."""
  rng = np.random.default_rng(0)
  groups = [range(2, 6), range(6, 9)]
  spots = rng.random((n, side, side, 2)) < 0.06
  values = 0.05 * rng.normal(size=(n, side, side, d))
  points = 0.05 * rng.normal(size=(n, d))
  for k, group in enumerate(groups):
    values[..., list(group)] += spots[..., k : k + 1]
    said = rng.random(n) < 0.08
    points[np.ix_(said, list(group))] += 1 + rng.random((said.sum(), 1))
  twice = spots.repeat(2, axis=1).repeat(2, axis=2)
  maps = 0.1 * rng.random((n, 2 * side, 2 * side, 5))
  loud = 1 + rng.random(maps.shape[:3])
  maps[..., 3] += twice[..., 0] * loud
  maps[..., 1] += twice[..., 1] * loud
  return {
    "points": points.astype("f4"),
    "features": values.astype("f4"),
    "units": {"up1": maps.astype("f4")},
  }, groups


def refresher(phases, count=4, rows=4, records=(), **model):
  use = {"quantile": 0.92, "least": 2, "concepts": count, "refresh_every": 4}
  config = ml_collections.ConfigDict(
    {
      "edits": use | {"concept_pairs": 6},
      "eval": {"batch": rows},
      "data": {"num_threads": 1},
    }
  )
  fake = types.SimpleNamespace(phases=phases, config=config, **model)
  transform = DrawnPairExample(5120, False)
  return drawing_concepts.Refresh(fake, records, transform, MAKE_MESH(2))


def test_planted_concepts_and_their_units_are_found():
  seen, groups = planted()
  made = refresher({0: "cluster"}).make(seen)
  for centroid, group in zip(made.centroids, groups, strict=False):
    assert np.flatnonzero(centroid).tolist() == list(group)
  assert not np.any(made.centroids[2:]) and len(made.centroids) == 4
  flat = seen["features"].reshape(-1, 9)
  np.testing.assert_allclose(made.mean, flat.mean(0), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(made.std, flat.std(0), rtol=1e-4)
  assert made.units["up1"].shape == (4, 5)
  best = made.units["up1"].argmax(1)
  assert best[:2].tolist() == [3, 1]
  assert made.units["up1"][0, 3] > 0.5 > 5 * made.units["up1"][0, 0]
  # Padding ranks no unit, and is never the concept of a place.
  assert not made.units["up1"][2:].any()
  one_hot = np.eye(9, dtype="f4")[[3, 7]]
  told = concepts.assign(
    jnp.asarray(one_hot),
    *map(jnp.asarray, (made.mean, made.std, made.centroids)),
  )
  assert jnp.argmax(told, axis=1).tolist() == [0, 1]


def test_concepts_are_clustered_at_fixed_steps_of_a_phase():
  phases = {0: "regular", 3: "cluster", 10: "random", 12: "cluster"}
  refresh = refresher(phases)
  assert [s for s in range(22) if refresh.due(s)] == [3, 7, 12, 16, 20]
  state = TrainState(0, {}, {}, {})
  assert refresh(state, 4, lambda: None) is state


def test_a_refresh_changes_the_concepts_and_nothing_else(generator, records):
  network = pretrained.load_generator(generator)
  weights = jax.tree.map(jnp.asarray, network.variables)
  project, speak = normal(16, 3 * 3 * 8), normal(16, 2 * 8, seed=2)

  def encode(state, batch):
    z = batch["z"] * state.params["gain"]
    valid = jnp.ones((len(z), 2), bool)
    return (
      (z @ project).reshape(-1, 3, 3, 8),
      (z @ speak).reshape(-1, 2, 8),
      valid,
    )

  def refresh_of(encode):
    return refresher(
      {0: "cluster"},
      records=records,
      encode=encode,
      matchmap=scores.matchmap,
      generator=network.module,
      generator_params=lambda params, stats: stats["generator_params"],
      layers={"up1": network.module.layers["up1"]},
    )

  refresh = refresh_of(encode)
  state = TrainState(
    jnp.int32(8),
    {"gain": jnp.float32(1.0)},
    {"generator_params": weights["params"], "generator": weights["batch_stats"]}
    | {"concepts": None, "speech": jnp.ones(3)},
    {},
  )
  polled = []
  after = refresh(state, 8, lambda: polled.append(1))
  assert len(polled) == 2  # 6 pairs in batches of 4.
  assert after.params is state.params and after.opt_state is state.opt_state
  made = after.batch_stats["concepts"]
  for name in ("generator_params", "generator", "speech"):
    assert after.batch_stats[name] is state.batch_stats[name]
  assert made.centroids.sharding.is_fully_replicated
  again = refresh(state, 8, lambda: None)
  assert same(again.batch_stats["concepts"], made)

  # What was seen: of 6 pairs, the product where they match best.
  seen = refresh.observe(state, refresh.records, lambda: None)
  z = np.stack([record["z"] for record in records[:6]]).astype(np.float64)
  images = (z @ np.float64(project)).reshape(6, 9, 8)
  sounds = (z @ np.float64(speak)).reshape(6, 2, 8)
  match = np.einsum("bpd,btd->bpt", images, sounds)
  for i in range(6):
    place, frame = np.unravel_index(match[i].argmax(), (9, 2))
    expected = images[i, place] * sounds[i, frame]
    np.testing.assert_allclose(
      seen["points"][i], expected, rtol=1e-3, atol=1e-3
    )
  np.testing.assert_allclose(
    made.mean, images.reshape(-1, 8).mean(0), rtol=1e-3, atol=1e-4
  )
  assert seen["units"]["up1"].shape == (6, 8, 8, 16)

  # In float32, as the compiled step has them, of towers that are not.
  def rounded(state, batch):
    image, speech, valid = encode(state, batch)
    return jnp.bfloat16(image), jnp.bfloat16(speech), valid

  low = refresh_of(rounded)(state, 8, lambda: None).batch_stats["concepts"]
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(low))
  np.testing.assert_allclose(low.mean, made.mean, rtol=2e-2, atol=2e-2)


def test_maps_of_concepts_are_resampled_to_other_grids():
  places = np.zeros((1, 2, 2, 1), bool)
  places[0, 0, 1] = True
  wide = drawing_concepts.on_grid(places, 4, 6)[0, ..., 0]
  np.testing.assert_array_equal(
    wide, np.kron([[0, 1], [0, 0]], np.ones((2, 3)))
  )
  narrow = drawing_concepts.on_grid(wide[None, ..., None], 2, 2)
  np.testing.assert_array_equal(narrow, places)
