"""A tiny world of places without speech, for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.filling import variables_of
from tests.test_options import load
from vgsgan.data.builders.scenes import encode
from vgsgan.models import weights
from vgsgan.models.generator import Generator
from vgsgan.worlds import places
from vgsgan.worlds.place_words import NUM_LABELS

COUNTS = places.counts(4, 4, 2)
GAN = {
  "channels": (6, 6, 4, 4),
  "chunk": 4,
  "attention": 0,
  "labels": True,
  "spectral": False,
}


def save_generator(path):
  """Writes a generator of random weights that is given the words."""
  module = Generator(GAN["channels"], GAN["chunk"], 0, NUM_LABELS, False)
  inputs = jnp.zeros((1, module.latent_size)), jnp.zeros((1, NUM_LABELS))
  about = {"gan": GAN, "data": small().data.to_dict()}
  weights.save_params(path, variables_of(module, *inputs), {"config": about})


def records(count, seed=0):
  """Rendered pairs, with noise in the place of captions."""
  rng = np.random.default_rng(seed)
  keys = jax.random.split(jax.random.key(seed), count)
  scenes = jax.vmap(lambda key: places.sample(key, COUNTS))(keys)
  images = jax.vmap(lambda scene: places.render(scene, 32).image)(scenes)
  pixels = np.rint(np.asarray(images) * 255).astype(np.uint8)
  return [
    {
      "id": f"pair{i}".encode(),
      "image": encode(pixels[i]),
      "waveform": rng.integers(-9000, 9000, 5120 - 50 * i).astype(np.int16),
      "wrong": rng.integers(-9000, 9000, 5120 - 60 * i).astype(np.int16),
      "attributes": np.asarray(scenes.words[i]),
      "pose": np.asarray(scenes.pose[i]),
      "said": rng.random(6) < 0.7,
      "concept": i,
      "image_id": i,
      "speech_id": i,
      "held_out": bool(i % 2),
      "changed": i // 2 % 6,
    }
    for i in range(count)
  ]


def small(arg="attribute,smoke"):
  config = load("places").get_config(arg)
  config.data.update({"seconds": 0.32, "num_mels": 16, "num_threads": 1})
  config.speech.update({"embed": 12, "width": 0.03125, "max_kernel": 3})
  # With fewer channels all are dead in some places.
  config.image.update({"embed": 12, "widths": (24,), "blocks": (1,)})
  config.image.strides = (2,)
  config.eval.update({"seconds": 0.32, "batch": 8})
  config.optim.warmup_steps = 0
  return config
