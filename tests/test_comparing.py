"""Arms of a config, what of them is run, and table and bars worked by hand."""

import json
from xml.etree import ElementTree

import ml_collections
import pytest

from vgsgan import tasks
from vgsgan.common.errors import UserError
from vgsgan.tools.compare import arms, bars, comparison, tables
from vgsgan.train import loop


def config(**changes):
  arms = {
    "plain": {},
    "quick": {"optim": {"lr": 0.5}, "loss": {"name": "hard"}},
  }
  columns = {"R@10": "splits.test.recall", "all": "splits.test.words.all"}
  return ml_collections.ConfigDict(
    {
      "task": "grounding",
      "seed": 7,
      "mesh": {"model": 1},
      "optim": {"lr": 0.1, "name": "adam"},
      "loss": {"name": "regular", "margins": (1.0, 2.0)},
      "compare": {
        "seeds": (0, 3),
        "arms": arms,
        "columns": tuple(columns.items()),
        "bars": ("all",),
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
  found = list(arms.arms(base))
  assert [(name, seed) for name, seed, _ in found] == [
    ("plain", 0),
    ("quick", 0),
    ("plain", 3),
    ("quick", 3),
  ]
  for name, seed, one in found:
    quick = name == "quick"
    assert one.to_dict() == {
      "task": "grounding",
      "seed": seed,
      "mesh": {"model": 1},
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


def test_the_first_runs_are_those_of_the_first_seed():
  found = list(arms.first_runs(config()))
  assert [(name, one.seed) for name, one in found] == [
    ("plain", 0),
    ("quick", 0),
  ]
  alone = config()
  del alone.compare
  ((name, one),) = arms.first_runs(alone)
  assert (name, one.to_dict()) == ("", alone.to_dict())
  assert one is not alone


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
def test_a_wrong_field_of_an_arm_is_one_line(
  fields, said, tmp_path, monkeypatch
):
  wrong = config()
  wrong.compare.arms = ml_collections.ConfigDict({"ok": {}, "slow": fields})
  ran = []
  monkeypatch.setattr(loop, "run", lambda *args: ran.append(args) or 1)
  with pytest.raises(UserError) as refused:
    comparison.run(wrong, tmp_path, "train")
  assert str(refused.value).startswith("config.compare.arms.slow: ")
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)
  # Before the arms in front of it have taken their hours.
  assert not ran


def worked():
  return tables.summary(
    {
      "plain": [results(0.2, 0.75), results(0.3, 0.5), results(0.4, 0.25)],
      "quick": [results(0.5, 1.0)],
    },
    dict(config().compare.columns),
  )


def test_the_table_by_hand():
  lines = tables.table(worked())
  # Deviations over n - 1: of 20, 30, 40 it is 10, of 75, 50, 25 it is 25.
  assert lines == [
    "| arm | seeds | R@10 | all |",
    "|---|---|---|---|",
    "| plain | 3 | 30.0 ± 10.0 | 50.0 ± 25.0 |",
    "| quick | 1 | 50.0 | 100.0 |",
    "| chance | | 10.0 | 50.0 |",
  ]


@pytest.mark.parametrize(
  ("path", "said"),
  [
    ("splits.test.recal", "there is no figure 'splits.test.recal' in"),
    ("step.more", "there is no figure 'step.more' in"),
    ("splits.x", "there is no figure 'splits.x' in"),
    ("splits.test", "'splits.test' is no figure with a value and its chance"),
    ("splits.test.recall.value", "'splits.test.recall.value' is no figure"),
    ("step", "'step' is no figure"),
  ],
)
def test_a_path_without_a_figure_is_named(path, said):
  with pytest.raises(UserError) as refused:
    tables.summary({"plain": [results(0.2, 0.5)]}, {"A": path})
  assert f"config.compare.columns: {said}" in str(refused.value)
  assert "\n" not in str(refused.value)


def test_a_path_without_a_figure_stops_after_the_first_run(runs, tmp_path):
  made, _ = runs
  wrong = config()
  wrong.compare.columns = (("all", "splits.test.words"),)
  with pytest.raises(UserError, match=r"'splits\.test\.words' is no figure"):
    comparison.run(wrong, tmp_path, "train")
  assert made == [("plain-0", "train")]


@pytest.mark.parametrize("field", ["seeds", "arms"])
def test_nothing_to_compare_is_refused(runs, tmp_path, field):
  made, _ = runs
  wrong = config()
  nothing = {"seeds": (), "arms": ml_collections.ConfigDict()}
  wrong.compare[field] = nothing[field]
  with pytest.raises(UserError, match=rf"config\.compare\.{field} is empty"):
    comparison.run(wrong, tmp_path, "train")
  assert not made


def drawn(found, columns):
  """The bars of an SVG by arm and column, its chance lines and whiskers."""
  root = ElementTree.fromstring(bars.svg(found, columns))
  space = {"svg": "http://www.w3.org/2000/svg"}

  def numbers(element, *names):
    return [float(element.get(name)) for name in names]

  rects = {
    rect.find("svg:title", space).text: numbers(rect, "x", "y", "height")
    for rect in root.iterfind("svg:rect[@class='bar']", space)
  }
  lines = {
    kind: [
      numbers(line, "x1", "y1", "y2")
      for line in root.iterfind(f"svg:line[@class='{kind}']", space)
    ]
    for kind in ("chance", "whisker")
  }
  texts = [text.text for text in root.iterfind("svg:text", space)]
  return rects, lines, texts, numbers(root, "width", "height")


def test_bars_begin_at_chance():
  rects, lines, texts, (width, height) = drawn(worked(), ("all", "R@10"))
  # The lowest is the chance of R@10, 10 per cent, the highest 100.
  pixels = 260 / 90
  assert list(rects) == [
    "plain, all: 50.0 ± 25.0",
    "quick, all: 100.0",
    "plain, R@10: 30.0 ± 10.0",
    "quick, R@10: 50.0",
  ]
  found = {name: height / pixels for name, (_, _, height) in rects.items()}
  assert list(found.values()) == pytest.approx([0, 50, 20, 40], abs=0.01)
  # All stand on their column's chance.
  chances = [y for _, y, _ in lines["chance"]]
  feet = [y + high for _, y, high in rects.values()]
  assert feet == pytest.approx([c for c in chances for _ in range(2)], abs=0.02)
  assert (chances[1] - chances[0]) / pixels == pytest.approx(40, abs=0.01)
  # Whiskers only of arms with several seeds: deviations to both sides.
  reach = [(low - high) / pixels for _, high, low in lines["whisker"]]
  assert reach == pytest.approx([50, 20], abs=0.02)
  middles = [(low + high) / 2 for _, high, low in lines["whisker"]]
  tops = [rects[name][1] for name in list(rects)[::2]]
  assert middles == pytest.approx(tops, abs=0.02)
  # Left to right, on the page.
  places = [x for x, _, _ in rects.values()]
  assert places == sorted(set(places)) and places[-1] < width
  assert all(0 <= y <= height for y in (*feet, *tops))
  assert {"all", "R@10", "plain", "quick", "chance"} <= set(texts)


def test_arms_with_other_chances_have_their_own_lines():
  """No arm stands beside the chance of another, nor a seed of its own."""
  found = tables.summary(
    {
      "plain": [results(0.2, 0.75, chance) for chance in (0.1, 0.2)],
      "quick": [results(0.5, 1.0, 0.25)],
    },
    dict(config().compare.columns),
  )
  assert tables.table(found)[-2:] == [
    "| chance, plain | | 15.0 | 50.0 |",
    "| chance, quick | | 25.0 | 50.0 |",
  ]
  rects, lines, _, _ = drawn(found, ("R@10",))
  assert [y for _, y, _ in lines["chance"]] == pytest.approx(
    [y + high for _, y, high in rects.values()], abs=0.02
  )
  # From 10 to 50 per cent; bars of 5 and 25 end at 20 and 50.
  heights = [high / (260 / 40) for _, _, high in rects.values()]
  assert heights == pytest.approx([5, 25], abs=0.01)


def test_arms_with_other_real_values_have_their_own_rows():
  runs = {
    name: [{"d": {"value": 0.5, "chance": 0.1, "real": real}}]
    for name, real in (("plain", 0.9), ("quick", 0.7))
  }
  assert tables.table(tables.summary(runs, {"d": "d"}))[-3:] == [
    "| real, plain | | 90.0 |",
    "| real, quick | | 70.0 |",
    "| chance | | 10.0 |",
  ]


def test_a_bar_below_chance_hangs_from_it():
  found = tables.summary(
    {"plain": [results(0.2, 0.4)]}, {"all": "splits.test.words.all"}
  )
  rects, lines, _, _ = drawn(found, ("all",))
  ((_, top, height),) = rects.values()
  assert top == lines["chance"][0][1]
  # From 40 to 50 per cent is the whole plot.
  assert height == 260


def test_names_in_the_bars_are_escaped():
  name, column = '<b> & "c"', "R@1 > 0"
  found = tables.summary(
    {name: [results(0.2, 0.4)]}, {column: "splits.test.recall"}
  )
  rects, _, texts, _ = drawn(found, (column,))
  assert list(rects) == [f"{name}, {column}: 20.0"]
  assert {name, column} <= set(texts)


def test_bars_of_no_column_are_refused_before_anything_runs(runs, tmp_path):
  made, _ = runs
  wrong = config()
  wrong.compare.bars = ("al",)
  with pytest.raises(UserError, match=r"config\.compare\.bars='al'.*'all'"):
    comparison.run(wrong, tmp_path, "train")
  assert not made


@pytest.fixture
def runs(monkeypatch):
  """Runs that write their seed and learning rate as results, at once."""
  made = []

  def run(one, folder, mode, build):
    made.append((folder.name, mode))
    if folder.name == run.interrupted:
      return 143
    folder.mkdir(parents=True, exist_ok=True)
    figures = results(one.optim.lr, one.seed / 10)
    if run.source:
      figures["prepared"] = [run.source]
    (folder / "results.json").write_text(json.dumps(figures))
    (folder / "config.json").write_text(json.dumps(one.to_dict()))
    return 0

  run.interrupted = run.source = None
  monkeypatch.setattr(loop, "run", run)
  monkeypatch.setattr(tasks, "check", lambda one: None)
  monkeypatch.setattr(loop, "check", lambda one, mode: None)
  return made, run


def test_finished_arms_are_not_run_again(runs, tmp_path, capsys):
  made, run = runs
  run.interrupted = "plain-3"
  assert comparison.run(config(), tmp_path, "train") == 143
  assert made == [(n, "train") for n in ("plain-0", "quick-0", "plain-3")]
  assert not (tmp_path / "table.md").exists()
  run.interrupted = None
  made.clear()
  capsys.readouterr()
  assert comparison.run(config(), tmp_path, "train") == 0
  assert made == [("plain-3", "train"), ("quick-3", "train")]
  table = (tmp_path / "table.md").read_text()
  # The seeds 0 and 3 wrote 0 and 30 %: mean 15, deviation 21.2.
  assert "| quick | 2 | 50.0 ± 0.0 | 15.0 ± 21.2 |" in table.splitlines()
  assert capsys.readouterr().out.endswith(table)
  kept = json.loads((tmp_path / "table.json").read_text())
  assert kept["arms"]["quick"]["seeds"] == 2
  assert kept["arms"]["quick"]["figures"]["all"] == {
    "mean": 0.15,
    "std": pytest.approx(0.3 / 2**0.5),
    "values": [0.0, 0.3],
    "chance": 0.5,
  }
  assert kept["chance"] == {"R@10": 0.1, "all": 0.5}
  # Numbers of the table, in the picture beside it.
  assert "quick, all: 15.0 ± 21.2<" in (tmp_path / "bars.svg").read_text()
  made.clear()
  assert comparison.run(config(), tmp_path, "eval") == 0
  assert [mode for _, mode in made] == ["eval"] * 4


def test_a_finished_arm_of_another_config_is_refused(runs, tmp_path):
  comparison.run(config(), tmp_path, "train")
  other = config()
  other.optim.name = "sgd"
  with pytest.raises(UserError, match=r"plain-0 is finished.*optim\.name"):
    comparison.run(other, tmp_path, "train")


def test_arms_on_other_data_are_refused(runs, tmp_path):
  _, run = runs
  names = ("image_size", "sample_rate", "max_bad_share")
  fields = {"dataset": "clevrgan_folder"} | dict.fromkeys(names, 1)
  one = config(data=fields)
  run.source, run.interrupted = "32px-source_a/1.0.0", "quick-0"
  assert comparison.run(one, tmp_path, "train") == 143
  run.source, run.interrupted = "32px-source_b/1.0.0", None
  with pytest.raises(UserError) as refused:
    comparison.run(one, tmp_path, "train")
  said = str(refused.value)
  assert "quick-0 has read 32px-source_b/1.0.0 and a run before it" in said
  assert "32px-source_a/1.0.0" in said and "\n" not in said
  assert not (tmp_path / "table.md").exists()
  # Arms may differ in their data.
  one.compare.arms.quick.data = {"image_size": 64}
  comparison.run(one, tmp_path / "anew", "train")


def test_rows_have_parts_of_an_arm_and_may_lack_figures():
  run = {
    "plain": {"near": {"value": 0.3, "chance": 0.1}},
    "fitted": {
      "near": {"value": 0.5, "chance": 0.1},
      "far": {"value": 0.4, "chance": 0.2},
    },
  }
  columns = {"near": "{part}.near", "far": "{part}.far"}
  rows = [("l3", "one", "plain"), ("l3 + CCA", "one", "fitted")]
  lines = tables.table(tables.summary({"one": [run]}, columns, rows))
  assert lines[2:] == [
    "| l3 | 1 | 30.0 | – |",
    "| l3 + CCA | 1 | 50.0 | 40.0 |",
    "| chance | | 10.0 | 20.0 |",
  ]


def test_a_column_that_no_row_has_is_named():
  run = {"plain": {"near": {"value": 0.3, "chance": 0.1}}}
  with pytest.raises(UserError, match=r"no row has the figure 'plain\.far'"):
    tables.summary({"a": [run]}, {"far": "plain.far"}, [("a", "a", "")])


def test_numbers_are_not_shown_in_per_cent():
  runs = [{"d": {"value": v, "chance": 7.0}} for v in (1.0, 2.0)]
  found = tables.summary({"one": runs}, {"Frechet": "d"})
  assert tables.table(found, ["Frechet"])[2:] == [
    "| one | 2 | 1.5 ± 0.707 |",
    "| chance | | 7 |",
  ]
  large = [{"d": {"value": 523.94, "chance": 0.0434}}]
  found = tables.summary({"one": large}, {"Frechet": "d"})
  assert tables.table(found, ["Frechet"])[2:] == [
    "| one | 1 | 524 |",
    "| chance | | 0.0434 |",
  ]


def test_values_of_real_data_are_a_row():
  runs = [
    {
      "a": {"value": v, "chance": 0.1, "real": 0.9},
      "b": {"value": v, "chance": 0},
    }
    for v in (0.25, 0.75)
  ]
  found = tables.summary({"one": runs}, {"A": "a", "B": "b"})
  assert tables.table(found)[2:] == [
    "| one | 2 | 50.0 ± 35.4 | 50.0 ± 35.4 |",
    "| real | | 90.0 | – |",
    "| chance | | 10.0 | 0.0 |",
  ]


def test_figures_of_an_arm_are_in_its_first_row():
  run = {"told": {"value": 0.7, "chance": 0.5}, "plain": {}, "fitted": {}}
  for part in ("plain", "fitted"):
    run[part] = {"near": {"value": 0.3, "chance": 0.1}}
  columns = {"near": "{part}.near", "told": "told"}
  rows = [("l3", "one", "plain"), ("l3 + CCA", "one", "fitted")]
  lines = tables.table(tables.summary({"one": [run]}, columns, rows))
  assert lines[2:4] == [
    "| l3 | 1 | 30.0 | 70.0 |",
    "| l3 + CCA | 1 | 30.0 | – |",
  ]
