"""The two networks of the GAN, their attention and their norms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filling import normal, same, variables_of
from vgsgan.models import attention, spectral
from vgsgan.models.discriminator import Discriminator
from vgsgan.models.generator import Generator

# --------------------------------------------------------------- generator


class Drawn:
  """A random generator of 4, 8, 16 and 32 pixels, compiled once."""

  def __init__(self, **fields):
    self.module = Generator((6, 5, 4, 3), 3, spectral=False, **fields)
    self.z = normal(2, self.module.latent_size)
    self.variables = variables_of(self.module, self.z)
    self.apply = jax.jit(self._apply)

  def _apply(self, z, keep):
    images, seen = self.module.apply(
      self.variables, z, train=False, keep=keep, mutable=["layers"]
    )
    names = [f"{name}_output" for name in self.module.layers]
    layers = {
      name.removesuffix("_output"): seen["layers"][name][0] for name in names
    }
    return images, layers

  def draw(self, z=None, **keep):
    """Pictures and layers; layers that are not named are kept whole."""
    ones = {
      name: jnp.ones((2, *shape)) for name, shape in self.module.layers.items()
    }
    return jax.device_get(self.apply(self.z if z is None else z, ones | keep))


@pytest.fixture(scope="module")
def drawn():
  return Drawn()


def test_a_generator_has_its_sizes_and_layers(drawn):
  module = drawn.module
  assert (module.latent_size, module.image_size) == (12, 32)
  images, layers = drawn.draw()
  assert images.shape == (2, 32, 32, 3)
  assert np.abs(images).max() <= 1 and images.std() > 0.1
  assert np.abs(images[0] - images[1]).max() > 0.1
  assert list(module.layers) == ["bottom", "up1", "up2", "up3"]
  for name, shape in module.layers.items():
    assert layers[name].shape == (2, *shape)


def test_a_chunk_of_the_latent_changes_its_block_and_later_ones(drawn):
  before, low = drawn.draw()
  for i in range(4):
    z = np.array(drawn.z)
    z[:, 3 * i : 3 * i + 3] += 1
    after, high = drawn.draw(z=jnp.asarray(z))
    for k, name in enumerate(drawn.module.layers):
      same = np.array_equal(low[name], high[name])
      assert same == (k < i), (i, name)
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("normed", [False, True])
def test_the_latent_matrix_is_the_jacobian_of_the_latents_readers(normed):
  labels = 4
  module = Generator((3, 4, 2), 3, num_labels=labels, spectral=normed)
  z, said = normal(1, 9), normal(1, labels, seed=2)
  made = variables_of(module, z, said)

  def readings(z):
    _, seen = module.apply(
      made,
      z,
      said,
      train=False,
      mutable=["intermediates"],
      capture_intermediates=lambda m, _: isinstance(m, nn.Dense),
    )
    seen = seen["intermediates"]
    blocks = [seen["bottom"]]
    for i in (1, 2):
      for norm in ("norm1", "norm2"):
        blocks += [seen[f"up{i}"][norm][name] for name in ("gain", "bias")]
    return [block["__call__"][0][0] for block in blocks]

  slopes = jax.jit(jax.jacobian(readings))(z)
  matrix = np.asarray(module.latent_matrix(made["params"]))
  assert len(matrix) == sum(len(slope) for slope in slopes)
  start = 0
  for slope in slopes:
    rows = matrix[start : start + len(slope)]
    start += len(slope)
    slope = np.asarray(slope[:, 0])
    # With spectral norm, up to the one number that a layer is divided by.
    factor = np.linalg.norm(rows) / np.linalg.norm(slope) if normed else 1.0
    np.testing.assert_allclose(factor * slope, rows, rtol=1e-4, atol=1e-5)


def reach(first, last, blocks):
  """Pixels that cells `first` to `last` of a layer can change, by blocks above.

  A block doubles the side and convolves twice by 3 x 3; the picture comes of
  one more such convolution.
  """
  for _ in range(blocks):
    first, last = 2 * first - 2, 2 * last + 1 + 2
  return first - 1, last + 1


@pytest.mark.parametrize(
  ("name", "above", "cell"), [("bottom", 3, 0), ("up1", 2, 1), ("up3", 0, 12)]
)
def test_keep_switches_units_off_only_at_its_places(drawn, name, above, cell):
  before, low = drawn.draw()
  keep = np.ones((2, *drawn.module.layers[name]), np.float32)
  keep[0, cell, cell, 1:] = 0
  after, high = drawn.draw(**{name: jnp.asarray(keep)})
  for layer in low:
    if layer == name:
      np.testing.assert_array_equal(high[layer], low[layer] * keep)
      assert not np.any(high[layer][0, cell, cell, 1:])
      break
    np.testing.assert_array_equal(high[layer], low[layer])
  first, last = reach(cell, cell, above)
  far = np.ones((32, 32), bool)
  far[max(first, 0) : last + 1, max(first, 0) : last + 1] = False
  assert far.any()
  np.testing.assert_array_equal(after[0][far], before[0][far])
  np.testing.assert_array_equal(after[1], before[1])
  # And the reach is no larger than it has to be.
  changed = np.argwhere(np.any(after[0] != before[0], axis=-1))
  assert changed.max(0).tolist() == [last, last]
  assert changed.min(0).tolist() == [max(first, 0)] * 2


def test_attention_spreads_edits_only_of_lower_layers():
  drawn = Drawn(attention=2)
  before, _ = drawn.draw()
  far = {}
  for name, above, cell in (("up1", 2, 0), ("up2", 1, 0), ("up3", 0, 0)):
    keep = np.ones((2, *drawn.module.layers[name]), np.float32)
    keep[:, cell, cell] = 0
    after, _ = drawn.draw(**{name: jnp.asarray(keep)})
    last = reach(cell, cell, above)[1]
    far[name] = np.abs(after - before)[:, last + 1 :, last + 1 :].max()
  assert far["up1"] > 0
  # The attention is of the second block and comes before its units are kept.
  assert far["up2"] == far["up3"] == 0


def test_layers_are_stored_only_if_mutable(drawn):
  _, seen = jax.eval_shape(
    lambda z: drawn.module.apply(
      drawn.variables, z, train=True, mutable=["batch_stats"]
    ),
    drawn.z,
  )
  assert set(seen) == {"batch_stats"}


# ------------------------------------------------- spectral norm, attention


class Pair(nn.Module):
  """A convolution and a linear layer with spectral norm."""

  @nn.compact
  def __call__(self, x, row, train):
    conv = spectral.conv2d(7, 3, "conv", True, train)(x)
    return conv, spectral.dense(4, "dense", True, train)(row)


def test_normalised_weights_have_spectral_norm_1():
  module = Pair()
  # A single 1 in the middle of a picture shows the kernel, mirrored; rows of
  # the identity show the linear layer's.
  x = jnp.zeros((6, 3, 3, 6)).at[jnp.arange(6), 1, 1, jnp.arange(6)].set(1)
  args = x, jnp.eye(9)
  made = variables_of(module, *args, scale=3.0)
  params = jax.tree.map(lambda x: x * (x.ndim > 1), made["params"])

  @functools.partial(jax.jit, static_argnums=1)
  def run(stats, train):
    variables = {"params": params, "batch_stats": stats}
    return module.apply(variables, *args, train, mutable=["batch_stats"])

  stats = made["batch_stats"]
  for _ in range(300):
    _, noted = run(stats, True)
    stats = noted["batch_stats"]
  (conv, dense), after = run(stats, False)
  # Evaluation notes nothing.
  assert same(stats, after["batch_stats"])
  conv = np.asarray(conv)[:, ::-1, ::-1].transpose(1, 2, 0, 3)
  for used, name in ((conv, "conv"), (np.asarray(dense), "dense")):
    used = used.reshape(-1, used.shape[-1])
    kernel = np.asarray(params[name]["kernel"]).reshape(used.shape)
    largest = np.linalg.svd(kernel, compute_uv=False)[0]
    assert largest > 5
    np.testing.assert_allclose(np.linalg.norm(used, 2), 1, rtol=1e-3)
    np.testing.assert_allclose(used * largest, kernel, rtol=1e-2, atol=1e-3)


def plain_attention(x, params, gain):
  def project(x, name):
    layer = params[name]
    return x @ layer["kernel"][0, 0] + layer["bias"]

  h, w, _ = x.shape

  def pooled(maps):
    return maps.reshape(h // 2, 2, w // 2, 2, -1).max((1, 3))

  out = np.empty_like(x)
  key, value = (pooled(project(x, name)) for name in ("key", "value"))
  for i in range(h):
    for j in range(w):
      match = np.exp(key @ project(x[i, j], "query"))
      share = match / match.sum()
      found = np.einsum("hw,hwd->d", share, value)
      out[i, j] = x[i, j] + gain * project(found, "out")
  return out


def test_self_attention_equals_a_plain_form():
  module = attention.SelfAttention(False)
  x = normal(2, 4, 6, 16)
  params = variables_of(module, x)["params"]
  assert params["query"]["kernel"].shape == (1, 1, 16, 2)
  assert params["value"]["kernel"].shape == (1, 1, 16, 8)
  plain = jax.tree.map(np.float64, params)
  run = jax.jit(lambda params: module.apply({"params": params}, x, False))
  for gain in (0.0, 0.7):
    got = run(params | {"gain": jnp.float32(gain)})
    assert np.array_equal(got, x) == (gain == 0)
    for row, image in zip(got, np.float64(x), strict=True):
      np.testing.assert_allclose(
        row, plain_attention(image, plain, gain), rtol=1e-4, atol=1e-5
      )


# ------------------------------------------------------------ discriminator


def test_labels_are_projected_on_the_pooled_map():
  module = Discriminator((4, 6), num_labels=5, spectral=False)
  image, labels = normal(3, 8, 8, 3), normal(3, 5, seed=2)
  params = variables_of(module, image, labels)["params"]

  @jax.jit
  def judge(labels):
    return module.apply(
      {"params": params},
      image,
      labels,
      train=False,
      capture_intermediates=True,
      mutable=["intermediates"],
    )

  none = jnp.zeros((3, 5))
  plain, seen = judge(none)
  scores, _ = judge(labels)
  last = np.asarray(seen["intermediates"]["down2"]["__call__"][0])
  assert plain.shape == (3,) and last.shape == (3, 4, 4, 6)
  pooled = np.maximum(last, 0).sum((1, 2))
  matrix = np.asarray(params["labels"]["kernel"])
  expected = np.einsum("bl,lc,bc->b", labels, matrix, pooled)
  np.testing.assert_allclose(scores - plain, expected, rtol=1e-3, atol=1e-4)
  linear = pooled @ params["score"]["kernel"] + params["score"]["bias"]
  np.testing.assert_allclose(plain, linear[:, 0], rtol=1e-4, atol=1e-5)
