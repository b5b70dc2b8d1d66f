"""Pictures and sounds through one representation, and what tells them apart."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vgsgan.losses import scores
from vgsgan.models.correspondence import global_max
from vgsgan.models.decoders import Decoder, Encoder, Normal, draw, tower
from vgsgan.models.image import space_to_depth

Pair = tuple[Float[Array, "b s s 3"], Float[Array, "b t f 1"]]


class Mixture(nn.Module):
  """Pictures and sounds into one representation, and out of it again.

  Each has an encoder and a decoder of its own; two layers mix what the
  encoders say. A modality that is not there is replaced by a learned vector.
  Spectrograms are folded into channels first, which is a quarter of the work.

  Attributes:
    latent: numbers of the representation.
    features: numbers that each encoder says.
    widths: of the encoders' towers.
    pools: as in `Encoder`.
    decoders: widths of the picture's decoder and the sound's.
    shapes: (height, width) of pictures and of spectrograms.
    dtype: as in `Encoder` and `Decoder`.
  """

  latent: int
  features: int
  widths: tuple[int, ...]
  pools: int
  decoders: tuple[tuple[int, ...], tuple[int, ...]]
  shapes: tuple[tuple[int, int], tuple[int, int]]
  dtype: Any = jnp.float32

  def setup(self):
    self.encode_picture, self.encode_sound = (
      Encoder(self.features, self.widths, self.pools, self.dtype)
      for _ in range(2)
    )
    self.absent = self.param(
      "absent", nn.initializers.normal(0.1), (2, self.features)
    )
    self.mix = nn.Dense(2 * self.features)
    self.to_normal = nn.Dense(2 * self.latent)
    self.decode_picture, self.decode_sound = (
      Decoder(
        tuple(n // 2 ** len(widths) for n in shape),
        widths,
        channels,
        dtype=self.dtype,
      )
      for shape, widths, channels in zip(
        self.shapes, self.decoders, (3, 1), strict=True
      )
    )

  def encode(self, pair: Pair, keep: Bool[Array, "b 2"], train: bool) -> Normal:
    """What is known of a pair from those of the two that are kept."""
    picture = self.encode_picture(pair[0], train)
    sound = self.encode_sound(space_to_depth(pair[1]), train)
    both = jnp.stack([picture, sound], axis=1)
    known = jnp.where(keep[..., None], both, self.absent)
    mixed = nn.relu(self.mix(nn.relu(known.reshape(len(known), -1))))
    return Normal(*jnp.split(self.to_normal(mixed), 2, axis=-1))

  def decode(
    self, latent: Float[Array, "b {self.latent}"], train: bool
  ) -> Pair:
    """Picture and sound of each latent, in [-1, 1]."""
    return self.decode_picture(latent, train), self.decode_sound(latent, train)

  def __call__(
    self, pair: Pair, keep: Bool[Array, "b 2"], noise: Array | None, train: bool
  ) -> tuple[Pair, Normal]:
    """The pair made again from a latent, and that latent's distribution."""
    known = self.encode(pair, keep, train)
    return self.decode(draw(known, noise), train), known


class Told(NamedTuple):
  """Logits: real, and belonging together, is what is over 0.

  Attributes:
    matched: of real pictures with their own sounds.
    drawn: of pairs of which one or both are generated.
    mismatched: of each real picture with all real sounds.
    impostors: which of these are sounds of other clips.
  """

  matched: Float[Array, "b"]
  drawn: Float[Array, "b"]
  mismatched: Float[Array, "b b"]
  impostors: Bool[Array, "b b"]


class Weights(nn.Module):
  """Kernel [inputs, units] and bias [units], as those of `nn.Dense`.

  Attributes:
    units: outputs.
  """

  units: int

  @nn.compact
  def __call__(
    self, inputs: int
  ) -> tuple[Float[Array, "i {self.units}"], Float[Array, "{self.units}"]]:
    init = nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (inputs, self.units))
    return kernel, self.param("bias", nn.initializers.zeros, (self.units,))


class PairDiscriminator(nn.Module):
  """L3-Net: whether a picture and a sound belong together, and are real.

  Two towers, and the score of their maps' maxima: `scores.fusion`, 128 units
  (Arandjelovic and Zisserman, ICCV 2017, section 2).

  Attributes:
    widths: of the towers.
    pools: as in `Encoder`.
    hidden: units of the layer before the logit.
    dtype: as in `Encoder`.
  """

  widths: tuple[int, ...]
  pools: int
  hidden: int = 128
  dtype: Any = jnp.float32

  def setup(self):
    self.picture = tower(self.widths, self.pools, self.dtype)
    self.sound = tower(self.widths, self.pools, self.dtype)
    self.fc1, self.fc2 = Weights(self.hidden), Weights(1)

  def look(self, pair: Pair, train: bool) -> tuple[Array, Array]:
    """Features [b, d] of pictures and of sounds."""
    return (
      global_max(self.picture(pair[0], train)),
      global_max(self.sound(space_to_depth(pair[1]), train)),
    )

  def score(
    self,
    pictures: Float[Array, "b 1 1 d"],
    sounds: Float[Array, "c 1 d"],
    valid: Bool[Array, "c 1"],
  ) -> Float[Array, "b c"]:
    """Logits of all pairs of features, as those of `scores.ALL_PAIRS`."""
    del valid
    d = pictures.shape[-1]
    (kernel, hidden), (out, bias) = self.fc1(2 * d), self.fc2(self.hidden)
    params = {
      "image": kernel[:d],
      "audio": kernel[d:],
      "hidden": hidden,
      "out": out[:, 0],
      "bias": bias[0],
    }
    return scores.fusion(pictures, sounds, params)

  def __call__(
    self, real: Pair, drawn: Pair, clip: Int[Array, "b"], train: bool
  ) -> Told:
    """Logits of three kinds of pairs.

    Normalisation sees the real and the drawn together, so that one function
    judges both.
    """
    # In turns, so that each stays on its device.
    both = tuple(
      jnp.stack(halves, 1).reshape(-1, *halves[0].shape[1:])
      for halves in zip(real, drawn, strict=True)
    )
    pictures, sounds = ((x[::2], x[1::2]) for x in self.look(both, train))
    b = len(real[0])
    pictures = [x[:, None, None] for x in pictures]
    sounds = [x[:, None] for x in sounds]
    valid = jnp.ones((b, 1), bool)
    pairs = self.score(pictures[0], sounds[0], valid)
    return Told(
      matched=jnp.diagonal(pairs),
      drawn=scores.paired(self.score, pictures[1], sounds[1], valid),
      mismatched=pairs,
      impostors=clip[:, None] != clip,
    )
