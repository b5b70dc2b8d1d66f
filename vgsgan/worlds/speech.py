"""Speaks captions deterministically, with word times if the engine gives them.

A voice is "espeak:ACCENT", "espeak:ACCENT+VARIANT" or "pico:ACCENT"; see
`engines`. The extra `speech` installs both engines.
"""

import concurrent.futures
import itertools
import math
import multiprocessing
import os
import signal as signals
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int16

from vgsgan.worlds import engines

# Two men and three women, by their pitch: 107, 87, 229, 186 and 178 Hz.
VOICES = (
  "espeak:en-us",
  "espeak:en-gb+m8",
  "espeak:en-us+linda",
  "espeak:en-gb+steph",
  "pico:en-GB",
)
HELD_OUT = "pico:en-US"  # Another woman and accent, used only in tests.
# Four voices for tests alone, two men and two women.
ALL_HELD_OUT = (
  HELD_OUT,
  "espeak:en-us-nyc+m3",
  "espeak:en-gb-scotland+f2",
  "espeak:en-029+m7",
)

LOUDNESS = 0.1  # Root mean square of the speech, where full scale is 1.
_PEAK = 0.95  # Largest sample, where full scale is 1.
_SILENCE = 0.01  # Samples below this share of the peak are silence.
_MARGIN = 0.03  # Seconds of silence kept at either end.


@dataclass(frozen=True)
class Spoken:
  """A text spoken by a voice.

  Attributes:
    waveform: samples at `LOUDNESS`, with up to 50 ms of silence at either end.
    words: (word, start, end) in seconds, in order; empty if the engine gives no
      times. Words that the engine runs together, such as "of a", are one.
  """

  waveform: Int16[np.ndarray, "n"]
  words: tuple[tuple[str, float, float], ...]


def speak(text: str, voice: str, sample_rate: int = 16000) -> Spoken:
  """Speaks a text; the same text and voice give the same samples.

  Args:
    text: English text.
    voice: one of VOICES, HELD_OUT, or another of the module's form.
    sample_rate: rate of the waveform, Hz.

  Raises:
    UserError: there is no such voice, or its package is missing.
    ValueError: nothing in the text can be spoken.
  """
  engines.check_voice(voice)
  sound, rate, starts = engines.synthesize(text, voice)
  if not np.any(sound):
    raise ValueError(f"{voice} says nothing for {text!r}")
  common = math.gcd(rate, sample_rate)
  sound = scipy.signal.resample_poly(
    sound / 32768, sample_rate // common, rate // common
  )
  heard = np.abs(sound) > _SILENCE * np.abs(sound).max()
  words = _words(heard, sample_rate, starts)
  first = max(0, int(np.argmax(heard)) - int(_MARGIN * sample_rate))
  last = len(heard) - int(np.argmax(heard[::-1])) + int(_MARGIN * sample_rate)
  sound = _loud(sound[first:last])
  shift = first / sample_rate
  return Spoken(
    np.rint(sound * 32767).astype(np.int16),
    tuple((w, max(0.0, a - shift), b - shift) for w, a, b in words),
  )


def speak_all(
  jobs: Sequence[tuple[str, str]], sample_rate: int, workers: int
) -> Iterator[Spoken]:
  """Speaks many texts in order, a bounded number ahead of the reader.

  Args:
    jobs: pairs of text and voice.
    sample_rate: rate of the waveforms, Hz.
    workers: number of processes; 0 uses the caller's. The samples do not depend
      on it.

  Returns:
    An iterator of `Spoken`. Closing it, or an error, stops the processes.

  Raises:
    UserError: as in `speak`, before any text is spoken.
  """
  for voice in sorted({voice for _, voice in jobs}):
    engines.check_voice(voice)
  if not workers:
    return (speak(text, voice, sample_rate) for text, voice in jobs)
  return _speak_in_processes(jobs, sample_rate, workers)


def _words(
  heard: Bool[np.ndarray, "n"],
  sample_rate: int,
  starts: Sequence[tuple[str, float]],
) -> tuple[tuple[str, float, float], ...]:
  """Ends each word at its last sound before the next word starts."""
  words = []
  last = ("", len(heard) / sample_rate)
  for (word, start), (_, end) in itertools.pairwise([*starts, last]):
    sounds = heard[round(start * sample_rate) : round(end * sample_rate)]
    if word and sounds.any():
      end -= int(np.argmax(sounds[::-1])) / sample_rate
      words.append((word, start, end))
  return tuple(words)


def _loud(sound: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  gain = LOUDNESS / np.sqrt(np.mean(sound**2))
  return sound * min(gain, _PEAK / np.abs(sound).max())


# Processes.


def _speak_in_processes(
  jobs: Sequence[tuple[str, str]], sample_rate: int, workers: int
) -> Iterator[Spoken]:
  # Spawn, not fork: the caller may have threads of JAX.
  pool = concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context("spawn"), _start_worker
  )
  try:
    ahead = deque()
    for text, voice in jobs:
      ahead.append(pool.submit(speak, text, voice, sample_rate))
      if len(ahead) > 16 * workers:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
  """Ignores Ctrl-C, and ends the worker when its parent ends in any way."""
  signals.signal(signals.SIGINT, signals.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)
