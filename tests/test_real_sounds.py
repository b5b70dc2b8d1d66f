"""Real pictures with real sounds: a small package, and the real one."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import correspondence
from tests import stamps_fixture
from vgsgan.common.errors import UserError
from vgsgan.data.builders import clip_records, real_sounds, sounding
from vgsgan.data.builders.stamps import builder as stamps

RATE = 16000
# Class and pitch of the sound of what the small package holds.
KNOWN = {
  "animals/birds/bird0": ("animals/birds", 300),
  "animals/birds/bird3": ("animals/birds", 340),
  "food/pear1": ("food", 200),
  "food/pear4": ("food", 340),  # An SVG.
  "household/tools/whistle": ("household/tools", 460),
}


def tone(hertz, folder, name):
  path = pathlib.Path(folder) / name
  stamps_fixture.write(path, stamps_fixture.tone(hertz, 0.3, 44100), 44100)
  return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
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
  # The same picture in other bytes.
  with Image.open(stamps / "animals/birds/bird0.png") as picture:
    picture.save(stamps / "household/tools/whistle.png", compress_level=0)
  tone(460, stamps / "household/tools", "whistle.ogg")
  # Beside a PNG, which comes first.
  stamps_fixture.picture(stamps / "food/pear1", "svg", hue=0.7)
  return stamps


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
  return prepare(source, tmp_path_factory.mktemp("data"))


def prepare(source, folder, **changes):
  config = real_sounds.RealSoundsConfig(
    **(
      {"source": str(source), "image_size": 16, "max_bad_share": 0.0} | changes
    )
  )
  return real_sounds.prepare(config, folder)


def records(builder):
  found = real_sounds.load(builder)
  return {r["id"].decode(): r for r in (found[i] for i in range(len(found)))}


def pixels(record):
  return np.asarray(Image.open(io.BytesIO(record["image"])))


def copy(source, folder):
  """The source, links to whose files can be changed."""
  for path in source.rglob("*"):
    if path.is_file():
      target = folder / path.relative_to(source)
      target.parent.mkdir(parents=True, exist_ok=True)
      target.symlink_to(path)
  return folder


def test_records_are_the_pairs_of_the_package(prepared):
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
  # A PNG before an SVG; what is not square lies on white.
  for key, color in {
    "animals/birds/bird0": (178, 17, 17),
    "food/pear1": (160, 160, 160),  # Grey; the SVG is blue.
    "food/pear4": (17, 17, 178),
  }.items():
    picture = pixels(found[key])
    assert np.abs(picture[8, 8] - np.array(color)).max() <= 4
    assert (picture[:2] == 255).all() and (picture[-2:] == 255).all()


def test_equal_sounds_and_equal_images_share_a_clip_id(prepared):
  ids = {key: int(r["clip_id"]) for key, r in records(prepared).items()}
  assert ids["animals/birds/bird3"] == ids["food/pear4"]
  assert ids["animals/birds/bird0"] == ids["household/tools/whistle"]
  assert len(set(ids.values())) == len(ids) - 2


def test_metadata_lists_what_is_left_out(prepared):
  assert prepared.info.metadata["strays"] == [
    ["food/apricot.ogg", "no picture beside it"],
    ["household/tools/hammer2", "silent"],
  ]
  assert prepared.info.metadata["bad"] == []
  assert prepared.info.metadata["pairs"] == len(KNOWN) + 1


def test_distances_of_labels_are_those_of_folders(prepared):
  tree = clip_records.hierarchy(prepared)
  place = {tree.names[node]: i for i, node in enumerate(tree.labels)}
  # No class of what was left out.
  assert set(place) == {folder for folder, _ in KNOWN.values()}
  for (one, other), length in {
    ("animals/birds", "animals/birds"): 0,
    ("animals/birds", "food"): 3,
    ("animals/birds", "household/tools"): 4,
  }.items():
    assert tree.distances[place[one], place[other]] == length


def test_labels_may_be_above_others():
  tree = real_sounds.tree(["", "animals", "animals/birds/owls"])
  assert tree.names == (
    "root",
    "animals",
    "animals/birds",
    "animals/birds/owls",
  )
  assert tree.distances.tolist() == [[0, 1, 3], [1, 0, 2], [3, 2, 0]]


def test_broken_files_are_counted_up_to_a_limit(source, tmp_path):
  changed = copy(source, tmp_path / "stamps")
  path = changed / "food/pear1.ogg"
  path.unlink()
  path.write_bytes(b"OggS, but no more")
  with pytest.raises(UserError) as error:
    prepare(changed, tmp_path)
  for word in (
    "1 of 6 pairs",
    "pear1.ogg",
    "tuxpaint-stamps-default anew",
    "config.data.real=False",
  ):
    assert word in str(error.value)
  assert "\n" not in str(error.value)
  found = records(prepare(changed, tmp_path, max_bad_share=0.2))
  assert set(KNOWN) - set(found) == {"food/pear1"}


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  gone = str(tmp_path / "gone")
  with pytest.raises(UserError) as error:
    prepare(gone, tmp_path)
  monkeypatch.setattr(stamps, "SOURCE", gone)
  config = correspondence.get_config().data
  config.real = True
  with pytest.raises(UserError, match=r"config\.data\.real needs") as asked:
    sounding.from_config(config)
  for said in map(str, (error.value, asked.value)):
    assert gone in said and "\n" not in said
    assert "apt-get install tuxpaint-stamps-default" in said


def test_other_sources_have_folders_of_their_own(source, tmp_path):
  changed = copy(source, tmp_path / "stamps")
  copied = prepare(changed, tmp_path)
  again = prepare(changed, tmp_path)
  assert copied.data_dir == again.data_dir
  # Where a link leads to is what counts.
  path = tone(900, tmp_path, "bird0.ogg")
  link = changed / "animals/birds/bird0.ogg"
  link.unlink()
  link.symlink_to(path)
  other = prepare(changed, tmp_path)
  key = "animals/birds/bird0"
  (one, two) = (records(b)[key]["waveform"] for b in (copied, other))
  assert not np.array_equal(one, two)
  assert copied.data_dir != other.data_dir


def test_the_installed_package_is_read(tmp_path):
  if not pathlib.Path(stamps.SOURCE).is_dir():
    pytest.skip("needs tuxpaint-stamps-default")
  builder = real_sounds.prepare(
    real_sounds.RealSoundsConfig(image_size=16), tmp_path
  )
  assert builder.info.metadata["pairs"] == 106
  found = records(builder)
  assert len(found) == 101
  assert "hobbies/music/string/violin" in found
  assert not any("symbols" in key for key in found)
