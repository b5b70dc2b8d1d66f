"""A joint autoencoder of images and sounds, and a discriminator of pairs."""

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
  """Encodes images and sounds in one representation, and decodes them.

  Each modality has its own encoder and decoder; two layers mix the encoders'
  outputs. A learned vector replaces an absent modality. Spectrograms are first
  folded into channels, which takes a quarter of the work.

  Attributes:
    latent: numbers of the representation.
    features: outputs of each encoder.
    widths: channels of the encoders' stages.
    pools: as in `Encoder`.
    decoders: widths of the image decoder and of the sound decoder.
    shapes: (height, width) of images and of spectrograms.
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
    """Distribution of a pair's latent, from the modalities that are kept."""
    image = self.encode_picture(pair[0], train)
    sound = self.encode_sound(space_to_depth(pair[1]), train)
    both = jnp.stack([image, sound], axis=1)
    x = jnp.where(keep[..., None], both, self.absent)
    mixed = nn.relu(self.mix(nn.relu(x.reshape(len(x), -1))))
    return Normal(*jnp.split(self.to_normal(mixed), 2, axis=-1))

  def decode(
    self, latent: Float[Array, "b {self.latent}"], train: bool
  ) -> Pair:
    """Decodes each latent to an image and a sound, in [-1, 1]."""
    return self.decode_picture(latent, train), self.decode_sound(latent, train)

  def __call__(
    self, pair: Pair, keep: Bool[Array, "b 2"], noise: Array | None, train: bool
  ) -> tuple[Pair, Normal]:
    """Reconstructs a pair; returns its latent's distribution as well."""
    posterior = self.encode(pair, keep, train)
    return self.decode(draw(posterior, noise), train), posterior


class PairLogits(NamedTuple):
  """Logits of a `PairDiscriminator`, above 0 for real pairs that match.

  Attributes:
    matched: real images with their own sounds.
    drawn: pairs of which one or both parts are generated.
    mismatched: each real image with all real sounds.
    impostors: True where `mismatched` has the sound of another clip.
  """

  matched: Float[Array, "b"]
  drawn: Float[Array, "b"]
  mismatched: Float[Array, "b b"]
  impostors: Bool[Array, "b b"]


class Weights(nn.Module):
  """Kernel [inputs, units] and bias [units], as in `nn.Dense`.

  Attributes:
    units: number of outputs.
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
  """L3-Net as a discriminator of pairs that are real and match.

  Two towers, and `scores.fusion` of the maxima of their maps, with 128 units
  (Arandjelovic and Zisserman, ICCV 2017, section 2).

  Attributes:
    widths: channels of the towers' stages.
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

  def embed(self, pair: Pair, train: bool) -> tuple[Array, Array]:
    """Features [b, d] of images and of sounds."""
    return (
      global_max(self.picture(pair[0], train)),
      global_max(self.sound(space_to_depth(pair[1]), train)),
    )

  def score(
    self,
    images: Float[Array, "b 1 1 d"],
    sounds: Float[Array, "c 1 d"],
    valid: Bool[Array, "c 1"],
  ) -> Float[Array, "b c"]:
    """Logits of all pairs of features, with the interface of `scores`."""
    del valid
    d = images.shape[-1]
    (kernel, hidden), (out, bias) = self.fc1(2 * d), self.fc2(self.hidden)
    params = {
      "image": kernel[:d],
      "audio": kernel[d:],
      "hidden": hidden,
      "out": out[:, 0],
      "bias": bias[0],
    }
    return scores.fusion(images, sounds, params)

  def __call__(
    self, real: Pair, drawn: Pair, clip: Int[Array, "b"], train: bool
  ) -> PairLogits:
    """Logits of matched, generated and mismatched pairs.

    Real and generated pairs are normalised together, so that one function
    judges both.
    """
    # Real and generated rows alternate, so that rows stay on their device.
    both = tuple(
      jnp.stack(halves, 1).reshape(-1, *halves[0].shape[1:])
      for halves in zip(real, drawn, strict=True)
    )
    images, sounds = ((x[::2], x[1::2]) for x in self.embed(both, train))
    b = len(real[0])
    images = [x[:, None, None] for x in images]
    sounds = [x[:, None] for x in sounds]
    valid = jnp.ones((b, 1), bool)
    pairs = self.score(images[0], sounds[0], valid)
    return PairLogits(
      matched=jnp.diagonal(pairs),
      drawn=scores.paired(self.score, images[1], sounds[1], valid),
      mismatched=pairs,
      impostors=clip[:, None] != clip,
    )
