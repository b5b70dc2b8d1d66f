"""Voices: the times of words, sameness, loudness, and one-line errors."""

import multiprocessing
import sys

import numpy as np
import pytest
from scipy import signal

from vgsgan.common.errors import UserError
from vgsgan.worlds import captions, engines, speech

TEXT = "a large red metal cube left of a small blue sphere"
ALL = (*speech.VOICES, speech.HELD_OUT)
ESPEAK = [voice for voice in ALL if voice.startswith("espeak")]
PICO = [voice for voice in ALL if voice.startswith("pico")]


def level(sound):
  return 10 * np.log10(np.mean(np.square(sound / 32768)) + 1e-12)


def spectrum(sound):
  """Log power, [33 frequencies, frames of 4 ms], too coarse for the pitch."""
  _, _, power = signal.spectrogram(sound / 32768, 16000, nperseg=64, noverlap=0)
  return np.log(power + 1e-9)


def pitch(sound):
  """Median of the best period of 40 ms frames by autocorrelation, Hz."""
  frames = sound[: len(sound) // 640 * 640].reshape(-1, 640).astype(float)
  loud = frames[frames.std(axis=1) > sound.std() / 2]
  found = []
  for frame in loud:
    ac = signal.correlate(frame, frame)[639:] / np.arange(640, 0, -1)
    period = 45 + int(np.argmax(ac[45:230]))  # 70 to 355 Hz.
    if ac[period] > 0.6 * ac[0]:
      found.append(16000 / period)
  return np.median(found)


# One voice.


@pytest.mark.parametrize("voice", ALL)
def test_speech_has_its_loudness_and_is_trimmed(voice):
  sound = speech.speak(TEXT, voice).waveform.astype(float)
  assert 2 < len(sound) / 16000 < 4
  assert level(sound) == pytest.approx(-20, abs=0.1)
  assert np.abs(sound).max() < 32000
  heard = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
  assert heard[0] <= 800 and len(sound) - heard[-1] <= 801


@pytest.mark.parametrize("voice", ALL)
def test_earlier_speech_does_not_change_samples(voice):
  first = speech.speak("a red cube", voice)
  for other in (TEXT, "one, two", "a red cube"):
    for other_voice in ALL:
      speech.speak(other, other_voice)
    again = speech.speak("a red cube", voice)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert first.words == again.words


@pytest.mark.parametrize("voice", ALL)
def test_sample_rates_give_the_same_speech(voice):
  low = speech.speak(TEXT, voice, 16000)
  high = speech.speak(TEXT, voice, 32000)
  assert len(high.waveform) == pytest.approx(2 * len(low.waveform), abs=800)
  down = signal.resample_poly(high.waveform.astype(float), 1, 2)
  match = signal.correlate(down, low.waveform.astype(float), method="fft")
  norm = np.linalg.norm(down) * np.linalg.norm(low.waveform.astype(float))
  assert match.max() / norm > 0.95
  for (a, *low_times), (b, *high_times) in zip(
    low.words, high.words, strict=True
  ):
    assert a == b and high_times == pytest.approx(low_times, abs=0.04)


def test_voices_differ_in_pitch():
  pitches = {voice: pitch(speech.speak(TEXT, voice).waveform) for voice in ALL}
  expected = dict(zip(ALL, (107, 87, 229, 185, 178, 168), strict=True))
  for voice in ALL:
    assert pitches[voice] == pytest.approx(expected[voice], rel=0.07), pitches


def test_accents_differ():
  american = speech.speak("a large cube", "espeak:en-us").waveform
  british = speech.speak("a large cube", "espeak:en-gb").waveform
  assert not np.array_equal(american, british)


def test_text_without_sound_is_refused():
  for voice in (ESPEAK[0], PICO[0]):
    with pytest.raises(ValueError, match="says nothing"):
      speech.speak("", voice)


# The times of words.


@pytest.mark.parametrize("voice", ESPEAK)
@pytest.mark.parametrize("seed", range(5))
def test_words_follow_the_text(voice, seed):
  rng = np.random.default_rng(seed)
  things = [
    {"size": "small", "color": "gray", "shape": "cylinder"},
    {"material": "metal", "shape": None},
    {"size": "large", "color": "purple", "material": "rubber"},
  ][: 1 + seed % 3]
  for _ in range(10):
    text = captions.caption(rng, things)
    spoken = speech.speak(text, voice)
    words, starts, ends = zip(*spoken.words, strict=True)
    assert " ".join(words).replace(",", "") == text.replace(",", "")
    times = np.ravel([starts, ends], "F")
    assert (np.diff(times) >= 0).all() and (np.subtract(ends, starts) > 0).all()
    assert starts[0] >= 0 and ends[-1] <= len(spoken.waveform) / 16000


@pytest.mark.parametrize("voice", ESPEAK)
def test_words_are_loud_and_gaps_silent(voice):
  spoken = speech.speak("red, blue, green, metal", voice)
  assert [w for w, *_ in spoken.words] == ["red", "blue", "green", "metal"]
  inside = np.zeros(len(spoken.waveform), bool)
  for _, start, end in spoken.words:
    span = slice(round(start * 16000), round(end * 16000))
    inside[span] = True
    assert level(spoken.waveform[span]) > -30
    assert end - start > 0.15
  assert 0.1 < 1 - inside.mean() < 0.5
  assert level(spoken.waveform[~inside]) < level(spoken.waveform[inside]) - 25


@pytest.mark.parametrize("voice", ESPEAK)
@pytest.mark.parametrize("word", ["cube", "sphere", "metal", "yellow", "ball"])
def test_a_words_time_holds_its_sound(voice, word):
  """Slides the word from one sentence along another that has it later."""
  other = speech.speak(f"a {word} thing", voice)
  _, start, end = other.words[1]
  part = spectrum(other.waveform[int(start * 16000) : int(end * 16000)])
  text = f"there is a {word} and a brown object"
  spoken = speech.speak(text, voice)
  whole = spectrum(spoken.waveform)
  n = part.shape[1]
  scores = [
    np.corrcoef(part.ravel(), whole[:, i : i + n].ravel())[0, 1]
    for i in range(whole.shape[1] - n)
  ]
  said = {w: s for w, s, _ in spoken.words}
  assert np.argmax(scores) * 64 / 16000 == pytest.approx(said[word], abs=0.04)


@pytest.mark.parametrize("voice", PICO)
def test_pico_gives_no_times(voice):
  assert speech.speak(TEXT, voice).words == ()


# Many texts.


@pytest.mark.parametrize("workers", [0, 2])
def test_speak_all_keeps_the_order(workers):
  texts = ("a red cube", TEXT, "a ball")
  jobs = [(text, voice) for text in texts * 3 for voice in ALL]
  many = list(speech.speak_all(jobs, 8000, workers))
  assert len(many) == len(jobs)
  for job, spoken in zip(jobs, many, strict=True):
    alone = speech.speak(*job, 8000)
    np.testing.assert_array_equal(spoken.waveform, alone.waveform)
    assert spoken.words == alone.words
  assert not multiprocessing.active_children()


def test_closing_early_stops_the_processes():
  spoken = speech.speak_all([(TEXT, speech.HELD_OUT)] * 100_000, 16000, 1)
  next(spoken)
  assert multiprocessing.active_children()
  spoken.close()
  assert not multiprocessing.active_children()


def test_a_workers_error_is_raised_here():
  spoken = speech.speak_all([("", speech.VOICES[0])], 16000, 1)
  with pytest.raises(ValueError, match="says nothing"):
    next(spoken)
  assert not multiprocessing.active_children()


# Errors.


@pytest.mark.parametrize(
  "voice, near",
  [
    ("espeak:en-uk", "espeak:en-u"),
    ("espeak:en-us+lindda", "espeak:en-us+linda"),
    ("espeak:en-us+", "espeak:en-us+"),
    ("pico:en-us", "pico:en-US"),
    ("pica:en-GB", "pico:en-GB"),
    ("", "espeak:en-us"),
  ],
)
def test_an_unknown_voice_is_refused_with_the_nearest(voice, near):
  for call in (
    lambda: speech.speak("a cube", voice),
    lambda: speech.speak_all([("a cube", voice)], 16000, 2),
  ):
    with pytest.raises(UserError) as error:
      call()
    text = str(error.value)
    assert "\n" not in text and repr(voice) in text and near in text
    assert len(text) < 300


@pytest.mark.parametrize(
  "package, voice",
  [
    ("espeakng_loader", "espeak:en-us"),
    ("espeakng_loader", "espeak:en-us+linda"),
    ("ttspico", "pico:en-GB"),
  ],
)
def test_a_missing_package_is_named(monkeypatch, package, voice):
  monkeypatch.setitem(sys.modules, package, None)
  engines._variants.cache_clear()
  with pytest.raises(UserError) as error:
    speech.speak("a cube", voice)
  text = str(error.value)
  assert "\n" not in text
  assert package in text and 'pip install -e ".[speech]"' in text


def test_pico_without_its_data_is_refused(monkeypatch, tmp_path):
  monkeypatch.setattr("ttspico._LANG_DIR", str(tmp_path))
  with pytest.raises(UserError) as error:
    speech.speak("a cube", "pico:en-GB")
  assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
