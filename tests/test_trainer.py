"""Whole runs on a small folder of stamps: files, resuming, faults."""

import dataclasses
import functools
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import stamps_fixture
from tests.running import run_config
from tests.test_options import load
from vgsgan import data, tasks
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.data import pipeline
from vgsgan.evals import retrieval
from vgsgan.parallel import mesh, processes
from vgsgan.train import evaluation, finished, loop, saving, workdirs
from vgsgan.train.checkpoints import integrity, manager

MAKE_MESH = mesh.make_mesh
TIMINGS = ("step_seconds", "examples_per_second", "input_share")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("stamps")
  stamps_fixture.make(root / "source", n_stamps=16)
  return root


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
  """Enough to be sharded, and quicker to compile for than eight."""
  use_devices(monkeypatch, 2)


def use_devices(monkeypatch, number):
  monkeypatch.setattr(
    mesh, "make_mesh", lambda model=1: MAKE_MESH(number, model)
  )


def small(folder, arg="smoke", **train):
  """A run of seconds, in which any hidden host transfer is an error."""
  config = load("stamps").get_config(arg)
  config.transfer_guard = "disallow"
  config.data.update(
    {
      "source": str(folder / "source"),
      "data_dir": str(folder / "prepared"),
      "languages": "fr,ro,ru",
      "max_stamps": 0,
      "seconds": 0.64,
    }
  )
  config.eval.update({"seconds": 0.64, "batch": 8})
  config.train.update(
    {"steps": 6, "batch": 8, "log_every": 1, "eval_every": 3, "save_every": 2}
    | train
  )
  return config


def lines(workdir, split=None, timings=False):
  found = [
    json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  kept = [x for x in found if split in (None, x["split"])]
  if timings:
    return kept
  untimed = [x for x in kept if x["split"] != "compile"]
  return [{k: v for k, v in x.items() if k not in TIMINGS} for x in untimed]


def saved_arrays(workdir, config):
  """Everything in the newest checkpoint."""
  step = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
  devices = mesh.make_mesh()
  task = tasks.build(config, devices, data.load(config.data))
  shapes = jax.eval_shape(lambda: task.init(jax.random.key(0)))
  saved = manager.Checkpoints(workdir / "checkpoints", best="selection")
  abstract = mesh.abstract(shapes, devices)
  state, _ = saved.restore(step, abstract)
  saved.close()
  return jax.device_get(jax.tree.leaves(state))


def signal_at(monkeypatch, number, batch):
  """Sends a real signal while the given batch is fetched."""
  plain = pipeline.DeviceBatches.next
  count = 0

  def fetch(self, running):
    nonlocal count
    count += 1
    if count == batch:
      os.kill(os.getpid(), number)
    return plain(self, running)

  monkeypatch.setattr(pipeline.DeviceBatches, "next", fetch)


def test_a_run_writes_all_its_files(folder, tmp_path):
  config = small(folder)
  assert run_config(config, tmp_path) == 0
  assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
    config.to_json()
  )
  train = lines(tmp_path, "train", timings=True)
  assert [x["step"] for x in train] == [1, 2, 3, 4, 5, 6]
  assert {"loss", "grad_norm", "param_norm", "learning_rate"} <= set(train[0])
  timed = [x for x in train if "step_seconds" in x]
  assert [x["step"] for x in timed] == [2, 3, 4, 5, 6]  # From the one before.
  for x in timed:
    assert x["examples_per_second"] == pytest.approx(
      8 / x["step_seconds"], rel=1e-4
    )
    assert 0 <= x["input_share"] <= 1
  assert lines(tmp_path, "compile", timings=True)[0]["seconds"] > 0
  assert [x["step"] for x in lines(tmp_path, "validation")] == [3, 6]
  assert list(tmp_path.glob("**/events.out.tfevents*"))
  assert_results(json.loads((tmp_path / "results.json").read_text()))


def assert_results(results):
  for split in ("validation", "test"):
    found = results["splits"][split]
    assert set(found["by_group"]) <= {"fr", "ro", "ru"}
    for figures in (found, *found["by_group"].values()):
      for direction in ("speech_to_image", "image_to_speech"):
        one = figures[direction]
        assert one["gallery"] >= 1 and one["queries"] >= 1
        for name in ("R@1", "R@5", "R@10", "median_rank"):
          assert set(one[name]) == {"value", "chance"}
          assert math.isfinite(one[name]["value"])


def test_an_interrupted_run_equals_a_whole_one(folder, tmp_path, monkeypatch):
  config = small(folder)
  run_config(config, tmp_path / "whole")
  with monkeypatch.context() as patched:
    signal_at(patched, signal.SIGTERM, 5)
    status = run_config(config, tmp_path / "parts")
  assert status == 128 + signal.SIGTERM
  assert not (tmp_path / "parts/results.json").exists()
  assert run_config(config, tmp_path / "parts") == 0
  assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
  whole = saved_arrays(tmp_path / "whole", config)
  parts = saved_arrays(tmp_path / "parts", config)
  for one, other in zip(whole, parts, strict=True):
    np.testing.assert_array_equal(one, other)
  results = [
    (tmp_path / name / "results.json").read_text()
    for name in ("whole", "parts")
  ]
  assert results[0] == results[1]


def test_a_signal_during_evaluation_saves_and_the_next_start_evaluates(
  folder, tmp_path, monkeypatch
):
  config = small(folder)
  run_config(config, tmp_path / "whole")
  plain = retrieval.score_blocks

  def asked(*args):
    os.kill(os.getpid(), signal.SIGINT)
    return plain(*args)

  with monkeypatch.context() as patched:
    patched.setattr(retrieval, "score_blocks", asked)
    status = run_config(config, tmp_path / "parts")
  assert status == 128 + signal.SIGINT
  assert not lines(tmp_path / "parts", "validation")
  assert (tmp_path / "parts/checkpoints/3").is_dir()
  run_config(config, tmp_path / "parts")
  assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_validation_is_evaluated_once_a_step(folder, tmp_path, monkeypatch):
  config, plain, splits = small(folder), evaluation.evaluate, []

  def evaluate(this, state, split):
    splits.append(split)
    if left and split == "test":
      os.kill(os.getpid(), signal.SIGTERM)
    return plain(this, state, split)

  left = True
  monkeypatch.setattr(evaluation, "evaluate", evaluate)
  status = run_config(config, tmp_path)
  assert status == 128 + signal.SIGTERM
  assert splits == ["validation", "validation", "test"]
  splits.clear()
  left = False
  assert run_config(config, tmp_path) == 0
  assert splits == ["test"]
  results = (tmp_path / "results.json").read_text()
  # Evaluated anew it is the same, in the same order.
  splits.clear()
  assert run_config(config, tmp_path, "eval") == 0
  assert splits == ["validation", "test"]
  assert (tmp_path / "results.json").read_text() == results
  # What another config has evaluated is not believed.
  splits.clear()
  config.eval.batch = 16
  assert run_config(config, tmp_path) == 0
  assert splits == ["validation", "test"]


def test_a_crash_loses_at_most_the_steps_since_the_last_checkpoint(
  folder, tmp_path, monkeypatch
):
  config = small(folder, eval_every=6)
  run_config(config, tmp_path / "whole")
  plain = pipeline.DeviceBatches.next
  count = 0

  def fetch(self, running):
    nonlocal count
    count += 1
    if count == 6:
      assert processes._now.what == "training"
      raise MemoryError("as if killed")
    return plain(self, running)

  with monkeypatch.context() as patched:
    patched.setattr(pipeline.DeviceBatches, "next", fetch)
    with pytest.raises(MemoryError):
      run_config(config, tmp_path / "parts")
  assert [x["step"] for x in lines(tmp_path / "parts")] == [1, 2, 3, 4, 5]
  run_config(config, tmp_path / "parts")
  assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_a_failing_evaluation_loses_no_step(folder, tmp_path, monkeypatch):
  config = small(folder, steps=4, eval_every=3, save_every=3)
  run_config(config, tmp_path / "whole")
  with monkeypatch.context() as patched:

    def broken(*_):
      raise UserError("record 7 cannot be read")

    patched.setattr(evaluation, "evaluate", broken)
    for _ in range(2):  # The second finds it due before it trains.
      with pytest.raises(UserError, match="record 7"):
        run_config(config, tmp_path / "parts")
      kept = tmp_path / "parts/checkpoints/3"
      assert kept.is_dir()
  run_config(config, tmp_path / "parts")
  assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_a_dead_worker_loses_no_step(folder, tmp_path, monkeypatch):
  config = small(folder, steps=4, eval_every=3, save_every=3)
  plain, calls = pipeline.DeviceBatches.next, []

  def fetch(self, running):
    calls.append(1)
    if len(calls) == 3:
      raise UserError("a worker process was ended")
    return plain(self, running)

  with monkeypatch.context() as patched:
    patched.setattr(pipeline.DeviceBatches, "next", fetch)
    with pytest.raises(UserError, match="a worker process was ended"):
      run_config(config, tmp_path / "parts")
  assert (tmp_path / "parts/checkpoints/2").is_dir()
  run_config(config, tmp_path / "parts")
  run_config(config, tmp_path / "whole")
  assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_loss_curves_are_equal_on_1_and_8_devices(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  config = small(folder, eval_every=6)
  curves = []
  for devices, model in ((1, 1), (8, 1), (8, 4)):
    use_devices(monkeypatch, devices)
    config.mesh.model = model
    workdir = tmp_path / f"{devices}-{model}"
    run_config(config, workdir)
    curves.append([x["loss"] for x in lines(workdir, "train")])
  one, eight, shared = curves
  np.testing.assert_allclose(one, eight, rtol=2e-4)
  np.testing.assert_allclose(one, shared, rtol=2e-4)


@pytest.fixture(scope="module")
def curve(folder, tmp_path_factory):
  """The losses of a run with these changes, which is made once."""

  @functools.cache
  def of(**train):
    workdir = tmp_path_factory.mktemp("curve")
    run_config(small(folder, eval_every=6, **train), workdir)
    return [x["loss"] for x in lines(workdir, "train")]

  return of


@pytest.mark.parametrize(
  ("plain", "how", "first", "later"),
  [
    ({}, {"remat": True}, 2e-4, 2e-4),
    # Rounded otherwise, other impostors are the hardest below the positive.
    ({}, {"dtype": "bfloat16"}, 2e-2, 0.2),
    # Normalisation sees a half at a time, so the curve is one of halves: that
    # they add up to the whole is for test_forward.
    ({"accumulate": 2}, {"dtype": "bfloat16", "remat": True}, 2e-2, 0.1),
  ],
)
def test_less_memory_or_precision_keeps_the_loss_curve(
  curve, plain, how, first, later
):
  found = curve(**plain, **how)
  np.testing.assert_allclose(found[0], curve()[0], rtol=first)
  np.testing.assert_allclose(found, curve(**plain), rtol=later)


def test_a_run_goes_on_with_another_number_of_devices(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  config = small(folder, eval_every=6)
  run_config(config, tmp_path / "whole")
  with monkeypatch.context() as patched:
    signal_at(patched, signal.SIGTERM, 4)
    run_config(config, tmp_path / "parts")
  use_devices(monkeypatch, 4)
  config.mesh.model = 2
  assert run_config(config, tmp_path / "parts") == 0
  whole, parts = (
    [x["loss"] for x in lines(tmp_path / name, "train")]
    for name in ("whole", "parts")
  )
  np.testing.assert_allclose(whole, parts, rtol=2e-4)


@pytest.mark.parametrize(
  ("module", "name", "advice"),
  [
    (
      loop,
      "compile_step",
      ("train.accumulate", "exchange=ring"),
    ),
    (retrieval, "score_blocks", ("eval.batch",)),
  ],
)
def test_too_little_memory_is_one_line(
  folder, tmp_path, monkeypatch, module, name, advice
):
  def full(*_):
    raise jax.errors.JaxRuntimeError(
      "RESOURCE_EXHAUSTED: Out of memory while allocating 8 bytes.\nMore."
    )

  monkeypatch.setattr(module, name, full)
  with pytest.raises(UserError) as refused:
    run_config(small(folder, steps=1, eval_every=1), tmp_path)
  said = str(refused.value)
  assert said.startswith("out of memory: Out of memory while allocating 8 byte")
  assert "\n" not in said and all(word in said for word in advice)


@pytest.mark.parametrize("spoilt", ["loss", "grad_norm"])
def test_a_nan_stops_the_run_and_names_the_batch(
  folder, tmp_path, monkeypatch, spoilt
):
  config = small(folder, save_every=1, log_every=6)
  build = tasks.build

  def spoil(*args):
    task = build(*args)

    def step(state, batch):
      after, metrics = task.step(state, batch)
      factor = jnp.where(state.step == 3, jnp.nan, 1.0)
      return after, metrics | {spoilt: metrics[spoilt] * factor}

    return dataclasses.replace(task, step=step)

  monkeypatch.setattr(tasks, "build", spoil)
  with pytest.raises(saving.NonFiniteError) as stopped:
    run_config(config, tmp_path)
  message = str(stopped.value)
  assert "\n" not in message
  (report,) = tmp_path.glob("nonfinite-*.json")
  report = json.loads(report.read_text())
  assert report["step"] == 4
  assert f"at step {report['step']} " in message
  assert f"checkpoint: step {report['step'] - 1} " in message
  assert len(report["records"]) == 8
  assert all(":" in name for name in report["records"])
  steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
  assert max(steps) == report["step"] - 1


def test_another_architecture_is_refused_by_parameter(folder, tmp_path):
  run_config(small(folder, steps=2, eval_every=2), tmp_path)
  other = small(folder, steps=4)
  other.speech.embed = other.image.embed = 48
  with pytest.raises(UserError, match="image/embed") as refused:
    run_config(other, tmp_path)
  assert "--workdir" in str(refused.value)


def test_the_previous_checkpoint_replaces_a_damaged_one(
  folder, tmp_path, capfd
):
  config = small(folder, steps=4, eval_every=4)
  run_config(config, tmp_path)
  before = lines(tmp_path)
  newest = tmp_path / "checkpoints/4"
  for file in sorted(newest.rglob("d/*")):
    file.write_bytes(file.read_bytes()[:10])
  run_config(config, tmp_path)
  assert f"{newest} is damaged" in capfd.readouterr().err
  assert lines(tmp_path) == before


def test_a_run_does_not_resume_on_other_data(folder, tmp_path):
  config = small(folder, steps=2, eval_every=2)
  run_config(config, tmp_path)
  kept = (tmp_path / "config.json").read_text()
  other = small(folder, steps=4)
  other.data.split_seed = 1
  for mode in ("train", "eval"):
    with pytest.raises(UserError, match="split_seed: 0 -> 1"):
      run_config(other, tmp_path, mode)
  assert (tmp_path / "config.json").read_text() == kept


def test_every_mode_refuses_checkpoints_of_an_earlier_version(folder, tmp_path):
  config = small(folder, steps=2)
  (tmp_path / "config.json").write_text(config.to_json())
  meta = tmp_path / "checkpoints" / "2" / "meta"
  meta.mkdir(parents=True)
  record = {"meta": {}, "score": 0.5, "arrays": {}, "packed": {}}
  (meta / "metadata").write_text(json.dumps(integrity.seal(record)))
  line = r"checkpoints/2 was saved by an earlier version .* another --workdir$"
  for mode in ("train", "eval"):
    with pytest.raises(UserError, match=line):
      run_config(config, tmp_path, mode)
  with pytest.raises(UserError, match=line):  # As exports and the like open it.
    with finished.opened(tmp_path):
      pass


def test_a_run_does_not_resume_on_a_changed_source(folder, tmp_path):
  source = stamps_fixture.make(tmp_path / "source", n_stamps=16, seconds=0.1)
  config = small(folder, steps=2, eval_every=2)
  config.data.update(
    {"source": str(source), "data_dir": str(tmp_path / "prepared")}
  )
  run_config(config, tmp_path / "run")
  # Where it is does not matter.
  source = source.rename(tmp_path / "moved")
  config.data.source = str(source)
  assert run_config(config, tmp_path / "run", "eval") == 0
  (source / "animals/birds/bird6_desc_fr.ogg").unlink()
  for mode in ("train", "eval"):  # What it trained on might now be tested.
    with pytest.raises(UserError, match="another prepared"):
      run_config(config, tmp_path / "run", mode)


def test_two_runs_cannot_share_a_workdir(folder, tmp_path):
  with workdirs.alone(tmp_path):
    with pytest.raises(UserError, match="another run is using"):
      run_config(small(folder), tmp_path)
  with workdirs.alone(tmp_path):
    pass


def test_the_next_best_checkpoint_replaces_a_damaged_one(
  folder, tmp_path, capfd
):
  config = small(folder, steps=4, eval_every=2, keep=4)
  run_config(config, tmp_path)
  best = json.loads((tmp_path / "results.json").read_text())["step"]
  for file in sorted((tmp_path / f"checkpoints/{best}").rglob("d/*")):
    file.write_bytes(file.read_bytes()[:10])
  assert run_config(config, tmp_path, "eval") == 0
  assert f"{best} is damaged" in capfd.readouterr().err
  after = json.loads((tmp_path / "results.json").read_text())["step"]
  assert {best, after} == {2, 4}


def test_another_run_is_refused_before_data_are_read(
  folder, tmp_path, monkeypatch
):
  """A huge batch of evaluation gives what an ordinary one does."""
  config = small(folder, steps=2, eval_every=2)
  config.eval.batch = 10**6
  run_config(config, tmp_path)
  found = json.loads((tmp_path / "results.json").read_text())
  config.eval.batch = 8
  run_config(config, tmp_path, "eval")
  again = json.loads((tmp_path / "results.json").read_text())
  assert found.keys() == again.keys()
  assert jsonfiles.flatten(found) == pytest.approx(jsonfiles.flatten(again))

  monkeypatch.setattr(data, "load", lambda _: pytest.fail("data were read"))
  for field, value, said in (
    ("train.batch", 16, "step 2 has another train.batch: 8 -> 16; use the"),
    ("seed", 5, "step 2 has another seed: 0 -> 5; use the"),
    ("data.split_seed", 3, "another data.split_seed: 0 -> 3; use the"),
  ):
    config = small(folder, steps=4)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as refused:
      run_config(config, tmp_path)
    assert said in str(refused.value)
  with pytest.raises(UserError, match="has a run of 'grounding', and this"):
    recogniser = load("recogniser").get_config("smoke")
    run_config(recogniser, tmp_path, "eval")


def test_eval_mode_repeats_the_final_evaluation(folder, tmp_path):
  config = small(folder, steps=2, eval_every=2)
  with pytest.raises(UserError, match="no evaluated checkpoint"):
    run_config(config, tmp_path, "eval")
  run_config(config, tmp_path)
  results = tmp_path / "results.json"
  first = results.read_text()
  results.unlink()
  assert run_config(config, tmp_path, "eval") == 0
  assert results.read_text() == first


@pytest.mark.parametrize("arg", ["smoke", "infonce,smoke"])
def test_training_learns_its_pairs(folder, tmp_path, arg):
  config = small(folder, arg, steps=60, eval_every=60, log_every=10)
  config.optim.lr = 3e-3
  for name in config.data.augment:
    config.data.augment[name] = type(config.data.augment[name])(0)
  run_config(config, tmp_path)
  losses = [x["loss"] for x in lines(tmp_path, "train")]
  assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
  ("section", "field", "value", "said"),
  [
    ("", "seed", -1, "config.seed=-1 must be a whole number from 0 to"),
    ("train", "batch", 1, "config.train.batch=1 must be 2 at least"),
    ("train", "batch", 7, "7 = 2 x 3 + 1; set --config.train.batch to 6 or 8"),
    ("loss", "name", "infonec", "did you mean 'infonce'"),
    ("loss", "name", "both", "is of edits, which this task does not draw"),
    ("loss", "negatives", "semihard", "did you mean 'semi_hard'"),
    ("score", "kind", "mesa", "did you mean 'misa'"),
    ("score", "exchange", "rings", "did you mean 'ring'"),
    ("speech", "tower", "devanet", "did you mean 'davenet'"),
    ("speech", "norm", "layer", "config.speech.norm='layer' is unknown"),
    ("speech", "embed", 5, "must be equal"),
    ("data", "image_size", 72, "multiples of 32"),
    ("data", "dataset", "stamp", "did you mean 'stamps'"),
    ("data", "protocol", "cell", "protocol"),
    ("data", "languages", "fr,xx", "xx"),
    ("data", "source", "/nowhere", "apt-get install tuxpaint-stamps-default"),
    ("image", "widths", (), "config.image.widths=(), blocks="),
    ("optim", "schedule", "step", "config.optim.decay_steps=0"),
    ("optim", "name", "adm", "did you mean 'adam'"),
    ("optim", "schedule", "cosin", "did you mean 'cosine'"),
  ],
)
def test_a_wrong_value_is_named_in_one_line(
  folder, tmp_path, section, field, value, said
):
  config = small(folder)
  if field == "source":  # Or what is prepared of the true one would do.
    config.data.data_dir = str(tmp_path)
  (config[section] if section else config)[field] = value
  with pytest.raises(UserError) as refused:
    run_config(config, tmp_path)
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)
