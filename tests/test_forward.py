"""Passes in parts, recomputed and in low precision, against the plain pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import drawing as drawing_config
from tests.drawing_world import MAKE_MESH
from vgsgan.common.errors import UserError
from vgsgan.losses import generative, scores
from vgsgan.models import (
  decoders,
  discriminator,
  generator,
  inverter,
  mixture,
  spectral,
)
from vgsgan.models.layers import Conv2D, Norm
from vgsgan.models.recogniser import Recogniser
from vgsgan.parallel import mesh
from vgsgan.tasks import grounding
from vgsgan.train import costs, forward

KEY = jax.random.key(0)
BF16 = jnp.dtype("bfloat16")


def how(**fields):
  plain = {"dtype": "float32", "accumulate": 1, "remat": False}
  return ml_collections.ConfigDict(plain | fields)


class Tower(nn.Module):
  norm: str

  @nn.compact
  def __call__(self, x, scale, train):
    for i in range(3):
      x = Conv2D(8, name=f"conv{i}")(x)
      x = nn.relu(Norm(self.norm, name=f"norm{i}")(x, train))
    return {"map": x * scale[:, None, None, None], "mean": x.mean((1, 2))}


def gradients(train, norm, rows=12, devices=None):
  """Of a loss over all pairs of rows, by parameters and by the rows."""
  module = Tower(norm)
  x = jax.random.normal(KEY, (rows, 6, 6, 3))
  scale = jnp.linspace(0.5, 1.5, rows)
  if devices is not None:
    x, scale = jax.device_put((x, scale), mesh.batch_sharding(devices))
  made = module.init(KEY, x[:1], scale[:1], train=False)
  stats = made.get("batch_stats", {})

  @jax.jit
  def found(params, x):
    def loss(params, x):
      network = forward.bind(module, params)
      out, new = forward.apply(train, network, stats, x, scale)
      every = out["mean"] @ out["map"].mean((1, 2)).T
      return jnp.mean(jax.nn.logsumexp(every, axis=1)), (out, new)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

  return jax.device_get(found(made["params"], x))


def close(one, other, rtol=1e-4, atol=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    one,
    other,
  )


@pytest.mark.parametrize("fields", [{"accumulate": 3}, {"remat": True}])
def test_the_loss_in_parts_equals_that_of_one_pass(fields):
  close(gradients(how(), "group"), gradients(how(**fields), "group"))


def test_remat_changes_no_gradient_under_batch_normalisation():
  close(gradients(how(), "batch"), gradients(how(remat=True), "batch"))


def test_gradients_in_parts_are_equal_on_1_and_8_devices():
  train = how(accumulate=2)
  eight = gradients(train, "batch", 32, MAKE_MESH(8))
  close(gradients(train, "batch", 32), eight)


def test_running_statistics_pass_from_part_to_part():
  """By hand: a mean that moves a tenth of the way to each part's mean."""
  x = jnp.arange(8.0)[:, None]
  norm = Norm("batch")
  made = norm.init(KEY, x, train=False)
  network = forward.bind(norm, made["params"])
  train = how(accumulate=2)
  out, new = forward.apply(train, network, made["batch_stats"], x)
  # Every other row: 0, 2, 4, 6 with mean 3, then 1, 3, 5, 7 with mean 4.
  assert new["batch"]["mean"] == pytest.approx(0.9 * 0.1 * 3 + 0.1 * 4)
  one = (jnp.arange(0.0, 8, 2) - 3) / jnp.sqrt(5.0 + 1e-5)
  np.testing.assert_allclose(out[0::2, 0], one, rtol=1e-5)
  np.testing.assert_allclose(out[1::2, 0], one, rtol=1e-5)


def test_rows_that_do_not_divide_pass_in_fewer_parts():
  calls = []

  def network(stats, x, nothing):
    calls.append(len(x))
    assert nothing is None
    return 2 * x, stats

  out, _ = forward.apply(how(accumulate=4), network, {}, jnp.arange(6.0), None)
  assert set(calls) == {3}
  np.testing.assert_array_equal(out, 2 * np.arange(6.0))


def held(**fields):
  """Bytes of temporaries of a training step."""
  config = drawing_config.get_config("regular,smoke")
  config.image.update({"tower": "resnet", "widths": (16, 16), "norm": "batch"})
  config.image.update({"blocks": (2, 2), "strides": (1, 1), "embed": 16})
  config.speech.embed, config.data.seconds = 16, 0.2
  config.data.image_size = 64
  config.train.update(fields)
  model = grounding.Grounding(config, mesh.make_mesh(1))
  shapes = {
    "image": ((32, 64, 64, 3), jnp.uint8),
    "waveform": ((32, 3200), jnp.int16),
    **dict.fromkeys(
      ("num_samples", "image_concept", "speech_concept"), ((32,), jnp.int32)
    ),
  }
  batch = {k: jax.ShapeDtypeStruct(*shape) for k, shape in shapes.items()}
  state = jax.eval_shape(model.init, KEY)
  compiled = jax.jit(model.step).lower(state, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_parts_take_less_memory():
  assert held(accumulate=4) < 0.6 * held()


def test_remat_keeps_less_for_the_backward_pass():
  """Results of three convolutions, not those of what is between them."""
  module, x = Tower("group"), jnp.ones((4, 6, 6, 3))
  params = module.init(KEY, x, jnp.ones(4), train=False)["params"]

  def kept(train):
    def made(x):
      network = forward.bind(module, params)
      return forward.apply(train, network, {}, x, jnp.ones(4))[0]

    pull = jax.vjp(made, x)[1]
    return sum(leaf.size for leaf in jax.tree.leaves(pull) if leaf.ndim == 4)

  of_convolutions = 3 * 4 * 6 * 6 * 8
  inputs_and_kernels = x.size + 3 * 3 * 8 * (3 + 8 + 8)
  assert kept(how(remat=True)) <= of_convolutions + inputs_and_kernels
  assert kept(how()) > 2 * of_convolutions


NETWORKS = {
  "generator": (
    generator.Generator((16, 8, 8), 4, attention=1),
    (jnp.ones((2, 12)), None),
  ),
  "discriminator": (
    discriminator.Discriminator((8, 16), attention=1),
    (jnp.ones((2, 16, 16, 3)), None),
  ),
  "autoencoder": (
    decoders.Autoencoder(4, (8, 8), 2, (8, 8), 16),
    (jnp.ones((2, 16, 16, 3)), None),
  ),
  "dcgan": (decoders.DcganDiscriminator((8, 8)), (jnp.ones((2, 16, 16, 3)),)),
  "mixture": (
    mixture.Mixture(4, 8, (8, 8), 1, ((8, 8), (8, 8)), ((16, 16), (16, 16))),
    (
      (jnp.ones((2, 16, 16, 3)), jnp.ones((2, 16, 16, 1))),
      jnp.ones((2, 2), bool),
      None,
    ),
  ),
  "recogniser": (Recogniser((8, 8, 8)), (jnp.ones((2, 16, 16, 3)),)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_is_near_and_its_outputs_are_float32(name):
  module, inputs = NETWORKS[name]
  noise = iter(jax.random.split(KEY, 8))
  inputs = jax.tree.map(
    lambda x: x if x.dtype == bool else jax.random.normal(next(noise), x.shape),
    inputs,
  )
  variables = module.init(KEY, *inputs, train=False)

  def run(module):
    return module.apply(variables, *inputs, train=True, mutable=["batch_stats"])

  plain, low = run(module), run(module.clone(dtype=BF16))
  both = jax.tree.leaves(plain), jax.tree.leaves(low)
  for one, other in zip(*both, strict=True):
    assert other.dtype == one.dtype == jnp.float32
    scale = np.abs(one).max() + 1e-6
    assert np.abs(one - other).max() < 0.15 * scale
  # It does compute in bfloat16.
  text = str(jax.make_jaxpr(lambda: run(module.clone(dtype=BF16)))())
  of_convolutions = [x for x in text.splitlines() if "conv_general" in x]
  assert of_convolutions
  assert all(":bf16[" in line for line in of_convolutions)


def test_an_inverter_in_bfloat16_is_near():
  module = inverter.Inverter(6, (8, 8))
  x = jax.random.normal(KEY, (2, 8, 8, 3))
  variables = module.init(KEY, x)
  plain = module.apply(variables, x)
  low = module.clone(dtype=BF16).apply(variables, x)
  assert low.dtype == jnp.float32
  assert np.abs(plain - low).max() < 0.1 * np.abs(plain).max()


def test_an_unknown_precision_is_refused():
  with pytest.raises(UserError, match=r"train.dtype='bf16' .*'bfloat16'"):
    forward.dtype(how(dtype="bf16"))


def test_a_batch_that_parts_do_not_divide_is_refused():
  devices = mesh.make_mesh(8)
  mesh.check_batch(48, devices, "train.batch", 3)
  with pytest.raises(UserError) as refused:
    mesh.check_batch(40, devices, "train.batch", 2)
  assert "8 devices in 2 parts each: 40 = 16 x 2 + 8" in str(refused.value)
  said = (
    "train.batch to 32 or 48, or --config.train.accumulate to a divisor of 5"
  )
  assert str(refused.value).endswith(said)
  with pytest.raises(UserError) as refused:
    mesh.check_batch(42, devices, "train.batch", 2)  # In no parts either.
  assert str(refused.value).endswith("train.batch to 32 or 48")


MAPS = jnp.ones((2, 3, 3, 4)), jnp.ones((2, 5, 4)), jnp.ones((2, 5), bool)
FUSED = {"image": (4, 6), "audio": (4, 6), "hidden": 6, "out": 6, "bias": ()}
IN_FLOAT32 = {
  "pooled": lambda: scores.dot(*MAPS),
  "matchmap": lambda: scores.matchmap(*MAPS[:2]),
  "maxsim": lambda: scores.misa(*MAPS),
  "distance": lambda: scores.calibrated_distance(
    MAPS[0][:, :1, :1], MAPS[1][:, :1], jnp.ones(()), jnp.ones(())
  ),
  "fusion": lambda: scores.fusion(
    MAPS[0][:, :1, :1],
    MAPS[1][:, :1],
    {name: jnp.ones(shape) for name, shape in FUSED.items()},
  ),
  "orthogonality": lambda: generative.orthogonality(jnp.ones((6, 4))),
}


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_scores_multiply_in_full_float32(name):
  """A product in float32 is six of bfloat16, to a unit that has only these."""
  jaxpr = jax.make_jaxpr(IN_FLOAT32[name])()
  of_bfloat16, products = (
    count(jaxpr, 1, "tpu") for count in (costs.bfloat16_flops, costs.flops)
  )
  assert of_bfloat16 == 6 * products > 0


def test_a_spectral_norm_is_float32_and_its_layer_is_not():
  rows, m, n = 5, 6, 4

  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return spectral.dense(n, "dense", spectral=True, train=True)(x)

  x = jnp.ones((rows, m))
  variables = Layer().init(KEY, x)
  jaxpr = jax.make_jaxpr(
    lambda: Layer().apply(variables, x, mutable=["batch_stats"])
  )()
  # Two products of a power iteration, one more of sigma, and then u alone.
  norm, layer = 3 * 2 * m * n + 2 * n, 2 * rows * m * n
  assert costs.flops(jaxpr, 1, "tpu") == norm + layer
  assert costs.bfloat16_flops(jaxpr, 1, "tpu") == 6 * norm + layer
