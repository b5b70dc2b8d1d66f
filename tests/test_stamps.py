"""The stamps: folder, decoding, splits and the TFDS data set."""

import io
import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

from tests import stamps_fixture
from vgsgan.common.errors import UserError
from vgsgan.data import decoding, splits
from vgsgan.data.builders.stamps import builder as stamps
from vgsgan.data.builders.stamps import folder as stamps_folder
from vgsgan.data.builders.stamps import index as stamps_index
from vgsgan.evals.retrieval import relevance
from vgsgan.losses import contrastive

LANGUAGES = ("fr", "ro", "ru")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return stamps_fixture.make(tmp_path_factory.mktemp("stamps"), 16, LANGUAGES)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  return stamps.prepare(config(folder), data_dir)


def config(source, **changes):
  changes = {"languages": LANGUAGES, "image_size": 16, **changes}
  return stamps.StampsConfig(source=str(source), **changes)


def records(builder):
  return {
    name: [stamps.load(builder, name)[i] for i in range(len(data))]
    for name, data in ((s, stamps.load(builder, s)) for s in splits.SPLITS)
  }


def one_line(error, *words):
  text = str(error.value)
  assert "\n" not in text
  for word in words:
    assert word in text


# Splits.


def test_components_join_through_shared_keys():
  keys = [["a"], ["b"], [], ["c", "b"], ["a", "d"], ["c"], []]
  assert splits.components(7, keys).tolist() == [0, 1, 2, 1, 0, 1, 3]
  assert splits.components(0, []).tolist() == []


def random_records(rng):
  n_images = int(rng.integers(10, 60))
  image = np.repeat(np.arange(n_images), rng.integers(1, 8, n_images))
  unit = np.where(
    rng.random(len(image)) < 0.2,
    rng.integers(0, 20, len(image)),
    100 + np.arange(len(image)),
  )
  order = rng.permutation(len(image))
  return image[order], unit[order]


@pytest.mark.parametrize("seed", range(30))
def test_cells_neither_leak_nor_starve(seed):
  image, unit = random_records(np.random.default_rng(seed))
  split = splits.cells(image, unit, seed, 0.15, 0.1)
  for u in set(unit):
    assert len(set(split[unit == u])) == 1
  for i in set(image):
    kept = unit[(image == i) & (split == "train")]
    held = unit[(image == i) & (split != "train")]
    assert len(kept) >= len(held)
    assert not set(kept) & set(held)
  assert 0 < (split == "test").sum() <= round(0.15 * len(image))
  assert 0 < (split == "validation").sum() <= max(1, round(0.1 * len(image)))


@pytest.mark.parametrize("seed", range(10))
def test_images_hold_out_whole_components(seed):
  component = np.random.default_rng(seed).integers(0, 40, 100)
  split = splits.images(component, seed, 0.2, 0.1)
  for c in set(component):
    assert len(set(split[component == c])) == 1
  assert 15 <= (split == "test").sum() <= 20
  assert 5 <= (split == "validation").sum() <= 10


def test_splits_depend_on_the_seed_alone():
  image, unit = random_records(np.random.default_rng(0))
  first = splits.cells(image, unit, 7, 0.15, 0.1)
  assert (first == splits.cells(image, unit, 7, 0.15, 0.1)).all()
  assert (first != splits.cells(image, unit, 8, 0.15, 0.1)).any()
  order = np.random.default_rng(1).permutation(len(image))
  shuffled = splits.cells(image[order], unit[order], 7, 0.15, 0.1)
  assert (shuffled == first[order]).all()


def test_first_stamps_depend_on_the_seed_and_keep_their_order():
  nowhere = pathlib.Path()
  pairs = [
    stamps_folder.Pair(f"stamp{i}", nowhere, nowhere, language, "", "")
    for i in range(20)
    for language in ("en", "fr")
  ]

  def names(count, seed):
    found = stamps_index.first_stamps(pairs, count, seed)
    assert found == [pair for pair in pairs if pair in found]
    assert len(found) == 2 * len({pair.name for pair in found})
    return {pair.name for pair in found}

  assert len(names(5, 0)) == 5
  assert names(5, 0) < names(9, 0)
  assert len({frozenset(names(5, seed)) for seed in range(8)}) == 8
  assert names(99, 0) == names(None, 0) == {pair.name for pair in pairs}


def test_too_few_records_name_the_empty_split():
  with pytest.raises(UserError) as error:
    splits.cells(np.arange(5), np.arange(5), 0, 0.15, 0.1)
  one_line(error, "left for validation and test", "'cells'", "more")
  with pytest.raises(UserError) as error:
    splits.images(np.zeros(5, int), 0, 0.15, 0.1)
  one_line(error, "left for validation and test", "'images'")
  with pytest.raises(UserError) as error:
    splits.images(np.arange(9), 0, 0.6, 0.4)
  one_line(error, "test_share")


# The folder.


def test_scan_lists_pairs_and_names_strays(folder):
  scan = stamps_folder.scan(folder, ("ro", "fr"), symbols=False)
  assert len(scan.pairs) == 32
  assert [p.language for p in scan.pairs[:4]] == ["fr", "ro", "fr", "ro"]
  names = [p.name for p in scan.pairs]
  assert names == sorted(names)
  pair = scan.pairs[0]
  assert pair.name == "animals/birds/bird0"
  assert pair.caption == "Chose № 0, «fr»."
  assert pair.english == "Thing number 0."
  assert [(path.name, why.split()[0]) for path, why in scan.strays] == [
    ("apricot_whole_desc_fr.ogg", "no"),
    ("pear1_desc_fr.ogg.ogg", "misnamed:"),
  ]
  by_name = {p.name: p for p in scan.pairs}
  assert by_name["household/tools/hammer5"].caption == ""
  assert by_name["food/pear4"].image_path.suffix == ".svg"


def test_scan_takes_the_parent_and_symbols_on_request(folder, tmp_path):
  (tmp_path / "stamps").symlink_to(folder)
  plain = stamps_folder.scan(tmp_path, ("fr",), symbols=False)
  more = stamps_folder.scan(tmp_path, ("fr",), symbols=True)
  extra = {p.name for p in more.pairs} - {p.name for p in plain.pairs}
  assert extra == {"symbols/letters/a"}


def test_images_of_tux_paint_itself_change_nothing(folder, tmp_path):
  """Debian installs the program beside the package of its stamps."""
  root = shutil.copytree(folder, tmp_path / "stamps")
  (root / "cartoon/tux").mkdir(parents=True)
  stamps_fixture.picture(root / "cartoon/tux/tux-yes1", "RGBA", 0.2)
  found, wanted = (
    stamps_folder.scan(x, ("fr",), symbols=False) for x in (root, folder)
  )
  assert [p.name for p in found.pairs] == [p.name for p in wanted.pairs]
  # Others of that name are stamps like all.
  stamps_fixture.picture(root / "cartoon/cat", "RGBA", 0.2)
  with pytest.raises(UserError, match="cartoon has no recordings"):
    stamps_folder.scan(root, ("fr",), symbols=False)


def test_recordings_are_paired_by_their_names(tmp_path):
  stem = tmp_path / "kite"
  stamps_fixture.picture(stem, "svg", 0.1)
  stamps_fixture.picture(stem, "RGBA", 0.1)
  sound = stamps_fixture.tone(150, 0.1, 8000)
  for tail in ("_desc.wav", "_desc_pt_BR.wav", "_desc_pt_BR.ogg"):
    stamps_fixture.write(tmp_path / f"kite{tail}", sound, 8000)
  stem.with_name("kite.txt").write_bytes(b"A kite.\npt_BR.utf8=P\xe1pa\n")
  scan = stamps_folder.scan(tmp_path, ("en", "pt_BR"), symbols=False)
  assert [p.language for p in scan.pairs] == ["en", "pt_BR"]
  assert [p.image_path.suffix for p in scan.pairs] == [".png"] * 2
  assert scan.pairs[1].audio_path.suffix == ".ogg"
  assert [p.caption for p in scan.pairs] == ["", ""]  # Not UTF-8.
  assert [path.name for path, _ in scan.strays] == ["kite_desc_pt_BR.wav"]


def test_unusable_folders_say_what_to_install(folder, tmp_path):
  def refused(*words):
    with pytest.raises(UserError) as error:
      stamps_folder.scan(tmp_path / "s", ("fr",), symbols=False)
    one_line(error, "apt-get install tuxpaint-stamps-default", *words)
    one_line(error, "161 MB", "--config.data.source=DIR")

  refused("no folder")
  (tmp_path / "s").mkdir()
  refused("no recordings")
  sound = stamps_fixture.tone(150, 0.1, 8000)
  stamps_fixture.write(tmp_path / "s/kite_desc_fr.wav", sound, 8000)
  refused("no pictures")
  stamps_fixture.picture(tmp_path / "s/kite", "RGB", 0.2)
  (tmp_path / "s/food").mkdir()
  stamps_fixture.picture(tmp_path / "s/food/pear", "RGB", 0.2)
  refused("food", "no recordings")
  with pytest.raises(UserError) as error:
    stamps_folder.scan(folder, ("fr", "xx"), symbols=False)
  one_line(error, "'xx'", "fr ro ru")


# Decoding.


def test_recordings_keep_their_frequency(tmp_path):
  for rate, channels, suffix in (
    (44100, 2, ".ogg"),
    (8000, 1, ".wav"),
    (16000, 1, ".wav"),
    (22050, 2, ".wav"),
  ):
    time = np.arange(rate) / rate
    sound = 0.5 * np.sin(2 * np.pi * 1000 * time)
    if channels == 2:
      sound = np.stack([sound, 0.5 * sound], axis=1)
    path = tmp_path / f"{rate}{suffix}"
    stamps_fixture.write(path, sound, rate)
    wave = decoding.read_audio(path)
    assert wave.dtype == np.int16
    assert abs(len(wave) - 16000) <= 1
    middle = wave[4000:12000] / 32768
    spectrum = np.abs(np.fft.rfft(middle)) / 4000
    assert spectrum.argmax() == 500  # 2 Hz bins.
    level = 0.375 if channels == 2 else 0.5
    assert spectrum.max() == pytest.approx(level, abs=0.02)


def test_resampling_is_band_limited(tmp_path):
  """A tone above the new Nyquist frequency goes; it does not fold down."""
  time = np.arange(44100) / 44100
  stamps_fixture.write(
    tmp_path / "high.wav", 0.5 * np.sin(2 * np.pi * 12000 * time), 44100
  )
  wave = decoding.read_audio(tmp_path / "high.wav")
  assert np.abs(wave[1000:-1000]).max() < 0.005 * 32768


def test_loud_recordings_clip(tmp_path):
  loud = np.array([2.0, -2.0, 0.5, 0.0], dtype=np.float32)
  path = tmp_path / "loud.wav"
  soundfile.write(path, loud, 16000, subtype="FLOAT")
  expected = [32767, -32768, 16384, 0]
  assert decoding.read_audio(path).tolist() == expected
  soundfile.write(path, loud * np.nan, 16000, subtype="FLOAT")
  with pytest.raises(ValueError, match=r"loud\.wav.*not finite"):
    decoding.read_audio(path)
  soundfile.write(path, loud[:0], 16000)
  with pytest.raises(ValueError, match=r"loud\.wav: it is empty"):
    decoding.read_audio(path)
  path.write_bytes(b"")
  with pytest.raises(ValueError, match=r"loud\.wav"):
    decoding.read_audio(path)


@pytest.mark.parametrize("mode", stamps_fixture.MODES)
def test_images_lie_on_white(mode, tmp_path):
  stamps_fixture.picture(tmp_path / "x", mode, hue=0.0)
  (path,) = tmp_path.iterdir()
  square = Image.open(io.BytesIO(stamps_folder.read_image(path, 40)))
  assert (square.mode, square.size) == ("RGB", (40, 40))
  pixels = np.asarray(square).astype(int)
  # 40 x 30 onto 40 x 40: a band above and below, the disc in the middle.
  for corner in (pixels[:5], pixels[-5:], pixels[:, :3], pixels[:, -5:]):
    assert corner.min() >= 250
  level = [64] * 3 if mode == "LA" else [178, 17, 17]
  assert np.abs(pixels[20, 20] - level).max() <= 3
  # Not resized, so nothing rings: what is darker shows the hidden black.
  if mode != "svg":
    darkest = pixels.reshape(-1, 3).min(axis=0)
    assert np.abs(darkest - level).max() <= 1


def test_sixteen_bit_grey_keeps_its_level(tmp_path):
  level = np.full((10, 10), 32768, dtype=np.uint16)
  Image.fromarray(level).save(tmp_path / "x.png")
  png = stamps_folder.read_image(tmp_path / "x.png", 8)
  assert np.asarray(Image.open(io.BytesIO(png)))[4, 4].tolist() == [128] * 3


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("x.png", b"not a picture"),
    ("x.svg", b"<svg"),
    (
      "x.svg",
      b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    ),
  ],
)
def test_broken_or_blank_images_are_named(name, content, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=name):
    stamps_folder.read_image(tmp_path / name, 8)


# The data set.


def test_labels_are_equal_for_equal_recordings_and_captions(folder):
  scan = stamps_folder.scan(folder, LANGUAGES, symbols=False)
  found = stamps_index.index(scan, "cells", 0, None)
  row = {
    (p.name.split("/")[-1], p.language): i for i, p in enumerate(found.pairs)
  }
  speech = found.speech_id
  # Equal captions in French; a byte-identical recording in Romanian.
  assert speech[row["bird0", "fr"]] == speech[row["bird3", "fr"]]
  assert speech[row["bird0", "ro"]] != speech[row["bird3", "ro"]]
  assert speech[row["pear1", "ro"]] == speech[row["pear4", "ro"]]
  assert speech[row["pear1", "fr"]] != speech[row["pear4", "fr"]]
  assert len(set(speech)) == 48 - 2
  # Missing captions link nothing.
  assert (speech == speech[row["hammer5", "fr"]]).sum() == 1
  linked = {("bird0", "bird3"), ("pear1", "pear4")}
  concept = {
    p.name.split("/")[-1]: c
    for p, c in zip(found.pairs, found.concept, strict=True)
  }
  for a in concept:
    for b in concept:
      if a < b:
        assert (concept[a] == concept[b]) == ((a, b) in linked)
  assert len(set(found.image_id)) == 16
  # In training what evaluation counts as right is no impostor.
  gallery, column = np.unique(found.image_id, return_inverse=True)
  right = relevance(speech, found.image_id, gallery)[:, column]
  labels = jnp.asarray(found.concept)
  assert right.sum() > len(labels)
  assert not np.any(right & ~contrastive.same_pairs(labels, labels))


def test_records_round_trip(folder, prepared):
  everything = records(prepared)
  scan = stamps_folder.scan(folder, LANGUAGES, symbols=False)
  pairs = {f"{p.name}:{p.language}": p for p in scan.pairs}
  seen = [r["id"].decode() for rows in everything.values() for r in rows]
  assert sorted(seen) == sorted(pairs)
  for record in everything["test"]:
    pair = pairs[record["id"].decode()]
    assert record["caption"].decode() == pair.caption
    assert record["language"].decode() == pair.language
    assert record["waveform"].dtype == np.int16
    np.testing.assert_array_equal(
      record["waveform"], decoding.read_audio(pair.audio_path)
    )
    assert record["image"] == stamps_folder.read_image(pair.image_path, 16)


def test_protocols_hold_out_what_they_say(folder, prepared, tmp_path):
  def labels(rows, key):
    return {r[key] for r in rows}

  cells = records(prepared)
  train = cells["train"]
  for name in ("validation", "test"):
    assert labels(cells[name], "image_id") <= labels(train, "image_id")
    assert not labels(cells[name], "speech_id") & labels(train, "speech_id")
  images = records(stamps.prepare(config(folder, protocol="images"), tmp_path))
  for name in ("validation", "test"):
    for key in ("image_id", "speech_id", "concept"):
      assert not labels(images[name], key) & labels(images["train"], key)


def test_a_second_preparation_reads_the_first(folder, prepared, monkeypatch):
  def fail(*_):
    raise AssertionError("decoded again")

  monkeypatch.setattr(decoding, "read_audio", fail)
  data_dir = pathlib.Path(prepared.data_dir).parents[2]
  again = stamps.prepare(config(folder, languages=LANGUAGES[::-1]), data_dir)
  assert again.data_dir == prepared.data_dir


def test_a_machine_without_the_package_reads_what_was_prepared_from_it(
  folder, tmp_path, monkeypatch, capsys
):
  here, away = tmp_path / "package", tmp_path / "away"
  monkeypatch.setattr(stamps, "SOURCE", str(here))
  with pytest.raises(UserError) as error:
    stamps.prepare(config(here), tmp_path)
  one_line(error, f"no folder {here}", "apt-get install")
  # Another folder's is not the package's.
  stamps.prepare(config(folder), tmp_path)
  with pytest.raises(UserError, match="no folder"):
    stamps.prepare(config(here), tmp_path)
  shutil.copytree(folder, here)
  wanted = stamps.prepare(config(here), tmp_path)
  assert "reading" not in capsys.readouterr().err
  here.rename(away)
  found = stamps.prepare(config(f"{here}/"), tmp_path)
  assert found.data_dir == wanted.data_dir
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(
    f"warning: no folder {here}: reading {wanted.data_dir}"
  )
  assert len(stamps.load(found, "train")) > 20
  # Of two versions of the package, none is taken by guess.
  next(away.rglob("bird0_desc_ro.ogg")).write_bytes(b"other")
  away.rename(here)
  stamps.prepare(config(here, max_bad_share=0.5), tmp_path)
  here.rename(away)
  with pytest.raises(UserError) as error:
    stamps.prepare(config(here), tmp_path)
  one_line(error, "2 data sets", pathlib.Path(wanted.data_dir).parent.name)
  # And what is there, but broken, is not passed over.
  here.mkdir()
  with pytest.raises(UserError) as error:
    stamps.prepare(config(here), tmp_path)
  one_line(error, f"{here} has no recordings")


def test_settings_and_sources_have_folders_of_their_own(tmp_path):
  names = {
    config(tmp_path, **c).name
    for c in (
      {},
      {"protocol": "images"},
      {"languages": ("fr",)},
      {"symbols": True},
      {"image_size": 32},
      {"sample_rate": 8000},
      {"split_seed": 1},
      {"max_stamps": 9},
      {"fingerprint": "abc"},
    )
  }
  assert len(names) == 9


def test_names_of_many_languages_fit_a_file_system(tmp_path):
  many = [f"{a}{b}_AB" for a in "abcdefgh" for b in "abcdefghi"]
  names = {config(tmp_path, languages=tuple(many[i:])).name for i in (0, 1)}
  assert len(names) == 2 and max(map(len, names)) < 200
  assert config(tmp_path, languages=tuple(many[::-1])).name in names


def test_interrupted_preparation_is_not_taken_for_whole(
  folder, tmp_path, monkeypatch
):
  read, calls = decoding.read_audio, []

  def interrupt(*args):
    calls.append(args)
    if len(calls) > 40:  # Train is written, test is not.
      raise KeyboardInterrupt
    return read(*args)

  monkeypatch.setattr(decoding, "read_audio", interrupt)
  with pytest.raises(KeyboardInterrupt):
    stamps.prepare(config(folder), tmp_path)
  monkeypatch.undo()
  assert not list(tmp_path.rglob("*.array_record*"))
  # What a killed process leaves behind goes too.
  (config_dir,) = (tmp_path / "stamps").iterdir()
  (config_dir / "incomplete.ABCDEF_1.0.0").mkdir()
  builder = stamps.prepare(config(folder), tmp_path)
  assert sum(map(len, records(builder).values())) == 48
  assert not list(tmp_path.rglob("incomplete*"))


def test_a_full_disk_gives_one_line_at_preparation(
  folder, tmp_path, monkeypatch
):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(decoding, "read_audio", full)
  with pytest.raises(UserError) as error:
    stamps.prepare(config(folder), tmp_path)
  one_line(error, "no space left", "MB", str(tmp_path))


def test_bad_files_are_counted_up_to_a_limit(tmp_path):
  source = stamps_fixture.make(tmp_path / "s", 16, LANGUAGES, seconds=0.1)
  (source / "animals/birds/bird6_desc_fr.ogg").write_bytes(b"broken")
  with pytest.raises(UserError) as error:
    stamps.prepare(config(source), tmp_path / "d")
  one_line(error, "1 of 48", "2.08%", "1.00%", "animals/birds/bird6:fr")
  one_line(error, "--config.data.max_bad_share")
  builder = stamps.prepare(config(source, max_bad_share=0.05), tmp_path / "d")
  assert sum(map(len, records(builder).values())) == 47
  path = pathlib.Path(builder.data_dir) / "metadata.json"
  notes = json.loads(path.read_text())
  assert [key for key, _ in notes["bad"]] == ["animals/birds/bird6:fr"]
  assert len(notes["strays"]) == 2
  # Prepared once under a generous limit, it is still refused under a strict.
  with pytest.raises(UserError):
    stamps.prepare(config(source), tmp_path / "d")


def test_an_unreadable_split_gives_one_line(tmp_path):
  source = stamps_fixture.make(tmp_path / "s", 16, LANGUAGES, seconds=0.1)
  for path in source.rglob("*_desc*"):
    path.write_bytes(f"broken {path}".encode())
  with pytest.raises(UserError) as error:
    stamps.prepare(config(source, max_bad_share=1.0), tmp_path / "d")
  one_line(error, "nothing could be read of a split", "mend the source")


@pytest.mark.parametrize("protocol", ["cells", "images"])
def test_smoke_takes_a_few_stamps(protocol, folder, tmp_path):
  small = config(folder, protocol=protocol, max_stamps=8)
  found = records(stamps.prepare(small, tmp_path))
  assert all(found.values())
  assert len({r["image_id"] for rows in found.values() for r in rows}) == 8


def test_unknown_settings_are_refused(tmp_path):
  with pytest.raises(UserError) as error:
    config(tmp_path, protocol="words")
  one_line(error, "words", "cells or images")
  with pytest.raises(UserError) as error:
    config(tmp_path, image_size=0)
  one_line(error, "image_size")
  for name, value in (("max_stamps", -1), ("max_bad_share", -1.0)):
    with pytest.raises(UserError) as error:
      config(tmp_path, **{name: value})
    one_line(error, f"config.data.{name}=-1")


def test_a_link_to_nowhere_is_one_more_undecodable_recording(tmp_path):
  source = stamps_fixture.make(tmp_path / "source", 8, LANGUAGES)
  recording = sorted(source.rglob("*_desc_ro.ogg"))[0]
  recording.unlink()
  recording.symlink_to(tmp_path / "not there")
  config = stamps.StampsConfig(
    source=str(source), languages=LANGUAGES, image_size=16, max_bad_share=0.2
  )
  builder = stamps.prepare(config, tmp_path / "prepared")
  (bad,) = builder.info.metadata["bad"]
  assert bad[1] == f"there is no file {recording}, only a link to nothing"


def test_a_data_folder_that_cannot_be_made_gets_one_line(folder, tmp_path):
  (tmp_path / "file").write_text("")
  config = stamps.StampsConfig(
    source=str(folder), languages=LANGUAGES, image_size=16
  )
  with pytest.raises(UserError, match="cannot write") as refused:
    stamps.prepare(config, tmp_path / "file")
  assert "\n" not in str(refused.value)
