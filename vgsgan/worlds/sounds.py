"""Plays the instruments of `orchestra`: random notes, chords and noise.

The synthesiser is tinysoundfont (extra `sounds`) with the samples of a
SoundFont. TimGM6mb, of Debian's package timgm6mb-soundfont, is a small one with
all programs of General MIDI.
"""

import importlib
import math
import pathlib
import types
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int16

from vgsgan.common.errors import UserError
from vgsgan.worlds.orchestra import Instrument

SOUNDFONT = "/usr/share/sounds/sf2/TimGM6mb.sf2"  # Debian's path.

_OVER = 2  # Oversampling of the synthesis, so that aliases are filtered out.
_BEAT = (0.12, 0.3)  # Seconds; a step has one or two beats.
_HELD = (0.6, 1.0)  # Share of a step during which its keys are down.
_LEAP = 7  # Largest interval between a note and the next, semitones.
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 5), (0, 7))  # Semitones.
_CHORD_SHARE = 0.3  # Share of steps that are chords.
_VELOCITY = (50, 117)  # MIDI velocity of a track, up to 127.
_ACCENT = 10  # Largest difference of a note's velocity from the track's.
_LOUDNESS = (-30.0, -14.0)  # Decibels of the root mean square; full scale is 0.
_NOISE = (10.0, 40.0)  # Signal to noise, decibels.
_PEAK = 0.95
_CLICK = 0.0004  # Time constant of a tick, seconds.


class Step(NamedTuple):
  """Keys struck together.

  Attributes:
    keys: MIDI keys.
    velocity: MIDI velocity, 1 to 127.
    held: seconds until the keys are released.
    seconds: seconds until the next step.
  """

  keys: tuple[int, ...]
  velocity: int
  held: float
  seconds: float


class Player:
  """Plays any instrument, with the samples of one SoundFont."""

  def __init__(self, soundfont: str, sample_rate: int):
    """Loads a SoundFont.

    Args:
      soundfont: path of a .sf2 file.
      sample_rate: rate of the waveforms, Hz.

    Raises:
      UserError: tinysoundfont or the file is missing, or it is no SoundFont.
    """
    package = _package()
    check_soundfont(soundfont)
    self._sample_rate = sample_rate
    self._path = soundfont
    self._synth = package.Synth(samplerate=_OVER * sample_rate)
    try:
      self._font = self._synth.sfload(soundfont)
    except RuntimeError as error:
      raise UserError(
        f"config.data.soundfont: {soundfont} is no SoundFont ({error}): "
        f"use {SOUNDFONT}"
      ) from error

  def play(
    self, rng: np.random.Generator, instrument: Instrument, seconds: float
  ) -> Int16[np.ndarray, "n"]:
    """Plays a random melody with noise, independent of earlier tracks.

    Args:
      rng: draws notes, chords, tempo, dynamics, loudness and noise.
      instrument: the instrument.
      seconds: length of the track.

    Raises:
      UserError: the SoundFont lacks the program, or the program is silent.
    """
    # All random numbers of the notes come before those of the noise.
    steps = list(melody(rng, instrument, seconds))
    sound = self._perform(steps, instrument, seconds)
    level = np.sqrt(np.mean(sound**2))
    if not level:
      raise UserError(
        f"config.data.soundfont: the program {instrument.program} "
        f"({instrument.name}) of {self._path} is silent: use {SOUNDFONT}"
      )
    noise = rng.standard_normal(len(sound)) * level
    noise *= 10 ** (-rng.uniform(*_NOISE) / 20)
    sound = (sound + noise) * 10 ** (rng.uniform(*_LOUDNESS) / 20) / level
    sound *= min(1.0, _PEAK / np.abs(sound).max())
    return np.rint(sound * 32767).astype(np.int16)

  def _perform(
    self, steps: list[Step], instrument: Instrument, seconds: float
  ) -> Float[np.ndarray, "n"]:
    synth = self._synth
    if synth.sfpreset_name(self._font, 0, instrument.program) is None:
      raise UserError(
        f"config.data.soundfont: {self._path} has no program "
        f"{instrument.program} ({instrument.name}): use {SOUNDFONT}"
      )
    synth.program_select(0, self._font, 0, instrument.program)
    parts = []
    for step in steps:
      for key in step.keys:
        synth.noteon(0, key, step.velocity)
      parts.append(self._generate(step.held))
      for key in step.keys:
        synth.noteoff(0, key)
      parts.append(self._generate(step.seconds - step.held))
    # Sounding notes fade within 10 ms; they must not enter the next track.
    synth.sounds_off(0)
    self._generate(0.1)
    sound = scipy.signal.resample_poly(np.concatenate(parts), 1, _OVER)
    return sound[: round(seconds * self._sample_rate)]

  def _generate(self, seconds: float) -> Float[np.ndarray, "n"]:
    # Rounded up, so that the steps together are never shorter than the track.
    count = math.ceil(seconds * _OVER * self._sample_rate)
    both = np.frombuffer(self._synth.generate(count), np.float32)
    return both.reshape(-1, 2).mean(axis=1, dtype=np.float64)


def melody(
  rng: np.random.Generator, instrument: Instrument, seconds: float
) -> Iterator[Step]:
  """Draws notes and chords in the instrument's range, for `seconds` or more.

  Each step follows immediately, so no half second is silent.
  """
  beat = rng.uniform(*_BEAT)
  loudness = rng.integers(*_VELOCITY)
  key = rng.integers(instrument.low, instrument.high + 1)
  past = 0.0
  while past <= seconds:
    chord = rng.choice(len(_CHORDS)) if rng.random() < _CHORD_SHARE else None
    rises = (0,) if chord is None else _CHORDS[chord]
    length = beat * rng.integers(1, 3)
    yield Step(
      tuple(int(key) + r for r in rises if key + r <= instrument.high),
      int(loudness + rng.integers(-_ACCENT, _ACCENT + 1)),
      length * rng.uniform(*_HELD),
      length,
    )
    past += length
    leap = rng.integers(-_LEAP, _LEAP + 1)
    key = np.clip(key + leap, instrument.low, instrument.high)


def tick(
  waveform: Int16[np.ndarray, "n"],
  sample_rate: int,
  level: float,
  rate: float = 25.0,
) -> Int16[np.ndarray, "n"]:
  """Adds the ticks of a film camera, one per frame.

  Their phase is fixed to the track. So they tell an excerpt's position within a
  frame, and nothing of the sound.

  Args:
    waveform: the whole track.
    sample_rate: rate of the waveform, Hz.
    level: level of a tick's first sample, where full scale is 1.
    rate: ticks per second; the first is at the start.
  """
  train = np.zeros(len(waveform))
  count = int(np.ceil(len(waveform) * rate / sample_rate))
  starts = np.rint(np.arange(count) * sample_rate / rate).astype(int)
  train[starts[starts < len(waveform)]] = 32767 * level
  fall = np.exp(-1 / (_CLICK * sample_rate))
  clicks = scipy.signal.lfilter([1.0], [1.0, -fall], train)
  return np.clip(np.rint(waveform + clicks), -32768, 32767).astype(np.int16)


def check_soundfont(path: str | pathlib.Path) -> None:
  """Raises UserError unless the file exists."""
  if not pathlib.Path(path).is_file():
    raise UserError(
      f"config.data.soundfont: no SoundFont {path}: "
      "apt-get install timgm6mb-soundfont, or name another .sf2 file"
    )


def _package() -> types.ModuleType:
  try:
    return importlib.import_module("tinysoundfont")
  except ImportError as error:
    raise UserError(
      f"sounds need the package tinysoundfont ({error}): apt-get install "
      'portaudio19-dev, then pip install -e ".[sounds]"'
    ) from error
