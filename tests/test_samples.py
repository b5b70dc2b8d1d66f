"""What a run makes, as files: the sheet, sounds of spectrograms, mistakes."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

from tests import idea_world
from tests.idea_world import small
from tests.running import run_config
from tests.test_generation_tasks import small as small_pictures
from tests.test_options import load
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.evals.generated import Clips
from vgsgan.tools import samples

RATE = 16000

in_memory = idea_world.in_memory


def spectrogram(sound):
  return np.asarray(
    features.spectrogram(
      jnp.float32(sound)[None],
      jnp.array([len(sound)], jnp.int32),
      kind="log_mel",
      frames=96,
      sample_rate=RATE,
      num_mels=64,
    )
  )[0]


def notes(*hertz):
  """A note after the other, with two overtones, over a little noise."""
  time = np.arange(RATE // len(hertz)) / RATE
  parts = [
    sum(np.sin(2 * np.pi * k * f * time) / k for k in (1, 2, 3)) for f in hertz
  ]
  noise = np.random.default_rng(0).normal(0, 1e-3, RATE)
  return 0.2 * np.concatenate(parts) + noise[: len(hertz) * len(time)]


def test_a_sound_of_a_spectrogram_has_that_spectrogram():
  wanted = spectrogram(notes(330.0, 880.0))
  sound = samples.waveform(wanted, RATE)
  assert len(sound) == pytest.approx(0.95 * RATE, rel=0.02)
  assert np.abs(sound).max() == pytest.approx(0.9)
  found = spectrogram(np.pad(sound, (0, RATE - len(sound))))
  # Where there is sound, within 3 dB on average, of 80; another one is not.
  loud = wanted[2:-3] > 0
  apart = np.abs(found[2:-3] - wanted[2:-3])[loud].mean()
  other = spectrogram(notes(500.0, 200.0))
  assert 40 * apart < 3
  assert 40 * np.abs(found[2:-3] - other[2:-3])[loud].mean() > 4 * 40 * apart
  # Phases guessed spread a tone over some hertz, so the power of a tone is that
  # of its band: of a note nearly all, by the squares of the amplitudes.
  half = len(sound) // 2
  for part, hertz in ((sound[:half], 330.0), (sound[half:], 880.0)):
    powers = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    frequencies = np.arange(len(powers)) * RATE / len(part)
    of_tones = [
      powers[abs(frequencies / (k * hertz) - 1) < 0.15].sum() for k in (1, 2, 3)
    ]
    assert sum(of_tones) > 0.9 * powers.sum()
    assert of_tones[0] / of_tones[1] == pytest.approx(4, rel=0.15)
    assert of_tones[1] / of_tones[2] == pytest.approx(9 / 4, rel=0.15)


def test_the_sound_of_a_spectrogram_is_the_same_each_time():
  wanted = spectrogram(notes(330.0))
  first = samples.waveform(wanted, RATE)
  np.testing.assert_array_equal(first, samples.waveform(wanted, RATE))


def test_without_librosa_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "librosa", None)
  with pytest.raises(UserError) as refused:
    samples.waveform(np.zeros((96, 64), np.float32), RATE)
  assert ".[sounds]" in str(refused.value)
  assert "\n" not in str(refused.value)


def test_a_page_has_images_above_their_spectrograms():
  white, black = np.ones((2, 4, 4, 3), np.float32), -np.ones((2, 4, 4, 3))
  low = -np.ones((2, 96, 8), np.float32)
  low[..., 0] = 1  # The lowest band alone.
  page = samples.page({"real": Clips(white, low), "sampled": Clips(black, low)})
  assert page.shape == (2 * (20 + 96 + 8), 2 * 96, 3)
  assert (page[20:116] == 255).all()
  assert (page[116:123] == 0).all() and (page[123] == 255).all()
  assert (page[144:240] == 0).all()
  # Headings are white with letters.
  assert (page[:20] == 255).any() and (page[:20] < 100).any()
  # Of pictures alone there is nothing below.
  silent = np.zeros((2, 0, 1), np.float32)
  assert samples.page({"real": Clips(white, silent)}).shape == (116, 192, 3)


def files_of(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_of_pairs_gives_a_sheet_and_sounds(
  tmp_path, monkeypatch, in_memory
):
  config = small("vae")
  config.train.update({"steps": 1, "eval_every": 1, "save_every": 1})
  assert run_config(config, tmp_path / "run") == 0
  heard = []

  def waveform(spectrogram, sample_rate):
    heard.append(spectrogram)
    assert sample_rate == config.data.sample_rate
    return np.linspace(-0.5, 0.5, 800)

  monkeypatch.setattr(samples, "waveform", waveform)
  samples.write(tmp_path / "run", tmp_path / "new" / "out")
  found = files_of(tmp_path / "new" / "out")
  made = ("from_both", "from_picture", "from_sound", "sampled", "prior")
  names = ("real", *made)
  sounds = {f"{name}-{i}.wav" for name in names for i in range(samples.FEW)}
  assert set(found) == sounds | {"sheet.png"}
  sound, rate = soundfile.read(io.BytesIO(found["real-0.wav"]))
  assert rate == 8000
  np.testing.assert_allclose(sound, np.linspace(-0.5, 0.5, 800), atol=1e-4)
  with Image.open(io.BytesIO(found["sheet.png"])) as page:
    assert page.size == (6 * 96, 6 * (20 + 96 + 8))
  # The real ones are those of the first validation clips.
  assert len(heard) == 6 * samples.FEW
  assert all(x.shape == (16, 8) for x in heard)
  for spectrogram_, tone in zip(heard[:3], (1, 3, 6), strict=True):
    assert abs(int(spectrogram_.mean(0).argmax()) - tone) <= 1


def test_a_run_of_images_gives_a_sheet_alone(tmp_path, in_memory):
  config = small_pictures("gan")
  config.train.update({"steps": 1, "eval_every": 1, "save_every": 1})
  assert run_config(config, tmp_path / "run") == 0
  samples.write(tmp_path / "run", tmp_path / "out")
  assert set(files_of(tmp_path / "out")) == {"sheet.png"}
  with Image.open(tmp_path / "out" / "sheet.png") as page:
    assert page.size == (6 * 96, 2 * (20 + 96))


def test_mistakes_are_named_in_one_line(tmp_path):
  with pytest.raises(UserError, match="no config") as refused:
    samples.generate(tmp_path)
  config = load("solids").get_config("random").to_dict()
  jsonfiles.write_json(tmp_path / "config.json", config)
  with pytest.raises(UserError, match="a run of 'drawing'") as other:
    samples.generate(tmp_path)
  assert "\n" not in str(refused.value) + str(other.value)
