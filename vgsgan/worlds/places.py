"""A world of many nouns: one thing, large in the image, at one of many places.

The place is the ground below the horizon, two colours in a pattern; the sky
above it has colours of its own. So these nouns are easy to see, and together
they are more than a batch holds. Things differ in their outlines. The size,
colour and material of the thing vary independently of all nouns.
`scenes` is the opposite world: few nouns, and attributes tell images apart.

Everything is a closed form in JAX, so an image can be rendered again with one
attribute changed inside a training step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vgsgan.worlds import scenes
from vgsgan.worlds.outlines import ANGLES, OUTLINES
from vgsgan.worlds.place_words import KINDS, VOCABULARY
from vgsgan.worlds.solids import unit

# Numbers of a scene besides its words, each from -1 to 1: shifts to the right
# and down, turn, factor of the size, shift and turn of the pattern, and the
# direction and brightness of the light.
POSE = ("right", "down", "turn", "scale", "shift", "slant", "sun", "light")

_RADII = np.array((0.4, 0.66), np.float32)  # small, large; half a side is 1.
_TURN = 0.35  # Largest turn of a thing, radians.
_GREY = 0.55  # All places, if they are not loud at all.

# Two colours of each ground and of each sky, which no thing has.
_PAINTS, _SKY_PAINTS = (
  np.array(
    [
      [
        ((236, 214, 160), (196, 150, 92)),
        ((150, 200, 140), (70, 120, 84)),
        ((200, 226, 240), (116, 160, 204)),
        ((240, 190, 196), (196, 110, 132)),
        ((92, 84, 128), (52, 46, 84)),
        ((244, 168, 96), (176, 92, 52)),
        ((244, 244, 238), (168, 176, 176)),
        ((150, 150, 96), (84, 90, 52)),
      ],
      [
        ((255, 214, 224), (255, 160, 140)),
        ((190, 236, 255), (70, 150, 230)),
        ((60, 40, 110), (20, 16, 60)),
        ((250, 246, 180), (240, 200, 60)),
        ((214, 214, 220), (150, 150, 162)),
        ((190, 240, 214), (60, 170, 140)),
        ((226, 190, 250), (160, 100, 210)),
        ((120, 70, 50), (60, 30, 24)),
      ],
    ],
    np.float32,
  )
  / 255
)
_PATTERNS = 8


class Scene(NamedTuple):
  """A scene; a batch of scenes has one more axis in front.

  Attributes:
    words: indices into the words of each kind of `place_words.VOCABULARY`.
    pose: the numbers of `POSE`.
  """

  words: Int[Array, "*b 6"]
  pose: Float[Array, "*b 8"]


class Picture(NamedTuple):
  """A rendered image and its labels.

  Attributes:
    image: RGB in [0, 1].
    mask: pixels of which the thing covers more than half.
    box: box of the mask, (top, left, bottom, right) in [0, 1].
  """

  image: Float[Array, "*b s s 3"]
  mask: Bool[Array, "*b s s"]
  box: Float[Array, "*b 4"]


def sample(key: PRNGKeyArray, counts: tuple[int, ...]) -> Scene:
  """Samples a scene; all words and poses are equally likely.

  Args:
    key: a random key.
    counts: number of words of each kind that occur.
  """
  key_words, key_pose = jax.random.split(key)
  words = jax.random.randint(key_words, (len(KINDS),), 0, jnp.array(counts))
  pose = jax.random.uniform(key_pose, (len(POSE),), minval=-1.0)
  return Scene(words, pose)


def counts(things: int, places: int, skies: int) -> tuple[int, ...]:
  """Number of words of each kind that occur, the first of the vocabulary."""
  most = {"thing": things, "place": places, "sky": skies}
  return tuple(most.get(kind, len(VOCABULARY[kind])) for kind in KINDS)


def labels(words: Int[Array, "b 6"]) -> Float[Array, "b n"]:
  """Labels of scenes: 1 for the word of each kind, in `place_words.SLICES`."""
  parts = [
    jax.nn.one_hot(words[:, i], len(names))
    for i, names in enumerate(VOCABULARY.values())
  ]
  return jnp.concatenate(parts, -1)


def render(
  scene: Scene, size: int, loudness: float = 1.0, samples: int = 2
) -> Picture:
  """Renders one scene as a square image.

  Args:
    scene: a scene without batch axes; use `jax.vmap` for a batch.
    size: side of the image, pixels.
    loudness: contrast of the places: 1 for all, 0 for the same grey everywhere.
    samples: samples per pixel along each axis.
  """
  words = dict(zip(KINDS, scene.words, strict=True))
  pose = dict(zip(POSE, scene.pose, strict=True))
  fine = size * samples
  line = (jnp.arange(fine) + 0.5) * 2 / fine - 1
  y, x = jnp.meshgrid(line, line, indexing="ij")
  horizon = -0.15 + 0.1 * pose["slant"]
  ground = _ground(words["place"], pose, x, y)
  above = (y < horizon)[..., None]
  ground = jnp.where(above, _sky(words["sky"], pose, x, y), ground)
  ground = _GREY + loudness * (ground - _GREY)
  thing, inside = _thing(words, pose, x, y)
  fine_image = jnp.where(inside[..., None], thing, ground)
  fine_image = fine_image * (1 + 0.08 * pose["light"])
  shape = (size, samples, size, samples)
  image = fine_image.reshape(*shape, 3).mean((1, 3))
  mask = inside.reshape(shape).mean((1, 3)) > 0.5
  return Picture(jnp.clip(image, 0.0, 1.0), mask, scenes.boxes(mask))


def _ground(place, pose, x, y) -> Float[Array, "f f 3"]:
  """The place: its pattern between its two colours."""
  pattern = place % _PATTERNS
  # The first places have patterns and colours of their own.
  paints = jnp.asarray(_PAINTS)[(place + place // _PATTERNS) % len(_PAINTS)]
  c, s = jnp.cos(0.15 * pose["slant"]), jnp.sin(0.15 * pose["slant"])
  u, v = c * x + s * y, c * y - s * x
  across, along = 0.25 * pose["shift"], 0.25 * pose["sun"]
  u, v = u + across, v + along
  share = _pattern(pattern, u, v)[..., None]
  return share * paints[0] + (1 - share) * paints[1]


def _pattern(index, u, v) -> Float[Array, "f f"]:
  """One of eight patterns, from 0 to 1."""
  waves = jnp.stack(
    [
      jnp.sin(6.0 * u),
      jnp.sin(6.0 * v),
      jnp.sin(5.0 * (u + v)),
      jnp.sin(6.0 * u) * jnp.sin(6.0 * v),
      1.2 * v,
      jnp.sin(8.0 * jnp.sqrt(u * u + v * v)),
      jnp.sin(6.0 * v + 2.0 * jnp.sin(5.0 * u)),
      jnp.cos(4.0 * jnp.arctan2(v, u)),
    ]
  )
  return jnp.clip(0.5 + 1.5 * waves[index], 0.0, 1.0)


def _sky(sky, pose, x, y) -> Float[Array, "f f 3"]:
  """The sky: bands of its two colours, upright or flat."""
  paints = jnp.asarray(_SKY_PAINTS)[sky % len(_SKY_PAINTS)]
  upright = sky // len(_SKY_PAINTS) % 2
  wave = jnp.where(upright, jnp.sin(9.0 * x + pose["shift"]), 1.5 * y + 0.9)
  share = jnp.clip(0.5 + 1.5 * wave, 0.0, 1.0)[..., None]
  return share * paints[0] + (1 - share) * paints[1]


def _thing(words, pose, x, y):
  """The thing's colours, and the samples inside its outline."""
  radius = jnp.asarray(_RADII)[words["size"]] * (1 + 0.07 * pose["scale"])
  reach = 0.9 - radius
  turn = _TURN * pose["turn"]
  c, s = jnp.cos(turn), jnp.sin(turn)
  dx, dy = x - reach * pose["right"], y - reach * pose["down"]
  u, v = (c * dx + s * dy) / radius, (c * dy - s * dx) / radius
  outline = jnp.asarray(OUTLINES)[words["thing"]]
  angle = (jnp.arctan2(v, u) / (2 * jnp.pi)) % 1.0 * ANGLES
  low = jnp.floor(angle).astype(jnp.int32)
  share = angle - low
  after = outline[(low + 1) % ANGLES]
  edge = (1 - share) * outline[low % ANGLES] + share * after
  depth = jnp.sqrt(u * u + v * v) / edge  # 1 at the outline.
  inside = depth < 1
  base = jnp.asarray(scenes.COLORS)[words["color"]]
  sun = unit(jnp.array([0.5 * pose["sun"], -0.6, 0.7]))
  height = jnp.sqrt(jnp.clip(1 - depth * depth, 0.02, 1.0))
  normal = unit(jnp.stack([dx / radius, dy / radius, height], -1))
  facing = jnp.maximum(normal @ sun, 0.0)[..., None]
  matt = base * (0.55 + 0.5 * facing)
  # Metal mirrors a bright sky, a dark horizon and a lit floor.
  band = jnp.cos(7.0 * normal[..., 1] + 1.0)[..., None]
  glint = facing**12
  metal = base * (0.75 + 0.55 * band) + 0.12 * band + 0.7 * glint
  color = jnp.where(words["material"] == 1, metal, matt)
  rim = jnp.where(depth > 0.86, 0.35, 1.0)[..., None]
  return color * rim, inside
