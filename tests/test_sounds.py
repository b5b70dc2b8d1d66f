"""Instruments as they are played: pitch, sameness, ranges, noise and ticks."""

import pathlib
import sys

import numpy as np
import pytest
from scipy import signal

from vgsgan.common.errors import UserError
from vgsgan.worlds import sounds
from vgsgan.worlds.orchestra import INSTRUMENTS, Instrument

RATE = 16000


@pytest.fixture(scope="module")
def player():
  pytest.importorskip("tinysoundfont", reason="the extra `sounds` is missing")
  if not pathlib.Path(sounds.SOUNDFONT).is_file():
    pytest.skip("Debian's timgm6mb-soundfont is missing")
  return sounds.Player(sounds.SOUNDFONT, RATE)


def named(name):
  return next(each for each in INSTRUMENTS if each.name == name)


def level(sound):
  return 10 * np.log10(np.mean(np.square(sound / 32768)) + 1e-12)


def play(player, instrument, seed, seconds=1.0):
  return player.play(np.random.default_rng(seed), instrument, seconds)


def one_line(error, *words):
  text = str(error.value)
  assert "\n" not in text and len(text) < 300
  for word in words:
    assert word in text


# Tracks.


def test_a_track_has_its_length(player):
  for seed, seconds in enumerate((0.5, 1.0, 1.23456, 2.0, 5.0)):
    sound = play(player, named("oboe"), seed, seconds)
    assert sound.dtype == np.int16 and len(sound) == round(seconds * RATE)


def test_many_short_steps_fill_the_track(player):
  # Each part lasts 10.4 samples of the synthesiser, which makes whole ones.
  steps = [sounds.Step((60,), 90, 10.4 / 32000, 20.8 / 32000)] * 100
  sound = player._perform(steps, named("oboe"), 2080 / 32000)
  assert len(sound) == 1040


def test_earlier_tracks_do_not_change_samples(player):
  fresh = sounds.Player(sounds.SOUNDFONT, RATE)
  # Tubular bells ring for long.
  for name in ("tubular bells", "grand piano", "alto saxophone"):
    first = play(player, named(name), 3)
    for seed, other in enumerate(("tubular bells", "steel guitar", "oboe")):
      play(player, named(other), seed)
      np.testing.assert_array_equal(play(player, named(name), 3), first)
    np.testing.assert_array_equal(play(fresh, named(name), 3), first)


def test_another_seed_gives_another_track(player):
  tracks = {play(player, named("tuba"), seed).tobytes() for seed in range(8)}
  assert len(tracks) == 8


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda i: i.name)
def test_every_note_of_the_range_sounds(player, instrument):
  for key in range(instrument.low, instrument.high + 1):
    step = sounds.Step((key,), 60, 0.15, 0.2)
    sound = player._perform([step], instrument, 0.2)
    assert np.sqrt(np.mean(sound**2)) > 1e-3, key
    assert np.abs(sound).max() < 1


def test_no_half_second_of_a_track_is_silent(player, monkeypatch):
  monkeypatch.setattr(sounds, "_NOISE", (200.0, 200.0))
  for instrument in INSTRUMENTS:
    for seed in range(3):
      sound = play(player, instrument, seed, 2.0)
      parts = sound.reshape(4, -1)
      assert min(map(level, parts)) > level(sound) - 25, instrument


def test_loudness_and_noise_are_within_their_limits(player):
  levels = []
  for seed in range(60):
    sound = play(player, INSTRUMENTS[seed % 24], seed)
    levels.append(level(sound))
    assert np.abs(sound.astype(int)).max() <= 0.951 * 32767
  # Noise of 10 dB adds 0.4 dB; peaks that are cut down take more away.
  assert -36 < min(levels) < -26 and -18 < max(levels) < -13.5


@pytest.mark.parametrize("ratio", [0.0, 20.0])
def test_noise_is_white_and_has_its_level(player, monkeypatch, ratio):
  monkeypatch.setattr(sounds, "_LOUDNESS", (-30.0, -30.0))
  monkeypatch.setattr(sounds, "_NOISE", (200.0, 200.0))
  clean = play(player, named("french horn"), 1).astype(float)
  monkeypatch.setattr(sounds, "_NOISE", (ratio, ratio))
  noise = play(player, named("french horn"), 1) - clean
  assert level(clean) - level(noise) == pytest.approx(ratio, abs=0.3)
  _, power = signal.welch(noise, RATE, nperseg=256)
  assert np.ptp(10 * np.log10(power[1:-1])) < 4


# Notes.


def fundamental(sound):
  """By the first high peak of the autocorrelation, Hz."""
  spectrum = np.abs(np.fft.rfft(sound, 2 * len(sound))) ** 2
  ac = np.fft.irfft(spectrum)[: len(sound) // 2]
  ac /= np.arange(len(sound), len(sound) - len(ac), -1)
  peaks, _ = signal.find_peaks(ac, height=0.8 * ac[100:].max())
  period = (
    peaks[0]
    + np.poly1d(np.polyfit([-1, 0, 1], ac[peaks[0] - 1 : peaks[0] + 2], 2))
    .deriv()
    .roots[0]
  )
  return RATE / period


@pytest.mark.parametrize(
  "name", ["grand piano", "nylon guitar", "trombone", "oboe", "clarinet"]
)
@pytest.mark.parametrize("key", [60, 67])
def test_a_key_has_the_pitch_of_equal_temperament(player, name, key):
  sound = player._perform([sounds.Step((key,), 90, 0.8, 1.0)], named(name), 1.0)
  expected = 440 * 2 ** ((key - 69) / 12)
  assert fundamental(sound[1600:12800]) == pytest.approx(expected, rel=0.02)


def test_velocity_sets_loudness(player):
  def loud(velocity):
    step = sounds.Step((60,), velocity, 0.4, 0.5)
    return np.mean(player._perform([step], named("vibraphone"), 0.5) ** 2)

  assert loud(40) < loud(80) < loud(120)


def test_a_chord_is_the_sum_of_its_notes(player):
  def perform(*keys):
    step = sounds.Step(keys, 90, 0.4, 0.5)
    return player._perform([step], named("nylon guitar"), 0.5)

  alone = sum(perform(key) for key in (52, 56, 59))
  np.testing.assert_allclose(perform(52, 56, 59), alone, atol=1e-5)


def test_released_keys_fall_silent(player):
  steps = [sounds.Step((60,), 90, 0.3, 1.5)]
  sound = player._perform(steps, named("trumpet"), 1.5)
  assert level(sound[:4800] * 32768) - level(sound[-4800:] * 32768) > 40


def test_programs_match_their_names(player):
  for instrument in INSTRUMENTS:
    preset = player._synth.sfpreset_name(0, 0, instrument.program).lower()
    words = instrument.name.replace("distorted", "distortion").split()
    assert any(word in preset for word in words), (instrument, preset)


def test_instruments_differ_in_more_than_their_range(player):
  """The spectrum of one note, at one loudness: 2 dB apart at the least."""

  def spectrum(instrument):
    step = sounds.Step((60,), 90, 0.5, 0.6)
    sound = player._perform([step], instrument, 0.6)
    _, power = signal.welch(sound, RATE, nperseg=512)
    return 10 * np.log10(power / power.sum() + 1e-6)

  found = np.array([spectrum(instrument) for instrument in INSTRUMENTS])
  apart = np.sqrt(np.mean((found[:, None] - found) ** 2, axis=-1))
  assert apart[~np.eye(24, dtype=bool)].min() > 2


def test_synthesis_has_no_aliases(player):
  """Less than 0.3 % of a high note is where a wider band has nothing."""
  wide = sounds.Player(sounds.SOUNDFONT, 3 * RATE)
  for instrument in INSTRUMENTS:
    steps = [sounds.Step((instrument.high,), 90, 0.3, 0.4)]
    heard = player._perform(steps, instrument, 0.4)
    true = signal.resample_poly(wide._perform(steps, instrument, 0.4), 1, 3)
    heard, true = (signal.welch(x, RATE, nperseg=512)[1] for x in (heard, true))
    folded = np.maximum(heard - 2 * true, 0).sum() / true.sum()
    assert folded < 0.003, instrument


# Melodies.


def test_melodies_keep_to_the_range_and_fill_the_track():
  chords = singles = 0
  keys = {instrument.name: set() for instrument in INSTRUMENTS}
  for seed in range(20):
    rng = np.random.default_rng(seed)
    for instrument in INSTRUMENTS:
      steps = list(sounds.melody(rng, instrument, 2.0))
      seconds = sum(step.seconds for step in steps)
      assert 2.0 < seconds < 2.0 + steps[-1].seconds + 1e-9
      chords += sum(len(step.keys) > 1 for step in steps)
      singles += sum(len(step.keys) == 1 for step in steps)
      for step in steps:
        assert 1 <= step.velocity <= 127
        assert 0 < step.held <= step.seconds <= 0.6
        assert len(set(step.keys)) == len(step.keys) >= 1
        keys[instrument.name] |= set(step.keys)
  for instrument in INSTRUMENTS:
    played = keys[instrument.name]
    assert instrument.low <= min(played) and max(played) <= instrument.high
    assert len(played) > 0.8 * (instrument.high - instrument.low)
  assert 0.2 < chords / (chords + singles) < 0.35


# Ticks.


def test_ticks_are_at_the_frames():
  for rate in (16000, 16010):
    clean = np.random.default_rng(0).integers(-999, 999, rate, dtype=np.int16)
    added = sounds.tick(clean, rate, 0.1).astype(int) - clean
    starts = np.flatnonzero(np.diff(added, prepend=0) > 1000)
    expected = np.rint(np.arange(25) * 0.04 * rate)
    np.testing.assert_array_equal(starts, expected)
    np.testing.assert_array_equal(added[starts], 3277)
    fades = starts[:, None] + np.arange(200, 600)  # Over before the next.
    assert not added[fades].any()


def test_ticks_follow_rate_and_level():
  clean = np.zeros(16001, np.int16)
  assert not sounds.tick(clean, RATE, 0.0).any()
  ticked = sounds.tick(clean, RATE, 0.5, rate=10.0)
  starts = np.flatnonzero(ticked > 16000)
  np.testing.assert_array_equal(starts, np.arange(11) * 1600)


def test_ticks_do_not_wrap_around():
  loud = np.full(400, 32000, np.int16)
  assert sounds.tick(loud, RATE, 0.5).min() >= 32000


# Errors.


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tinysoundfont", None)
  with pytest.raises(UserError) as error:
    sounds.Player(sounds.SOUNDFONT, RATE)
  one_line(error, "tinysoundfont", 'pip install -e ".[sounds]"', "portaudio")


def test_a_missing_soundfont_is_refused(player):
  with pytest.raises(UserError) as error:
    sounds.Player("/nowhere/a.sf2", RATE)
  one_line(error, "data.soundfont", "/nowhere/a.sf2", "timgm6mb-soundfont")


def test_another_file_is_refused_as_a_soundfont(player, tmp_path):
  (tmp_path / "a.sf2").write_bytes(b"RIFF and nothing")
  with pytest.raises(UserError) as error:
    sounds.Player(str(tmp_path / "a.sf2"), RATE)
  one_line(error, "data.soundfont", str(tmp_path / "a.sf2"), sounds.SOUNDFONT)


def test_a_missing_program_is_refused(player):
  with pytest.raises(UserError) as error:
    play(player, Instrument("theremin", 300, 40, 80), 0)
  one_line(error, "data.soundfont", "300", "theremin")


def test_a_silent_program_is_refused(player, monkeypatch):
  monkeypatch.setattr(
    player._synth, "generate", lambda count: memoryview(bytes(8 * count))
  )
  with pytest.raises(UserError) as error:
    play(player, named("tuba"), 0)
  one_line(error, "data.soundfont", "58", "tuba", "silent")
