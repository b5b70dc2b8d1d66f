"""The config of a run, as it is kept and read again."""

import json

import pytest

from tests.test_options import NAMES, load
from vgsgan import tasks
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.train import finished, logbook, runs, workdirs


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_field_is_named_at_the_next_start(tmp_path, capsys, name):
  config = load(name).get_config("")
  with logbook.Logbook(tmp_path) as log:
    workdirs.keep_config(tmp_path, config, log)
    whole = json.loads(jsonfiles.dumps(config.to_dict()))
    assert workdirs.read_config(tmp_path) == whole
    workdirs.keep_config(tmp_path, config, log)
    assert "differs" not in capsys.readouterr().err
    config.train.remat = True
    workdirs.keep_config(tmp_path, config, log)
  assert "train.remat: False -> True" in capsys.readouterr().err
  assert workdirs.read_config(tmp_path)["train"]["remat"] is True


def test_runs_of_an_earlier_version_are_refused_in_one_line(tmp_path):
  config = load("stamps").get_config("smoke")
  fields = config.to_dict()
  del fields["train"]["remat"]
  jsonfiles.write_json(tmp_path / "config.json", fields)
  with pytest.raises(UserError, match=r"config\.json: .*needs config\.train"):
    tasks.config_of(tmp_path)
  meta = runs.configured(config, 4) | {"examples": 256}
  now = meta | {"prepared": ["stamps/of-now"]}
  with pytest.raises(UserError, match="a run of an earlier version of vgsgan"):
    runs._require(tmp_path, 4, meta, now)
  runs._require(tmp_path, 4, now, now)


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


def test_a_run_without_checkpoints_still_owns_its_folder(tmp_path):
  config = load("stamps").get_config("smoke")
  jsonfiles.write_json(tmp_path / "config.json", config.to_dict())
  runs.require_run(tmp_path, config, "train")
  config.task = "drawing"
  with pytest.raises(UserError, match="has a run of 'grounding'"):
    runs.require_run(tmp_path, config, "train")


@pytest.mark.parametrize("text", ["{}", "[1]", '{"step": "x"}'])
def test_a_file_without_results_is_one_line(tmp_path, text):
  (tmp_path / "results.json").write_text(text)
  with pytest.raises(UserError, match=r"results\.json holds no results"):
    finished.results_of(tmp_path)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("[1]", r"config\.json holds no config"),
    ('{"task": "grounding", "train": 3}', r"needs config\.seed, which this"),
    ('{"task": "grounding"}', r"config\.json: config\.task='grounding' needs"),
    ('{"task": "drawn"}', r"config\.json: config\.task='drawn' is unknown"),
    ('{"seed": "x"}', r"config\.json: config\.task is missing"),
  ],
)
def test_a_file_without_a_config_is_one_line(tmp_path, text, said):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=said) as refused:
    tasks.config_of(tmp_path)
  assert "\n" not in str(refused.value)
