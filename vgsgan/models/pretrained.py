"""Trained networks, from files of `vgsgan.tools.export` or of the package."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vgsgan.common.errors import UserError, one_line
from vgsgan.models import weights
from vgsgan.models.generator import Generator
from vgsgan.models.inverter import Inverter
from vgsgan.models.namer import Namer
from vgsgan.models.recogniser import Recogniser
from vgsgan.worlds import place_words
from vgsgan.worlds.attributes import WORDS

PACKAGED = {
  name: pathlib.Path(__file__).with_name(f"{name}.npz")
  for name in ("generator", "places_generator", "recogniser", "namer")
}


class Network(NamedTuple):
  """A trained network.

  Attributes:
    module: `module.apply(variables, ...)` runs it.
    variables: `params` and, if the module has any, `batch_stats`.
    meta: its origin: `config`, `results`, `command`.
  """

  module: nn.Module
  variables: dict[str, Any]
  meta: dict[str, Any]


def load_generator(path: str | pathlib.Path) -> Network:
  """Loads a GAN's generator, built by the config `gan` in its meta.

  Args:
    path: a file of `vgsgan.tools.export`; '' for the packaged generator.

  Raises:
    UserError: the file is missing, damaged, or of another network.
  """

  def build(config, _):
    return _generator(config["gan"], len(WORDS))

  return _load_network(path or PACKAGED["generator"], "generator", build)


def places_generator(path: str | pathlib.Path, data: Any) -> Network:
  """Loads the generator of the world of places, which is given the words.

  Args:
    path: a file of `vgsgan.tools.export`; '' for the packaged generator.
    data: `config.data`; the generator must draw its images and its words.

  Raises:
    UserError: the file is missing, damaged, or of another network, or draws
      other images.
  """

  def build(config, _):
    if config["data"]["dataset"] != "places" or not config["gan"]["labels"]:
      raise ValueError("it was not trained by configs/places_gan.py")
    return _generator(config["gan"], place_words.NUM_LABELS)

  path = path or PACKAGED["places_generator"]
  network = _load_network(path, "generator of places", build)
  drawn = network.meta["config"]["data"]
  for name in ("image_size", "things", "places", "skies", "loudness"):
    most = name in ("things", "places", "skies")
    if drawn[name] < data[name] if most else drawn[name] != data[name]:
      raise UserError(
        f"config.data.{name}={data[name]}, but the generator {path} has learnt "
        f"{drawn[name]}: make them agree, or train configs/places_gan.py"
      )
  return network


def _generator(
  gan: Mapping[str, Any], num_labels: int
) -> tuple[Generator, Callable]:
  """Builds the generator of `config.gan`, and a function key -> variables."""
  module = Generator(
    tuple(gan["channels"]),
    gan["chunk"],
    gan["attention"],
    num_labels if gan["labels"] else 0,
    gan["spectral"],
  )
  labels = jnp.zeros((1, num_labels)) if gan["labels"] else None
  z = jnp.zeros((1, module.latent_size))
  return module, lambda key: module.init(key, z, labels, train=False)


def save_untrained(path: str | pathlib.Path, gan: Mapping[str, Any]) -> None:
  """Writes a generator whose weights are all zero, for compiling.

  Args:
    path: path of the file.
    gan: `config.gan` of configs/scenes_gan.py.
  """
  _, init = _generator(gan, len(WORDS))
  shapes = jax.eval_shape(init, jax.random.key(0))
  tree = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype),
    {name: shapes[name] for name in ("params", "batch_stats")},
  )
  weights.save_params(path, tree, {"config": {"gan": dict(gan)}})


def unlabelled_generator(path: str | pathlib.Path, image_size: int) -> Network:
  """Loads a generator without labels, for `config.data`.

  Args:
    path: see `load_generator`.
    image_size: side of its images, pixels.

  Raises:
    UserError: the generator has labels or draws another size, or as in
      `load_generator`.
  """
  network = load_generator(path)
  size, labels = network.module.image_size, network.module.num_labels
  if labels or size != image_size:
    raise UserError(
      f"config.data.generator draws {size} px "
      f"{'with' if labels else 'without'} labels: one of "
      f"config.data.image_size={image_size} px without labels is needed"
    )
  return network


def load_recogniser(path: str | pathlib.Path) -> Network:
  """Loads a recogniser, built by the config `recogniser` in its meta.

  Args:
    path: a file of `vgsgan.tools.export`; '' for the packaged recogniser.

  Raises:
    UserError: the file is missing, damaged, or of another network.
  """

  def build(config, _):
    model = config["recogniser"]
    module = Recogniser(tuple(model["widths"]), model["norm"])
    image = jnp.zeros((1, 8, 8, 3))
    return module, lambda key: module.init(key, image, train=False)

  return _load_network(path or PACKAGED["recogniser"], "recogniser", build)


def load_namer(path: str | pathlib.Path) -> Network:
  """Loads a namer, built by the config `namer` in its meta.

  Args:
    path: a file of `vgsgan.tools.export`; '' for the packaged namer.

  Raises:
    UserError: the file is missing, damaged, or of another network.
  """

  def build(config, _):
    module = Namer(place_words.NUM_LABELS, tuple(config["namer"]["widths"]))
    size = config["data"]["image_size"]
    image = jnp.zeros((1, size, size, 3))
    return module, lambda key: module.init(key, image, train=False)

  return _load_network(path or PACKAGED["namer"], "namer", build)


def load_inverter(
  path: str | pathlib.Path, image_size: int, latent_size: int
) -> Network:
  """Loads the encoder of a generator's images, built by the config in its meta.

  Args:
    path: a file of `vgsgan.tools.export --network=inverter`.
    image_size: side of the generator's images, pixels.
    latent_size: length of the generator's latents.

  Raises:
    UserError: the file is missing, damaged, of another network, or for a
      generator of other sizes.
  """

  def build(config, tree):
    module = Inverter(
      len(tree["params"]["latent"]["bias"]),
      tuple(config["inverter"]["channels"]),
    )
    size = config["data"]["image_size"]
    image = jnp.zeros((1, size, size, 3))
    return module, lambda key: module.init(key, image)

  network = _load_network(path, "inverter", build)
  latents = network.module.latent_size
  size = network.meta["config"]["data"]["image_size"]
  if (size, latents) != (image_size, latent_size):
    raise UserError(
      f"{path} finds {latents} numbers in pictures of {size} px, but the "
      f"generator draws {image_size} px from {latent_size}: train "
      "configs/inversion.py with this config.data.generator"
    )
  return network


def _load_network(path, name: str, build) -> Network:
  """Loads a network and compares its weights with those of its config.

  Args:
    path: path of the file.
    name: kind of network, for the message.
    build: `(config, tree) -> module, init`, with init a function key ->
      variables.
  """
  tree, meta = weights.load_params(path)
  try:
    module, init = build(meta["config"], tree)
    shapes = jax.eval_shape(init, jax.random.key(0))
    shapes = {k: shapes[k] for k in ("params", "batch_stats") if k in shapes}
    different = _shapes(shapes) ^ _shapes(tree)
    if different:
      wrong = min(name for name, _ in different)
      raise ValueError(f"{wrong} is missing, too many or of another shape")
    # Rebuilds names of spectral norms, whose slashes the file's paths lose.
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    saved = {_path(path): leaf for path, leaf in leaves}
    tree = jax.tree_util.tree_map_with_path(
      lambda p, _: saved[_path(p)], shapes
    )
  except (KeyError, TypeError, ValueError) as error:
    reason = one_line(error)
    raise UserError(f"{path} holds no {name}: {reason}") from error
  return Network(module, tree, meta)


def _shapes(tree: Any) -> set[tuple[str, tuple[int, ...]]]:
  """Path and shape of each array of a tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {(_path(path), np.shape(leaf)) for path, leaf in leaves}


def _path(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
