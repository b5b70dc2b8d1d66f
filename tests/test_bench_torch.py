"""The PyTorch side of the benchmark against the JAX that it is the equal of."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawing_world import plain_inputs, short_tower
from tests.test_options import load
from vgsgan import data, tasks
from vgsgan.common.errors import UserError
from vgsgan.parallel import mesh
from vgsgan.tasks import grounding, towers
from vgsgan.tools.bench import step
from vgsgan.tools.bench.case import Case
from vgsgan.train.task import Task


def config_of(**fields):
  config = load("stamps").get_config("smoke")
  config.data.update({"image_size": 32, "num_mels": 16})
  config.train.batch = 6
  config.speech.width = 0.0625
  config.optim.warmup_steps = 2
  for name, values in fields.items():
    config[name].update(values)
  return config


def drawn_state(self, init):
  """A state with no parameter at a trivial start, drawn without compiling."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key if hasattr(path[-1], "key") else ""
    found = np.zeros(leaf.shape, leaf.dtype)
    if path[0].name == "params":
      noise = rng.standard_normal(leaf.shape).astype(np.float32)
      fan_in = np.prod(leaf.shape[:-1]) if name == "kernel" else 100
      found = (name == "scale") + noise * np.float32(np.sqrt(2 / fan_in))
      if name == "log_scale":
        found = np.log(10.0)
    elif name == "var":
      found += 1
    return jnp.asarray(found, leaf.dtype)

  shapes = jax.eval_shape(lambda: init(jax.random.key(0)))
  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def pair_of(monkeypatch):
  """The two sides of a config, on one device and made-up records."""
  torch_step = pytest.importorskip(
    "vgsgan.tools.bench.torch_step", exc_type=ImportError
  )
  rng = np.random.default_rng(0)
  samples = 32 * 160
  rows = [
    {
      "waveform": rng.integers(-9999, 9999, samples, np.int16),
      "num_samples": np.int32(rng.integers(samples // 3, samples)),
      "image": rng.integers(0, 256, (32, 32, 3), np.uint8),
      # Two pictures of one concept: no impostors of each other.
      "image_concept": np.int32(max(i, 1)),
      "speech_concept": np.int32(i),
    }
    for i in range(6)
  ]

  def none(*_):
    pytest.fail("not to be called")

  task = Task(lambda record, rng: record, *[none] * 4, selection="")
  make_mesh = mesh.make_mesh
  # Both sides begin after the front end; quicker to compile.
  monkeypatch.setattr(grounding.Grounding, "inputs", plain_inputs)
  monkeypatch.setitem(towers.SPEECH_TOWERS, "small", short_tower)
  monkeypatch.setattr(Case, "state_of", drawn_state)
  monkeypatch.setattr(mesh, "make_mesh", lambda model=1: make_mesh(1, model))
  monkeypatch.setattr(data, "load", lambda config: {"train": rows})
  monkeypatch.setattr(tasks, "build", lambda *args: task)
  return lambda config: torch_step.Pair(Case(config))


VGG = {"tower": "vgg", "norm": "none", "width": 0.0625, "final_relu": True}
RESNET = {"widths": (8, 16), "blocks": (2, 1), "strides": (1, 2)}
DAVENET = {"tower": "davenet", "norm": "none", "max_kernel": 0}


@pytest.mark.parametrize(
  "fields",
  [
    {"image": RESNET, "loss": {"name": "infonce"}},
    {
      "image": VGG,
      "speech": DAVENET,
      "score": {"kind": "misa", "normalize": True},
      "loss": {"negatives": "sampled,hardest", "margin": 1.0},
    },
    {
      "image": RESNET | {"norm": "group", "final_relu": True},
      "score": {"kind": "sima"},
      "loss": {"negatives": "all,semi_hard"},
    },
  ],
)
def test_maps_loss_and_gradients_are_equal(pair_of, fields):
  found = pair_of(config_of(**fields)).differences()
  assert found.pop("valid_frames") == 0
  assert max(found.values()) < 2e-4, found


@pytest.mark.parametrize(("optim", "lr"), [("adam", 0.03), ("sgd", 1.0)])
def test_several_updates_are_equal(pair_of, optim, lr):
  """Clipping, rates by step, decay and the optimiser: the losses go one way."""
  use = {"name": optim, "lr": lr, "weight_decay": 0.01, "clip_norm": 0.3}
  image = RESNET | {"norm": "group"}
  pair = pair_of(config_of(image=image, loss={"name": "infonce"}, optim=use))
  update = jax.jit(pair.model.step)
  state, ours, theirs = pair.training.state, [], []
  for _ in range(5):
    state, metrics = update(state, pair.training.batch)
    ours.append(float(metrics["loss"]))
    theirs.append(pair.twin.step(pair.fed, pair.noise))
  assert abs(ours[0] - ours[-1]) > 0.05, "nothing was learned"
  np.testing.assert_allclose(theirs, ours, rtol=2e-3)


def test_other_tasks_have_no_equal(pair_of):
  config = load("scenes_gan").get_config("smoke")
  with pytest.raises(UserError, match="not those of the task 'gan'"):
    pair_of(config)


@pytest.mark.parametrize(
  ("name", "value"), [("dtype", "bfloat16"), ("accumulate", 2), ("remat", True)]
)
def test_what_pytorch_does_not_do_is_refused(pair_of, name, value):
  config = config_of(train={name: value})
  with pytest.raises(UserError, match=rf"config.train.{name}=.* is float32"):
    pair_of(config)


def test_without_torch_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  monkeypatch.delattr("vgsgan.tools.bench.torch_step", raising=False)
  monkeypatch.delitem(
    sys.modules, "vgsgan.tools.bench.torch_step", raising=False
  )
  with pytest.raises(UserError, match=r"pip install -e \"\.\[bench\]\""):
    step.with_torch(config_of(), 1)
