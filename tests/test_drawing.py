"""Drawing: edits inside the step, on any devices; the curriculum; refreshes."""

import copy
import functools
import itertools
import json
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.test_gan import (
  filled,
  normal,
  quick_jit,
  same,
  saved_state,
  variables_of,
)
from tests.test_options import load
from tests.test_trainer import lines, signal_at
from vgsgan import (
  concepts,
  data,
  edits,
  impostors,
  mesh,
  scores,
  tasks,
  trainer,
)
from vgsgan.data import features
from vgsgan.data.builders.scenes import encode
from vgsgan.data.pairs import DrawnPairExample
from vgsgan.errors import UserError
from vgsgan.models import audio
from vgsgan.models.generator import Generator
from vgsgan.state import TrainState
from vgsgan.tasks import concept_refresh, drawing, grounding
from vgsgan.worlds import pretrained

KEY = jax.random.key(3)
B = 8
RATE = 0.1
MAKE_MESH = mesh.make_mesh
GAN = {
  "channels": (6, 16, 6, 4),
  "chunk": 4,
  "attention": 0,
  "labels": False,
  "spectral": False,
}


def one_line(refused, *words):
  assert "\n" not in str(refused.value)
  for word in words:
    assert word in str(refused.value)


# ------------------------------------------------------------------- world


def short_tower(embed, width, **fields):
  """A speech tower of two layers: quicker to compile than `audio.small`."""
  del width
  return audio.SpeechTower((6, embed), (1, 3), (False, True), **fields)


def plain_inputs(self, batch, key):
  """Samples as they are in the place of mels, and nothing augmented."""
  del self, key
  frames = batch["waveform"].reshape(-1, 32, 160)[..., :16] / 9000.0
  pictures = features.normalize_image(batch["image"])
  return pictures, frames, -(-batch["num_samples"] // 160)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
  with pytest.MonkeyPatch.context() as patched:
    patched.setitem(grounding.SPEECH_TOWERS, "small", short_tower)
    patched.setattr(grounding.Grounding, "inputs", plain_inputs)
    yield


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
  """The file of a random generator of 32 pixels."""
  module = Generator(GAN["channels"], GAN["chunk"], spectral=False)
  path = tmp_path_factory.mktemp("networks") / "generator.npz"
  tree = variables_of(module, jnp.zeros((1, module.latent_size)), scale=0.3)
  pretrained.save_params(path, tree, {"config": {"gan": GAN}})
  return str(path)


@pytest.fixture(scope="module")
def records(generator):
  """Pictures as the generator draws them, and noise for captions."""
  network = pretrained.load_generator(generator)
  rng = np.random.default_rng(0)
  z = rng.normal(size=(24, network.module.latent_size)).astype(np.float32)
  drawn = quick_jit(
    lambda z: network.module.apply(network.variables, z, train=False)
  )(z)
  images = np.rint(127.5 * (np.asarray(drawn) + 1)).astype(np.uint8)
  return [
    {
      "id": f"pair{i}".encode(),
      "image": encode(images[i]),
      "z": z[i],
      "waveform": rng.integers(-9000, 9000, 5120 - 100 * i).astype(np.int16),
      "concept": i,
      "image_id": i,
      "speech_id": i,
      "held_out": bool(i % 2),
    }
    for i in range(24)
  ]


def small(generator, arg="smoke", **fields):
  config = load("quickstart").get_config(arg)
  config.data.update({"generator": generator, "seconds": 0.32, "num_mels": 16})
  config.speech.update({"embed": 12, "width": 0.03125, "max_kernel": 3})
  config.image.update({"embed": 12, "widths": (8,), "blocks": (1,)})
  config.image.strides = (2,)
  config.loss.name = "edited"
  config.edits.update(
    {
      "counts": (5, 9),
      "changes": (0.0, 0.0),
      "shares": (0.8, 0.6),
      "strengths": (0.5, 1.0),
      "directions": 4,
      "concepts": 4,
    }
  )
  config.edits.update(fields)
  config.eval.update({"seconds": 0.32, "batch": 8})
  config.optim.warmup_steps = 0
  return config


def model_of(generator, devices=1, loss="edited", **fields):
  config = small(generator, **{"curriculum": "cluster@0"} | fields)
  config.loss.name = loss
  model = drawing.Drawing(config, MAKE_MESH(devices))
  # No scale of its own, as Adam has: what is equal stays so to rounding.
  model.tx = optax.sgd(RATE)
  return model


def state_of(model):
  """A random state, without compiling the initialisers."""
  made = filled(jax.eval_shape(model.init, KEY), scale=0.3)
  weights = jax.tree.map(jnp.asarray, model.drawn_with)
  where = made.params if "generator" in made.params else made.batch_stats
  name = "generator" if "generator" in made.params else "generator_params"
  where[name] = weights["params"]
  made.batch_stats["generator"] = weights["batch_stats"]
  if "log_scale" in made.params:
    made.params["log_scale"] = jnp.log(jnp.float32(10.0))
  if "concepts" in made.batch_stats:
    width = model.config.image.embed
    centroids = np.kron(np.eye(4), np.full(width // 4, 4 / width))
    made.batch_stats["concepts"] = impostors.Concepts(
      jnp.zeros(width),
      jnp.ones(width),
      jnp.asarray(centroids, jnp.float32),
      {n: normal(4, c) for n, (_, _, c) in model.layers.items()},
    )
  state = TrainState.create(made.params, made.batch_stats, model.tx)
  return jax.device_get(state)


@pytest.fixture(scope="module")
def batch(records):
  transform = DrawnPairExample(5120, False)
  rows = [transform(record, np.random.default_rng(0)) for record in records[:B]]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def on(devices, state, batch):
  """State and batch where a run on so many devices has them."""
  there = MAKE_MESH(devices)
  return (
    jax.device_put(state, mesh.replicated(there)),
    mesh.shard(batch, there),
  )


# -------------------------------------------------------------- curriculum


def test_a_curriculum_is_read_in_order():
  assert drawing.curriculum("regular@0") == {0: "regular"}
  found = drawing.curriculum("gradient@12, regular@0 ,random@6")
  assert list(found.items()) == [
    (0, "regular"),
    (6, "random"),
    (12, "gradient"),
  ]


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("regular@0,randon@5", "did you mean 'random'"),
    ("regular", "'regular' is not KIND@STEP"),
    ("regular@0,random@", "'random@' is not KIND@STEP"),
    ("regular@0,random@-3", "'random@-3' is not KIND@STEP"),
    ("regular@0,random@1.5", "'random@1.5' is not KIND@STEP"),
    ("regular@0,random@²", "'random@²' is not KIND@STEP"),
    ("random@5", "put regular@0 in front"),
    ("regular@0,random@0", "names step 0 twice"),
    ("", "did you mean"),
  ],
)
def test_a_wrong_curriculum_is_one_line(text, said):
  with pytest.raises(UserError) as refused:
    drawing.curriculum(text)
  if text:
    one_line(refused, said, "config.edits.curriculum")


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"layers": "up1,up9"}, "config.edits.layers='up9'"),
    ({"counts": (5,)}, "must be of one length"),
    ({"strengths": (0.1, 0.2, 0.3)}, "must be of one length"),
    ({"concepts": 0}, "config.edits.concepts=0 must be at least 1"),
    ({"counts": (), "rungs": 2, "strengths": (1.0,)}, "must be of one length"),
  ],
)
def test_wrong_edits_are_one_line(generator, fields, said):
  with pytest.raises(UserError) as refused:
    drawing.Drawing(small(generator, **fields), MAKE_MESH(1))
  one_line(refused, said)


def test_the_published_ladder_stands_in_for_empty_counts(generator):
  fields = {"counts": (), "rungs": 2, "first_count": 30}
  model = drawing.Drawing(small(generator, **fields), MAKE_MESH(1))
  assert model.ladder == ((30, 70), (0.95, 0.9), (0.95, 0.85))


def test_updates_take_over_at_their_step():
  def none(*_):
    raise NotImplementedError

  zero, four, nine = (functools.partial(none, i) for i in (0, 4, 9))
  task = tasks.Task(
    transform=none,
    init=none,
    step=zero,
    later={9: nine, 4: four},
    evaluate=none,
    select=none,
    selection="",
  )
  found = [task.step_at(step) for step in (0, 3, 4, 8, 9, 50)]
  assert found == [zero, zero, four, four, nine, nine]


# ----------------------------------------------------- pieces of an impostor


def test_rungs_of_a_row_lie_side_by_side_and_come_apart_again():
  pictures = normal(3, 5, 2, 2, 3)  # [rungs, b, ...]
  tree = impostors.by_rung(lambda r: {"x": pictures[r]}, 3)
  for i in range(5):
    for r in range(3):
      np.testing.assert_array_equal(tree["x"][3 * i + r], pictures[r, i])
  np.testing.assert_array_equal(impostors.by_row(tree["x"], 3), pictures)


def test_no_row_leaves_its_device_on_the_way_through_the_rungs():
  devices = MAKE_MESH(8)
  x = jax.device_put(normal(16, 2, 2, 3), mesh.over_data(devices))

  @quick_jit
  def there_and_back(x):
    together = impostors.by_rung(lambda r: x * (r + 1.0), 4)
    return together, impostors.by_row(together, 4)

  compiled = there_and_back.lower(x).compile()
  for collective in ("all-gather", "all-to-all", "collective-permute"):
    assert collective not in compiled.as_text()
  together, apart = compiled(x)
  assert together.sharding.is_equivalent_to(mesh.over_data(devices), 4)
  for r in range(4):
    np.testing.assert_array_equal(apart[r], x * (r + 1.0))


def test_quantize():
  pixels = np.linspace(-0.2, 1.2, 601, dtype=np.float32)
  got, slope = jax.vjp(impostors.quantize, jnp.asarray(pixels))
  # What is stored: 8 bits.
  stored = np.rint(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)
  np.testing.assert_allclose(got, stored / 255.0, atol=1e-6)
  np.testing.assert_array_equal(slope(jnp.asarray(pixels))[0], pixels)


def test_choose_takes_the_weakest_edit_that_is_enough():
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
  chosen, weight, metrics = impostors.choose(
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


def test_units_go_off_by_rank_in_the_region_of_their_rung():
  z = normal(2, 3)
  ranks = {"up1": jnp.array([[0.0, 2, 1], [5, 1, 3]])}
  regions = np.zeros((2, 2, 2, 2), bool)
  regions[0, :, 0, 0] = regions[1, :, :, 0] = True
  kept = {}

  def draw(z, keep):
    kept["z"], kept["up1"] = z, np.asarray(keep["up1"])
    return jnp.broadcast_to(z.sum(1)[:, None, None, None], (4, 8, 8, 3))

  drawn = impostors.switch_off(
    draw, z, ranks, {"up1": (2, 2, 3)}, list(map(jnp.asarray, regions)), (1, 2)
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
def test_strengths_lie_along_one_move_of_each_row(kind):
  z, directions = normal(5, 12), normal(3, 12, seed=2)
  drawn = impostors.move(
    kind,
    KEY,
    lambda z, keep: z.reshape(-1, 2, 2, 3),
    z,
    (0.25, 0.5),
    4,
    directions if kind == "direction" else None,
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


def test_a_cluster_is_that_of_the_features_at_the_peak():
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
  known = impostors.Concepts(
    jnp.zeros(d),
    jnp.ones(d),
    jnp.asarray(np.kron(np.eye(3), [0.5, 0.5]), jnp.float32),
    {"up1": units},
  )
  place = jnp.zeros(b, int)
  found = edits.Peak(
    jnp.zeros((b, 2, 2)), place, *map(jnp.array, (rows, columns))
  )
  ranks = impostors.unit_ranks(
    "cluster",
    KEY,
    layers,
    found,
    jnp.ones((b, 2, 2), bool),
    jnp.asarray(image_map),
    lambda keep: jnp.zeros(b),
    known,
  )
  np.testing.assert_array_equal(ranks["up1"], units[np.array(told)])


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
    name: scores.paired(model.score, model.look(*args, x), *maps[1:])
    for name, x in (seen | {"real": pictures}).items()
  }
  return made, shown, score


@pytest.fixture(scope="module")
def editing(generator):
  """A model, its state, and `edits_of` on 1 and 8 devices, compiled once."""
  model = model_of(generator)
  run = quick_jit(functools.partial(edits_of, model))

  def on_devices(devices, state, batch, key=KEY):
    return jax.device_get(run(*on(devices, state, batch), key))

  return model, state_of(model), on_devices


def test_every_edit_is_the_same_on_1_and_8_devices(editing, batch):
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


def test_what_is_not_edited_is_the_stored_picture(editing, batch):
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


def test_keys_change_what_is_random_alone(editing, batch):
  _, state, run = editing
  one, _, _ = run(1, state, batch)
  other, _, _ = run(1, state, batch, jax.random.key(9))
  for kind in impostors.KINDS:
    equal = np.array_equal(one[kind][0], other[kind][0])
    assert equal == (kind in ("cluster", "gradient")), kind


def test_aimed_units_lower_the_score_more_than_random_ones(
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
  """Steps of a model whose ladder of changes is an argument."""

  def __init__(self, model):
    self.model = model
    self.state = state_of(model)
    self.changes = jnp.zeros(2)
    self.never = jnp.full(2, jnp.inf)
    self.step = functools.cache(
      lambda kind: quick_jit(functools.partial(self.plain_step, kind))
    )

  def plain_step(self, kind, state, batch, changes):
    model = copy.copy(self.model)
    model.ladder = model.ladder._replace(changes=changes)
    return model.phase_step(kind)(state, batch)


@pytest.fixture(scope="module")
def learning(generator):
  return Learning(model_of(generator))


def test_every_kind_of_step_keeps_the_state_as_it_is_shaped(learning, batch):
  state = learning.state
  for kind in drawing.PHASES:
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


def test_info_nce_without_edits_that_count_is_without_edits(generator, batch):
  learning = Learning(model_of(generator, loss="infonce"))

  # Without the update, which is most of what there is to compile.
  @functools.partial(quick_jit, static_argnums=0)
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
    patched.setattr(impostors, "quantize", lambda pixels: pixels)
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


def test_a_step_is_the_same_on_1_and_8_devices(trained, batch):
  model = copy.copy(trained.model)
  model.mesh = MAKE_MESH(8)
  step = quick_jit(model.phase_step("random"))
  eight, others = jax.device_get(step(*on(8, trained.state, batch)))
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


# ----------------------------------------------------------------- refreshes


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
  config = {"edits": use | {"concept_pairs": 6}, "eval": {"batch": rows}}
  wrapped = json.loads(
    json.dumps(config), object_hook=lambda x: types.SimpleNamespace(**x)
  )
  fake = types.SimpleNamespace(phases=phases, config=wrapped, **model)
  transform = DrawnPairExample(5120, False)
  return concept_refresh.Refresh(fake, records, transform, MAKE_MESH(2))


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


def test_concepts_are_made_at_fixed_steps_of_their_phases():
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

  refresh = refresher(
    {0: "cluster"},
    records=records,
    encode=encode,
    matchmap=scores.matchmap,
    generator=network.module,
    generator_params=lambda params, stats: stats["generator_params"],
    layers={"up1": network.module.layers["up1"]},
  )
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
  seen = refresh.see(state, lambda: None)
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


def test_maps_of_concepts_on_other_grids():
  places = np.zeros((1, 2, 2, 1), bool)
  places[0, 0, 1] = True
  wide = concept_refresh.on_grid(places, 4, 6)[0, ..., 0]
  np.testing.assert_array_equal(
    wide, np.kron([[0, 1], [0, 0]], np.ones((2, 3)))
  )
  narrow = concept_refresh.on_grid(wide[None, ..., None], 2, 2)
  np.testing.assert_array_equal(narrow, places)


# --------------------------------------------------------------- whole runs


@pytest.fixture
def in_memory(monkeypatch, records):
  """Records in the place of the data set, and two devices."""
  splits = {
    "train": records[:12],
    "validation": records[12:16],
    "test": records[16:],
  }
  monkeypatch.setattr(mesh, "make_mesh", lambda: MAKE_MESH(2))
  monkeypatch.setattr(data, "load", lambda config: splits)
  monkeypatch.setattr(jax, "jit", quick_jit)


def phased(generator):
  config = small(generator, curriculum="regular@0,cluster@2", refresh_every=3)
  config.edits.update({"least": 1, "quantile": 0.7, "concept_pairs": 10})
  config.train.update(
    {"steps": 5, "batch": 8, "log_every": 1, "eval_every": 5, "save_every": 0}
  )
  return config


def test_a_run_in_parts_goes_through_its_phases_as_a_whole_one(
  generator, tmp_path, monkeypatch, in_memory
):
  config = phased(generator)
  assert trainer.run(config, tmp_path / "whole", "train") == 0
  whole = lines(tmp_path / "whole")
  train = [line for line in whole if line["split"] == "train"]
  # The first two updates know no edits.
  assert [("edits" in x) for x in train] == [False, False, True, True, True]
  end = saved_state(tmp_path / "whole", config)
  assert np.any(end.batch_stats["concepts"].centroids)
  results = json.loads((tmp_path / "whole/results.json").read_text())
  assert {"training_voices", "held_out_voice"} == set(
    results["splits"]["test"]["by_group"]
  )
  # In its parts it leaves in the first refresh, at the phase's first step, and
  # after the concepts were put to use.
  parts = tmp_path / "parts"
  for fetch, saved in ((3, 2), (2, 4)):
    with monkeypatch.context() as patched:
      signal_at(patched, signal.SIGTERM, fetch)
      assert trainer.run(config, parts, "train") == 128 + signal.SIGTERM
    steps = [int(path.name) for path in (parts / "checkpoints").iterdir()]
    assert max(steps) == saved
  assert trainer.run(config, parts, "train") == 0
  assert lines(parts) == whole
  assert same(saved_state(parts, config), end)
  results = [tmp_path / name / "results.json" for name in ("whole", "parts")]
  assert results[0].read_bytes() == results[1].read_bytes()
