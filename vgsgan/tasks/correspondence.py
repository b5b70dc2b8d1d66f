"""Audio-visual correspondence: do an image and a sound belong together?

L3-Net (Arandjelovic and Zisserman, "Look, Listen and Learn", ICCV 2017),
AVE-Net and AVOL-Net (the same authors, "Objects that Sound", ECCV 2018) have
two towers. The score of a pair comes from layers over both outputs (l3), from a
calibrated distance (ave) or from the best place of the image (avol).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from vgsgan.common.errors import UserError
from vgsgan.common.options import building, check_one_of
from vgsgan.data import augment, features
from vgsgan.data.examples import ClipExample
from vgsgan.data.records import Records
from vgsgan.evals import crossmodal
from vgsgan.losses import contrastive, objectives, primitives, scores
from vgsgan.models.correspondence import Projection, Tower, global_max
from vgsgan.tasks import check_batch
from vgsgan.tasks import correspondence_evaluation as figures
from vgsgan.train import forward, keys
from vgsgan.train.state import TrainState, check_optimizer, optimizer, schedule
from vgsgan.train.task import Batch, Metrics, Task

SYSTEMS = ("l3", "ave", "avol")
MODALITIES = ("image", "audio")
VIDEO_RATE = 25  # Frames a second; with the shortcut, sounds begin at frames.
NEEDS = (
  "model",
  "loss.negatives",
  "optim",
  "eval.cca_records",
  "data.shortcut",
  "data.augment.shift",
  "data.augment.flip",
  "data.augment.brightness",
  *features.FIELDS,
)


class Encoded(NamedTuple):
  """A batch of pairs, encoded.

  Attributes:
    image: image maps for the score; of one place, but for avol.
    audio: sound maps for the score, of one frame.
    valid: true for every frame.
    features: vectors to compare within and across modalities: the towers'
      pooled outputs (l3, avol) or the embeddings (ave).
  """

  image: Float[Array, "b h w d"]
  audio: Float[Array, "b 1 d"]
  valid: Bool[Array, "b 1"]
  features: dict[str, Float[Array, "b k"]]


class Correspondence:
  """The networks of a config, their scores and their training."""

  def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
    check(config)
    model = config.model
    self.config = config
    self.mesh = mesh
    self.towers = {
      name: Tower(
        tuple(model.widths),
        tuple(model.pools),
        forward.dtype(config.train),
      )
      for name in MODALITIES
    }
    self.projection = Projection(model.embed, model.system == "ave")
    self.tx = optimizer(config.optim, config.train.steps)
    self.rate = schedule(config.optim, config.train.steps)
    with building("config.model or config.data"):
      jax.eval_shape(self.init, jax.random.key(0))
      jax.eval_shape(self.spectrogram, self._silence(), jnp.ones(1, jnp.int32))

  def _silence(self) -> Array:
    data = self.config.data
    return jnp.zeros((1, int(data.seconds * data.sample_rate)), jnp.int16)

  def init(self, key: jax.Array) -> TrainState:
    """A fresh state."""
    data, model = self.config.data, self.config.model
    parts = jax.random.split(key, 4)
    sound = self.spectrogram(self._silence(), jnp.ones(1, jnp.int32))
    inputs = {
      "image": jnp.zeros((1, data.image_size, data.image_size, 3)),
      "audio": sound[..., None],
    }
    towers = {
      name: self.towers[name].init(parts[i], inputs[name], train=False)
      for i, name in enumerate(MODALITIES)
    }
    params = {name: towers[name]["params"] for name in MODALITIES}
    stats = {name: towers[name]["batch_stats"] for name in MODALITIES}
    width = model.widths[-1]
    if model.system == "l3":
      params["score"] = fusion_params(parts[2], width, model.embed)
    else:
      for i, name in enumerate(MODALITIES, start=2):
        projection = self.projection.init(parts[i], jnp.zeros((1, width)))
        params[f"{name}_projection"] = projection["params"]
      params["score"] = calibration(model.system)
    return TrainState.create(params, stats, self.tx)

  def spectrogram(self, waveform, num_samples) -> Float[Array, "b t f"]:
    """Spectrograms of waveforms, the audio tower's input."""
    return features.spectrogram_of(self.config.data, waveform, num_samples)

  def images(self, batch: Batch, key: jax.Array | None):
    """Normalised images, augmented if there is a key."""
    pixels = batch["image"].astype(jnp.float32) / 255.0
    if key is not None:
      use = self.config.data.augment
      key_move, key_light = jax.random.split(key)
      pixels = augment.shift_and_flip(key_move, pixels, use.shift, use.flip)
      low, high = 1 - use.brightness, 1 + use.brightness
      gain = jax.random.uniform(
        key_light, (len(pixels), 1, 1, 1), float, low, high
      )
      pixels = jnp.clip(gain * pixels, 0.0, 1.0)
    return features.standardize(pixels)

  def encode(
    self, params, stats, images, spectrograms, train: bool = False
  ) -> tuple[Encoded, Any]:
    """Encodes images and sounds; there may be more sounds than images.

    Args:
      params: of the state.
      stats: `batch_stats` of the state.
      images: normalised [b, s, s, 3].
      spectrograms: [c, t, f].
      train: True normalises with the batch's statistics, and records them.

    Returns:
      The encoded pairs, and the new statistics.
    """
    maps, new = {}, {}
    inputs = {"image": images, "audio": spectrograms[..., None]}
    for name, x in inputs.items():
      network = forward.bind(self.towers[name], params[name], train)
      maps[name], new[name] = forward.apply(
        self.config.train, network, stats[name], x
      )
    pooled = {name: global_max(x) for name, x in maps.items()}
    image, audio, vectors = maps["image"], pooled["audio"], pooled
    if self.config.model.system != "avol":
      image = pooled["image"][:, None, None]
    if self.config.model.system != "l3":
      image = self.project(params, "image", image)
      audio = self.project(params, "audio", audio)
    if self.config.model.system == "ave":
      vectors = {"image": image[:, 0, 0], "audio": audio}
    valid = jnp.ones((len(audio), 1), bool)
    return Encoded(image, audio[:, None], valid, vectors), new

  def project(self, params, name: str, x: Array) -> Array:
    return self.projection.apply({"params": params[f"{name}_projection"]}, x)

  def score(self, params) -> Callable[..., Array]:
    """The function that gives a logit for every image with every sound.

    Its signature is that of `losses.scores`.
    """
    own = params["score"]
    system = self.config.model.system

    def score(images, audio, valid):
      del valid
      if system == "l3":
        return scores.fusion(images, audio, own)
      pair = {
        "ave": scores.calibrated_distance,
        "avol": scores.calibrated_peak,
      }[system]
      return pair(images, audio, own["scale"], own["bias"])

    return score

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes one update. Random draws depend on the seed and the step alone."""
    seed, step = self.config.seed, state.step
    key_augment = keys.of(seed, "augment", step)
    key_negatives = keys.of(seed, "negatives", step)
    images = self.images(batch, key_augment)
    sounds = self.spectrogram(batch["waveform"], batch["num_samples"])
    if "aligned" in batch:
      own = self.spectrogram(batch["aligned"], batch["num_samples"])
      # The two of a pair lie side by side, so that each device keeps its own.
      sounds = jnp.stack([sounds, own], 1).reshape(-1, *sounds.shape[1:])

    def loss(params):
      encoded, stats = self.encode(
        params, state.batch_stats, images, sounds, train=True
      )
      audio, valid, partner = encoded.audio, encoded.valid, None
      if "aligned" in batch:
        audio, valid, partner = (
          encoded.audio[0::2],
          encoded.valid[0::2],
          (encoded.audio[1::2], encoded.valid[1::2]),
        )
      value, metrics = contrastive.contrastive(
        encoded.image,
        audio,
        valid,
        batch["clip_id"],
        batch["clip_id"],
        score=self.score(params),
        objective=objectives.correspondence(self.config.loss.negatives),
        partner=partner,
        key=key_negatives,
        mesh=self.mesh,
      )
      return value, (metrics, stats)

    return state.minimise(loss, self.tx, self.rate)


def fusion_params(key: jax.Array, width: int, embed: int) -> dict[str, Array]:
  """Initial parameters of `scores.fusion`."""
  key_joint, key_out = jax.random.split(key)
  normal = jax.nn.initializers.he_normal()
  joint = normal(key_joint, (2 * width, embed))
  return {
    "image": joint[:width],
    "audio": joint[width:],
    "hidden": jnp.zeros(embed),
    "out": jax.random.normal(key_out, (embed,)) * embed**-0.5,
    "bias": jnp.zeros(()),
  }


def calibration(system: str) -> dict[str, Array]:
  """Initial scale and bias of the score.

  Their signs let a small distance mean correspondence ("Objects that Sound",
  section 3). Unrelated vectors of length 1 are about 1.4 apart; AVOL-Net's
  products are about `embed ** 0.5`.
  """
  scale, bias = {"ave": (5.0, 6.0), "avol": (0.1, 0.0)}[system]
  return {"scale": jnp.array(scale), "bias": jnp.array(bias)}


def example(config: ml_collections.ConfigDict) -> ClipExample:
  """Makes examples from records, in training and in evaluation."""
  data = config.data
  grid = data.sample_rate // VIDEO_RATE if data.shortcut else 0
  return ClipExample(int(data.seconds * data.sample_rate), grid)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the config does not describe a task."""
  check_one_of("model.system", config.model.system, SYSTEMS)
  check_one_of(
    "loss.negatives", config.loss.negatives, primitives.PAIR_NEGATIVES
  )
  check_one_of(
    "data.spectrogram", config.data.spectrogram, features.SPECTROGRAMS
  )
  check_optimizer(config.optim, "optim")
  check_batch(config)
  if config.model.system == "l3" and config.eval.cca_records:
    crossmodal.check_cca()


def build(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  splits: dict[str, Records],
) -> Task:
  """Builds the task on these splits."""
  model = Correspondence(config, mesh)
  for records in splits.values():
    tree = getattr(records, "hierarchy", None)  # Blank records have none.
    if config.model.system != "avol" and tree and len(tree.labels) < 2:
      name = tree.names[tree.labels[0]]
      raise UserError(
        f"the data have one class, {name!r}, and retrieval needs two to tell "
        "apart: widen --config.data.under, or use the argument avol"
      )
  return Task(
    transform=example(config),
    init=model.init,
    step=model.step,
    evaluate=figures.Evaluation(model, example(config), splits),
    select=lambda results: results["correspondence"]["value"],
    selection="accuracy of correspondence",
  )
