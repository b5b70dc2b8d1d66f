"""A tiny world for tests of drawing: generator, pairs, towers, state.

Fixtures are taken over by name: `generator = drawing_world.generator`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.filling import filled, normal, variables_of
from tests.placing import placed
from tests.test_options import load
from vgsgan.data import features
from vgsgan.data.builders.scenes import encode
from vgsgan.data.examples import DrawnPairExample
from vgsgan.models import audio, pretrained, weights
from vgsgan.models.generator import Generator
from vgsgan.negatives import impostors
from vgsgan.parallel import mesh
from vgsgan.tasks import drawing, grounding, towers
from vgsgan.train.state import TrainState

KEY = jax.random.key(3)
B = 8
RATE = 0.1
MAKE_MESH = mesh.make_mesh
GAN = {
  "channels": (6, 16, 6, 4),
  "chunk": 4,
  "attention": 0,
  "labels": False,
  "spectral": False,
}


def one_line(refused, *words):
  assert "\n" not in str(refused.value)
  for word in words:
    assert word in str(refused.value)


def short_tower(embed, width, **fields):
  """A speech tower of two layers: quicker to compile than `audio.small`."""
  del width
  return audio.SpeechTower((6, embed), (1, 3), (False, True), **fields)


def plain_inputs(self, batch, key):
  """Samples as they are in the place of mels, and nothing augmented."""
  del self, key
  frames = batch["waveform"].reshape(-1, 32, 160)[..., :16] / 9000.0
  pictures = features.normalize_image(batch["image"])
  return pictures, frames, -(-batch["num_samples"] // 160)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
  with pytest.MonkeyPatch.context() as patched:
    patched.setitem(towers.SPEECH_TOWERS, "small", short_tower)
    patched.setattr(grounding.Grounding, "inputs", plain_inputs)
    yield


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
  """The file of a random generator of 32 pixels."""
  module = Generator(GAN["channels"], GAN["chunk"], spectral=False)
  path = tmp_path_factory.mktemp("networks") / "generator.npz"
  tree = variables_of(module, jnp.zeros((1, module.latent_size)), scale=0.3)
  weights.save_params(path, tree, {"config": {"gan": GAN}})
  return str(path)


@pytest.fixture(scope="module")
def records(generator):
  return pairs(generator)


def pairs(generator):
  """Pictures as the generator draws them, and noise for captions."""
  network = pretrained.load_generator(generator)
  rng = np.random.default_rng(0)
  z = rng.normal(size=(24, network.module.latent_size)).astype(np.float32)
  drawn = jax.jit(
    lambda z: network.module.apply(network.variables, z, train=False)
  )(z)
  images = np.rint(127.5 * (np.asarray(drawn) + 1)).astype(np.uint8)
  return [
    {
      "id": f"pair{i}".encode(),
      "image": encode(images[i]),
      "z": z[i],
      "waveform": rng.integers(-9000, 9000, 5120 - 100 * i).astype(np.int16),
      "concept": i,
      "image_id": i,
      "speech_id": i,
      "held_out": bool(i % 2),
    }
    for i in range(24)
  ]


def small(generator, arg="smoke", **fields):
  config = load("solids").get_config(arg)
  config.data.update({"generator": generator, "seconds": 0.32, "num_mels": 16})
  config.speech.update({"embed": 12, "width": 0.03125, "max_kernel": 3})
  # With fewer channels all are dead in some places: embeddings next to zero,
  # whose direction is that of rounding, and their large gradient too.
  config.image.update({"embed": 12, "widths": (24,), "blocks": (1,)})
  config.image.strides = (2,)
  config.loss.name = "edited"
  config.edits.update(
    {
      "counts": (5, 9),
      "changes": (0.0, 0.0),
      "shares": (0.8, 0.6),
      "strengths": (0.5, 1.0),
      "directions": 4,
      "concepts": 4,
    }
  )
  config.edits.update(fields)
  config.eval.update({"seconds": 0.32, "batch": 8})
  config.optim.warmup_steps = 0
  return config


def model_of(generator, devices=1, loss="edited", **fields):
  config = small(generator, **{"curriculum": "cluster@0"} | fields)
  config.loss.name = loss
  model = drawing.Drawing(config, MAKE_MESH(devices))
  # No scale of its own, as Adam has: what is equal stays so to rounding.
  model.tx = optax.sgd(RATE)
  return model


def state_of(model):
  """A random state, without compiling the initialisers."""
  made = filled(jax.eval_shape(model.init, KEY), scale=0.3)
  drawn = jax.tree.map(jnp.asarray, model.drawn_with)
  where = made.params if "generator" in made.params else made.batch_stats
  name = "generator" if "generator" in made.params else "generator_params"
  where[name] = drawn["params"]
  made.batch_stats["generator"] = drawn["batch_stats"]
  if "log_scale" in made.params:
    made.params["log_scale"] = jnp.log(jnp.float32(10.0))
  if "concepts" in made.batch_stats:
    width = model.config.image.embed
    centroids = np.kron(np.eye(4), np.full(width // 4, 4 / width))
    made.batch_stats["concepts"] = impostors.Concepts(
      jnp.zeros(width),
      jnp.ones(width),
      jnp.asarray(centroids, jnp.float32),
      {n: normal(4, c) for n, (_, _, c) in model.layers.items()},
    )
  state = TrainState.create(made.params, made.batch_stats, model.tx)
  return jax.device_get(state)


@pytest.fixture(scope="module")
def batch(records):
  transform = DrawnPairExample(5120, False)
  rows = [transform(record, np.random.default_rng(0)) for record in records[:B]]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def on(devices, state, batch):
  """State and batch where a run on this mesh has them."""
  return (
    placed(state, devices),
    mesh.shard(batch, devices),
  )
