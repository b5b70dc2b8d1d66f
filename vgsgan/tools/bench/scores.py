"""Measures all-pairs scores against all matchmaps and a bare matrix product."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vgsgan.kernels import maxsim
from vgsgan.losses import scores
from vgsgan.tools.bench import timing

# Pairs, places, frames and channels: 7 x 7 and 14 x 14 places.
CASES = {"7x7": (64, 49, 64, 512), "14x14": (64, 196, 64, 512)}


def measure(
  config: ml_collections.ConfigDict, repeat: int
) -> dict[str, dict[str, float]]:
  """Measures medians of `repeat` turns of each case, after one to warm up.

  In every turn all functions run once, so that ratios hold on a machine whose
  speed drifts. `fused` and `dense` score all pairs (MISA), `_vjp` means value
  and gradients. `product` is the bare matrix product of the same vectors,
  written to memory; `fused_over_product` and `fused_vjp_over_product` compare
  times with it. `peak_gflops` is the rate of square matrices, and
  `fused_of_peak` a share of it. Vectors are float32 on a CPU and bfloat16 on an
  accelerator. `cpu_` figures compare the processor's time over all threads,
  which other programs disturb less. Bytes are the program's temporaries.
  """
  del config  # The sizes are those of `CASES`.
  return {name: _case(sizes, repeat) for name, sizes in CASES.items()}


def _case(sizes: tuple[int, ...], repeat: int) -> dict[str, float]:
  pairs, places, frames, channels = sizes
  dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  compiled, calls = {}, {}
  for name, (function, args) in _functions(sizes, dtype).items():
    compiled[name] = jax.jit(function).lower(*args).compile()
    calls[name] = functools.partial(compiled[name], *args)
  peak = timing.Matmul(dtype)
  timers = {
    name: functools.partial(timing.clock_and_processor, call)
    for name, call in ({"peak": peak.run} | calls).items()
  }
  median = {
    name: np.median(taken, axis=0)
    for name, taken in timing.turns(timers, repeat).items()
  }
  wall = {name: float(x[0]) for name, x in median.items()}
  cpu = {name: float(x[1]) for name, x in median.items()}
  flops = 2 * pairs**2 * places * frames * channels
  used = {
    name: compiled[name].memory_analysis().temp_size_in_bytes
    for name in ("fused", "dense", "fused_vjp", "dense_vjp")
  }
  return (
    {f"{name}_ms": 1e3 * wall[name] for name in wall}
    | {f"{name}_mib": used[name] / 2**20 for name in used}
    | {
      "fused_gflops": flops / wall["fused"] / 1e9,
      "product_gflops": flops / wall["product"] / 1e9,
      "peak_gflops": peak.flops / wall["peak"] / 1e9,
      "fused_of_peak": flops / peak.flops * wall["peak"] / wall["fused"],
    }
    | _ratios(wall)
    | {f"cpu_{name}": ratio for name, ratio in _ratios(cpu).items()}
  )


def _ratios(times: dict[str, float]) -> dict[str, float]:
  return {
    "fused_over_product": times["fused"] / times["product"],
    "fused_vjp_over_product": times["fused_vjp"] / times["product"],
    "dense_over_fused": times["dense"] / times["fused"],
    "dense_over_fused_vjp": times["dense_vjp"] / times["fused_vjp"],
  }


def _functions(
  sizes: tuple[int, ...], dtype: Any
) -> dict[str, tuple[Callable, tuple]]:
  """The functions to measure, with their arguments."""
  pairs, places, frames, channels = sizes
  rng = np.random.default_rng(0)

  def normal(*shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), dtype)

  side = round(places**0.5)
  images = normal(pairs, side, side, channels)
  audio = normal(pairs, frames, channels)
  lengths = rng.integers(frames // 2, frames + 1, pairs)
  valid = jnp.asarray(np.arange(frames) < lengths[:, None])
  operands = images, audio, valid

  def dense(images, audio, valid):
    a = images.reshape(pairs, places, channels)
    sums = maxsim.plain(a, jnp.ones(a.shape[:2], bool), audio, valid)
    return sums / jnp.sum(valid, axis=1)

  def vjp(score: Callable) -> Callable:
    def run(slope, images, audio, valid):
      table, pull = jax.vjp(lambda *x: score(*x, valid), images, audio)
      return table, pull(slope)

    return run

  def product(images, audio):
    return images.reshape(-1, channels) @ audio.reshape(-1, channels).T

  slope = normal(pairs, pairs).astype(jnp.float32)
  return {
    "product": (product, (images, audio)),
    "fused": (scores.misa, operands),
    "dense": (dense, operands),
    "fused_vjp": (vjp(scores.misa), (slope, *operands)),
    "dense_vjp": (vjp(dense), (slope, *operands)),
  }
