"""Every field has its range; what is wrong is one line before data are read."""

import jax
import ml_collections
import pytest

from tests.running import run_config
from tests.test_options import NAMES, load
from vgsgan import data, tasks
from vgsgan.common import jsonfiles, ranges
from vgsgan.common.errors import UserError
from vgsgan.data import blank
from vgsgan.data.hierarchy import Hierarchy
from vgsgan.data.records import Labelled
from vgsgan.parallel import mesh
from vgsgan.tasks import recognition
from vgsgan.tools.compare import arms, comparison
from vgsgan.tools.compile import footprint
from vgsgan.train import loop
from vgsgan.train.task import Task

MAKE_MESH = mesh.make_mesh
VARIANTS = [
  (name, variant) for name in NAMES for variant in ("", *load(name).VARIANTS)
]
# A config of each task, as `load(NAME).get_config(VARIANT)` gives it.
OF_TASK = {
  "grounding": ("stamps", "smoke"),
  "drawing": ("solids", "random,smoke"),
  "places": ("places", "attribute,smoke"),
  "gan": ("scenes_gan", "smoke"),
  "recognition": ("recogniser", "smoke"),
  "naming": ("namer", "smoke"),
  "inversion": ("inversion", "smoke"),
  "correspondence": ("correspondence", "ave,smoke"),
  "classification": ("classification", "smoke"),
  "generation": ("generation", "gan,smoke"),
  "idea": ("generation", "idea-vae-gan,smoke"),
}


def of_task(name):
  file, variant = OF_TASK[name]
  config = load(file).get_config(variant)
  # Of several arms the last, which draws edits where there are any.
  *_, (_, config) = arms.first_runs(config)
  assert config.task == name
  return config


def put(config, field, value):
  *sections, name = field.split(".")
  for section in sections:
    config = config[section]
  with config.ignore_type(), config.unlocked():
    config[name] = value


def only(field, value):
  """A config of one field."""
  for name in reversed(field.split(".")):
    value = {name: value}
  return ml_collections.ConfigDict(value)


def refused(call, *arguments):
  with pytest.raises(UserError) as error:
    call(*arguments)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(("file", "variant"), VARIANTS)
def test_every_field_of_every_config_is_in_its_range(file, variant):
  config = load(file).get_config(variant)
  for _, one in arms.first_runs(config):
    for field, value in ranges.leaves(one):
      assert field in ranges.FIELDS, f"{field} needs its range"
      assert ranges.FIELDS[field].holds(value), field
    tasks.check(one)
    # As a run keeps it, and reads it again.
    tasks.check(ml_collections.ConfigDict(one.to_dict()))


def outside(known):
  """Values that are not in a range."""
  if isinstance(known, ranges.Each):
    yield from (3, None, "ab", *([()] if known.some else ()))
    yield from ((value,) for value in outside(known.entry))
    return
  yield None
  if isinstance(known, ranges.Text):
    yield from (3, True, 1.5)
  elif isinstance(known, ranges.Flag):
    yield from (0, 1, "True")
  else:
    yield from (True, False, "1", float("nan"), float("inf"), -float("inf"))
    yield from (known.least - 1, 2**64, -(2**64))
    if isinstance(known, ranges.Whole):
      yield from (known.most + 1, 1.5, float(known.least))
    else:
      yield known.most if known.open else known.most * 1.01 + 1


@pytest.mark.parametrize("field", ranges.FIELDS)
def test_a_value_out_of_range_is_named_with_its_range(field):
  known = ranges.FIELDS[field]
  for value in outside(known):
    said = refused(ranges.check, only(field, value))
    assert said == f"config.{field}={value!r} must be {known}"
  if isinstance(known, ranges.Whole | ranges.Real):
    ranges.check(only(field, known.least))
    if not getattr(known, "open", False):
      ranges.check(only(field, known.most))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_missing_field_is_refused_in_one_line(task):
  whole = of_task(task)
  for needed in tasks.needs(whole):
    config = ml_collections.ConfigDict(whole.to_dict())
    *sections, name = needed.split(".")
    node = config
    for section in sections:
      node = node[section]
    del node[name]
    said = refused(tasks.check, config)
    assert f"config.{needed}" in said and "this config has not" in said


def kept(config, fields):
  """The config with these fields alone."""
  found = {}
  for field in fields:
    *sections, name = field.split(".")
    node, source = found, config
    for section in sections:
      node = node.setdefault(section, {})
      source = source[section]
    node[name] = source[name]
  return ml_collections.ConfigDict(found)


CLASSES = Hierarchy(("sound", "drum", "horn"), ((0, 1), (0, 2)), (1, 2))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_task_reads_only_the_fields_it_needs(task):
  """A task is built and its step traced of the needed fields alone."""
  whole = of_task(task)
  of_data = data.dataset(whole.data.dataset)
  fields = [f"data.{x}" for x in (*of_data.identity, *of_data.others)]
  needed = ranges.fields_of(tasks.needs(whole))
  config = kept(whole, ["task", *needed, *fields])
  tasks.check(config)
  splits = blank.splits(whole)
  if task in ("classification", "correspondence"):
    splits = {name: Labelled(x, CLASSES) for name, x in splits.items()}
  devices = MAKE_MESH(1)
  built = tasks.build(config, devices, splits)
  record = splits["train"][0]
  state, batch = footprint.abstract(config, built, record, devices)
  for step in (built.step, *built.phases.values()):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      after, _ = jax.eval_shape(step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)


# Each with what is said of it, before data are read.
WRONG = {
  "grounding": [
    ("seed", 2**64, "config.seed=18446744073709551616 must be"),
    ("seed", True, "config.seed=True must be a whole number"),
    ("optim.lr", -0.1, "config.optim.lr=-0.1 must be a number from 0 to"),
    ("optim.momentum", 1.0, "config.optim.momentum=1.0 must be"),
    ("optim.weight_decay", -1.0, "config.optim.weight_decay=-1.0 must be"),
    ("optim.name", "adm", "did you mean 'adam'"),
    ("optim.schedule", "cosin", "did you mean 'cosine'"),
    ("optim.schedule", "step", "config.optim.decay_steps=0 must be"),
    ("speech.tower", "devanet", "did you mean 'davenet'"),
    ("speech.embed", 0, "config.speech.embed=0 must be"),
    ("speech.width", -1.0, "config.speech.width=-1.0 must be"),
    ("speech.max_kernel", -3, "config.speech.max_kernel=-3 must be"),
    ("image.tower", "vg", "did you mean 'vgg'"),
    ("image.norm", "layer", "config.image.norm='layer' is unknown"),
    ("image.widths", (8, 0, 8), "config.image.widths=(8, 0, 8) must be"),
    ("score.kind", "mesa", "did you mean 'misa'"),
    ("loss.name", "both", "use configs/solids.py"),
    ("loss.temperature", 0.0, "config.loss.temperature=0.0 must be"),
    ("data.num_mels", 0, "config.data.num_mels=0 must be"),
    ("data.seconds", float("inf"), "config.data.seconds=inf must be"),
    ("data.max_bad_share", -1.0, "config.data.max_bad_share=-1.0 must be"),
    ("data.max_stamps", -1, "config.data.max_stamps=-1 must be"),
    ("data.image_size", 72, "multiples of 32"),
    ("data.dataset", "stamp", "did you mean 'stamps'"),
    ("data.dataset", "clips", "config.data.dataset='clips' needs config.data."),
    ("train.batch", 1, "config.train.batch=1 must be 2 at least"),
    ("train.keep", 0, "config.train.keep=0 must be"),
    ("train.dtype", "bf16", "did you mean 'bfloat16'"),
    ("train", 3, "config.train"),
    ("transfer_guard", "no", "config.transfer_guard='no' is unknown"),
    ("task", "groundin", "did you mean 'grounding'"),
    ("task", "drawing", "needs config.edits, which this config has not"),
  ],
  "drawing": [
    ("edits.curriculum", "regular@0,randm@3", "did you mean 'random'"),
    ("edits.quantile", 99.0, "config.edits.quantile=99.0 must be"),
    ("edits.counts", (5,), "must be of one length"),
    ("loss.name", "regular", "has no use for the edits"),
    ("train.batch", 1, "config.train.batch=1 must be 2 at least"),
    ("data.augment.flip", True, "shift and flip take an image away"),
  ],
  "gan": [
    ("optim.generator.name", "adm", "config.optim.generator.name='adm'"),
    ("optim.discriminator.b2", 2.0, "config.optim.discriminator.b2=2.0"),
    ("gan.channels", (8, 8), "make them agree"),
    ("eval.samples", 2, "config.eval.samples=2 must be at least 8"),
    ("data.scenes", "clever", "did you mean 'clevr'"),
    ("data.most", 0, "config.data.most=0 must be"),
    ("data.fewest", 3, "must be at least config.data.fewest=3"),
  ],
  "recognition": [
    ("recogniser.widths", (8, 8), "must be 3, one a stage"),
    ("recogniser.norm", "layer", "config.recogniser.norm='layer' is unknown"),
    ("data.scenes", "clevr", "has no masks"),
  ],
  "inversion": [("inverter.channels", (), "config.inverter.channels=() must")],
  "correspondence": [
    ("model.system", "l4", "config.model.system='l4' is unknown"),
    ("loss.negatives", "hard", "config.loss.negatives='hard' is unknown"),
    ("train.batch", 1, "config.train.batch=1 must be 2 at least"),
  ],
  "classification": [
    ("data.spectrogram", "mel", "did you mean 'log_mel'"),
    ("model.widths", "ab", "config.model.widths='ab' must be a tuple"),
  ],
  "generation": [
    ("generation.kind", "aee", "config.generation.kind='aee' is unknown"),
    ("generation.decoder", (4,) * 9, "to be a multiple of 512, not 32"),
  ],
  "idea": [
    ("idea.drop", 0.6, "config.idea.drop=0.6 must be a number from 0 to 0.5"),
    ("train.batch", 1, "config.train.batch=1 must be at least 2"),
  ],
}


@pytest.mark.parametrize(
  ("task", "field", "value", "said"),
  [(task, *one) for task, some in WRONG.items() for one in some],
)
def test_wrong_values_are_refused_before_data_are_read(
  tmp_path, monkeypatch, task, field, value, said
):
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: MAKE_MESH(1))
  monkeypatch.setattr(data, "load", lambda _: pytest.fail("data were read"))
  config = of_task(task)
  put(config, field, value)
  assert said in refused(run_config, config, tmp_path)


def test_an_arm_is_checked_before_the_first_one_runs(tmp_path, monkeypatch):
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: MAKE_MESH(1))
  monkeypatch.setattr(loop, "run", lambda *_: pytest.fail("an arm ran"))
  config = load("solids").get_config("smoke")
  config.compare.arms.edited.optim = ml_collections.ConfigDict({"lr": -1.0})
  said = refused(comparison.run, config, tmp_path, "train")
  assert said.startswith("config.compare.arms.edited: config.optim.lr=-1.0 ")


def test_another_run_in_a_later_arms_folder_is_refused_first(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: MAKE_MESH(1))
  monkeypatch.setattr(loop, "run", lambda *_: pytest.fail("an arm ran"))
  config = load("solids").get_config("smoke")
  folder = tmp_path / f"{list(config.compare.arms)[-1]}-0"
  folder.mkdir()
  jsonfiles.write_json(folder / "config.json", {"task": "gan"})
  said = refused(comparison.run, config, tmp_path, "train")
  assert said.startswith(f"{folder} has a run of 'gan'")


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("seeds", (0, 0), "one is there twice"),
    ("seeds", (0, 2**40), "must be a tuple, one or more, each a whole number"),
    ("seeds", (0, True), "must be a tuple, one or more, each a whole number"),
    ("columns", (), "config.compare.columns is empty"),
  ],
)
def test_a_wrong_comparison_is_refused_in_one_line(
  tmp_path, field, value, said
):
  config = load("solids").get_config("smoke")
  config.compare[field] = value
  assert said in refused(comparison.run, config, tmp_path, "train")


@pytest.mark.parametrize("samples", [None, 90])
def test_an_evaluation_batch_is_no_larger_than_the_split(monkeypatch, samples):
  config = of_task("recognition")
  config.eval.batch = 10**9
  if samples:
    config.eval.samples = samples
  rows = {"train": 1000, "validation": 33, "test": 50, "probe": 57}
  built = Task(*[lambda *_: None] * 5, selection="none")
  seen = []

  def build(config, *_):
    seen.append(config.eval.batch)
    return built

  monkeypatch.setattr(recognition, "build", build)
  splits = {name: range(n) for name, n in rows.items()}
  tasks.build(config, MAKE_MESH(8), splits)
  assert config.eval.batch == 10**9
  config.eval.batch = 8
  tasks.build(config, MAKE_MESH(8), splits)
  assert seen == [96 if samples else 64, 8]
