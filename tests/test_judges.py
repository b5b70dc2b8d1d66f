"""The frozen judges: what they say of rows, and which runs they refuse."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tests import test_classification
from tests.filling import filled
from tests.test_classification import CLASSES, STAR
from tests.test_options import load
from vgsgan import data
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.data.records import Labelled
from vgsgan.models.correspondence import Tower
from vgsgan.parallel import mesh
from vgsgan.tasks import judges
from vgsgan.tasks.classification import Classification
from vgsgan.tasks.correspondence import Correspondence
from vgsgan.train.checkpoints import manager
from vgsgan.train.state import TrainState

BEST, LATER = 3, 5
ROWS = 7
MEAN = np.array([0.485, 0.456, 0.406])  # Of ImageNet, and its deviation.
STD = np.array([0.229, 0.224, 0.225])
PAIR = ("classification", "correspondence")


def config_of(task, **fields):
  classifier = test_classification.small()
  if task == "classification":
    return classifier
  config = load("correspondence").get_config("ave,smoke")
  for name in judges.FIELDS:
    config.data[name] = classifier.data[name]
  config.model.update({"widths": (4, 6), "pools": (True, False), "embed": 5})
  return config


def state_of(model, seed):
  made = filled(jax.eval_shape(model.init, jax.random.key(0)), seed)
  return TrainState.create(made.params, made.batch_stats, model.tx)


def finish(workdir, task):
  """A finished run whose best checkpoint is not its last; its model, state."""
  config = config_of(task)
  devices = mesh.make_mesh(2)
  model = (
    Classification(config, CLASSES)
    if task == "classification"
    else Correspondence(config, devices)
  )
  best = state_of(model, 1)
  there = mesh.replicated(devices)
  with manager.Checkpoints(workdir / "checkpoints", best="selection") as saved:
    for step, state, figure in (
      (BEST, best, 0.9),
      (LATER, state_of(model, 2), 0.8),
    ):
      put = jax.device_put(state, there)
      saved.save(step, put, {}, {"selection": figure})
  jsonfiles.write_json(workdir / "config.json", config.to_dict())
  jsonfiles.write_json(workdir / "results.json", {"step": BEST})
  return model, best


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  return folder, {task: finish(folder / task, task) for task in PAIR}


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
  """Blocks of 3, that 7 rows do not fill."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(data, "load", lambda config: {"train": Labelled([], STAR)})
    patched.setattr(judges, "BLOCK", 3)
    yield


@pytest.fixture(scope="module")
def loaded(finished):
  folder, _ = finished
  paths = [str(folder / task) for task in PAIR]
  return judges.load(*paths, config_of("classification").data)


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(4)
  return (
    rng.random((ROWS, 8, 8, 3)).astype(np.float32),
    rng.uniform(-1, 1, (ROWS, 16, 8)).astype(np.float32),
  )


def pooled(widths, params, stats, x):
  """Each row's largest values of its tower's map."""
  tower = Tower(widths, (True, False))
  variables = {"params": params, "batch_stats": stats}
  apply = jax.jit(lambda x: tower.apply(variables, x, train=False))
  return np.asarray(apply(jnp.asarray(x, jnp.float32))).max((1, 2))


@pytest.mark.parametrize("name", ["image", "audio"])
def test_the_classifier_comes_from_the_best_checkpoint(
  finished, loaded, rows, name
):
  _, state = finished[1]["classification"]
  pixels, sounds = rows
  given = pixels if name == "image" else sounds
  x = (pixels - MEAN) / STD if name == "image" else sounds[..., None]
  own = state.params[name]
  stats = state.batch_stats[name]["tower"]
  want = pooled((4, 8), own["tower"], stats, x)
  features, logits = getattr(loaded, name)(given)
  np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-5)
  layer = jax.device_get(own["classes"])
  np.testing.assert_allclose(
    logits, want @ layer["kernel"] + layer["bias"], rtol=1e-4, atol=1e-4
  )
  assert features.std(0).max() > 5e-3  # Or any order of rows would do.


def test_pairs_match_by_the_calibrated_distance(finished, loaded, rows):
  _, state = finished[1]["correspondence"]
  pixels, sounds = rows
  found = []
  for name, x in (
    ("image", (pixels - MEAN) / STD),
    ("audio", sounds[..., None]),
  ):
    stats = state.batch_stats[name]
    maximum = pooled((4, 6), state.params[name], stats, x)
    layers = jax.device_get(state.params[f"{name}_projection"])
    hidden = maximum @ layers["fc1"]["kernel"] + layers["fc1"]["bias"]
    vector = np.maximum(hidden, 0) @ layers["fc2"]["kernel"]
    vector = vector + layers["fc2"]["bias"]
    found.append(vector / np.linalg.norm(vector, axis=1, keepdims=True))
  distance = np.linalg.norm(found[0] - found[1], axis=1)
  own = jax.device_get(state.params["score"])
  got = loaded.match(pixels, sounds)
  want = own["bias"] - own["scale"] * distance
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  assert got.std() > 1e-3


def test_rows_are_judged_independently(loaded, rows):
  """Wherever in a block it stands, and whatever beside it."""
  pixels, sounds = rows
  for judge, given in (
    (loaded.image, (pixels,)),
    (loaded.audio, (sounds,)),
    (loaded.match, (pixels, sounds)),
  ):
    every = jax.tree.leaves(judge(*given))
    for i in (0, 4, 6):
      alone = jax.tree.leaves(judge(*(x[i : i + 1] for x in given)))
      for all_rows, one in zip(every, alone, strict=True):
        assert len(all_rows) == ROWS and len(one) == 1
        np.testing.assert_allclose(one[0], all_rows[i], rtol=1e-5, atol=1e-6)


def test_no_transfer_to_the_device_is_implicit(loaded, rows):
  with jax.transfer_guard("disallow"):
    loaded.image(rows[0])
    loaded.audio(rows[1])
    loaded.match(*rows)


def test_each_image_needs_a_sound(loaded, rows):
  with pytest.raises(ValueError, match=r"\[7, 6\]"):
    loaded.match(rows[0], rows[1][:6])


def test_loading_changes_nothing_in_the_runs(finished, loaded):
  folder, _ = finished
  for task in PAIR:
    steps = [path.name for path in (folder / task / "checkpoints").iterdir()]
    assert sorted(steps) == [str(BEST), str(LATER)]
    assert not (folder / task / ".lock").exists()


# What is refused.


def refused(classifier, correspondence, **fields):
  wanted = ml_collections.ConfigDict(config_of("classification").data.to_dict())
  wanted.update(fields)
  with pytest.raises(UserError) as error:
    judges.load(str(classifier), str(correspondence), wanted)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_folders_without_the_right_run_are_refused(finished, tmp_path):
  folder, _ = finished
  one, other = (folder / task for task in PAIR)
  assert "no config.json" in refused(tmp_path, other)
  assert "configs/classification.py" in refused("", other)
  assert "configs/correspondence.py" in refused(one, tmp_path)
  said = refused(other, one)
  assert f"{other} is a run of 'correspondence'" in said
  assert "configs/classification.py" in said
  assert "is a run of 'classification'" in refused(one, one)


@pytest.mark.parametrize("task", PAIR)
def test_runs_that_are_not_finished_are_refused(finished, tmp_path, task):
  folder, _ = finished
  shutil.copytree(folder / task, tmp_path / task)
  (tmp_path / task / "results.json").unlink()
  paths = {name: folder / name for name in PAIR} | {task: tmp_path / task}
  said = refused(*paths.values())
  assert str(tmp_path / task) in said and "not finished" in said


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("dataset", "clips"),
    ("image_size", 16),
    ("sample_rate", 16000),
    ("seconds", 0.4),
    ("spectrogram", "log_linear"),
    ("frames", 20),
    ("num_mels", 9),
  ],
)
def test_judges_of_other_data_are_refused(finished, tmp_path, field, value):
  folder, _ = finished
  one, other = (folder / task for task in PAIR)
  said = refused(one, other, **{field: value})
  assert str(one) in said and f"{field}={value}" in said
  # The one run fits, the other does not.
  copy = tmp_path / "other"
  shutil.copytree(other, copy)
  config = json.loads((copy / "config.json").read_text())
  config["data"][field] = value
  (copy / "config.json").write_text(json.dumps(config))
  said = refused(one, copy)
  assert str(copy) in said and f"data.{field}={value}" in said


def test_a_judge_of_other_classes_is_refused(finished, monkeypatch):
  folder, _ = finished
  fewer = type(STAR)(STAR.names, STAR.edges, STAR.labels[:2])
  splits = {"train": Labelled([], fewer)}
  monkeypatch.setattr(data, "load", lambda config: splits)
  said = refused(*(folder / task for task in PAIR))
  assert "of another model" in said and "classes" in said
