"""The config of a run, as it is kept and read again."""

import json

import pytest

from tests.test_options import NAMES, load
from vgsgan import tasks
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.train import finished, logbook, runs, workdirs


def aged(fields):
  """A config of before there were the fields that `read_config` knows of."""
  del fields["mesh"]
  for name in ("dtype", "accumulate", "remat"):
    del fields["train"][name]
  fields.get("score", {}).pop("exchange", None)
  for name in ("inverter", "inversion_steps", "inversion_limit"):
    fields.get("edits", {}).pop(name, None)
  return fields


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_before_a_field_are_as_if_it_had_been_there(
  tmp_path, capsys, name
):
  config = load(name).get_config("")
  whole = json.loads(jsonfiles.dumps(config.to_dict()))
  jsonfiles.write_json(tmp_path / "config.json", aged(config.to_dict()))
  assert workdirs.read_config(tmp_path) == whole
  assert tasks.config_of(tmp_path).train.accumulate == 1
  with logbook.Logbook(tmp_path) as log:
    workdirs.keep_config(tmp_path, config, log)
    assert "differs" not in capsys.readouterr().err
    config.train.remat = True
    workdirs.keep_config(tmp_path, config, log)
  assert "train.remat: False -> True" in capsys.readouterr().err
  assert workdirs.read_config(tmp_path)["train"]["remat"] is True


def test_a_folder_without_a_config_is_one_line(tmp_path):
  with pytest.raises(UserError, match=r"no run in .*no config\.json"):
    tasks.config_of(tmp_path)
  (tmp_path / "arm-0").mkdir()
  (tmp_path / "arm-0" / "config.json").write_text("{}")
  with pytest.raises(UserError, match=r"no config\.json; its folder arm-0 has"):
    tasks.config_of(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="cannot read"):
    tasks.config_of(tmp_path)


def test_a_run_without_its_checkpoints_is_no_other_run(tmp_path):
  config = load("stamps").get_config("smoke")
  jsonfiles.write_json(tmp_path / "config.json", config.to_dict())
  runs.require_run(tmp_path, config, "train")
  config.task = "drawing"
  with pytest.raises(UserError, match="has a run of 'grounding'"):
    runs.require_run(tmp_path, config, "train")


@pytest.mark.parametrize("text", ["{}", "[1]", '{"step": "x"}'])
def test_results_that_are_none_are_one_line(tmp_path, text):
  (tmp_path / "results.json").write_text(text)
  with pytest.raises(UserError, match=r"results\.json holds no results"):
    finished.results_of(tmp_path)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("[1]", r"config\.json holds no config"),
    ('{"task": "grounding", "train": 3}', "train is no section"),
    ('{"task": "grounding"}', r"config\.json: config\.task='grounding' needs"),
    ('{"task": "drawn"}', r"config\.json: config\.task='drawn' is unknown"),
    ('{"seed": "x"}', r"config\.json: config\.task is missing"),
  ],
)
def test_a_config_that_is_none_is_one_line(tmp_path, text, said):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=said) as refused:
    tasks.config_of(tmp_path)
  assert "\n" not in str(refused.value)
