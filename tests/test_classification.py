"""Classification: targets, losses and accuracies by hand; a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filling import filled
from tests.idea_world import COLOURS, record
from tests.running import run_config
from tests.test_options import load
from vgsgan import data, tasks
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.records import Labelled
from vgsgan.models.correspondence import Tower
from vgsgan.parallel import mesh
from vgsgan.tasks import classification
from vgsgan.train.state import TrainState

CLASSES = len(COLOURS)
STAR = Hierarchy(
  ("root", "red", "green", "blue"), ((0, 1), (0, 2), (0, 3)), (1, 2, 3)
)
SAMPLES = 1600


def small(**fields):
  """A config of few numbers: 8 pixels, a fifth of a second, 8 bands."""
  config = load("classification").get_config("smoke")
  config.data.update({"image_size": 8, "sample_rate": 8000, "seconds": 0.2})
  config.data.update({"frames": 16, "num_mels": 8, "num_threads": 1})
  config.data.augment.shift = 0
  config.train.update({"batch": 8, "steps": 4, "eval_every": 2, "log_every": 1})
  config.train.save_every = 2
  config.eval.batch = 8
  config.optim.warmup_steps = 0
  for path, value in fields.items():
    config.update_from_flattened_dict({path.replace("__", "."): value})
  return config


def records(many, seed=0):
  rng = np.random.default_rng(seed)
  return Labelled([record(number, rng) for number in range(many)], STAR)


def splits():
  return {
    "train": records(40, 0),
    "validation": records(11, 1),
    "test": records(13, 2),
  }


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
  monkeypatch.setattr(data, "load", lambda config: splits())


def batch_of(labels, seed=0):
  rng = np.random.default_rng(seed)
  many = len(labels)
  return {
    "image": jnp.asarray(rng.integers(0, 256, (many, 8, 8, 3)), jnp.uint8),
    "waveform": jnp.asarray(
      rng.integers(-9999, 9999, (many, SAMPLES)), jnp.int16
    ),
    "num_samples": jnp.full(many, SAMPLES, jnp.int32),
    "labels": jnp.asarray(labels, jnp.int32),
  }


def state_of(model):
  """A random state, without compiling the initialisers."""
  made = filled(jax.eval_shape(model.init, jax.random.key(0)))
  return TrainState.create(made.params, made.batch_stats, model.tx)


def log_softmax(x):
  x = np.asarray(x, np.float64)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


LABELS = [[0, -1, -1], [2, 1, -1], [1, -1, -1], [2, 0, 1]]
WEIGHTS = [[1, 0, 0], [0, 1 / 2, 1 / 2], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]]


# The target and the loss.


def test_every_label_of_a_clip_weighs_the_same():
  got = classification.uniform(jnp.asarray(LABELS), CLASSES)
  np.testing.assert_allclose(got, WEIGHTS, rtol=1e-6)


def test_the_losses_by_hand():
  """Of logits that the towers give for what the step should have seen."""
  config = small()
  model = classification.Classification(config, CLASSES)
  state = state_of(model)
  batch = batch_of(LABELS)
  level, _ = features.log_mel(
    batch["waveform"], batch["num_samples"], sample_rate=8000, num_mels=8
  )
  seen = {
    "image": features.normalize_image(batch["image"]),
    "audio": (level[:, :16] / 40 + 1)[..., None],
  }
  tower = Tower((4, 8), (True, False))

  @jax.jit
  def maps(params, x):
    return tower.apply({"params": params}, x, True, mutable=["batch_stats"])[0]

  _, metrics = jax.jit(model.step)(state, batch)
  for name, x in seen.items():
    own = state.params[name]
    pooled = np.asarray(maps(own["tower"], x)).max((1, 2))
    logits = pooled @ own["classes"]["kernel"] + own["classes"]["bias"]
    want = -(np.array(WEIGHTS) * log_softmax(logits)).sum(-1).mean()
    assert float(metrics[f"{name}_loss"]) == pytest.approx(want, rel=1e-4)
  total = metrics["image_loss"] + metrics["audio_loss"]
  assert float(metrics["loss"]) == pytest.approx(float(total), rel=1e-6)


def test_no_tower_learns_from_the_other_modality():
  model = classification.Classification(small(), CLASSES)
  state = state_of(model)
  step = jax.jit(model.step)
  batch, other = batch_of(LABELS), batch_of(LABELS, seed=1)

  def same(one, two):
    trees = jax.tree.leaves(one), jax.tree.leaves(two)
    return all(np.array_equal(*pair) for pair in zip(*trees, strict=True))

  first, _ = step(state, batch)
  for name, field in (("image", "waveform"), ("audio", "image")):
    second, _ = step(state, batch | {field: other[field]})
    (changed,) = set(classification.MODALITIES) - {name}
    for part in ("params", "batch_stats"):
      before, after = getattr(first, part), getattr(second, part)
      assert same(before[name], after[name])
      assert not same(before[changed], after[changed])


def test_images_are_shifted_in_training_alone():
  model = classification.Classification(small(data__augment__shift=1), 3)
  batch = batch_of([[0]] * 30)
  plain = features.normalize_image(batch["image"])

  @jax.jit
  def seen(batch):
    keys = (None, jax.random.key(0))
    return [model.inputs(batch, key)["image"] for key in keys]

  still, moved = jax.device_get(seen(batch))
  np.testing.assert_array_equal(still, plain)
  found = set()
  for picture, got in zip(np.asarray(plain), moved, strict=True):
    edged = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = [
      (y, x)
      for y in range(3)
      for x in range(3)
      if np.array_equal(edged[y : y + 8, x : x + 8], got)
    ]
    assert len(shifts) == 1
    found |= set(shifts)
  assert len(found) > 5


# Figures.


def test_accuracy_by_hand():
  logits = np.array(
    [[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 9.0], [4.0, 0.0, 3.0]]
  )
  labels = np.array([[0, -1], [2, 1], [1, -1], [2, 1]], np.int32)
  # Right: the first and, by its second label, the second. Three have 1.
  got = classification.accuracy(logits, labels)
  assert got == {"value": 0.5, "chance": 0.75}
  both = classification.figures(
    {"image": logits, "audio": np.eye(3)[[1, 1, 1, 1]]}, labels
  )
  assert both["image"] == got
  assert both["audio"] == {"value": 0.75, "chance": 0.75}
  assert both["mean"] == {"value": 0.625, "chance": 0.75}
  assert both["clips"] == 4


def test_padding_is_no_class():
  """Not the last one, as an index of -1 might be."""
  logits = np.eye(4)[[3, 3]]
  labels = np.array([[0, -1], [3, -1]], np.int32)
  got = classification.accuracy(logits, labels)
  assert got == {"value": 0.5, "chance": 0.5}


def test_evaluation_covers_every_record_once():
  """11 records in batches of 8: the five that fill up do not count."""
  made = splits()
  for i in (0, 4):  # Record 0 is the one that fills up.
    made["validation"][i]["labels"] = np.array([1, 2], np.int32)
  task = classification.build(small(), mesh.make_mesh(2), made)
  model = classification.Classification(small(), CLASSES)
  state = state_of(model)
  polls = []
  got = task.evaluate(state, "validation", lambda: polls.append(1))
  assert len(polls) == 2 and got["clips"] == 11
  predict = jax.jit(
    lambda x: model.predict(state.params, state.batch_stats, "image", x)
  )
  right, having = [], np.zeros(CLASSES)
  for one in made["validation"].records:
    picture = classification.example(model.config.data)(
      one, np.random.default_rng(0)
    )["image"]
    guess = int(predict(features.normalize_image(picture[None]))[1][0].argmax())
    right.append(guess in one["labels"])
    having[one["labels"]] += 1
  assert got["image"]["value"] == pytest.approx(np.mean(right))
  assert got["image"]["chance"] == pytest.approx(having.max() / 11)
  assert task.select(got) == got["mean"]["value"]


# Whole runs.


def test_a_run_learns_images_and_sounds(tmp_path, monkeypatch):
  two = mesh.make_mesh(2)
  monkeypatch.setattr(mesh, "make_mesh", lambda model: two)
  config = small(train__steps=40, optim__lr=1e-2)
  config.train.update({"eval_every": 20, "save_every": 20})
  config.transfer_guard = "disallow"
  assert run_config(config, tmp_path) == 0
  results = json.loads((tmp_path / "results.json").read_text())
  for split, many, most in (("validation", 11, 4), ("test", 13, 5)):
    found = results["splits"][split]
    assert found["clips"] == many
    for name in (*classification.MODALITIES, "mean"):
      assert found[name]["value"] > 0.9
      assert found[name]["chance"] == pytest.approx(most / many)


# What is refused.


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"data__frames": 40}, "21 frames, not 40"),
    ({"data__spectrogram": "log_mle"}, "did you mean 'log_mel'"),
    ({"data__image_size": 1}, "config.data"),
    ({"model__pools": (True,)}, "one width and one pool a stage"),
  ],
)
def test_wrong_configs_are_named(fields, said):
  with pytest.raises(UserError) as refused:
    classification.Classification(small(**fields), CLASSES)
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)


def test_another_front_end_works():
  """257 bands of 100 frames at 48 kHz, as L3-Net has them; nothing computed."""
  config = small(data__spectrogram="log_linear", data__sample_rate=48000)
  config.data.frames = 40
  model = classification.Classification(config, CLASSES)
  batch = batch_of([[0]]) | {"waveform": jnp.zeros((1, 9600), jnp.int16)}
  shapes = jax.eval_shape(lambda: model.inputs(batch, None))
  assert shapes["audio"].shape == (1, 40, 257, 1)


def test_the_task_is_registered():
  task = tasks.build(small(), mesh.make_mesh(1), splits())
  assert task.selection == "mean accuracy of pictures and sounds"
