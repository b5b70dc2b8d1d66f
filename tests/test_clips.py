"""Clips of video laid out after AudioSet, in a small folder."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from vgsgan.common.errors import UserError
from vgsgan.data.builders import clip_records
from vgsgan.data.builders.clips import builder as clips
from vgsgan.data.builders.clips import files as clips_files

RATE = 8000
# ID, name, children; the root of AudioSet has no node of its own. "Bowed" is
# below two classes, "Choir" below Singing and below Human sounds.
ONTOLOGY = (
  ("/m/music", "Music", ("/m/instrument", "/t/mood")),
  ("/t/mood", "Music mood", ()),
  ("/m/instrument", "Musical instrument", ("/m/string", "/m/drum")),
  ("/m/string", "Bowed, string", ("/m/violin",)),
  ("/m/violin", "Violin", ()),
  ("/m/drum", "Drum", ("/m/violin",)),
  ("/m/human", "Human sounds", ("/m/singing", "/m/choir")),
  ("/m/singing", "Singing", ("/m/choir",)),
  ("/m/choir", "Choir", ()),
  ("/m/things", "Sounds of things", ("/m/tools",)),
  ("/m/tools", "Tools", ("/m/hammer",)),
  ("/m/hammer", "Hammer", ()),
)
KEPT = (
  "/m/instrument",
  "/m/string",
  "/m/violin",
  "/m/drum",
  "/m/singing",
  "/m/choir",
  "/m/tools",
  "/m/hammer",
)
TEST = (
  ("-tst0000000", 30, ("/m/violin",)),
  ("--Test_0001", 0, ("/t/mood", "/m/hammer", "/m/unheard")),
)
# Videos 0 and 1 have two clips each, the one at 7.5 s without a label kept.
TRAIN = (
  *((f"video{i:06d}", 10 + i, ("/m/drum", "/t/mood")) for i in range(20)),
  ("video000000", 50, ("/m/choir", "/m/singing")),
  ("video000001", 7.5, ("/t/mood", "/m/human")),
)
SECONDS = 4


def name_of(video, start):
  return f"{video}_{round(1000 * start)}"


def lines(rows):
  yield "# Segments csv created Sun Mar  5 10:54:25 2017"
  yield "# num_ytids=2, num_segs=2, num_unique_labels=5"
  yield "# YTID, start_seconds, end_seconds, positive_labels"
  for video, start, labels in rows:
    yield f'{video}, {start:.3f}, {start + 10:.3f}, "{",".join(labels)}"'


def ramp(seconds=SECONDS, rate=RATE):
  """Sound whose samples tell the time: 2000 for each second."""
  return np.round(2000 * np.arange(seconds * rate) / rate).astype(np.int16)


def write_frame(path, shade, size=(40, 30)):
  """Of a shade of grey, and red at both ends, which are to be cut off."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.new("RGB", size, (255, 0, 0))
  image.paste((shade, shade, shade), (5, 0, 35, 30))
  image.save(path, quality=95, subsampling=0)


def make(root):
  """Writes a folder; frame T of a clip is of the shade 50 * T + 40."""
  for split, rows in (("train", TRAIN), ("test", TEST)):
    (root / f"{split}.csv").write_text("\n".join(lines(rows)) + "\n\n")
    for video, start, _ in rows:
      clip = name_of(video, start)
      for time in (0.0, 1.5, 2.25, 4.0):
        write_frame(root / f"frames/{clip}/{time}.jpg", int(50 * time + 40))
      (root / "audio").mkdir(exist_ok=True)
      soundfile.write(root / f"audio/{clip}.wav", ramp(), RATE)
  nodes = [
    {"id": i, "name": name, "child_ids": below, "restrictions": []}
    for i, name, below in ONTOLOGY
  ]
  (root / "ontology.json").write_text(json.dumps(nodes))
  return root


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / "source"
  folder.mkdir()
  return make(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  return prepare(make(folder), folder / "data")


def prepare(source, folder, **changes):
  settings = {"image_size": 16, "sample_rate": RATE, "max_bad_share": 0.0}
  config = clips.ClipsConfig(source=str(source), **(settings | changes))
  return clips.prepare(config, folder)


def records(builder):
  return {
    split: {r["id"].decode(): r for r in (found[i] for i in range(len(found)))}
    for split, found in (
      (s, clips.load(builder, s)) for s in ("train", "validation", "test")
    )
  }


def everything(source, folder, **changes):
  found = records(prepare(source, folder, **changes))
  return {key: r for part in found.values() for key, r in part.items()}


def pixels(record):
  return np.asarray(Image.open(io.BytesIO(record["image"]))).astype(int)


def frame_time(record):
  """The time of the frame of a record, from its shade."""
  return (np.median(pixels(record)) - 40) / 50


def seconds(record):
  """The first and the last second of the waveform, from its samples."""
  return record["waveform"][0] / 2000, (record["waveform"][-1] + 0.25) / 2000


def refused(source, folder, *words, **changes):
  with pytest.raises(UserError) as error:
    prepare(source, folder, **changes)
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


def test_clips_with_a_label_that_is_kept_are_there(prepared):
  found = records(prepared)
  assert set(found["test"]) == {"-tst0000000_30000", "--Test_0001_0"}
  trained = set(found["train"]) | set(found["validation"])
  assert trained == {name_of(v, s) for v, s, _ in TRAIN[:-1]}
  assert len(found["train"]) + len(found["validation"]) == len(TRAIN) - 1
  everyone = {k: r for part in found.values() for k, r in part.items()}
  ids = {}
  for name, record in everyone.items():
    ids.setdefault(name.rpartition("_")[0], set()).add(int(record["clip_id"]))
  # One a video: its clips are not each other's negatives.
  assert [len(one) for one in ids.values()] == [1] * len(ids)
  assert len(set.union(*ids.values())) == len(ids)
  assert prepared.info.metadata["bad"] == []


def test_labels_are_those_below_the_classes_asked_for(prepared):
  found = records(prepared)
  everyone = {k: r for part in found.values() for k, r in part.items()}
  tree = clip_records.hierarchy(prepared)
  names = {i: name for i, name, _ in ONTOLOGY}
  labelled = [tree.names[node] for node in tree.labels]
  assert labelled == [names[i] for i in KEPT]
  for video, start, labels in (*TRAIN[:-1], *TEST):
    record = everyone[name_of(video, start)]
    assert record["labels"].dtype == np.int32
    wanted = {names[i] for i in labels if i in KEPT}
    assert {labelled[i] for i in record["labels"]} == wanted
    assert len(record["labels"]) == len(wanted)


def test_distances_of_labels_are_those_of_the_whole_ontology(prepared):
  tree = clip_records.hierarchy(prepared)
  place = {tree.names[node]: i for i, node in enumerate(tree.labels)}
  for one, other, length in (
    ("Violin", "Drum", 1),
    ("Drum", "Bowed, string", 2),
    ("Choir", "Singing", 1),
    # By Human sounds, not by Singing.
    ("Choir", "Hammer", 5),
    ("Violin", "Hammer", 7),
  ):
    assert tree.distances[place[one], place[other]] == length


@pytest.mark.parametrize(
  ("under", "count"),
  [(("Singing",), 2), (("/m/string", "Tools"), 4), (("Bowed, string",), 2)],
)
def test_other_classes_can_be_asked_for(source, under, count):
  labels, tree = clips_files.classes(source, under)
  assert len(labels) == count == len(tree.labels)


def test_a_tenth_of_the_videos_is_for_validation_and_none_is_divided(source):
  labels, _ = clips_files.classes(source, ("Singing", "Musical instrument"))
  seen = set()
  for seed in range(12):
    found = clips_files.scan(source, labels, 0.1, seed)
    held = {c.video for c in found if c.split == "validation"}
    assert len(held) == 2
    assert not held & {c.video for c in found if c.split != "validation"}
    assert found == clips_files.scan(source, labels, 0.1, seed)
    seen.add(tuple(sorted(held)))
  assert len(seen) > 8
  # Video 0, of two clips, is held out by some seed, whole.
  assert any("video000000" in held for held in seen)


def test_frames_are_cut_square_and_decided_by_the_seed(source, tmp_path):
  found = everything(source, tmp_path)
  again = everything(source, tmp_path / "again")
  other = everything(source, tmp_path, split_seed=1)
  times = {key: frame_time(r) for key, r in found.items()}
  for record in found.values():
    image = pixels(record)
    assert image.shape == (16, 16, 3)
    # The middle of it: the ends are red.
    assert np.ptp(image[:, 1:-1]) < 16
  assert {0.0, 1.5, 2.25, 4.0} == {
    min((0.0, 1.5, 2.25, 4.0), key=lambda t: abs(t - time))
    for time in times.values()
  }
  assert all(found[k]["image"] == again[k]["image"] for k in found)
  assert any(abs(times[k] - frame_time(other[k])) > 0.5 for k in found)


def test_sound_is_around_the_frame(prepared):
  for split, part in records(prepared).items():
    margin = 1.0 if split == "train" else 0.0
    for record in part.values():
      time = round(frame_time(record) * 4) / 4
      second = min(max(time - 0.5, 0), SECONDS - 1)
      first, last = max(0, second - margin), min(SECONDS, second + 1 + margin)
      assert seconds(record) == pytest.approx((first, last), abs=2e-3)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
def test_around_holds_the_frame_wherever_it_is(margin):
  rng = np.random.default_rng(0)
  for _ in range(200):
    length = int(rng.integers(1, 5000))
    sound = np.arange(length, dtype=np.int16)
    time = float(rng.uniform(0, length / 1000))
    cut = sound[clips_files.around(length, time, 1.0, margin, 1000)]
    assert (np.diff(cut) == 1).all()
    assert min(length, 1000) <= len(cut) <= 1000 * (1 + 2 * margin)
    # The second around the frame, or the nearest to it.
    start = min(max(0, round(1000 * time) - 500), max(0, length - 1000))
    assert abs(cut[0] - max(0, start - 1000 * margin)) <= 1
    end = min(length, start + 1000 + 1000 * margin)
    assert abs(cut[-1] + 1 - end) <= 1


def test_the_config_decides_the_seconds(source, tmp_path):
  found = records(prepare(source, tmp_path, seconds=2.0))
  for record in found["test"].values():
    assert len(record["waveform"]) == 2 * RATE
  assert {len(r["waveform"]) for r in found["train"].values()} <= {
    int(s * RATE) for s in (3, 3.5, 3.75, 4)
  }


def test_all_the_sound_is_kept_where_no_time_is_known(source, tmp_path):
  one, other = (name_of(v, s) for v, s, _ in TEST)
  for frame in (source / "frames" / one).iterdir():
    frame.unlink()
  write_frame(source / "frames" / one / "0003.jpg", 60)
  for frame in (source / "frames" / other).iterdir():
    frame.unlink()
  (source / "frames" / other).rmdir()
  write_frame(source / f"frames/{other}.jpg", 70)
  found = everything(source, tmp_path)
  for key, shade in ((one, 60), (other, 70)):
    assert np.abs(np.median(pixels(found[key])) - shade) <= 3
    assert np.array_equal(found[key]["waveform"], ramp())


def test_files_may_be_named_by_the_video_alone(source, tmp_path):
  clip = name_of(*TEST[0][:2])
  (source / f"audio/{clip}.wav").unlink()
  soundfile.write(source / f"audio/{TEST[0][0]}.flac", ramp() + 500, RATE)
  (source / "frames" / clip).rename(source / "frames" / TEST[0][0])
  for video, start, _ in (TRAIN[0], TRAIN[20]):  # Two clips of one video.
    (source / f"audio/{name_of(video, start)}.wav").unlink()
  soundfile.write(source / f"audio/{TRAIN[0][0]}.ogg", ramp() / 32768, RATE)
  builder = prepare(source, tmp_path, max_bad_share=0.1)
  record = records(builder)["test"][clip]
  time = round(frame_time(record) * 4) / 4
  start = min(max(time - 0.5, 0), SECONDS - 1)
  assert seconds(record)[0] == pytest.approx(start + 0.25, abs=2e-3)
  # It is not known whose the sound is.
  bad = [key.partition(":")[2] for key, _ in builder.info.metadata["bad"]]
  assert sorted(bad) == ["video000000_10000", "video000000_50000"]


def break_it(source, harm):
  """Damages a clip of the test split and returns a word of what is said."""
  clip = name_of(*TEST[0][:2])
  sound, frames = source / f"audio/{clip}.wav", source / f"frames/{clip}"
  if harm == "no sound":
    sound.unlink()
  elif harm == "broken sound":
    sound.write_bytes(b"RIFF")
  elif harm == "silent sound":
    soundfile.write(sound, np.zeros(RATE, np.int16), RATE)
  elif harm == "no frames":
    frames.rename(source / "elsewhere")
  else:
    for frame in frames.iterdir():
      if harm == "late frames":
        frame.rename(frames / f"7{frame.name}")
      elif harm == "broken frames":
        frame.write_bytes(frame.read_bytes()[:200])
      else:
        frame.unlink()
  return clip


@pytest.mark.parametrize(
  ("harm", "word"),
  [
    ("no sound", "no sound audio/-tst0000000_30000.wav"),
    ("broken sound", "cannot decode the recording"),
    ("silent sound", "silent"),
    ("no frames", "no frame frames/-tst0000000_30000.jpg"),
    ("empty frames", "has no frame, *.jpg"),
    ("broken frames", "cannot decode the picture"),
    ("late frames", "its sound ends at 4.0 s"),
  ],
)
def test_unusable_clips_are_counted_up_to_a_limit(source, tmp_path, harm, word):
  clip = break_it(source, harm)
  said = (f"test:{clip}", word, "1 of 23 pairs", "config.data.max_bad_share")
  refused(source, tmp_path, *said)
  builder = prepare(source, tmp_path, max_bad_share=0.05)
  assert set(records(builder)["test"]) == {name_of(*TEST[1][:2])}
  ((key, reason),) = builder.info.metadata["bad"]
  assert key == f"test:{clip}" and word in reason
  # What is prepared still has to be within a limit that is lowered.
  refused(source, tmp_path, "1 of 23 pairs")


@pytest.mark.parametrize("gone", ["test.csv", "ontology.json", "audio"])
def test_missing_files_are_named(source, tmp_path, gone):
  (source / gone).rename(tmp_path / gone)
  refused(source, tmp_path, f"no {gone}", "audio/CLIP.wav", str(source))


def test_a_length_without_an_end_is_refused():
  with pytest.raises(UserError, match=r"config\.data\.seconds=inf"):
    clips.ClipsConfig(seconds=float("inf"))


@pytest.mark.parametrize("folder", ["", "gone"])
def test_a_missing_folder_is_named(tmp_path, folder):
  where = tmp_path / folder if folder else ""
  refused(where, tmp_path, "no folder", "config.data.source", "train.csv")


@pytest.mark.parametrize(
  "line",
  ["video", "video, 10", "video, soon, 20, '/m/drum'", "video, inf, 2, x"],
)
def test_lines_that_are_no_segments_are_named(source, tmp_path, line):
  path = source / "train.csv"
  path.write_text(path.read_text() + line + "\n")
  number = len(path.read_text().splitlines())
  refused(source, tmp_path, f"train.csv, line {number}", repr(line), "YTID")


def test_a_video_of_both_lists_is_refused(source, tmp_path):
  rows = [*TEST, ("video000003", 90, ("/m/drum",))]
  (source / "test.csv").write_text("\n".join(lines(rows)))
  refused(source, tmp_path, "video000003", "(1 in all)", "test.csv")


def test_unknown_classes_are_named(source, tmp_path):
  refused(source, tmp_path, "no class 'Singng'", "'Singing'", under=("Singng",))


@pytest.mark.parametrize(
  ("text", "word"),
  [
    ("[", "cannot read"),
    ("{}", "no list of classes"),
    ('[{"id": "/m/a", "name": "A"}]', "has no 'child_ids'"),
    ("[]", "no labels"),
  ],
)
def test_broken_ontologies_are_named(source, tmp_path, text, word):
  (source / "ontology.json").write_text(text)
  refused(source, tmp_path, word)


def test_lists_without_clips_are_named(source, tmp_path):
  refused(source, tmp_path, "no clip with a label", under=("Tools",))
  (source / "train.csv").write_text("\n".join(lines(TRAIN[3:4])))
  refused(source, tmp_path, "too few to hold out some")


def test_other_sources_have_folders_of_their_own(source):
  clip = name_of(*TEST[0][:2])

  def name():
    return prepare(source, source.parent / "data").data_dir

  seen = {name()}
  # What is not read changes nothing.
  soundfile.write(source / "audio/other.wav", ramp(), RATE)
  assert name() in seen
  (source / f"audio/{clip}.wav").rename(source / f"audio/{clip}.flac")
  seen.add(name())
  for frame in (source / "frames" / clip).iterdir():
    write_frame(frame, 20)
  seen.add(name())
  (source / "test.csv").write_text("\n".join(lines(TEST[:1])))
  seen.add(name())
  nodes = json.loads((source / "ontology.json").read_text())
  (source / "ontology.json").write_text(json.dumps(nodes, indent=1))
  seen.add(name())
  assert len(seen) == 5


def test_a_frame_of_a_linked_folder_is_told_apart(source, tmp_path):
  frames = source / "frames" / name_of(*TEST[0][:2])
  (tmp_path / "elsewhere").mkdir()
  frames = frames.rename(tmp_path / "elsewhere" / "f")
  (source / "frames" / name_of(*TEST[0][:2])).symlink_to(frames)
  before = prepare(source, tmp_path)
  for frame in frames.iterdir():
    write_frame(frame, 20)
  after = prepare(source, tmp_path)
  one, other = (
    [pixels(r).mean() for r in records(builder)["test"].values()]
    for builder in (before, after)
  )
  assert one != other


def test_other_settings_have_folders_of_their_own():
  changes = (
    {},
    {"under": ("Singing",)},
    {"seconds": 2.0},
    {"image_size": 8},
    {"sample_rate": 8000},
    {"split_seed": 1},
    {"fingerprint": "a"},
  )
  names = {clips.ClipsConfig(**change).name for change in changes}
  assert len(names) == len(changes)
  assert not any("/" in name or " " in name for name in names)
