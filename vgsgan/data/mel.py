"""The mel scale and its filters, on the host."""

import functools

import numpy as np
from jaxtyping import Float


@functools.lru_cache(maxsize=16)
def mel_filterbank(
  sample_rate: int = 16000,
  n_fft: int = 400,
  num_mels: int = 40,
  fmin: float = 20.0,
  fmax: float | None = None,
) -> Float[np.ndarray, "bins mels"]:
  """Slaney's triangular mel filters, each of unit area over hertz.

  The mel scale is that of Slaney's Auditory Toolbox (Interval Research
  TR 1998-010): linear below 1 kHz, logarithmic above. `librosa.filters.mel`
  with its defaults is the transpose of this.

  Args:
    sample_rate: hertz.
    n_fft: length of the transform; bins = n_fft // 2 + 1.
    num_mels: number of bands.
    fmin: lower edge of the first band in hertz.
    fmax: upper edge of the last band in hertz; None is sample_rate / 2.

  Returns:
    float32 weights [bins, mels], read-only (the result is cached).

  Raises:
    ValueError: unless 0 <= fmin < fmax <= sample_rate / 2.
  """
  nyquist = sample_rate / 2
  fmax = nyquist if fmax is None else fmax
  if not 0 <= fmin < fmax <= nyquist:
    raise ValueError(
      f"mel bands need 0 <= fmin < fmax <= {nyquist} Hz, not {fmin}, {fmax}"
    )
  mels = np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), num_mels + 2)
  edges = _mel_to_hz(mels)
  freqs = np.linspace(0, nyquist, n_fft // 2 + 1)[:, None]
  low, centre, high = edges[:-2], edges[1:-1], edges[2:]
  rising = (freqs - low) / (centre - low)
  falling = (high - freqs) / (high - centre)
  triangles = np.maximum(0.0, np.minimum(rising, falling))
  weights = (triangles * 2.0 / (high - low)).astype(np.float32)
  weights.setflags(write=False)
  return weights


def _hz_to_mel(hz):
  hz = np.asarray(hz, np.float64)
  above = 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4)
  return np.where(hz < 1000.0, hz * 3.0 / 200.0, above)


def _mel_to_hz(mel):
  mel = np.asarray(mel, np.float64)
  above = 1000.0 * np.exp((np.maximum(mel, 15.0) - 15.0) * np.log(6.4) / 27.0)
  return np.where(mel < 15.0, mel * 200.0 / 3.0, above)
