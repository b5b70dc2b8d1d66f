"""Two speech engines from PyPI that need no network.

espeak-ng (formant synthesis, a hundred variants of eight English accents, word
times) and SVOX Pico (statistical, one female voice per accent, no times). Both
are C libraries that run in this process, on Linux.
"""

import _ctypes
import ctypes
import functools
import importlib
import itertools
import os
import pathlib
import threading
import types

import numpy as np
from jaxtyping import Int16

from vgsgan.common.errors import UserError
from vgsgan.common.options import nearest

# Accents of English, and their names in espeak-ng.
_ESPEAK = {
  "en-us": "gmw/en-US",
  "en-us-nyc": "gmw/en-US-nyc",
  "en-gb": "gmw/en",
  "en-gb-scotland": "gmw/en-GB-scotland",
  "en-gb-x-gbclan": "gmw/en-GB-x-gbclan",
  "en-gb-x-gbcwmd": "gmw/en-GB-x-gbcwmd",
  "en-gb-x-rp": "gmw/en-GB-x-rp",
  "en-029": "gmw/en-029",
}
_PICO = ("en-GB", "en-US")
_PICO_RATE = 16000
_PICO_VOLUME = 50  # Percent; at 100 the engine clips.

_LOCK = threading.Lock()  # Both engines keep state in globals of C.

# Samples, their rate in Hz, and words with their starts in seconds.
Sound = tuple[Int16[np.ndarray, "n"], int, list[tuple[str, float]]]


def check_voice(voice: str) -> None:
  """Raises UserError unless the voice exists and its package is installed."""
  engine, _, name = voice.partition(":")
  if engine == "espeak":
    accent, plus, variant = name.partition("+")
    if accent in _ESPEAK and (not plus or variant in _variants()):
      _package("espeakng_loader")
      return
    if accent in _ESPEAK:
      voices = [f"espeak:{accent}+{v}" for v in _variants()]
    else:
      voices = [f"espeak:{a}" for a in _ESPEAK]
  else:
    if engine == "pico" and name in _PICO:
      _package("ttspico")
      return
    voices = [f"espeak:{a}" for a in _ESPEAK] + [f"pico:{a}" for a in _PICO]
  raise UserError(f"unknown voice {voice!r}: {nearest(voice, voices)}")


def synthesize(text: str, voice: str) -> Sound:
  """Speaks a text with a checked voice, at the engine's rate.

  The samples are the same each time. Only espeak-ng gives word times; words
  that it runs together, such as "of a", count as one.
  """
  engine, _, name = voice.partition(":")
  with _LOCK:
    return _espeak(text, name) if engine == "espeak" else _pico(text, name)


def _package(name: str) -> types.ModuleType:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"speech needs the package {name} ({error}): "
      'pip install -e ".[speech]", which brings espeakng-loader and ttspico'
    ) from error


# Pico, the engine inside ttspico, is called by ctypes: ttspico's own callback
# leaks all the audio.


_PICO_CALLBACK = ctypes.CFUNCTYPE(
  ctypes.c_bool,
  ctypes.c_void_p,
  ctypes.c_uint32,  # Rate.
  ctypes.c_uint32,  # Bits of a sample.
  ctypes.c_int,  # Channels.
  ctypes.c_void_p,  # Samples.
  ctypes.c_uint32,  # Their bytes.
  ctypes.c_bool,  # True for the last samples.
)


def _pico(text: str, accent: str) -> Sound:
  chunks = []

  @_PICO_CALLBACK
  def collect(user, rate, depth, channels, samples, count, final):
    chunks.append(ctypes.string_at(samples, count))
    return True

  package = _package("ttspico")
  library = ctypes.CDLL(package.ctts.__file__)
  library.TtsEngine_Create.restype = ctypes.c_void_p
  library.TtsEngine_Speak.restype = ctypes.c_bool
  # Each text gets a new engine, at 0.2 ms: a used one would start with other
  # random phases.
  engine = ctypes.c_void_p(
    library.TtsEngine_Create(
      os.fsencode(package._LANG_DIR), accent.encode(), collect
    )
  )
  if not engine:
    raise UserError(
      f"ttspico has no data for {accent} in {package._LANG_DIR}: "
      "install it in a virtual environment"
    )
  try:
    library.TtsEngine_SetVolume(engine, _PICO_VOLUME)
    if not library.TtsEngine_Speak(engine, text.encode(), None):
      raise RuntimeError(f"ttspico failed to speak {text!r}")
  finally:
    library.TtsEngine_Destroy(engine)
  return np.frombuffer(b"".join(chunks), np.int16), _PICO_RATE, []


# espeak-ng: the declarations of speak_lib.h that are used here.


class _Event(ctypes.Structure):
  _fields_ = (
    ("type", ctypes.c_int),
    ("unique_identifier", ctypes.c_uint),
    ("text_position", ctypes.c_int),  # Characters, from 1.
    ("length", ctypes.c_int),
    ("audio_position", ctypes.c_int),  # Milliseconds.
    ("sample", ctypes.c_int),
    ("user_data", ctypes.c_void_p),
    ("id", ctypes.c_char * 8),
  )


_ESPEAK_CALLBACK = ctypes.CFUNCTYPE(
  ctypes.c_int,
  ctypes.POINTER(ctypes.c_short),
  ctypes.c_int,
  ctypes.POINTER(_Event),
)
_SYNCHRONOUS, _DO_NOT_EXIT, _CHARACTERS, _UTF8, _WORD = 2, 0x8000, 1, 1, 1


@functools.cache
def _variants() -> tuple[str, ...]:
  data = pathlib.Path(_package("espeakng_loader").get_data_path())
  return tuple(sorted(p.name for p in (data / "voices/!v").iterdir()))


def _espeak(text: str, name: str) -> Sound:
  accent, plus, variant = name.partition("+")
  chunks, positions = [], []

  @_ESPEAK_CALLBACK
  def collect(samples, count, events):
    if samples and count:
      chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
    for event in itertools.takewhile(lambda e: e.type, events):
      if event.type == _WORD:
        positions.append((event.text_position - 1, event.audio_position / 1000))
    return 0

  # The library is loaded for each text, at 0.3 ms: the phases of the flutter
  # and of the glottis are static variables that only loading resets.
  loader = _package("espeakng_loader")
  library = ctypes.CDLL(loader.get_library_path())
  try:
    rate = library.espeak_Initialize(
      _SYNCHRONOUS, 0, os.fsencode(loader.get_data_path()), _DO_NOT_EXIT
    )
    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    full_name = f"{_ESPEAK[accent]}{plus}{variant}".encode()
    if rate <= 0 or library.espeak_SetVoiceByName(full_name):
      raise RuntimeError(f"espeak-ng cannot load {full_name}")
    raw = text.encode()
    library.espeak_Synth(
      raw, len(raw) + 1, 0, _CHARACTERS, 0, _UTF8, None, None
    )
    library.espeak_Terminate()
  finally:
    _ctypes.dlclose(library._handle)
  # A word ends where the next event starts: espeak-ng runs some words together.
  words = [
    (text[position:end].strip(" ,.;:!?"), start)
    for (position, start), (end, _) in itertools.pairwise(
      [*positions, (len(text), 0.0)]
    )
  ]
  sound = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
  return sound, rate, words
