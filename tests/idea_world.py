"""A small world of colours, and tones that go with them.

Fixtures are taken over by name, as those of `drawing_world`.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_options import load
from vgsgan import data
from vgsgan.data import features
from vgsgan.data.builders.scenes import encode
from vgsgan.models import decoders, mixture
from vgsgan.models.layers import Norm
from vgsgan.parallel import mesh
from vgsgan.tasks import judges

COLOURS = ((230, 40, 40), (40, 200, 60), (60, 80, 230))
TONES = (300.0, 900.0, 2400.0)  # Hertz.

# As they are before they are patched.
MAKE_MESH = mesh.make_mesh
TOWER, GLOBAL_MAX = decoders.tower, mixture.global_max
SPECTROGRAM = features.spectrogram


class ShortTower(nn.Module):
  """Squares of 4 x 4 numbers, one layer: quicker to compile than L3-Net's."""

  units: int

  @nn.compact
  def __call__(self, x, train):
    b, h, w, c = x.shape
    x = x.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
    x = nn.Dense(self.units)(x.reshape(b, h // 4, w // 4, -1))
    return nn.relu(Norm(name="norm")(x, train))


def short_spectrogram(waveform, num_samples, *, frames, num_mels, **_):
  """As for how it follows the clip: levels of differences of the samples."""
  step = waveform.shape[1] // frames
  sound = waveform[:, : step * frames].reshape(-1, frames, step) / 16384.0
  bands = [
    jnp.std(sound[..., k:] - sound[..., :-k], axis=-1)
    for k in range(1, num_mels + 1)
  ]
  return jnp.tanh(jnp.stack(bands, axis=-1) - 0.5)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
  """Networks and a spectrogram that take little time to compile."""
  with pytest.MonkeyPatch.context() as patched:
    for module in (decoders, mixture):
      patched.setattr(
        module, "tower", lambda widths, pools, dtype: ShortTower(widths[-1])
      )
    patched.setattr(features, "spectrogram", short_spectrogram)
    # The gradient of a maximum goes where x equals it, which code that was not
    # optimised may compute anew, and round in another way.
    patched.setattr(mixture, "global_max", lambda x: jnp.mean(x, (1, 2)))
    yield


def small(kind, **fields):
  """A config of few numbers: 8 pixels, a fifth of a second, 8 bands."""
  config = load("generation").get_config(f"idea-{kind},smoke")
  config.data.update({"image_size": 8, "sample_rate": 8000, "seconds": 0.2})
  config.data.update({"frames": 16, "num_mels": 8, "num_threads": 1})
  config.idea.update({"picture_decoder": (4,), "sound_decoder": (4,)})
  config.idea.update({"widths": (4,), "pools": 1, "latent": 5, "features": 6})
  config.idea.update(fields)
  config.train.update({"batch": 8, "steps": 4, "log_every": 1})
  config.train.update({"eval_every": 2, "save_every": 2})
  config.eval.update({"batch": 4, "fitted": 12})
  return config


def record(number, rng):
  """A noisy colour and the tone that goes with it, of 0.3 s."""
  label = number % 3
  picture = np.array(COLOURS[label]) + rng.normal(0, 8, (8, 8, 3))
  time = np.arange(2400) / 8000
  sound = 0.3 * np.sin(2 * np.pi * (TONES[label] * time + rng.random()))
  sound += rng.normal(0, 0.01, sound.shape)
  return {
    "id": f"{number}".encode(),
    "clip_id": number,
    "image": encode(np.clip(picture, 0, 255).astype(np.uint8)),
    "waveform": (32767 * sound).astype(np.int16),
    "labels": np.array([label], np.int32),
  }


def records(many, seed=0):
  rng = np.random.default_rng(seed)
  return [record(number, rng) for number in range(many)]


def splits():
  return {
    "train": records(24, 0),
    "validation": records(9, 1),
    "test": records(10, 2),
  }


@pytest.fixture
def in_memory(monkeypatch):
  """Runs of these records, on two devices."""
  monkeypatch.setattr(
    mesh, "make_mesh", lambda n=2, model=1: MAKE_MESH(n, model)
  )
  monkeypatch.setattr(data, "load", lambda config: splits())


def ideal_judges():
  """Of colours and tones: the class is the nearest, pairs match if equal."""

  def image(pixels):
    features = pixels.mean((1, 2))
    away = np.abs(features[:, None] - np.array(COLOURS) / 255.0).sum(2)
    return features, -away

  def audio(spectrograms):
    features = spectrograms.mean(1)
    return features, features[:, [1, 4, 7]]

  def match(pixels, spectrograms):
    one, other = image(pixels)[1], audio(spectrograms)[1]
    return np.where(one.argmax(1) == other.argmax(1), 2.0, -3.0)

  return judges.Judges(image=image, audio=audio, match=match)
