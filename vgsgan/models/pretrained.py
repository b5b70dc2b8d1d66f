"""Exported weights: a tree of arrays and its metadata in one .npz file."""

import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vgsgan.common import files, jsonfiles
from vgsgan.common.errors import UserError, one_line
from vgsgan.models.generator import Generator
from vgsgan.models.inverter import Inverter
from vgsgan.models.recogniser import Recogniser
from vgsgan.worlds.attributes import WORDS

_META = "meta.json"
PACKAGED = {
  name: pathlib.Path(__file__).with_name(f"{name}.npz")
  for name in ("generator", "recogniser")
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


def save_params(
  path: str | pathlib.Path, tree: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
  """Writes a tree of weights; the file is written whole or not at all.

  An array of float32 becomes float16 if its largest rounding error is at most
  0.1 % of its largest weight.

  Args:
    path: path of the file, `NAME.npz`.
    tree: nested dicts of arrays. A name with a slash is read back as a dict in
      a dict; `load_generator` and its siblings undo that.
    meta: origin of the weights, as JSON (config, seed, figures, command).

  Raises:
    UserError: the file cannot be written.
  """
  flat = flatten(jax.device_get(tree))
  dtypes = {name: str(value.dtype) for name, value in flat.items()}
  about = {"meta": dict(meta), "dtypes": dtypes}
  text = np.frombuffer(jsonfiles.dumps(about).encode(), np.uint8)
  file = io.BytesIO()
  small = {name: _smaller(value) for name, value in flat.items()}
  np.savez_compressed(file, **{_META: text}, **small)
  files.replace(pathlib.Path(path), file.getvalue())


def load_params(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a file of `save_params`.

  Returns:
    The tree, nested dicts of NumPy arrays in their original dtypes, and `meta`.

  Raises:
    UserError: the file is missing, damaged, or of another kind.
  """
  try:
    about, arrays = _read(pathlib.Path(path).read_bytes())
  except Exception as error:  # Decoders raise any error for damaged bytes.
    reason = one_line(error)
    raise UserError(
      f"no weights in {path}: {reason}; put back a copy of the file"
    ) from error
  return unflatten(arrays), about["meta"]


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  if not zipfile.is_zipfile(io.BytesIO(data)):
    raise ValueError("it is no .npz file")
  with np.load(io.BytesIO(data), allow_pickle=False) as file:
    arrays = {name: file[name] for name in file.files}
  about = json.loads(arrays.pop(_META).tobytes())
  dtypes = about["dtypes"]
  if arrays.keys() != dtypes.keys():
    raise ValueError("its arrays are not those it lists")
  return about, {k: v.astype(dtypes[k]) for k, v in arrays.items()}


def load_generator(path: str | pathlib.Path) -> Network:
  """Loads a GAN's generator, built by the config `gan` in its meta.

  Args:
    path: a file of `vgsgan.tools.export`; '' for the packaged generator.

  Raises:
    UserError: the file is missing, damaged, or of another network.
  """

  def build(config, _):
    return _generator(config["gan"])

  return _load_network(path or PACKAGED["generator"], "generator", build)


def _generator(gan: Mapping[str, Any]) -> tuple[Generator, Callable]:
  """Builds the generator of `config.gan`, and a function key -> variables."""
  module = Generator(
    tuple(gan["channels"]),
    gan["chunk"],
    gan["attention"],
    len(WORDS) if gan["labels"] else 0,
    gan["spectral"],
  )
  labels = jnp.zeros((1, len(WORDS))) if gan["labels"] else None
  z = jnp.zeros((1, module.latent_size))
  return module, lambda key: module.init(key, z, labels, train=False)


def save_untrained(path: str | pathlib.Path, gan: Mapping[str, Any]) -> None:
  """Writes a generator whose weights are all zero, for compiling.

  Args:
    path: path of the file.
    gan: `config.gan` of configs/scenes_gan.py.
  """
  _, init = _generator(gan)
  shapes = jax.eval_shape(init, jax.random.key(0))
  tree = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype),
    {name: shapes[name] for name in ("params", "batch_stats")},
  )
  save_params(path, tree, {"config": {"gan": dict(gan)}})


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
  tree, meta = load_params(path)
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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  """The leaves of nested dicts by path: {"a": {"b": x}} -> {"a/b": x}."""
  flat: dict[str, np.ndarray] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{name}/")
    else:
      flat[f"{prefix}{name}"] = np.asarray(value)
  return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The inverse of `flatten`; empty dicts are lost."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *folders, name = path.split("/")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = value
  return tree


def _smaller(value: np.ndarray) -> np.ndarray:
  if value.dtype != np.float32 or not value.size:
    return value
  with np.errstate(over="ignore"):
    half = value.astype(np.float16)
  largest = np.abs(value).max()
  loss = np.abs(half.astype(np.float32) - value).max()
  return half if loss <= 1e-3 * largest else value
