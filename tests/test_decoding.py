"""Pictures and recordings are decoded within bounds, and as they were."""

import io
import math
import os
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageFile
from scipy import signal

from tests import stamps_fixture, test_clevrgan_folder, test_clips
from tests.test_stamps import config
from vgsgan.data import decoding, examples
from vgsgan.data.builders.stamps import builder as stamps

RATE = 8000


def refused(read, path, *words):
  with pytest.raises(ValueError) as error:
    read(path)
  for word in (str(path), *words):
    assert word in str(error.value)
  assert "\n" not in str(error.value)


@pytest.fixture
def undecodable(monkeypatch):
  """Decoding a picture or a recording fails the test."""

  def fail(*_, **__):
    raise AssertionError("decoded")

  monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
  monkeypatch.setattr(soundfile.SoundFile, "read", fail)


def header(width, height):
  """A PNG that has a header and no pixels."""

  def chunk(kind, data):
    checked = kind + data
    size, crc = (
      struct.pack(">I", len(data)),
      struct.pack(">I", zlib.crc32(checked)),
    )
    return size + checked + crc

  sides = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", sides) + chunk(b"IDAT", b"")


# Pictures.


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
@pytest.mark.parametrize("size", [(21, 4), (4, 21)])
def test_images_with_a_long_side_are_not_decoded(
  suffix, size, tmp_path, monkeypatch, undecodable
):
  path = tmp_path / f"x.{suffix}"
  Image.new("RGB", size, "red").save(path)
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 20)
  refused(decoding.read_image, path, f"{size[0]} x {size[1]} pixels", "20")


@pytest.mark.parametrize(
  "size", [(8193, 2), (2, 8193), (10000, 10000), (2**31 - 1, 2**31 - 1)]
)
def test_the_header_alone_refuses_an_image(size, tmp_path):
  """There are no pixels to decode; Pillow's own warning stays unsaid."""
  path = tmp_path / "x.png"
  path.write_bytes(header(*size))
  refused(decoding.read_image, path, "pixels", "8192")
  path.write_bytes(header(20, 20))
  with pytest.raises(ValueError) as error:
    decoding.read_image(path)
  assert "8192" not in str(error.value)


def test_images_within_the_bounds_equal_those_of_pillow(tmp_path, monkeypatch):
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 20)
  pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
  for suffix in ("png", "jpg", "webp", "gif", "bmp"):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels).save(path)
    for mode in ("RGB", "RGBA"):
      with Image.open(path) as opened:
        expected = np.asarray(opened.convert(mode))
      found = np.asarray(decoding.read_image(path, mode))
      np.testing.assert_array_equal(found, expected)


def test_jpegs_of_many_scans_are_not_decoded(
  tmp_path, monkeypatch, undecodable
):
  path = tmp_path / "x.jpg"
  Image.new("RGB", (16, 16), "red").save(path, progressive=True)
  scans = path.read_bytes().count(b"\xff\xda")
  assert scans > 1
  monkeypatch.setattr(decoding, "MAX_JPEG_SCANS", scans - 1)
  refused(decoding.read_image, path, f"{scans} scans")


def test_formats_that_run_other_programs_are_not_read(tmp_path):
  path = tmp_path / "x.png"
  path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
  with Image.open(path) as opened:
    assert opened.format == "EPS"
  refused(decoding.read_image, path, "cannot identify image file")


def test_large_files_pipes_and_folders_are_not_read(tmp_path, monkeypatch):
  path = tmp_path / "x.png"
  Image.new("RGB", (9, 9)).save(path)
  size = path.stat().st_size
  monkeypatch.setattr(decoding, "MAX_IMAGE_BYTES", size)
  assert decoding.read_image(path).size == (9, 9)
  monkeypatch.setattr(decoding, "MAX_IMAGE_BYTES", size - 1)
  refused(decoding.read_image, path, f"{size} bytes")
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "folder").mkdir()
  for read in (decoding.read_image, decoding.read_audio):
    refused(read, tmp_path / "pipe", "is no file")
    refused(read, tmp_path / "folder", "is no file")
    refused(read, tmp_path / "gone", "there is no file")


def test_prepared_images_have_the_same_bounds(monkeypatch):
  content = io.BytesIO()
  Image.new("RGB", (9, 9), "red").save(content, "PNG")
  assert examples.decode(content.getvalue()).shape == (9, 9, 3)
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 8)
  with pytest.raises(ValueError, match="9 x 9 pixels"):
    examples._decode(content.getvalue())


# Recordings.


def noise(path, rate=RATE, seconds=1.0, channels=1, **how):
  """Noise for everything that is lost to show; 0.9 at most."""
  shape = (round(seconds * rate), channels)
  sound = np.random.default_rng(0).uniform(-0.9, 0.9, shape)
  soundfile.write(path, sound, rate, **how)
  return path


def reference(path, rate):
  """A whole recording, read in one and resampled in one."""
  sound, own = soundfile.read(path, dtype="float32", always_2d=True)
  mono = sound.mean(axis=1)
  if own != rate:
    common = math.gcd(own, rate)
    mono = signal.resample_poly(mono, rate // common, own // common)
  return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


KINDS = [("x.wav", {}), ("x.flac", {}), ("x.ogg", {"subtype": "VORBIS"})]


@pytest.mark.parametrize(("name", "how"), KINDS)
@pytest.mark.parametrize("rates", [(8000, 8000), (44100, 16000), (8000, 11025)])
def test_a_section_is_a_part_of_the_whole(name, how, rates, tmp_path):
  own, rate = rates
  path = noise(tmp_path / name, own, 3.0, channels=2, **how)
  whole = reference(path, rate)
  np.testing.assert_array_equal(decoding.read_audio(path, rate), whole)
  rng = np.random.default_rng(1)
  ends = [(0, 1), (0, 50), (len(whole) - 1, len(whole)), (7, len(whole) + 99)]
  ends += [sorted(rng.integers(0, len(whole), 2)) for _ in range(20)]
  for start, stop in ends:
    if start == stop:
      continue
    part = decoding.read_audio(path, rate, lambda _: slice(start, stop))  # noqa: B023
    np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize("rates", [(8000, 8000), (44100, 16000), (8000, 44100)])
@pytest.mark.parametrize("name", ["x.wav", "x.ogg"])
def test_a_section_reads_no_more_than_it_needs(
  name, rates, tmp_path, monkeypatch
):
  own, rate = rates
  path = noise(tmp_path / name, own, seconds=20.0)
  frames, read = [], soundfile.SoundFile.read

  def counted(file, count=-1, **how):
    frames.append(count)
    return read(file, count, **how)

  monkeypatch.setattr(soundfile.SoundFile, "read", counted)
  seen = []

  def section(length):
    seen.append(length)
    return slice(10 * rate, 11 * rate)

  assert len(decoding.read_audio(path, rate, section)) == rate
  assert seen == [20 * rate]
  # Ogg is read from its start on.
  before = 10 * own if name == "x.ogg" else 0
  assert before + own <= sum(frames) <= before + 1.1 * own


def test_recordings_may_be_as_long_as_the_bound(tmp_path, monkeypatch, request):
  path = noise(tmp_path / "x.wav", seconds=3.0)
  monkeypatch.setattr(decoding, "MAX_SECONDS", 3)
  assert len(decoding.read_audio(path, RATE)) == 3 * RATE
  monkeypatch.setattr(decoding, "MAX_SECONDS", 2)
  # What is used of it is short.
  assert len(decoding.read_audio(path, RATE, lambda _: slice(RATE))) == RATE
  request.getfixturevalue("undecodable")
  refused(lambda p: decoding.read_audio(p, RATE), path, "3.0 s", "may be 2")


def test_the_values_of_all_channels_are_bounded(
  tmp_path, monkeypatch, undecodable
):
  path = noise(tmp_path / "x.wav", channels=5)
  monkeypatch.setattr(decoding, "MAX_VALUES", 5 * RATE - 1)
  refused(decoding.read_audio, path, "8000 frames of 5 channels", "39999")


def test_the_rate_is_bounded(tmp_path, undecodable):
  """The filter that brings 384001 Hz to 16000 has 7.7 million values."""
  path = noise(tmp_path / "x.wav", 384_001, seconds=0.01)
  refused(decoding.read_audio, path, "384001 Hz", "384000")


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "GSM610"])
def test_sections_of_packed_wavs_are_parts_of_the_whole(subtype, tmp_path):
  path = noise(tmp_path / "x.wav", subtype=subtype)
  part = decoding.read_audio(path, RATE, lambda _: slice(5000, 5400))
  np.testing.assert_array_equal(part, reference(path, RATE)[5000:5400])


def test_silence_is_judged_over_the_whole_recording(tmp_path):
  path = tmp_path / "x.wav"
  sound = np.zeros(RATE)
  sound[100:200] = 0.5
  soundfile.write(path, sound, RATE)
  part = decoding.read_audible(path, RATE, lambda _: slice(4000, 5000))
  assert len(part) == 1000 and not part.any()
  soundfile.write(path, 0 * sound, RATE)
  refused(lambda p: decoding.read_audible(p, RATE), path, "is silent")


@pytest.mark.parametrize("bound", ["MAX_SECONDS", "MAX_VALUES"])
def test_a_silent_section_of_a_recording_past_a_bound_is_used(
  bound, tmp_path, monkeypatch
):
  path = tmp_path / "x.wav"
  sound = np.zeros((RATE, 2))
  sound[-100:] = 0.5
  soundfile.write(path, sound, RATE)
  small = {"MAX_SECONDS": 0.5, "MAX_VALUES": RATE}[bound]
  monkeypatch.setattr(decoding, bound, small)
  monkeypatch.setattr(decoding, "_BLOCK_VALUES", 1001)
  part = decoding.read_audible(path, RATE, lambda _: slice(4000, 5000))
  assert len(part) == 1000 and not part.any()


def test_a_recording_is_read_up_to_its_first_sound(tmp_path, monkeypatch):
  path = tmp_path / "x.wav"
  sound = np.zeros((RATE, 2))
  sound[2345] = [0.5, 0.25]
  soundfile.write(path, sound, RATE)
  monkeypatch.setattr(decoding, "_BLOCK_VALUES", 2000)
  whole, lengths = soundfile.SoundFile.read, []

  def note(*args, **options):
    found = whole(*args, **options)
    lengths.append(len(found))
    return found

  monkeypatch.setattr(soundfile.SoundFile, "read", note)
  decoding.read_audible(path, RATE, lambda _: slice(4000, 5000))
  assert lengths[1:] == [1000, 1000, 1000]


def test_an_end_that_cannot_be_read_does_not_refuse_a_silent_section(
  tmp_path, monkeypatch
):
  path = tmp_path / "x.wav"
  soundfile.write(path, np.zeros(RATE), RATE)

  def fail(*_, **__):
    raise soundfile.LibsndfileError(1)

  monkeypatch.setattr(soundfile.SoundFile, "blocks", fail)
  part = decoding.read_audible(path, RATE, lambda _: slice(4000, 5000))
  assert len(part) == 1000


# Data sets count what passes a bound as bad.


def test_stamps_count_files_past_a_bound_as_bad(tmp_path):
  source = stamps_fixture.make(tmp_path / "s", 16, ("fr", "ro", "ru"), 0.1)
  bird, pear = (
    source / f"{name}.png" for name in ("animals/birds/bird3", "food/pear7")
  )
  assert bird.exists() and pear.exists()
  bird.write_bytes(header(2, 8193))
  pear.write_bytes(header(20000, 20000))
  settings = {"max_bad_share": 0.2}
  builder = stamps.prepare(config(source, **settings), tmp_path / "d")
  bad = dict(builder.info.metadata["bad"])
  assert sorted(bad) == sorted(
    f"{name}:{language}"
    for name in ("animals/birds/bird3", "food/pear7")
    for language in ("fr", "ro", "ru")
  )
  assert "2 x 8193 pixels" in bad["animals/birds/bird3:ru"]
  assert "8192 pixels" in bad["food/pear7:fr"]


def test_clips_read_the_sound_around_a_frame_alone(tmp_path, monkeypatch):
  (tmp_path / "source").mkdir()
  source = test_clips.make(tmp_path / "source")
  # One second, and one more on either side; the clips have four.
  monkeypatch.setattr(decoding, "MAX_SECONDS", 3)
  builder = test_clips.prepare(source, tmp_path)
  assert builder.info.metadata["bad"] == []
  monkeypatch.setattr(decoding, "MAX_SECONDS", 0.5)
  test_clips.refused(source, tmp_path / "d", "s of it are used", "0.5")


def test_clevrgan_folder_counts_files_past_a_bound_as_bad(
  tmp_path, monkeypatch
):
  (tmp_path / "source").mkdir()
  source = test_clevrgan_folder.make(tmp_path / "source")
  (source / "images/13.jpg").unlink()
  Image.new("RGB", (130, 130)).save(source / "images/13.jpg")
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 128)
  found = test_clevrgan_folder.load(source, tmp_path, max_bad_share=0.2)
  assert len(found["train"]) == 4 and "train:13" not in found["train"]
