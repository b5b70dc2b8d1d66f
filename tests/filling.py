"""Networks and arrays of random numbers, and whether two are the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(5)


def filled(shapes, seed=0, scale=0.4):
  """Random numbers in every place, also where training starts from 0 or 1."""
  rng = np.random.default_rng(seed)

  def fill(path, x):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    # The statistics of normalisations stay at their start.
    if name in ("mean", "var") or name.endswith("sigma"):
      return jnp.full(x.shape, float(name != "mean"))
    return jnp.asarray(scale * rng.normal(size=x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def initialised(module, *args, **kwargs):
  """Variables as large as where training starts, without compiling it.

  Biases and statistics are not at their trivial start either, so that a leak
  of them into padding shows.
  """
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape)
    name = path[-1].key
    if name == "kernel":
      noise *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
    elif name in ("scale", "var"):
      noise = 1.0 + 0.1 * np.abs(noise)
    else:
      noise *= 0.1
    return jnp.asarray(noise, jnp.float32)

  shapes = jax.eval_shape(lambda: module.init(KEY, *args, **kwargs))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def variables_of(module, *args, scale=0.4):
  """Random ones, without compiling the initialisers."""
  init = functools.partial(module.init, train=False)
  made = filled(jax.eval_shape(init, KEY, *args), scale=scale)
  return {k: v for k, v in made.items() if k in ("params", "batch_stats")}


def normal(*shape, seed=1):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def same(one, other):
  return all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  )
