"""Whole runs through one representation, and configs that are refused."""

import json

import pytest
from PIL import Image

from tests import idea_world
from tests.idea_world import ideal_judges, small
from tests.running import run_config
from tests.test_options import load
from vgsgan.common.errors import UserError
from vgsgan.tasks import idea, judges

quick_to_compile = idea_world.quick_to_compile
in_memory = idea_world.in_memory


@pytest.mark.parametrize("kind", idea.KINDS)
def test_a_whole_run_of_every_kind(kind, tmp_path, monkeypatch, in_memory):
  config = small(kind)
  config.transfer_guard = "disallow"
  if kind == "gan":
    monkeypatch.setattr(judges, "load", lambda *named: ideal_judges())
    config.judges.update({"classifier": "a", "correspondence": "b"})
  assert run_config(config, tmp_path) == 0
  results = json.loads((tmp_path / "results.json").read_text())
  found = results["splits"]["test"]
  assert found["clips"] == 10
  for part in ("picture", "sound"):
    for name in ("from_both", "from_picture", "from_sound"):
      figure = found["squared_error"][part][name]
      assert figure["value"] > 0 and figure["chance"] > 0
  names = {"from_both", "from_picture", "from_sound", "sampled"}
  names |= {"prior"} if kind.startswith("vae") else set()
  for part in ("picture", "sound", "pair"):
    assert set(found["coarse"][part]["frechet"]) == names
  assert ("judged" in found) == (kind == "gan")
  if kind == "gan":
    assert found["judged"]["class"]["picture_from_sound"]["real"] == 1
    assert set(found["judged"]["match"]) == {"accuracy", "score"}
    table = load("generation").get_config("table").compare
    columns = dict(table.columns)
    assert set(table.numbers) < set(columns)
    for name, path in columns.items():
      figure = results
      for part in path.split("."):
        figure = figure[part]
      assert {"value", "chance"} <= figure.keys()
      if name not in table.numbers:
        assert 0 <= figure["value"] <= 1
  with Image.open(tmp_path / "pictures" / "4.png") as opened:
    assert opened.size == (9 * 8, (1 + len(names)) * 8)
  with Image.open(tmp_path / "spectrograms" / "4.png") as opened:
    assert opened.size == (9 * 16, (1 + len(names)) * 8)


def test_a_batch_of_one_pair_is_refused():
  config = small("gan")
  config.train.batch = 1
  with pytest.raises(UserError, match=r"config\.train\.batch=1 must be at"):
    idea.Idea(config)
  config.train.update({"batch": 6, "accumulate": 6})
  with pytest.raises(UserError, match=r"accumulate=6 .* lower it to 3 at most"):
    idea.Idea(config)
  config.train.accumulate = 3
  idea.Idea(config)


@pytest.mark.parametrize(
  ("section", "fields", "said"),
  [
    ("idea", {"kind": "aee"}, "config.idea.kind='aee' is unknown"),
    (
      "idea",
      {"sound_decoder": (4, 4, 4, 4)},
      "4 widths of a decoder need sides that are multiples of 16, not (16, 8)",
    ),
    (
      "data",
      {"spectrogram": "mel"},
      "config.data.spectrogram='mel' is unknown",
    ),
    ("idea", {"picture_decoder": (4,) * 4}, "multiples of 16, not (8, 8)"),
  ],
)
def test_a_wrong_value_is_named_in_one_line(section, fields, said):
  config = small("ae")
  config[section].update(fields)
  with pytest.raises(UserError) as refused:
    idea.Idea(config)
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)
