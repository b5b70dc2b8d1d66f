"""Correspondence: scores, losses and steps against dense forms."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn.metrics import log_loss

from configs import correspondence as configs
from tests.placing import placed
from tests.running import run_config
from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.data.examples import MOST_LABELS, ClipExample
from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.records import REAL, Labelled
from vgsgan.evals import sources
from vgsgan.losses import contrastive, objectives, primitives, scores
from vgsgan.parallel import mesh
from vgsgan.tasks import correspondence, correspondence_evaluation
from vgsgan.train.state import TrainState
from vgsgan.train.step import jit_step

SYSTEMS = ("l3", "ave", "avol")
RATE = 16000


def config_of(*arguments: str) -> ml_collections.ConfigDict:
  """Of two stages only: what is compiled for steps takes most of the time."""
  config = configs.get_config(",".join([*arguments, "smoke"]))
  config.model.update({"widths": (4, 8), "pools": (True, False)})
  config.data.update({"seconds": 0.4, "frames": 32, "num_mels": 16})
  return config


def record(number: int, seconds: float = 1.5) -> dict:
  """A picture and a sound that have nothing to do with each other."""
  rng = np.random.default_rng(number)
  png = io.BytesIO()
  pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
  Image.fromarray(pixels).save(png, "PNG")
  boxes = np.zeros((2, 4), np.float32)
  boxes[0] = (0.0, 0.0, 0.5, 0.5)
  boxes[1] = (0.5, 0.5, 1.0, 1.0)
  return {
    "id": f"clip{number}".encode(),
    "clip_id": np.int32(number),
    "image": png.getvalue(),
    "waveform": rng.integers(-9000, 9000, int(seconds * RATE)).astype(np.int16),
    "labels": np.array([number % 4], np.int32),
    "boxes": boxes,
    "classes": np.array([number % 4, (number + 1) % 4], np.int32),
    "source": np.int32(0),
  }


TREE = Hierarchy(
  ("all", "low", "high", "a", "b", "c", "d"),
  ((0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)),
  (3, 4, 5, 6),
)


def records(count: int) -> Labelled:
  return Labelled([record(i) for i in range(count)], TREE)


def batch_of(config, count: int) -> dict[str, np.ndarray]:
  make = correspondence.example(config)
  rows = [make(record(i), np.random.default_rng(i)) for i in range(count)]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def maps():
  keys = jax.random.split(jax.random.key(0), 6)
  return {
    "images": jax.random.normal(keys[0], (4, 2, 3, 5)),
    "image": jax.random.normal(keys[1], (4, 1, 1, 5)),
    "audio": jax.random.normal(keys[2], (3, 1, 5)),
  }


def test_the_distance_is_euclidean(maps):
  got = scores.calibrated_distance(
    maps["image"], maps["audio"], jnp.float32(2.0), jnp.float32(3.0)
  )
  for i in range(4):
    for j in range(3):
      gap = np.float64(maps["image"][i, 0, 0]) - np.float64(maps["audio"][j, 0])
      want = 3 - 2 * np.linalg.norm(gap)
      np.testing.assert_allclose(got[i, j], want, rtol=1e-5)


def test_equal_vectors_have_no_gradient_of_their_distance(maps):
  one = maps["image"][:1]

  def logit(image):
    audio = one[:, 0]
    return scores.calibrated_distance(
      image, audio, jnp.float32(2.0), jnp.float32(3.0)
    ).sum()

  assert float(logit(one)) == pytest.approx(3.0, abs=1e-2)
  assert np.isfinite(jax.grad(logit)(one)).all()


@pytest.mark.parametrize("scale", [0.7, -0.7])
def test_the_peak_is_the_best_place_after_calibration(maps, scale):
  got = scores.calibrated_peak(
    maps["images"], maps["audio"], jnp.float32(scale), jnp.float32(-1.0)
  )
  for i in range(4):
    for j in range(3):
      places = np.float64(maps["images"][i]).reshape(-1, 5)
      logits = scale * places @ np.float64(maps["audio"][j, 0]) - 1
      np.testing.assert_allclose(got[i, j], logits.max(), rtol=1e-4)


def test_fusion_is_two_layers_over_joined_vectors(maps):
  params = correspondence.fusion_params(jax.random.key(1), 5, 7)
  params["hidden"] = jnp.linspace(-1, 1, 7)
  params["bias"] = jnp.float32(0.3)
  got = scores.fusion(maps["image"], maps["audio"], params)
  weight = np.concatenate([params["image"], params["audio"]])
  for i in range(4):
    for j in range(3):
      joined = np.concatenate([maps["image"][i, 0, 0], maps["audio"][j, 0]])
      hidden = np.maximum(joined @ weight + params["hidden"], 0)
      want = hidden @ params["out"] + 0.3
      np.testing.assert_allclose(got[i, j], want, rtol=1e-4, atol=1e-5)


def test_pair_bce_is_the_log_loss_of_partner_and_impostors():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(5, 6)).astype(np.float32)
  positive = rng.normal(size=5).astype(np.float32)
  allowed = rng.random((5, 6)) < 0.6
  allowed[0] = True
  got = primitives.pair_bce(*map(jnp.array, (positive, logits, allowed)), "all")
  for row in range(5):
    others = logits[row][allowed[row]]
    truth = np.array([1] + [0] * len(others))
    both = np.concatenate([positive[row : row + 1], others])
    weight = np.array([1.0] + [1 / max(1, len(others))] * len(others))
    chances = 1 / (1 + np.exp(-np.float64(both)))
    want = log_loss(
      truth, chances, sample_weight=weight, labels=[0, 1], normalize=False
    )
    np.testing.assert_allclose(got[row], want, rtol=1e-5)


def test_pair_bce_with_one_drawn_impostor():
  logits = jnp.array([[0.0, 3.0, -2.0]])
  noise = jnp.array([[0.9, 0.1, 0.5]])
  allowed = jnp.array([[False, True, True]])
  got = primitives.pair_bce(
    jnp.array([1.0]), logits, allowed, "sampled", noise, nu=2.0
  )
  # The allowed one with the largest noise is the last.
  want = np.log1p(2 * np.exp(-1)) + np.log1p(np.exp(-2) / 2)
  np.testing.assert_allclose(got[0], want, rtol=1e-6)


def test_pair_bce_ignores_what_is_no_impostor_and_refuses_other_kinds():
  logits = jnp.array([[jnp.nan, 0.0]])
  allowed = jnp.array([[False, True]])
  positive = jnp.zeros(1)
  slope = jax.grad(lambda x: primitives.pair_bce(positive, x, allowed).sum())(
    logits
  )
  np.testing.assert_allclose(slope, [[0.0, 0.5]])
  nobody = primitives.pair_bce(positive, logits, jnp.zeros((1, 2), bool))
  np.testing.assert_allclose(nobody, np.log(2), rtol=1e-6)
  with pytest.raises(ValueError, match="unknown negatives 'hardest'"):
    primitives.pair_bce(positive, logits, allowed, "hardest")
  with pytest.raises(ValueError, match="need noise"):
    primitives.pair_bce(positive, logits, allowed, "sampled")


@pytest.mark.parametrize("devices", [1, 4])
def test_aligned_sounds_are_positives_alone(devices):
  keys = jax.random.split(jax.random.key(3), 3)
  images = jax.random.normal(keys[0], (8, 2, 2, 5))
  others = jax.random.normal(keys[1], (8, 1, 5))
  own = jax.random.normal(keys[2], (8, 1, 5))
  valid = jnp.ones((8, 1), bool)
  ids = jnp.arange(8)

  def value(images, others, own, use):
    return contrastive.contrastive(
      images,
      others,
      valid,
      ids,
      ids,
      score=scores.misa,
      objective=objectives.correspondence("all"),
      partner=(own, valid),
      mesh=use,
    )[0]

  def dense(images, others, own):
    best = jnp.einsum("bhwd,ctd->bchwt", images, others).max((2, 3, 4))
    mine = jnp.einsum("bhwd,btd->bhwt", images, own).max((1, 2, 3))
    off = ~jnp.eye(8, dtype=bool)
    away = jnp.sum(jnp.where(off, jax.nn.softplus(best), 0), 1) / 7
    back = jnp.sum(jnp.where(off, jax.nn.softplus(best), 0), 0) / 7
    return jnp.mean(jax.nn.softplus(-mine) + 0.5 * (away + back))

  use = mesh.make_mesh(devices)
  arguments = (images, others, own)
  got = jax.jit(jax.value_and_grad(value, (0, 1, 2)), static_argnums=3)(
    *arguments, use
  )
  want = jax.value_and_grad(dense, (0, 1, 2))(*arguments)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    got,
    want,
  )


@pytest.mark.parametrize("system", SYSTEMS)
def test_steps_are_equal_on_1_and_4_devices(system, monkeypatch):
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  config = config_of(system, "shortcut")
  config.loss.negatives = "sampled"
  batch = batch_of(config, 8)
  found = []
  for devices in (1, 4):
    use = mesh.make_mesh(devices, model=max(1, devices // 2))
    model = correspondence.Correspondence(config, use)
    # Of the gradient itself: Adam would hide a factor.
    model.tx = optax.sgd(1.0)
    state = jax.jit(lambda m=model: m.init(jax.random.key(0)))()
    state = placed(state, use)
    sharded = mesh.shard(batch, use)
    after, metrics = jit_step(model.step, state, use)(state, sharded)
    found.append((jax.device_get(after.params), float(metrics["loss"])))
  (one, loss), (four, other) = found
  assert loss == pytest.approx(other, rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    one,
    four,
  )


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system_learns_a_batch_by_heart(system):
  config = config_of(system)
  config.optim.update({"lr": 5e-3, "schedule": "constant"})
  config.data.augment.update({"shift": 0, "flip": False, "brightness": 0.0})
  use = mesh.make_mesh(1)
  model = correspondence.Correspondence(config, use)
  batch = mesh.shard(batch_of(config, 8), use)
  state = jax.jit(lambda: model.init(jax.random.key(0)))()
  step = jax.jit(model.step)
  state, first = step(state, batch)
  for _ in range(100):
    state, last = step(state, batch)
  assert float(last["loss"]) < 0.7 * float(first["loss"])


def test_ave_net_starts_with_near_meaning_alike():
  own = correspondence.calibration("ave")
  same = scores.calibrated_distance(
    jnp.ones((1, 1, 1, 4)) / 2, jnp.ones((1, 1, 4)) / 2, **own
  )
  apart = scores.calibrated_distance(
    jnp.ones((1, 1, 1, 4)) / 2, -jnp.ones((1, 1, 4)) / 2, **own
  )
  assert float(same[0, 0]) > 0 > float(apart[0, 0])


def test_the_shortcut_is_in_the_sounds_that_belong_together_alone():
  sound = np.arange(RATE * 2, dtype=np.int16)
  made = record(0) | {"waveform": sound}
  make = ClipExample(RATE, grid=640)
  starts, aligned = [], []
  for seed in range(40):
    row = make(made, np.random.default_rng(seed))
    starts.append(int(row["waveform"][0]))
    aligned.append(int(row["aligned"][0]))
    assert (np.diff(row["waveform"]) == 1).all()
  assert all(start % 640 == 0 for start in aligned)
  assert len(set(aligned)) > 10
  assert max(aligned) <= RATE
  # Of a second in two, from the first frame to the last that has room.
  last = {
    int(make(made, np.random.default_rng(i))["aligned"][0])
    for i in range(40, 400)
  }
  assert last == set(range(0, RATE + 1, 640))
  assert sum(start % 640 == 0 for start in starts) < 4
  plain = ClipExample(RATE)(made, np.random.default_rng(0))
  assert "aligned" not in plain


def test_short_sounds_are_followed_by_silence_and_labels_by_padding():
  short = record(5) | {"waveform": np.array([3, -4, 5], np.int16)}
  row = ClipExample(6)(short, np.random.default_rng(0))
  np.testing.assert_array_equal(row["waveform"], [3, -4, 5, 0, 0, 0])
  assert row["num_samples"] == 3
  np.testing.assert_array_equal(row["labels"], [1] + [-1] * (MOST_LABELS - 1))


def evaluated(system: str, *more: str, count: int = 20):
  config = config_of(system, *more)
  use = mesh.make_mesh(1)
  splits = {"train": records(30), "test": records(count)}
  task = correspondence.build(config, use, splits)
  state = jax.jit(lambda: task.init(jax.random.key(0)))()
  return task, state, task.evaluate(state, "test", lambda: None)


def test_figures_of_l3_net_have_its_baselines():
  _, _, found = evaluated("l3")
  crossed = {"image_to_audio", "audio_to_image"}
  for part in ("retrieval", "cca", "trunk_cca"):
    assert crossed < found[part].keys()
    for figures in found[part].values():
      assert figures["queries"] == 20
      assert 0 < figures["nDCG@30"]["chance"] < 1
  assert found["trunk"].keys() == {"image_to_image"}
  assert found["correspondence"]["pairs"] == 40


def test_accuracy_counts_pairs_that_belong_together_and_that_do_not():
  task, state, _ = evaluated("ave")
  figures = task.evaluate
  # A bias far above any distance says yes to all: half of it is right.
  for bias, want in ((1e4, 0.5), (-1e4, 0.5)):
    own = {"scale": jnp.float32(1.0), "bias": jnp.float32(bias)}
    told = dataclasses.replace(state, params=state.params | {"score": own})
    found = figures(told, "test", lambda: None)
    assert found["correspondence"]["value"] == want


NO_STATE = TrainState(0, {}, {}, {})


class Answers(correspondence_evaluation.Evaluation):
  """Reads the numbers of clips; a pair belongs together if both are equal."""

  def __init__(self, *args):
    super().__init__(*args)
    self.encode = lambda state, records, poll: {
      "read": np.array([records[i]["clip_id"] for i in range(len(records))])
    }

  def pair_logits(self, state, images, sounds, poll):
    return np.where(images == sounds, 1.0, -1.0)


def answers_of(splits):
  config = config_of("l3")
  config.eval.cca_records = 3
  model = correspondence.Correspondence(config, mesh.make_mesh(1))
  return Answers(model, correspondence.example(config), splits)


def test_accuracy_uses_aligned_sounds():
  clips = np.arange(6)
  evaluation = answers_of({})
  found = {"clip_id": clips, "image_map": clips, "sound": clips}

  def figure(**more):
    return evaluation.accuracy(NO_STATE, found | more, lambda: None)["value"]

  assert figure() == 1.0
  # Aligned sounds are pairs; those that stand against others are not.
  assert figure(sound=clips + 10, own=clips) == 1.0
  assert figure(own=clips + 10) == 0.5
  assert figure(sound=np.zeros(6)) == pytest.approx((1 + 5) / 12)


def test_correlations_are_fitted_to_training_pairs_alone():
  numbers = {"train": range(50, 60), "validation": range(10), "test": range(9)}
  evaluation = answers_of(
    {
      split: Labelled([{"clip_id": i} for i in which], TREE)
      for split, which in numbers.items()
    }
  )
  found = evaluation.training(NO_STATE, lambda: None)
  np.testing.assert_array_equal(found["read"], [50, 51, 52])


def test_each_image_gets_the_sound_of_another_clip():
  ids = np.array([3, 3, 1, 2, 5, 5, 5, 9])
  other = correspondence_evaluation.partners(ids)
  assert (ids[other] != ids).all()
  plain = correspondence_evaluation.partners(np.arange(50))
  assert sorted(plain) == list(range(50))
  assert (plain != np.arange(50)).all()


def test_a_scale_below_0_turns_the_map_round():
  task, state, _ = evaluated("avol")
  own = {"scale": jnp.float32(-1.0), "bias": jnp.float32(0.0)}
  turned = dataclasses.replace(state, params=state.params | {"score": own})
  up = own | {"scale": jnp.float32(1.0)}
  straight = dataclasses.replace(state, params=state.params | {"score": up})
  figures = [
    task.evaluate(s, "test", lambda: None)["localisation"]["own_sound"]
    for s in (straight, turned)
  ]
  assert figures[0]["value"] != figures[1]["value"]


def planted(count: int):
  """Maps whose two quarters answer to the classes of two objects."""
  rng = np.random.default_rng(1)
  first, second = rng.integers(0, 4, count), rng.integers(0, 4, count)
  second = np.where(first == second, (second + 1) % 4, second)
  image = np.zeros((count, 2, 2, 4))
  at = np.arange(count)
  image[at, 0, 0, first] = 1.0
  image[at, 1, 1, second] = 1.0
  boxes = np.zeros((count, 3, 4))
  boxes[:, 0] = (0, 0, 0.5, 0.5)
  boxes[:, 1] = (0.5, 0.5, 1, 1)
  classes = np.stack([first, second, np.full(count, -1)], 1)
  source = rng.integers(0, 2, count)
  sound = np.eye(4)[classes[at, source]]
  return image, sound, boxes, classes, source


def test_a_perfect_map_points_at_the_source_of_its_own_sound():
  image, sound, boxes, classes, source = planted(200)
  found = sources.pointing(image, sound, boxes, classes, source, 0.5)
  assert found["own_sound"]["value"] == 1.0
  assert found["own_sound"]["chance"] == pytest.approx(0.25)
  assert found["own_sound"]["centre"] == pytest.approx(0.5, abs=0.15)
  assert found["iou"]["value"] == 1.0
  # What sounds is nowhere: all four places are equally good.
  assert found["wrong_sound"]["value"] == pytest.approx(0.25)
  assert found["wrong_sound_elsewhere"]["value"] == pytest.approx(0.25)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_wrong_sounds_are_counted_by_the_place_they_point_at(place):
  """At the source, at one of two other objects, or at the third of them."""
  n = 6
  boxes = np.zeros((n, 3, 4))
  corners = ((0, 0), (0, 0.5), (0.5, 0))
  for i, (top, left) in enumerate(corners):
    boxes[:, i] = (top, left, top + 0.5, left + 0.5)
  # Half of the pictures show 0, 1, 2 and the others 3, 4, 5.
  classes = np.arange(3) + 3 * (np.arange(n) % 2)[:, None]
  source = np.zeros(n, int)
  image = np.zeros((n, 2, 2, 6))
  row, column = (int(2 * x) for x in corners[place])
  for i in range(n):
    image[i, row, column, [c for c in range(6) if c not in classes[i]]] = 1
    image[i, 0, 0, classes[i, 0]] = 1
  sound = np.eye(6)[classes[:, 0]]
  found = sources.pointing(image, sound, boxes, classes, source, 0.5)
  assert found["own_sound"]["value"] == 1
  assert found["wrong_sound"]["value"] == (place == 0)
  assert found["wrong_sound_elsewhere"]["value"] == (0.5 if place else 0)


def test_wrong_sounds_come_from_objects_that_the_image_lacks():
  classes = np.array([[0, 1], [2, -1], [0, 2], [1, -1]])
  sounding = np.array([0, 2, 2, 1])
  wrong = sources.strangers(classes, sounding)
  for row, other in enumerate(wrong):
    assert sounding[other] not in classes[row]
  all_there = np.array([[0, 1, 2]] * 3)
  np.testing.assert_array_equal(
    sources.strangers(all_there, np.array([0, 1, 2])), [-1] * 3
  )


def test_images_of_one_object_have_no_pointing_figures():
  image, sound, boxes, classes, source = planted(10)
  alone = np.where(np.arange(3) == source[:, None], classes, -1)
  found = sources.pointing(image, sound, boxes, alone, source, 0.5)
  assert found == {}


@pytest.mark.parametrize("system", ["l3", "avol"])
def test_a_whole_run_on_two_devices(system, tmp_path, monkeypatch):
  two = mesh.make_mesh(2)
  splits = {"train": records(24), "validation": records(9), "test": records(10)}
  splits[REAL] = records(7)
  monkeypatch.setattr(mesh, "make_mesh", lambda model: two)
  monkeypatch.setattr(data, "load", lambda config: splits)
  config = config_of(system)
  config.train.update({"steps": 4, "batch": 8, "log_every": 1})
  config.train.update({"eval_every": 2, "save_every": 2})
  config.eval.cca_records = 0
  config.transfer_guard = "disallow"
  assert run_config(config, tmp_path) == 0
  results = json.loads((tmp_path / "results.json").read_text())
  for split, pairs in (("validation", 18), ("test", 20)):
    assert results["splits"][split]["correspondence"]["pairs"] == pairs
  real = results["splits"]["test"]["real"]
  assert real["correspondence"]["pairs"] == 14


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("model.system", "l4", "config.model.system='l4' is unknown"),
    ("loss.negatives", "hard", "config.loss.negatives='hard' is unknown"),
    ("data.spectrogram", "mel", "config.data.spectrogram='mel' is unknown"),
    ("data.frames", 500, "the sound has 41 frames, not 500"),
    ("model.pools", (True,), "one width and one pool a stage"),
  ],
)
def test_a_wrong_config_is_one_line(field, value, said):
  config = config_of("ave")
  with config.unlocked():
    part, name = field.split(".")
    config[part][name] = value
  with pytest.raises(UserError) as refused:
    correspondence.Correspondence(config, mesh.make_mesh())
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("system", ["l3", "ave", "avol"])
def test_one_class_cannot_be_retrieved(system):
  alone = Labelled([record(0)], Hierarchy(("drum",), (), (0,)))
  build = lambda: correspondence.build(  # noqa: E731
    config_of(system), mesh.make_mesh(), {"train": alone}
  )
  if system == "avol":
    build()
  else:
    with pytest.raises(UserError, match="have one class, 'drum'"):
      build()


def test_the_published_front_end_and_towers_have_the_published_shapes():
  config = configs.get_config("published,ave")
  model = correspondence.Correspondence(config, mesh.make_mesh())
  sound = jax.ShapeDtypeStruct((2, 48000), jnp.int16)
  lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
  spectrogram = jax.eval_shape(model.spectrogram, sound, lengths)
  assert spectrogram.shape == (2, 200, 257)
  tower = model.towers["image"]
  picture = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  made = jax.eval_shape(
    lambda x: tower.init_with_output(jax.random.key(0), x, train=False)[0],
    picture,
  )
  assert made.shape == (2, 14, 14, 512)
