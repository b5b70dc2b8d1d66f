"""The curriculum of drawing, and whole runs through it."""

import functools
import json
import signal

import numpy as np
import pytest

from tests import drawing_world
from tests.drawing_world import MAKE_MESH, one_line, small
from tests.filling import same
from tests.running import run_config
from tests.test_gan import saved_state
from tests.test_trainer import lines, signal_at
from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.negatives.curriculum import curriculum
from vgsgan.parallel import mesh
from vgsgan.tasks import drawing
from vgsgan.train.task import Task

quick_to_compile = drawing_world.quick_to_compile
generator = drawing_world.generator
records = drawing_world.records


def test_a_curriculum_is_read_in_order():
  assert curriculum("regular@0") == {0: "regular"}
  found = curriculum("gradient@12, regular@0 ,random@6")
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
    ("", "there are 'regular', 'random'"),
  ],
)
def test_a_wrong_curriculum_is_refused_in_one_line(text, said):
  with pytest.raises(UserError) as refused:
    curriculum(text)
  one_line(refused, said, "config.edits.curriculum")


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"layers": "up1,up9"}, "config.edits.layers='up9'"),
    ({"counts": (5,)}, "must be of one length"),
    ({"strengths": (0.1, 0.2, 0.3)}, "must be of one length"),
    ({"counts": (), "rungs": 2, "strengths": (1.0,)}, "must be of one length"),
    ({"counts": (), "rungs": 11}, "config.edits.rungs: 11 rungs"),
    ({"counts": (), "rungs": 0}, "config.edits.rungs: 0 rungs"),
    (
      {"curriculum": "regular@0,chunk@4", "strengths": (0.5, 1.5)},
      "config.edits.strengths=(0.5, 1.5): a chunk moves by a strength of 0 to",
    ),
  ],
)
def test_wrong_edits_are_refused_in_one_line(generator, fields, said):
  with pytest.raises(UserError) as refused:
    drawing.Drawing(small(generator, **fields), MAKE_MESH(1))
  one_line(refused, said)


@pytest.mark.parametrize("loss", ["regular", "hard", "triplet"])
def test_edits_that_the_loss_ignores_are_refused(generator, loss):
  config = small(generator, curriculum="regular@0,chunk@4")
  config.loss.name = loss
  model = drawing.Drawing(config, MAKE_MESH(1))  # To look at an old run.
  with pytest.raises(UserError) as refused:
    drawing.check(config)
  one_line(refused, f"config.loss.name={loss!r}", "config.edits.curriculum")
  drawing.check_used("both", model.phases)
  drawing.check_used(loss, {0: "regular"})


def test_empty_counts_give_the_published_attempts(generator):
  fields = {"counts": (), "rungs": 2, "first_count": 140}
  model = drawing.Drawing(small(generator, **fields), MAKE_MESH(1))
  assert model.attempts == ((140, 180), (0.95, 0.9), (0.95, 0.85))


def test_moves_of_directions_may_exceed_1(generator):
  fields = {"curriculum": "regular@0,direction@4", "strengths": (0.5, 1.5)}
  model = drawing.Drawing(small(generator, **fields), MAKE_MESH(1))
  assert model.attempts.counts == (5, 9)


def test_phases_begin_at_their_steps():
  def none(*_):
    pytest.fail("not to be called")

  zero, four, nine = (functools.partial(none, i) for i in (0, 4, 9))
  task = Task(
    transform=none,
    init=none,
    step=zero,
    phases={9: nine, 4: four},
    evaluate=none,
    select=none,
    selection="",
  )
  found = [task.step_after(step) for step in (0, 3, 4, 8, 9, 50)]
  assert found == [zero, zero, four, four, nine, nine]


@pytest.fixture
def in_memory(monkeypatch, records):
  """Records in the place of the data set, and two devices."""
  splits = {
    "train": records[:12],
    "validation": records[12:16],
    "test": records[16:],
  }
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: MAKE_MESH(2, model))
  monkeypatch.setattr(data, "load", lambda config: splits)


def phased(generator):
  config = small(generator, curriculum="regular@0,cluster@2", refresh_every=3)
  config.edits.update({"least": 1, "quantile": 0.7, "concept_pairs": 10})
  config.train.update(
    {"steps": 5, "batch": 8, "log_every": 1, "eval_every": 5, "save_every": 0}
  )
  return config


def test_a_resumed_run_goes_through_the_phases_of_a_whole_one(
  generator, tmp_path, monkeypatch, in_memory
):
  config = phased(generator)
  assert run_config(config, tmp_path / "whole") == 0
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
      assert run_config(config, parts) == 128 + signal.SIGTERM
    steps = [int(path.name) for path in (parts / "checkpoints").iterdir()]
    assert max(steps) == saved
  assert run_config(config, parts) == 0
  assert lines(parts) == whole
  assert same(saved_state(parts, config), end)
  results = [tmp_path / name / "results.json" for name in ("whole", "parts")]
  assert results[0].read_bytes() == results[1].read_bytes()
