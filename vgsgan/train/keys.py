"""Random keys of a run: one stream for each purpose, all of them named here.

JAX's `split(key)[i]` equals `fold_in(key, i)`, so two purposes that derive keys
from one root may get the same key. Here each purpose has a name, whose hash is
folded in first.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, Key

# The numbers that are folded into a key of each stream, after its name.
STREAMS = {
  "init": (),  # Parameters at the start.
  "augment": ("step",),  # Random changes of a training batch.
  "negatives": ("step",),  # Sampled impostors.
  "edits": ("step",),  # Drawn impostors.
  "noise": ("step",),  # Latents and dropped modalities in training.
  "latents": ("split", "batch"),  # Latents of images that are inverted.
  "samples": ("first",),  # Latents of images that are evaluated.
  "pictures": ("image",),  # Latents of a data set whose images are drawn.
  "asked": (),  # Words that evaluated edits change.
  "selection": ("batch",),  # Edits of `vgsgan.tools.select`.
  "shown": (),  # Edits of `vgsgan.tools.show`.
}


def of(
  seed: int, stream: str, *numbers: int | np.integer | Int[Array, ""]
) -> Key[Array, ""]:
  """The key of a stream; the seed and the numbers decide it.

  Args:
    seed: `config.seed`.
    stream: a name in STREAMS.
    *numbers: those that STREAMS names, from 0 to 2^32 - 1.

  Raises:
    ValueError: the stream takes more or fewer numbers. A key with fewer would
      be the root of others.
  """
  if len(numbers) != len(STREAMS[stream]):
    raise ValueError(f"{stream} takes {STREAMS[stream]}, not {numbers}")
  # Data sets fold small numbers into their seeds; hashes are far from these.
  name = np.uint32(zlib.crc32(stream.encode()))
  key = jax.random.fold_in(jax.random.key(seed), name)
  for number in numbers:
    key = jax.random.fold_in(key, number)
  return key
