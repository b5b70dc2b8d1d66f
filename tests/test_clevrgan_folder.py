"""The published Audio CLEVRGAN, in a small folder of its layout."""

import io
import itertools
import json
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from tests import stamps_fixture, test_options
from tests.running import run_config
from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.data.builders.clevrgan import files as clevrgan_files
from vgsgan.data.examples import DrawnPairExample
from vgsgan.data.records import prepared_names
from vgsgan.parallel import mesh

IDS = {
  "train": ("7", "active/7", "4100", "12", "13"),
  "val": ("21", "22"),
  "test": ("31", "32"),
}
SUFFIX = {"31": "_amt", "32": "_synthetic"}
TEXT = {"7": "a red cube", "12": "a red cube", "31": "a\n shiny  ball\n"}


def color(name):
  """Of the picture of an ID."""
  return np.array([40, 20 * number_of(name), 200])


def pitch(name):
  """Pitch of the recording of an ID, in Hz."""
  return 200 + 20 * number_of(name)


def number_of(name):
  return [*itertools.chain(*IDS.values())].index(name)


def make(root):
  """Writes the folder; 4 kinds of lines and of recordings."""
  for split, names in IDS.items():
    lines = [f"{name}\n" for name in names]
    # A blank line, a repeated one, one with the suffix of its recording.
    extra = ["\n", lines[0]] if split == "train" else []
    if split == "test":
      lines[0] = "31_amt\n"
    (root / f"name_list_{split}.txt").write_text("".join(lines + extra))
    for name in names:
      write_pair(root, name)
  for name, text in TEXT.items():
    path = root / "text" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  return root


def write_pair(root, name):
  audio = root / "audio" / f"{name}{SUFFIX.get(name, '')}.wav"
  image = root / "images" / f"{name}.jpg"
  for path in (audio, image):
    path.parent.mkdir(parents=True, exist_ok=True)
  sound = stamps_fixture.tone(pitch(name), 0.2, 16000)
  stamps_fixture.write(audio, sound, 16000)
  pixels = np.broadcast_to(color(name), (128, 128, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(image, quality=95)


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / "source"
  folder.mkdir()
  return make(folder)


def config(source, folder, **changes):
  return ml_collections.ConfigDict(
    {
      "dataset": "clevrgan_folder",
      "source": str(source),
      "data_dir": str(folder),
      "image_size": 32,
      "sample_rate": 16000,
      "max_bad_share": 0.0,
      "num_workers": 0,
      "num_threads": 1,
    }
    | changes
  )


def load(source, folder, **changes):
  splits = data.load(config(source, folder, **changes))
  return {
    split: {
      r["id"].decode(): r for r in (records[i] for i in range(len(records)))
    }
    for split, records in splits.items()
  }


def one_line(error, *words):
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


def test_records_are_what_the_lists_name(source, tmp_path):
  found = load(source, tmp_path)
  names = {"train": "train", "validation": "val", "test": "test"}
  published = np.random.RandomState(1).standard_normal(4200 * 512)
  published = published.reshape(4200, 512).astype(np.float32)
  for split, records in found.items():
    wanted = {f"{split}:{name}" for name in IDS[names[split]]}
    assert set(records) == wanted
    for key, record in records.items():
      name = key.partition(":")[2]
      row = int(name.rpartition("/")[2])
      np.testing.assert_array_equal(record["z"], published[row])
      pixels = np.asarray(Image.open(io.BytesIO(record["image"])))
      assert pixels.shape == (32, 32, 3)
      assert np.abs(pixels - color(name)).max() <= 4
      heard = np.abs(np.fft.rfft(record["waveform"])).argmax() / 0.2
      assert heard == pytest.approx(pitch(name), abs=6)
      text = " ".join(TEXT.get(name, "").split())
      assert record["caption"].decode() == text
      assert (record["attributes"] == -1).all() and not record["masks"].any()
      assert not record["held_out"] and record["voice"] == b""
      assert record["words"] == b"[]" and not len(record["negatives"])
      example = DrawnPairExample(1600, False)(record, np.random.default_rng(0))
      assert example["z"].shape == (512,)


def test_ids_depend_on_images_and_texts(source, tmp_path):
  found = load(source, tmp_path)
  records = {
    k.partition(":")[2]: r for v in found.values() for k, r in v.items()
  }
  assert len({int(r["image_id"]) for r in records.values()}) == 9
  for name in ("speech_id", "concept"):
    assert len({int(r[name]) for r in records.values()}) == 8
    assert records["7"][name] == records["12"][name]


def test_equal_files_share_a_label(source, tmp_path):
  """A picture under two IDs, and a recording under two others."""
  shutil.copy(source / "images/13.jpg", source / "images/4100.jpg")
  shutil.copy(source / "audio/active/7.wav", source / "audio/12.wav")
  train = load(source, tmp_path)["train"]
  labels = {
    name: {key.partition(":")[2]: int(r[name]) for key, r in train.items()}
    for name in ("image_id", "speech_id", "concept")
  }
  image, said, concept = labels.values()
  assert image["13"] == image["4100"] and len(set(image.values())) == 4
  # 7 and 12 have one text.
  assert said["7"] == said["12"] == said["active/7"]
  assert len(set(said.values())) == 3
  assert (
    concept["13"] == concept["4100"] and concept["7"] == concept["active/7"]
  )
  assert len(set(concept.values())) == 2


def test_latents_are_the_published_rows():
  rows = np.array([8999, 0, 4000, 3999, 5])
  whole = np.random.RandomState(1).standard_normal(9000 * 512)
  expected = whole.reshape(9000, 512)[rows].astype(np.float32)
  np.testing.assert_array_equal(clevrgan_files.latents_of(rows), expected)
  assert clevrgan_files.latents_of(rows[:0]).shape == (0, 512)


def test_the_first_existing_suffix_is_taken(source):
  names = [p.audio.name for p in clevrgan_files.scan(source)["test"]]
  assert names == ["31_amt.wav", "32_synthetic.wav"]
  sound = stamps_fixture.tone(200, 0.1, 16000)
  stamps_fixture.write(source / "audio/32.wav", sound, 16000)
  names = [p.audio.name for p in clevrgan_files.scan(source)["test"]]
  assert names == ["31_amt.wav", "32.wav"]


def test_an_id_in_two_lists_is_refused(source):
  with (source / "name_list_train.txt").open("a") as file:
    file.write("31\n")  # The other list calls it by its recording, 31_amt.
  with pytest.raises(UserError) as error:
    clevrgan_files.scan(source)
  said = str(error.value)
  assert "31 is in name_list_train.txt and in name_list_test.txt" in said
  assert "\n" not in said
  assert len(clevrgan_files.scan(source, ("train",))["train"]) == 6


@pytest.mark.parametrize("harm", ["missing", "empty", "silent", "broken"])
@pytest.mark.parametrize("kind", ["audio", "images"])
def test_unusable_files_are_counted_up_to_a_limit(source, tmp_path, harm, kind):
  path = source / kind / ("13.wav" if kind == "audio" else "13.jpg")
  if harm == "missing":
    path.unlink()
  elif harm == "empty":
    path.write_bytes(b"")
  elif harm == "silent" and kind == "audio":
    stamps_fixture.write(path, np.zeros(1000), 16000)
  else:
    path.write_bytes(b"broken")
  with pytest.raises(UserError) as error:
    load(source, tmp_path, max_bad_share=0.1)
  one_line(error, "1 of 9 pairs", path.name, "config.data.max_bad_share")
  missing = f"there is no file {path}"
  assert (missing in str(error.value)) == (harm == "missing")
  assert "decode" not in str(error.value) or harm != "missing"
  found = load(source, tmp_path, max_bad_share=0.2)
  assert "train:13" not in found["train"] and len(found["train"]) == 4
  # What is prepared still has to be within a limit that is lowered.
  with pytest.raises(UserError, match="1 of 9"):
    load(source, tmp_path, max_bad_share=0.1)


def test_images_must_be_square(source, tmp_path):
  Image.new("RGB", (128, 96)).save(source / "images/13.jpg")
  with pytest.raises(UserError) as error:
    load(source, tmp_path)
  one_line(error, "13.jpg is not square")


@pytest.mark.parametrize(
  ("gone", "words"),
  [
    ("name_list_val.txt", ("no name_list_val.txt",)),
    ("audio", ("no audio",)),
    ("images", ("no images",)),
  ],
)
def test_missing_files_are_named_with_the_layout(source, tmp_path, gone, words):
  (source / gone).rename(tmp_path / gone)
  with pytest.raises(UserError) as error:
    load(source, tmp_path)
  one_line(error, *words, str(source), "audio/ID.wav", "name_list_train.txt")


def test_a_missing_folder_is_named(tmp_path):
  for source in (tmp_path / "gone", ""):
    with pytest.raises(UserError) as error:
      load(source, tmp_path)
    one_line(error, f"no folder '{source}'", "config.data.source", "images/ID")


def test_a_missing_folder_of_more_pairs_is_named(source, tmp_path):
  with pytest.raises(UserError) as error:
    load(source, tmp_path, more=str(tmp_path / "gone"))
  one_line(error, "config.data.more: no folder", "audio/ID.wav")
  assert "config.data.source" not in str(error.value)


@pytest.mark.parametrize(
  "line", ["cube", "200000", "-1", "../7", "/7", "7 8", "_amt", ".", "/"]
)
def test_lines_that_are_no_ids_are_named(source, tmp_path, line):
  (source / "name_list_test.txt").write_text(f"31\n{line}\n")
  with pytest.raises(UserError) as error:
    load(source, tmp_path)
  one_line(error, "name_list_test.txt, line 2", f"'{line}'", "active/123")


def test_an_empty_list_is_named(source, tmp_path):
  (source / "name_list_val.txt").write_text("\n")
  with pytest.raises(UserError) as error:
    load(source, tmp_path)
  one_line(error, "name_list_val.txt is empty")


def test_text_is_optional(source, tmp_path):
  (source / "text").rename(tmp_path / "text")
  found = load(source, tmp_path)
  assert all(r["caption"] == b"" for v in found.values() for r in v.values())


def test_other_sources_have_folders_of_their_own(source, tmp_path):
  def name(**changes):
    splits = data.load(config(source, tmp_path, **changes))
    return prepared_names(splits["train"])[0]

  before = name()
  assert before == name()
  (source / "text/7.txt").write_text("another")
  texts = name()
  np.save(source / "z.npy", np.zeros((5000, 4), np.float32))
  latents = name()
  (source / "audio/7.wav").unlink()
  names = {before, texts, latents, name(max_bad_share=0.5)}
  assert len(names) == 4


def test_the_folder_of_the_config_trains_and_is_evaluated(
  source, tmp_path, monkeypatch
):
  whole = mesh.make_mesh
  monkeypatch.setattr(mesh, "make_mesh", lambda model: whole(1, model))
  wanted = test_options.load("drawing").get_config("folder,smoke")
  wanted.data.update(
    {"source": str(source), "data_dir": str(tmp_path / "data")}
  )
  wanted.data.update({"seconds": 0.32})
  narrow = {"embed": 12, "final_relu": False}
  wanted.speech.update(narrow | {"tower": "small", "width": 0.03125})
  wanted.speech.max_kernel = 3
  wanted.image.update(narrow | {"tower": "resnet", "norm": "group"})
  wanted.image.update({"widths": (8,), "blocks": (1,), "strides": (2,)})
  wanted.train.update({"steps": 2, "batch": 4, "eval_every": 2})
  wanted.eval.update({"batch": 2, "seconds": 0.32})

  def run(folder):
    assert run_config(wanted, folder) == 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    results = json.loads((folder / "results.json").read_text())
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    return results["splits"]["test"], losses

  results, losses = run(tmp_path / "run")
  for direction in ("speech_to_image", "image_to_speech"):
    found = results[direction]
    assert found["queries"] == found["gallery"] == len(IDS["test"])
  assert len(losses) == 2 and np.isfinite(losses).all()
  # It is these recordings that it learns from.
  for name in IDS["train"]:
    sound = stamps_fixture.tone(3000 - pitch(name), 0.3, 16000)
    stamps_fixture.write(source / "audio" / f"{name}.wav", sound, 16000)
  _, others = run(tmp_path / "other")
  assert others != losses
