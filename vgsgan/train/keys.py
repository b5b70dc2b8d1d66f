"""Random keys of a run: one stream for each purpose, all of them named here.

JAX derives equal keys by `split(key)[i]` and `fold_in(key, i)`, so keys that
are derived from one root for two purposes may be the same key. Here a purpose
has a name, whose hash is folded in first.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, Key

# The numbers that a key of each stream is derived by, after its name.
STREAMS = {
  "init": (),  # Parameters at the start.
  "augment": ("step",),  # Random changes of a training batch.
  "negatives": ("step",),  # Sampled impostors.
  "edits": ("step",),  # Drawn impostors.
  "noise": ("step",),  # Latents of generators in training, and what is dropped.
  "latents": ("split", "batch"),  # Latents of images that are to be inverted.
  "samples": ("first",),  # Latents of images that are judged.
  "selection": ("batch",),  # Edits of records to choose from.
  "shown": (),  # Edits of records to look at.
}


def of(
  seed: int, stream: str, *numbers: int | np.integer | Int[Array, ""]
) -> Key[Array, ""]:
  """The key of a purpose; `config.seed` and the numbers decide it.

  Args:
    seed: of the run.
    stream: a name in STREAMS.
    *numbers: what STREAMS says, from 0 to 2^32 - 1.

  Raises:
    ValueError: other numbers than the stream's: one key might be derived from
      another, which is consumed itself.
  """
  if len(numbers) != len(STREAMS[stream]):
    raise ValueError(f"{stream} takes {STREAMS[stream]}, not {numbers}")
  # A hash is far from the small numbers that data sets fold into their seeds.
  name = np.uint32(zlib.crc32(stream.encode()))
  key = jax.random.fold_in(jax.random.key(seed), name)
  for number in numbers:
    key = jax.random.fold_in(key, number)
  return key
