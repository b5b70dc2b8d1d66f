"""The front end against librosa on speech-like signals, and its padding."""

import functools

import jax
import jax.numpy as jnp
import librosa
import ml_collections
import numpy as np
import pytest
import scipy.signal
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgsgan.data import features
from vgsgan.parallel import mesh

RATE = 16000


def _speech(seconds, seed=0):
  """Vowels of moving pitch, a fricative, a pause and a constant offset."""
  rng = np.random.default_rng(seed)
  n = int(RATE * seconds)
  time = np.arange(n) / RATE
  pitch = 120 + 40 * np.sin(2 * np.pi * (0.7 + seed) * time) + 20 * time
  pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0)
  voiced = pulses
  for hz, width in ((500 + 100 * seed, 80), (1500, 120), (2500, 160)):
    radius = np.exp(-np.pi * width / RATE)
    poles = [1, -2 * radius * np.cos(2 * np.pi * hz / RATE), radius**2]
    voiced = scipy.signal.lfilter([1 - radius], poles, voiced)
  signal = 0.3 * voiced / (np.abs(voiced).max() + 1e-9)
  signal[n // 3 : n // 2] = 0.05 * rng.standard_normal(n // 2 - n // 3)
  signal[n // 2 : n // 2 + n // 6] = 0.0
  return (signal + 0.01).astype(np.float32)


def _librosa(signal):
  """DAVEnet's front end as a researcher would write it, in float64."""
  signal = signal.astype(np.float64) - signal.astype(np.float64).mean()
  signal = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
  stft = librosa.stft(
    signal,
    n_fft=400,
    hop_length=160,
    win_length=400,
    window=np.hamming(400),
    center=True,
    pad_mode="constant",
  )
  mel = librosa.feature.melspectrogram(
    S=np.abs(stft) ** 2, sr=RATE, n_fft=400, n_mels=40, fmin=20
  )
  return librosa.power_to_db(mel, ref=np.max).T


def _batch(clips, length):
  padded = np.zeros((len(clips), length), clips[0].dtype)
  for row, clip in zip(padded, clips, strict=True):
    row[: len(clip)] = clip
  return jnp.asarray(padded), jnp.asarray([len(clip) for clip in clips])


log_mel = jax.jit(features.log_mel)


@pytest.fixture(scope="module")
def clips():
  lengths = (0.2, 0.5, 1.0, 1.2345, 2.56)
  return [_speech(seconds, seed) for seed, seconds in enumerate(lengths)]


def test_agrees_with_librosa_at_every_length(clips):
  mel, num_frames = log_mel(*_batch(clips, 40960))
  assert mel.shape == (5, 257, 40) and mel.dtype == jnp.float32
  for got, frames, clip in zip(mel, num_frames, clips, strict=True):
    want = _librosa(clip)
    assert int(frames) == len(want) == 1 + len(clip) // 160
    np.testing.assert_allclose(got[:frames], want, atol=2e-3)
    assert np.all(np.asarray(got[frames:]) == -80.0)


def test_signals_reach_the_floor_and_the_top(clips):
  mel, num_frames = log_mel(*_batch(clips[-1:], 40960))
  valid = np.asarray(mel[0, : num_frames[0]])
  assert -1e-4 < valid.max() <= 0.0 and valid.min() == -80.0
  assert 0.3 < np.mean(valid > -80.0) < 0.99


def test_filters_are_those_of_librosa():
  for rate, n_fft, mels, fmin, fmax in (
    (16000, 400, 40, 20.0, None),
    (22050, 1024, 80, 0.0, 8000.0),
  ):
    want = librosa.filters.mel(
      sr=rate, n_fft=n_fft, n_mels=mels, fmin=fmin, fmax=fmax
    ).T
    got = features.mel_filterbank(rate, n_fft, mels, fmin, fmax)
    np.testing.assert_allclose(got, want, atol=1e-7)


def test_both_transforms_agree(clips):
  frames = features._frames(jnp.asarray(clips[1])[None], 400, 160)
  by_fft = features._power_by_fft(frames)
  by_matmul = jax.jit(features._power_by_matmul)(frames)
  np.testing.assert_allclose(by_matmul, by_fft, atol=1e-6 * by_fft.max())


def test_log_mel_is_equal_on_1_and_8_devices(clips):
  waveform, num_samples = _batch([clips[0], clips[1]] * 4, 8000)
  want = log_mel(waveform, num_samples)
  mesh = Mesh(np.array(jax.devices()), ("data",))
  across = NamedSharding(mesh, PartitionSpec("data"))
  got = log_mel(*jax.device_put((waveform, num_samples), across))
  assert len(got[0].sharding.device_set) == 8
  np.testing.assert_allclose(got[0], want[0], atol=1e-3)
  assert np.array_equal(got[1], want[1])


def test_contents_of_the_padding_change_nothing(clips):
  near, num_samples = _batch(clips, 40960)
  far = np.array(jnp.pad(near, ((0, 0), (0, 8000))))
  for row, count in zip(far, num_samples, strict=True):
    row[int(count) :] = np.nan
  want, _ = log_mel(near, num_samples)
  got, num_frames = log_mel(jnp.asarray(far), num_samples)
  np.testing.assert_allclose(got[:, :257], want, atol=1e-4)
  assert np.all(np.asarray(got[:, 257:]) == -80.0)
  assert np.array_equal(num_frames, 1 + np.asarray(num_samples) // 160)


def test_sixteen_bit_samples_are_fractions_of_32768(clips):
  whole = [np.round(clip * 32768).astype(np.int16) for clip in clips]
  waveform, num_samples = _batch(whole, 40960)
  got, _ = log_mel(waveform, num_samples)
  want, _ = log_mel(waveform.astype(jnp.float32) / 32768, num_samples)
  np.testing.assert_allclose(got, want, atol=1e-5)
  with pytest.raises(ValueError, match="int16 or float"):
    features.log_mel(waveform.astype(jnp.int32), num_samples)


def test_empty_silent_and_one_sample_clips_are_finite():
  waveform = jnp.zeros((4, 1600)).at[1, 0].set(0.5).at[3].set(0.25)
  mel, num_frames = log_mel(waveform, jnp.asarray([1600, 1, 0, 1600]))
  assert np.all(np.isfinite(mel))
  assert num_frames.tolist() == [11, 1, 1, 11]
  # As librosa has it: a clip without energy is its own maximum.
  np.testing.assert_allclose(mel[0], 0.0, atol=1e-4)


def test_excess_sample_counts_are_clipped(clips):
  waveform = jnp.asarray(clips[0])[None]
  want, _ = log_mel(waveform, jnp.asarray([waveform.shape[1]]))
  got, num_frames = log_mel(waveform, jnp.asarray([10**6]))
  assert int(num_frames[0]) == got.shape[1]
  assert np.array_equal(got, want)


def test_window_shorter_than_the_transform_sits_in_its_middle(clips):
  clip = clips[2]
  mel, _ = features.log_mel(
    jnp.asarray(clip)[None],
    jnp.asarray([len(clip)]),
    window_ms=20.0,
    n_fft=512,
    preemphasis=0.0,
  )
  stft = librosa.stft(
    clip.astype(np.float64) - clip.astype(np.float64).mean(),
    n_fft=512,
    hop_length=160,
    win_length=320,
    window=np.hamming(320),
    pad_mode="constant",
  )
  filters = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=40, fmin=20)
  want = librosa.power_to_db(filters @ np.abs(stft) ** 2, ref=np.max).T
  np.testing.assert_allclose(mel[0], want, atol=2e-3)


def test_impossible_settings_are_refused():
  clip, count = jnp.zeros((1, 800)), jnp.asarray([800])
  with pytest.raises(ValueError, match="exceeds n_fft"):
    features.log_mel(clip, count, window_ms=50.0, n_fft=400)
  with pytest.raises(ValueError, match="fmin < fmax"):
    features.log_mel(clip, count, fmax=9000.0)


def test_pixels_get_the_statistics_of_imagenet():
  image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
  got = features.normalize_image(image)
  want = (image / 255.0 - features.IMAGENET_MEAN) / features.IMAGENET_STD
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_pixels_inverts_normalize_image():
  levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
  seen = features.normalize_image(levels)
  for off in (-0.4, 0.0, 0.4):  # Of a level: the nearest is stored.
    moved = seen + off / 255.0 / np.array(features.IMAGENET_STD)
    got = features.pixels(jnp.asarray(moved, jnp.float32))
    np.testing.assert_array_equal(got, levels)
  np.testing.assert_array_equal(features.pixels(seen + 99.0), levels * 0 + 255)


def test_bands_are_taken_from_their_means_over_what_is_valid():
  rng = np.random.default_rng(0)
  levels = rng.normal(-30, 10, (3, 9, 4)).astype(np.float32)
  lengths = np.array([9, 4, 0], np.int32)
  found = np.asarray(
    features.mean_normalize(*map(jnp.asarray, (levels, lengths)))
  )
  for clip, many, out in zip(levels, lengths, found, strict=True):
    for band in range(4):
      mean = np.mean(clip[:many, band]) if many else 0.0
      np.testing.assert_allclose(out[:, band], clip[:, band] - mean, atol=1e-4)


def test_quantize_rounds_to_8_bits_and_passes_gradients():
  pixels = np.linspace(-0.2, 1.2, 601, dtype=np.float32)
  got, slope = jax.vjp(features.quantize, jnp.asarray(pixels))
  # What is stored: 8 bits.
  stored = np.rint(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)
  np.testing.assert_allclose(got, stored / 255.0, atol=1e-6)
  np.testing.assert_array_equal(slope(jnp.asarray(pixels))[0], pixels)


def test_the_linear_spectrogram_agrees_with_librosa():
  rng = np.random.default_rng(8)
  wave = (3000 * rng.standard_normal((2, 9600))).astype(np.int16)
  lengths = np.array([9600, 4800], np.int32)
  got = np.asarray(features.log_linear(wave, lengths, sample_rate=48000))
  assert got.shape == (2, 41, 257)
  for row, length in enumerate(lengths):
    sound = wave[row, :length] / 32768.0
    sound = sound - sound.mean()
    spectrum = librosa.stft(
      sound,
      n_fft=512,
      hop_length=240,
      win_length=480,
      window=np.hamming(480),
      pad_mode="constant",
    )
    want = librosa.power_to_db(np.abs(spectrum.T) ** 2, ref=np.max, top_db=80)
    frames = 1 + length // 240
    np.testing.assert_allclose(got[row, :frames], want, atol=2e-3)
    assert (got[row, frames:] == -80).all()


@pytest.mark.parametrize("kind", features.SPECTROGRAMS)
def test_spectrograms_run_from_silence_to_the_loudest(kind):
  rng = np.random.default_rng(9)
  wave = rng.standard_normal((1, 8000)).astype(np.float32) / 9
  lengths = np.array([4000], np.int32)
  make = functools.partial(
    features.spectrogram, wave, lengths, kind=kind, num_mels=32
  )
  found = np.asarray(make(frames=48))
  bands = 32 if kind == "log_mel" else 129
  assert found.shape == (1, 48, bands)
  assert found.max() == pytest.approx(1.0)
  assert (found[0, -1] == (-1.0 if kind == "log_mel" else found[0, -1])).all()
  with pytest.raises(ValueError, match="frames, not 500"):
    make(frames=500)


def test_an_unknown_spectrogram_is_refused():
  with pytest.raises(ValueError, match="unknown spectrogram 'mfcc'"):
    features.spectrogram(
      np.zeros((1, 800), np.int16), np.array([800]), kind="mfcc", frames=1
    )


@pytest.mark.parametrize("kind", features.SPECTROGRAMS)
def test_in_a_step_each_device_transforms_its_own_rows(kind):
  data = ml_collections.ConfigDict(
    {"spectrogram": kind, "frames": 9, "sample_rate": 16000, "num_mels": 8}
  )
  devices = mesh.make_mesh(8)
  rng = np.random.default_rng(0)
  sounds = rng.integers(-9999, 9999, (16, 1600)).astype(np.int16)
  batch = {"sounds": sounds, "lengths": np.arange(1585, 1601)}
  shared = mesh.shard(batch, devices).values()

  def made(*rows):
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
      return features.spectrogram_of(data, *rows)

  compiled = jax.jit(made).lower(*shared).compile()
  assert "all-gather" not in compiled.as_text()
  plain = features.spectrogram_of(data, *batch.values())
  np.testing.assert_allclose(compiled(*shared), plain, rtol=1e-4, atol=1e-4)
