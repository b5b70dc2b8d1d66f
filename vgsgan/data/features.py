"""Inputs of the towers: log-mel spectrograms and normalised images.

Pure functions of arrays, to be called inside the compiled step: on a CPU the
front end costs less there than as numpy in a worker, and on an accelerator
only the 16-bit waveform has to travel.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, UInt8

from vgsgan.data.mel import mel_filterbank
from vgsgan.parallel import mesh

Host = Array | np.ndarray

# Statistics of the ImageNet training set, for pixels in [0, 1]. torchvision's
# VGG16 (and so DAVEnet and the seed paper) normalises with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SPECTROGRAMS = ("log_mel", "log_linear")
# Config fields that decide the inputs of a task with `spectrogram_of`.
FIELDS = (
  "data.image_size",
  "data.sample_rate",
  "data.seconds",
  "data.spectrogram",
  "data.frames",
  "data.num_mels",
)

# librosa.power_to_db raises powers to at least this before the logarithm.
_MIN_POWER = 1e-10


def normalize_image(
  image: UInt8[Host, "b h w 3"],
) -> Float[Array, "b h w 3"]:
  """Scales pixels 0..255 to mean 0 and deviation 1 over ImageNet."""
  return standardize(jnp.asarray(image, jnp.float32) / 255.0)


def standardize(pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
  """Scales pixels in [0, 1] to mean 0 and deviation 1 over ImageNet."""
  mean = jnp.asarray(IMAGENET_MEAN, jnp.float32)
  return (pixels - mean) / jnp.asarray(IMAGENET_STD, jnp.float32)


def pixels(image: Float[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
  """Inverts `normalize_image`."""
  std = jnp.asarray(IMAGENET_STD, jnp.float32)
  levels = 255.0 * (image * std + jnp.asarray(IMAGENET_MEAN, jnp.float32))
  return jnp.rint(jnp.clip(levels, 0.0, 255.0)).astype(jnp.uint8)


def quantize(pixels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Rounds pixels in [0, 1] to the 8 bits of a stored image.

  Otherwise the finer steps of an edit would tell it from its original. The
  gradient passes unchanged.
  """
  rounded = jnp.round(jnp.clip(pixels, 0.0, 1.0) * 255.0) / 255.0
  return pixels + lax.stop_gradient(rounded - pixels)


def num_mel_frames(
  num_samples: Int[Host, "..."],
  sample_rate: int = 16000,
  hop_ms: float = 10.0,
) -> Int[Array, "..."]:
  """Counts the frames of a centred STFT: 1 + num_samples // hop."""
  hop = _samples(hop_ms, sample_rate)
  return (1 + jnp.asarray(num_samples) // hop).astype(jnp.int32)


def log_mel(
  waveform: Num[Host, "b s"],
  num_samples: Int[Host, "b"],
  *,
  sample_rate: int = 16000,
  window_ms: float = 25.0,
  hop_ms: float = 10.0,
  n_fft: int | None = None,
  num_mels: int = 40,
  fmin: float = 20.0,
  fmax: float | None = None,
  preemphasis: float = 0.97,
  top_db: float = 80.0,
) -> tuple[Float[Array, "b t mels"], Int[Array, "b"]]:
  """Log mel spectrogram of each clip, in dB below the clip's own maximum.

  The defaults are DAVEnet's front end (Harwath et al., ECCV 2018, section 3.2,
  as its published code has it): mean removed, pre-emphasis, symmetric Hamming
  window, centred power STFT with zeros at both ends, Slaney mel bands, and
  `librosa.power_to_db(ref=np.max)`. Unlike there, frames past a clip's end
  are silence (-top_db) and not 0 dB, the loudest value.

  A clip's valid frames depend neither on the length nor on the contents of its
  padding. As in librosa, the valid frames of a clip without energy are 0 dB.

  Args:
    waveform: [b, s] int16, or floating point in [-1, 1].
    num_samples: [b] valid samples of each clip; held to 0..s.
    sample_rate: hertz.
    window_ms: length of the analysis window in milliseconds.
    hop_ms: step between frames in milliseconds.
    n_fft: length of the transform in samples; None is the window's.
    num_mels: number of mel bands.
    fmin: lower edge of the first band in hertz.
    fmax: upper edge of the last band in hertz; None is sample_rate / 2.
    preemphasis: c in y[t] - c y[t - 1]; y[0] is kept.
    top_db: floor in dB below the maximum.

  Returns:
    float32 [b, t, mels] with t = 1 + s // hop, in [-top_db, 0], and int32 [b],
    the number of valid frames, 1 + num_samples // hop.

  Raises:
    ValueError: the window is longer than the transform, the mel edges are out
      of order, or the waveform is of integers other than int16.
  """
  hop = _samples(hop_ms, sample_rate)
  n_fft = n_fft or _samples(window_ms, sample_rate)
  length = waveform.shape[1]
  num_samples = jnp.clip(jnp.asarray(num_samples), 0, length)
  valid = jnp.arange(length) < num_samples[:, None]
  signal = _condition(_to_float(waveform), valid, preemphasis)
  window = _window(_samples(window_ms, sample_rate), n_fft)
  power = _power(_frames(signal, n_fft, hop) * window)
  filters = mel_filterbank(sample_rate, n_fft, num_mels, fmin, fmax)
  mel = jnp.matmul(power, filters, precision=lax.Precision.HIGHEST)
  num_frames = num_mel_frames(num_samples, sample_rate, hop_ms)
  inside = jnp.arange(mel.shape[1]) < num_frames[:, None]
  return _decibels(mel, inside[..., None], top_db), num_frames


def mean_normalize(
  features: Float[Array, "b t f"], num_frames: Int[Array, "b"]
) -> Float[Array, "b t f"]:
  """Subtracts each band's mean over the valid frames from all frames of a clip.

  This is cepstral mean normalisation in the log-mel domain: it removes the
  constant contribution of a microphone, a room or a noise floor to a band.
  """
  valid = jnp.arange(features.shape[1]) < num_frames[:, None]
  count = jnp.maximum(num_frames, 1)[:, None, None]
  total = jnp.where(valid[..., None], features, 0.0).sum(1, keepdims=True)
  return features - total / count


def spectrogram(
  waveform: Num[Host, "b s"],
  num_samples: Int[Host, "b"],
  *,
  kind: str,
  frames: int,
  sample_rate: int = 16000,
  num_mels: int = 64,
) -> Float[Array, "b {frames} bands"]:
  """Turns sound into an image of one channel, from -1 (silence) to 1 (loudest).

  Args:
    waveform: as in `log_mel`.
    num_samples: [b] valid samples of each clip.
    kind: 'log_mel', `num_mels` bands every 10 ms; or 'log_linear', the front
      end of L3-Net (Arandjelovic and Zisserman, ICCV 2017): a
      window of 10 ms every 5 ms, 257 bands at 48 kHz.
    frames: frames to keep of the 1 + s // hop.
    sample_rate: hertz.
    num_mels: bands of 'log_mel'.

  Raises:
    ValueError: unknown `kind`, or too few frames.
  """
  if kind == "log_mel":
    level, _ = log_mel(
      waveform, num_samples, sample_rate=sample_rate, num_mels=num_mels
    )
  elif kind == "log_linear":
    level = log_linear(waveform, num_samples, sample_rate=sample_rate)
  else:
    raise ValueError(f"unknown spectrogram {kind!r}: use one of {SPECTROGRAMS}")
  if level.shape[1] < frames:
    raise ValueError(f"the sound has {level.shape[1]} frames, not {frames}")
  return level[:, :frames] / 40.0 + 1.0


def spectrogram_of(
  data: ml_collections.ConfigDict,
  waveform: Num[Host, "b s"],
  num_samples: Int[Host, "b"],
) -> Float[Array, "b t bands"]:
  """Computes the `spectrogram` of `config.data`; each device, its own rows."""
  transform = functools.partial(
    spectrogram,
    kind=data.spectrogram,
    frames=data.frames,
    sample_rate=data.sample_rate,
    num_mels=data.num_mels,
  )
  return mesh.map_rows(transform)(waveform, num_samples)


def log_linear(
  waveform: Num[Host, "b s"],
  num_samples: Int[Host, "b"],
  *,
  sample_rate: int = 48000,
  window_ms: float = 10.0,
  hop_ms: float = 5.0,
  top_db: float = 80.0,
) -> Float[Array, "b t bands"]:
  """Log power spectrogram, in dB below each clip's own maximum.

  The transform is as long as the next power of two, so that 480 samples give
  257 bands as published. Frames past a clip's end are silence.
  """
  length = waveform.shape[1]
  window = _samples(window_ms, sample_rate)
  n_fft = 1 << (window - 1).bit_length()
  num_samples = jnp.clip(jnp.asarray(num_samples), 0, length)
  valid = jnp.arange(length) < num_samples[:, None]
  signal = _condition(_to_float(waveform), valid, 0.0)
  hop = _samples(hop_ms, sample_rate)
  power = _power(_frames(signal, n_fft, hop) * _window(window, n_fft))
  num_frames = num_mel_frames(num_samples, sample_rate, hop_ms)
  inside = jnp.arange(power.shape[1]) < num_frames[:, None]
  return _decibels(power, inside[..., None], top_db)


def _samples(milliseconds: float, sample_rate: int) -> int:
  return round(sample_rate * milliseconds / 1000)


def _to_float(waveform: Num[Host, "b s"]) -> Float[Array, "b s"]:
  waveform = jnp.asarray(waveform)
  if waveform.dtype == jnp.int16:
    return waveform.astype(jnp.float32) / 32768.0
  if jnp.issubdtype(waveform.dtype, jnp.floating):
    return waveform.astype(jnp.float32)
  raise ValueError(f"waveform must be int16 or float, not {waveform.dtype}")


def _condition(signal, valid, preemphasis: float):
  """Removes the mean, applies pre-emphasis and zeros the padding."""
  signal = jnp.where(valid, signal, 0.0)
  count = jnp.maximum(valid.sum(1, keepdims=True), 1)
  signal = signal - signal.sum(1, keepdims=True) / count
  before = jnp.pad(signal[:, :-1], ((0, 0), (1, 0)))
  # Zeros come last: the mean was subtracted from the padding too, and
  # pre-emphasis carries the last sample one step past the end.
  return jnp.where(valid, signal - preemphasis * before, 0.0)


def _window(length: int, n_fft: int) -> Float[np.ndarray, "n"]:
  """Symmetric Hamming window in the middle of `n_fft` samples."""
  if length > n_fft:
    raise ValueError(f"window of {length} samples exceeds n_fft of {n_fft}")
  left = (n_fft - length) // 2
  window = np.pad(np.hamming(length), (left, n_fft - length - left))
  return window.astype(np.float32)


def _frames(signal: Float[Array, "b s"], n_fft: int, hop: int):
  """Frames [b, 1 + s // hop, n_fft] centred on the multiples of the hop."""
  half = n_fft // 2
  padded = jnp.pad(signal, ((0, 0), (half, n_fft - half)))
  starts = jnp.arange(1 + signal.shape[1] // hop) * hop

  # A gather of whole slices: a tenth of the time of joining strided blocks.
  def cut(clip, start):
    return lax.dynamic_slice(clip, (start,), (n_fft,))

  return jax.vmap(jax.vmap(cut, (None, 0)), (0, None))(padded, starts)


def _power(frames: Float[Array, "b t n"]) -> Float[Array, "b t bins"]:
  """Computes the power spectrum by the transform that suits the platform.

  A matrix product is fastest on an accelerator; on a CPU the FFT takes half the
  time. Before an FFT, XLA gathers a batch that is split over devices on each of
  them. Wrap the caller in `mesh.map_rows` to prevent this.
  """
  return lax.platform_dependent(
    frames, cpu=_power_by_fft, default=_power_by_matmul
  )


def _power_by_fft(frames):
  spectrum = jnp.fft.rfft(frames)
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def _power_by_matmul(frames):
  n = frames.shape[-1]
  # Reduce modulo n first: the sine of a large angle loses its digits.
  angle = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(n // 2 + 1)) % n)
  real, imag = (
    jnp.matmul(frames, part.astype(np.float32), precision="highest")
    for part in (np.cos(angle), np.sin(angle))
  )
  return jnp.square(real) + jnp.square(imag)


def _decibels(mel, inside, top_db: float):
  """Converts power to dB below the maximum inside; the floor outside."""
  level = 10.0 * jnp.log10(jnp.maximum(mel, _MIN_POWER))
  peak = jnp.where(inside, level, -jnp.inf).max((1, 2), keepdims=True)
  return jnp.where(inside, jnp.clip(level - peak, -top_db, 0.0), -top_db)
