"""Decodes images and recordings that users bring, within bounds.

A file of a few kilobytes can stand for gigabytes of pixels or samples, so its
header is read first, and what passes a bound is refused before it is decoded.
A refusal is a `ValueError` that names the file and the reason; the builder of
a data set counts that file as bad.
"""

import contextlib
import io
import math
import os
import pathlib
import stat
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import scipy
import soundfile
from jaxtyping import Float32, Int16
from PIL import Image

from vgsgan.data import svg

MAX_SIDE_PX = 8192  # Cameras of 50 megapixels have 8160 x 6120.
MAX_IMAGE_BYTES = 2**28
# A JPEG is decoded once for each scan; encoders write ten of them.
MAX_JPEG_SCANS = 100
MAX_SVG_RATIO = 50  # Longer side of a drawing over its shorter side.
MAX_SECONDS = 600  # Longest section of a recording that is used.
MAX_VALUES = 2**26  # Frames x channels to read: 256 MiB of float32.
_BLOCK_VALUES = 2**20  # Values read at once in the search for sound.
MAX_RATE_HZ = 384_000  # The filter that resamples grows with the rate.
# Other formats run outside programs (EPS), or have rarely reviewed decoders.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# libsndfile 1.2.2 seeks exactly in these formats. In the last page of Ogg
# Vorbis it misses the place by some samples.
_SEEKABLE = ("WAV", "WAVEX", "FLAC")

Section = Callable[[int], slice]


def read_image(
  path: str | pathlib.Path, mode: str = "RGB", *, drawn_px: int = 0
) -> Image.Image:
  """Decodes an image.

  Args:
    path: of a PNG, JPEG, WebP, GIF (its first frame) or BMP file, or of a
      vector drawing, `.svg`.
    mode: 'RGB' or 'RGBA', of the result. 16-bit grey keeps its level.
    drawn_px: width to which a vector drawing is drawn, pixels; less where its
      height would pass `MAX_SIDE_PX`.

  Raises:
    ValueError: the file is missing, cannot be decoded, or passes a bound.
  """
  path = pathlib.Path(path)
  size, most = _size(path), MAX_IMAGE_BYTES
  try:
    if size > most:
      raise ValueError(f"{size} bytes, a file may have {most}")
    content = path.read_bytes()
    if path.suffix == ".svg":
      content = _render_svg(content, drawn_px)
    # Pillow would only warn; `open_image` refuses.
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      with open_image(content) as opened:
        return _to_eight_bits(opened).convert(mode)
  except Exception as error:  # Decoders raise anything, SyntaxError included.
    raise ValueError(f"cannot decode the picture {path}: {error}") from error


@contextlib.contextmanager
def open_image(content: bytes) -> Iterator[Image.Image]:
  """Opens an encoded image whose header is within the bounds.

  Raises:
    ValueError: a bound is passed. Pillow raises anything else.
  """
  try:
    opened = Image.open(io.BytesIO(content), formats=_FORMATS)
  except Image.DecompressionBombError as error:
    raise ValueError(f"a side is longer than {MAX_SIDE_PX} pixels") from error
  with opened:
    if max(opened.size) > MAX_SIDE_PX:
      raise ValueError(
        f"{opened.width} x {opened.height} pixels, a side may have "
        f"{MAX_SIDE_PX}"
      )
    # Within a scan 0xff is followed by 0, so this counts no pixels.
    if content[:2] == b"\xff\xd8":
      scans = content.count(b"\xff\xda")
      if scans > MAX_JPEG_SCANS:
        raise ValueError(f"{scans} scans, a JPEG may have {MAX_JPEG_SCANS}")
    yield opened


def _render_svg(content: bytes, width: int) -> bytes:
  """Renders a vector drawing as PNG."""
  text, embedded = svg.check(content)
  for image in embedded:
    with open_image(image):  # The renderer will decode it, so bounds apply.
      pass
  png = svg.render(text, min(width, MAX_SIDE_PX), MAX_SIDE_PX)
  with open_image(png) as image:
    if max(image.size) > MAX_SVG_RATIO * min(image.size):
      raise ValueError(
        f"one side is more than {MAX_SVG_RATIO} times as long as the other"
      )
  return png


def _to_eight_bits(image: Image.Image) -> Image.Image:
  """Scales 16-bit grey to 8 bits; Pillow's own conversion clips."""
  if not image.mode.startswith("I"):
    return image
  return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def read_audio(
  path: str | pathlib.Path,
  sample_rate: int = 16000,
  section: Section = slice,
) -> Int16[np.ndarray, "n"]:
  """Decodes a recording: channels averaged, band-limited resampling.

  Args:
    path: WAV, FLAC, Ogg, or whatever else libsndfile reads.
    sample_rate: sample rate of the result, Hz.
    section: maps the number of samples of the whole to the slice to return.
      Only this slice is read (of Ogg, everything before it too); its samples
      equal those of the whole.

  Raises:
    ValueError: the file is missing, cannot be decoded, is empty, is not
      finite, or passes a bound; or `section` raises it.
  """
  _size(path)
  try:
    with soundfile.SoundFile(path) as file:
      return _resample(file, sample_rate, section)
  except (soundfile.SoundFileError, OSError) as error:
    raise ValueError(f"cannot decode the recording {path}: {error}") from error
  except ValueError as error:
    raise ValueError(f"cannot use the recording {path}: {error}") from error


def read_audible(
  path: str | pathlib.Path, sample_rate: int, section: Section = slice
) -> Int16[np.ndarray, "n"]:
  """Reads audio as `read_audio` does, but refuses silence with ValueError."""
  sound = read_audio(path, sample_rate, section)
  if not sound.any() and _is_silent(path):
    raise ValueError(f"the recording {path} is silent")
  return sound


def _is_silent(path: str | pathlib.Path) -> bool:
  """Tells whether a recording is silent from its first sample to its last.

  It is read up to its first sound, and no further than `MAX_VALUES`. A
  recording that cannot be read to its end does not count as silent.
  """
  try:
    with soundfile.SoundFile(path) as file:
      most = MAX_VALUES // file.channels
      blocks = file.blocks(
        max(1, _BLOCK_VALUES // file.channels),
        frames=min(file.frames, most),
        dtype="float32",
        always_2d=True,
      )
      if any((np.abs(x.mean(axis=1)) > 0.5 / 32768).any() for x in blocks):
        return False
      return file.frames <= most
  except (soundfile.SoundFileError, OSError):
    return False


def _resample(
  file: soundfile.SoundFile, sample_rate: int, section: Section
) -> Int16[np.ndarray, "n"]:
  if not file.frames:
    raise ValueError("it is empty")
  if file.samplerate > MAX_RATE_HZ:
    raise ValueError(f"it has {file.samplerate} Hz, and may have {MAX_RATE_HZ}")
  common = math.gcd(file.samplerate, sample_rate)
  up, down = sample_rate // common, file.samplerate // common
  total = -(-file.frames * up // down)
  start, stop, _ = section(total).indices(total)
  if stop - start > MAX_SECONDS * sample_rate:
    raise ValueError(
      f"{(stop - start) / sample_rate:.1f} s of it are used, and may be "
      f"{MAX_SECONDS}"
    )
  # `resample_poly` takes 10 max(up, down) places on either side of a sample,
  # and samples begin with a frame after each `down` frames.
  half = 10 * max(up, down)
  first = max(0, (start * down - half) // up // down * down)
  last = min(file.frames, ((stop - 1) * down + half) // up + 1)
  mono = _read_mono(file, first, last)
  if up != down:
    mono = scipy.signal.resample_poly(mono, up, down)
  begin = first // down * up
  mono = mono[start - begin : stop - begin]
  return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


def _read_mono(
  file: soundfile.SoundFile, first: int, last: int
) -> Float32[np.ndarray, "n"]:
  """Reads frames `first` up to `last` and averages their channels."""
  skips = file.format in _SEEKABLE and file.seekable()
  begin = first if skips else 0
  if (last - begin) * file.channels > MAX_VALUES:
    raise ValueError(
      f"{last - begin} frames of {file.channels} channels are read, which may "
      f"have {MAX_VALUES} values"
    )
  if begin:
    file.seek(begin)
  sound = file.read(last - begin, dtype="float32", always_2d=True)
  sound = sound[first - begin :]
  if not len(sound):
    raise ValueError("it is empty")
  if not np.isfinite(sound).all():
    raise ValueError("it has samples that are not finite")
  return sound.mean(axis=1)


def _size(path: str | pathlib.Path) -> int:
  """Size of a file in bytes.

  Raises:
    ValueError: it is missing, or a pipe or a device, which may not end.
  """
  try:
    status = os.stat(path)
  except FileNotFoundError as error:
    link = ", only a link to nothing" if os.path.islink(path) else ""
    raise ValueError(f"there is no file {path}{link}") from error
  except OSError as error:
    raise ValueError(f"cannot read {path}: {error.strerror}") from error
  if not stat.S_ISREG(status.st_mode):
    raise ValueError(f"{path} is no file")
  return status.st_size
