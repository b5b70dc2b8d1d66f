"""Arms of a config, what of them is run, and the table worked by hand."""

import json

import ml_collections
import pytest

from vgsgan import comparing, trainer
from vgsgan.errors import UserError


def config(**changes):
  arms = {
    "plain": {},
    "quick": {"optim": {"lr": 0.5}, "loss": {"name": "hard"}},
  }
  columns = {"R@10": "splits.test.recall", "all": "splits.test.words.all"}
  return ml_collections.ConfigDict(
    {
      "seed": 7,
      "optim": {"lr": 0.1, "name": "adam"},
      "loss": {"name": "regular", "margins": (1.0, 2.0)},
      "compare": {
        "seeds": (0, 3),
        "arms": arms,
        "columns": tuple(columns.items()),
      },
    }
    | changes
  )


def results(recall, words, chance=0.1):
  test = {
    "recall": {"value": recall, "chance": chance},
    "words": {"all": {"value": words, "chance": 0.5}},
  }
  return {"step": 3, "splits": {"test": test}}


def test_arms_are_copies_that_differ_in_their_fields():
  base = config()
  before = base.to_json()
  found = list(comparing.arms(base))
  assert [(name, seed) for name, seed, _ in found] == [
    ("plain", 0),
    ("quick", 0),
    ("plain", 3),
    ("quick", 3),
  ]
  for name, seed, one in found:
    quick = name == "quick"
    assert one.to_dict() == {
      "seed": seed,
      "optim": {"lr": 0.5 if quick else 0.1, "name": "adam"},
      "loss": {
        "name": "hard" if quick else "regular",
        "margins": (1.0, 2.0),
      },
    }
    one.optim.lr = 100.0
  # Neither the config nor another arm has part in what one arm changes.
  assert base.to_json() == before
  assert found[0][2].loss is not found[2][2].loss


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"sed": 1}, "no field config.sed; did you mean 'seed'?"),
    ({"loss": {"nam": "hard"}}, "no field config.loss.nam; did you mean 'name"),
    ({"optim": {"lr": "fast"}}, "fast"),
    ({"optim": 3}, "int"),
    ({"loss": {"name": {"a": 1}}}, "ConfigDict"),
  ],
)
def test_what_an_arm_cannot_set_is_named_in_one_line(
  fields, said, tmp_path, monkeypatch
):
  wrong = config()
  wrong.compare.arms = ml_collections.ConfigDict({"ok": {}, "slow": fields})
  ran = []
  monkeypatch.setattr(trainer, "run", lambda *args: ran.append(args) or 1)
  with pytest.raises(UserError) as refused:
    comparing.run(wrong, tmp_path, "train")
  assert str(refused.value).startswith("config.compare.arms.slow: ")
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)
  # Before the arms in front of it have taken their hours.
  assert not ran


def test_the_table_by_hand():
  lines = comparing.table(
    {
      "plain": [results(0.2, 0.75), results(0.3, 0.5), results(0.4, 0.25)],
      "quick": [results(0.5, 1.0)],
    },
    dict(config().compare.columns),
  )
  # Deviations over n - 1: of 20, 30, 40 it is 10, of 75, 50, 25 it is 25.
  assert lines == [
    "| arm | seeds | R@10 | all |",
    "|---|---|---|---|",
    "| plain | 3 | 30.0 ± 10.0 | 50.0 ± 25.0 |",
    "| quick | 1 | 50.0 | 100.0 |",
    "| chance | | 10.0 | 50.0 |",
  ]


@pytest.mark.parametrize("path", ["splits.test.recal", "step.more", "splits.x"])
def test_a_figure_that_is_not_there_is_named(path):
  with pytest.raises(UserError) as refused:
    comparing.table({"plain": [results(0.2, 0.5)]}, {"A": path})
  assert repr(path) in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.fixture
def runs(monkeypatch):
  """Runs that write their seed and learning rate as results, at once."""
  made = []

  def run(one, folder, mode):
    made.append((folder.name, mode))
    if folder.name == run.interrupted:
      return 143
    folder.mkdir(parents=True, exist_ok=True)
    figures = results(one.optim.lr, one.seed / 10)
    (folder / "results.json").write_text(json.dumps(figures))
    (folder / "config.json").write_text(json.dumps(one.to_dict()))
    return 0

  run.interrupted = None
  monkeypatch.setattr(trainer, "run", run)
  return made, run


def test_finished_arms_are_not_run_again(runs, tmp_path, capsys):
  made, run = runs
  run.interrupted = "plain-3"
  assert comparing.run(config(), tmp_path, "train") == 143
  assert made == [(n, "train") for n in ("plain-0", "quick-0", "plain-3")]
  assert not (tmp_path / "table.md").exists()
  run.interrupted = None
  made.clear()
  capsys.readouterr()
  assert comparing.run(config(), tmp_path, "train") == 0
  assert made == [("plain-3", "train"), ("quick-3", "train")]
  table = (tmp_path / "table.md").read_text()
  # The seeds 0 and 3 wrote 0 and 30 %: mean 15, deviation 21.2.
  assert "| quick | 2 | 50.0 ± 0.0 | 15.0 ± 21.2 |" in table.splitlines()
  assert capsys.readouterr().out.endswith(table)
  made.clear()
  assert comparing.run(config(), tmp_path, "eval") == 0
  assert [mode for _, mode in made] == ["eval"] * 4


def test_a_finished_arm_of_another_config_is_refused(runs, tmp_path):
  comparing.run(config(), tmp_path, "train")
  other = config()
  other.optim.name = "sgd"
  with pytest.raises(UserError, match=r"plain-0 is finished.*optim\.name"):
    comparing.run(other, tmp_path, "train")
