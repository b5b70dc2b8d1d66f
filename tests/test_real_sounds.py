"""Real pictures with real sounds: two small packages, and the real ones."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests import stamps_fixture
from vgsgan.data.builders import (
  clip_records,
  real_sounds,
  real_sounds_files,
)
from vgsgan.errors import UserError

RATE = 16000
# Class and pitch of the sound of what the small packages hold.
KNOWN = {
  "tuxpaint:animals/birds/bird0": ("animals/birds", 300),
  "tuxpaint:animals/birds/bird3": ("animals/birds", 340),
  "tuxpaint:food/pear1": ("food", 200),
  "tuxpaint:food/pear4": ("food", 340),  # An SVG.
  "gcompris:animals/farm/cow": ("animals/farm", 420),
  "gcompris:animals/farm/chicken": ("animals/farm", 460),
  "gcompris:hobbies/music/world/orchestra": ("hobbies/music/world", 500),
  "gcompris:hobbies/music/instruments/drum": (
    "hobbies/music/instruments",
    540,
  ),
  "gcompris:hobbies/music/instruments/tuba": (
    "hobbies/music/instruments",
    580,
  ),
}


def tone(hertz, folder=None, name="it.ogg"):
  path = pathlib.Path(folder) / name
  stamps_fixture.write(path, stamps_fixture.tone(hertz, 0.3, 44100), 44100)
  return path


def resource(path, files):
  """Writes an `.rcc` of files by name, in one folder, some compressed."""
  tree = [(0, 2, 1, 1), (0, 2, len(files), 2)]  # The root, and "resource".
  names, data = b"", b""
  for i, (name, content) in enumerate({"resource": b"", **files}.items()):
    if i:
      tree.append((len(names), i % 2, 0, len(data)))
      if i % 2:
        content = struct.pack(">I", len(content)) + zlib.compress(content)
      data += struct.pack(">I", len(content)) + content
    names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
  entries = b"".join(struct.pack(">IHIIQ", *entry, 0) for entry in tree)
  places = (20 + len(data) + len(names), 20, 20 + len(data))
  header = struct.pack(">4sIIII", b"qres", 2, *places)
  path.write_bytes(header + data + names + entries)


def picture(color, kind, size=(40, 40)):
  raw = io.BytesIO()
  Image.new("RGB", size, color).save(raw, kind, lossless=True)
  return raw.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect %s/>'
SVG = SVG % b'width="9" height="9" fill="blue"' + b"</svg>"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  stamps = stamps_fixture.make(tmp_path_factory.mktemp("stamps"), 6, ("fr",))
  tone(300, stamps / "animals/birds", "bird0.ogg")
  first = tone(340, stamps / "animals/birds", "bird3.ogg")
  # The same sound in another file: Ogg has a serial number, WAV has none.
  sound = stamps_fixture.soundfile.read(first)[0]
  stamps_fixture.write(stamps / "food/pear4.wav", sound, 44100)
  first.unlink()
  stamps_fixture.write(first.with_suffix(".wav"), sound, 44100)
  with open(stamps / "food/pear4.wav", "ab") as file:
    file.write(b"junk\0\0\0\0")
  tone(300, stamps / "food", "apricot.ogg")  # Without a picture.
  stamps_fixture.write(
    stamps / "household/tools/hammer2.ogg", np.zeros(4410), 44100
  )
  tone(300, stamps / "symbols/letters", "a.ogg")

  gcompris = tmp_path_factory.mktemp("rcc")
  resource(
    gcompris / "explore_farm_animals.rcc",
    {
      "cow.ogg": tone(420, gcompris).read_bytes(),
      "cow.svg": SVG,
      "cow.webp": picture("red", "WEBP"),
      "chickens.ogg": tone(460, gcompris).read_bytes(),
      "chicken.webp": picture("lime", "WEBP"),
      "README": b"Who made them.",
    },
  )
  resource(
    gcompris / "explore_world_music.rcc",
    {
      "beethoven.ogg": tone(500, gcompris).read_bytes(),
      "orchestra.webp": picture("yellow", "WEBP", (40, 20)),
    },
  )
  resource(
    gcompris / "instruments.rcc",
    {
      "drum.ogg": tone(540, gcompris).read_bytes(),
      "drum.svg": SVG,
      "tuba.ogg": tone(580, gcompris).read_bytes(),
      "tuba.svg": SVG + b"\n",  # Other bytes, but the same to see.
    },
  )
  return {"stamps": str(stamps), "gcompris": str(gcompris)}


@pytest.fixture(scope="module")
def prepared(sources, tmp_path_factory):
  return prepare(sources, tmp_path_factory.mktemp("data"))


def prepare(sources, folder, **changes):
  config = real_sounds.RealSoundsConfig(
    **({"image_size": 16, "max_bad_share": 0.0} | sources | changes)
  )
  return real_sounds.prepare(config, folder)


def records(builder):
  found = real_sounds.load(builder, "test")
  return {r["id"].decode(): r for r in (found[i] for i in range(len(found)))}


def pixels(record):
  return np.asarray(Image.open(io.BytesIO(record["image"])))


def copy(sources, folder):
  """The sources, links to whose files can be changed."""
  made = {}
  for name, source in sources.items():
    made[name] = str(folder / name)
    for path in pathlib.Path(source).rglob("*"):
      if path.is_file():
        target = folder / name / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
  return made


def test_records_are_the_pairs_of_both_packages(prepared):
  found = records(prepared)
  assert set(found) == set(KNOWN)
  tree = clip_records.hierarchy(prepared)
  for key, (folder, hertz) in KNOWN.items():
    record = found[key]
    (label,) = record["labels"]
    assert tree.names[tree.labels[label]] == folder
    assert record["waveform"].dtype == np.int16
    assert len(record["waveform"]) == pytest.approx(0.3 * RATE, abs=2)
    spectrum = np.abs(np.fft.rfft(record["waveform"], RATE))
    assert spectrum.argmax() == pytest.approx(hertz, abs=4)
    assert pixels(record).shape == (16, 16, 3)
  # Photographs before drawings; what is not square lies on white.
  for key, color in {
    "gcompris:animals/farm/cow": (255, 0, 0),
    "gcompris:animals/farm/chicken": (0, 255, 0),
    "gcompris:hobbies/music/instruments/drum": (0, 0, 255),
    "gcompris:hobbies/music/world/orchestra": (255, 255, 0),
  }.items():
    assert np.abs(pixels(found[key])[8, 8] - np.array(color)).max() <= 4
  wide = pixels(found["gcompris:hobbies/music/world/orchestra"])
  assert (wide[:3] == 255).all() and (wide[6:10, :, 2] <= 4).all()


def test_equal_sounds_and_equal_pictures_are_one_clip(prepared):
  ids = {key: int(r["clip_id"]) for key, r in records(prepared).items()}
  for one, other in (
    ("tuxpaint:animals/birds/bird3", "tuxpaint:food/pear4"),
    (
      "gcompris:hobbies/music/instruments/drum",
      "gcompris:hobbies/music/instruments/tuba",
    ),
  ):
    assert ids[one] == ids[other]
  assert len(set(ids.values())) == len(ids) - 2


def test_what_is_left_out_is_told(prepared):
  assert prepared.info.metadata["strays"] == [
    ["tuxpaint:food/apricot.ogg", "no picture beside it"],
    ["tuxpaint:household/tools/hammer2", "silent"],
  ]
  assert prepared.info.metadata["bad"] == []
  assert prepared.info.metadata["pairs"] == len(KNOWN) + 1


def test_labels_are_apart_as_folders_are(prepared):
  tree = clip_records.hierarchy(prepared)
  place = {tree.names[node]: i for i, node in enumerate(tree.labels)}
  # No class of what was left out.
  assert set(place) == {folder for folder, _ in KNOWN.values()}
  for (one, other), length in {
    ("animals/birds", "animals/birds"): 0,
    ("animals/birds", "animals/farm"): 2,
    ("animals/birds", "food"): 3,
    ("hobbies/music/world", "hobbies/music/instruments"): 2,
    ("hobbies/music/world", "animals/farm"): 5,
  }.items():
    assert tree.distances[place[one], place[other]] == length


def test_labels_may_be_above_others():
  tree = real_sounds_files.tree(["", "animals", "animals/birds/owls"])
  assert tree.names == (
    "root",
    "animals",
    "animals/birds",
    "animals/birds/owls",
  )
  assert tree.distances.tolist() == [[0, 1, 3], [1, 0, 2], [3, 2, 0]]


def test_it_is_for_tests_alone(prepared):
  for split in ("train", "validation"):
    with pytest.raises(UserError, match=f"no split '{split}'"):
      real_sounds.load(prepared, split)


def test_broken_files_are_counted_up_to_a_limit(sources, tmp_path):
  changed = copy(sources, tmp_path)
  path = pathlib.Path(changed["stamps"], "food/pear1.ogg")
  path.unlink()
  path.write_bytes(b"OggS, but no more")
  with pytest.raises(UserError) as error:
    prepare(changed, tmp_path)
  for word in ("1 of 10 pairs", "pear1.ogg", "config.data.max_bad_share"):
    assert word in str(error.value)
  assert "\n" not in str(error.value)
  found = records(prepare(changed, tmp_path, max_bad_share=0.2))
  assert set(KNOWN) - set(found) == {"tuxpaint:food/pear1"}


@pytest.mark.parametrize(
  ("gone", "words"),
  [
    ("stamps", ("tuxpaint-stamps-default",)),
    ("gcompris", ("gcompris-qt-data", "explore_farm_animals.rcc")),
  ],
)
def test_missing_packages_are_named(sources, tmp_path, gone, words):
  with pytest.raises(UserError) as error:
    prepare(sources | {gone: str(tmp_path / "gone")}, tmp_path)
  for word in (*words, str(tmp_path / "gone"), "apt-get install"):
    assert word in str(error.value)
  assert "\n" not in str(error.value)


def test_other_sources_have_folders_of_their_own(sources, tmp_path):
  changed = copy(sources, tmp_path)
  copied = prepare(changed, tmp_path)
  again = prepare(changed, tmp_path)
  assert copied.data_dir == again.data_dir
  # Where a link leads to is what counts.
  path = tone(900, tmp_path, "bird0.ogg")
  link = pathlib.Path(changed["stamps"], "animals/birds/bird0.ogg")
  link.unlink()
  link.symlink_to(path)
  other = prepare(changed, tmp_path)
  key = "tuxpaint:animals/birds/bird0"
  (one, two) = (records(b)[key]["waveform"] for b in (copied, other))
  assert not np.array_equal(one, two)
  path = pathlib.Path(changed["gcompris"], "instruments.rcc")
  raw = path.read_bytes()
  path.unlink()
  path.write_bytes(raw + b"\0")
  third = prepare(changed, tmp_path)
  assert len({b.data_dir for b in (copied, other, third)}) == 3


def test_the_packages_if_they_are_there(tmp_path):
  for path in (real_sounds_files.STAMPS, real_sounds_files.GCOMPRIS):
    if not pathlib.Path(path).is_dir():
      pytest.skip("needs tuxpaint-stamps-default and gcompris-qt-data")
  builder = real_sounds.prepare(
    real_sounds.RealSoundsConfig(image_size=16), tmp_path
  )
  found = records(builder)
  parts = [key.partition(":")[0] for key in found]
  assert parts.count("gcompris") == 44 and parts.count("tuxpaint") > 90
  assert "gcompris:hobbies/music/instruments/violin" in found
  assert "tuxpaint:hobbies/music/string/violin" in found
  assert not any("symbols" in key for key in found)
