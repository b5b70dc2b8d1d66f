"""Generates from a split with `idea`, and gives figures and images.

Names of the generated clips:
  from_both      a pair decoded from the latent of an image and its sound
  from_picture   a pair decoded from the latent of an image alone
  from_sound     a pair decoded from the latent of a sound alone
  sampled        a pair decoded from a random normal latent with the mean and
                 covariance of the training clips' latents
  prior          a pair decoded from a latent of N(0, I), for vae and vae-gan
  given_picture  a real image and the sound generated from it
  given_sound    a real sound and the image generated from it
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from vgsgan.common.options import check_at_least
from vgsgan.data.examples import ClipExample
from vgsgan.evals import generated
from vgsgan.evals.generated import Clips
from vgsgan.tasks.generation_evaluation import (
  COLUMNS,
  FEWEST,
  Rows,
  judges_of,
  sheet,
)
from vgsgan.tasks.judges import Judges
from vgsgan.train.state import TrainState
from vgsgan.train.task import Poll

# Whether the (image, sound) of a clip are kept.
KEPT = {
  "from_both": (True, True),
  "from_picture": (True, False),
  "from_sound": (False, True),
}
MODALITIES = ("picture", "sound")
Features = tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n e"]]


class Evaluation:
  """Figures and images of the task `idea`.

  Args:
    model: `tasks.idea.Idea`.
    mesh: of the run.
    splits: of the data set.
    transform: makes an example of a record.
  """

  def __init__(self, model: Any, mesh: Mesh, splits, transform: ClipExample):
    config = self.config = model.config
    for split in ("validation", "test"):
      check_at_least(f"data.num_{split}", len(splits[split]), FEWEST)
    self.splits, self.judges = splits, judges_of(config)
    # The records whose latents random ones imitate, by name; None for N(0, I).
    self.drawn = {"sampled": splits["train"]}
    self.drawn |= {"prior": None} if model.variational else {}

    def decode(state, latent):
      return dict(zip(MODALITIES, model.decode(state, latent), strict=True))

    def predict(state, batch):
      pair, size = model.pair(batch), len(batch["labels"])
      # The batch once for each choice of what is kept: one pass is compiled.
      repeated = tuple(jnp.concatenate([x] * len(KEPT)) for x in pair)
      kept = jnp.repeat(np.array(list(KEPT.values())), size, axis=0)
      decoded = decode(state, model.encode(state, repeated, kept))
      clips = {"real": dict(zip(MODALITIES, pair, strict=True))}
      for number, name in enumerate(KEPT):
        rows = slice(number * size, (number + 1) * size)
        clips[name] = {part: x[rows] for part, x in decoded.items()}
      return clips | {"labels": batch["labels"]}

    def encode(state, batch):
      keep = jnp.ones((len(batch["image"]), len(MODALITIES)), bool)
      return model.encode(state, model.pair(batch), keep)

    self.rows = Rows(config, mesh, transform, predict, decode, encode)

  def generate(self, state: TrainState, records, many: int, poll: Poll):
    """Real clips, their labels, and a dict of generated clips."""
    rows = self.rows.of(state, records, many, poll)
    for name, like in self.drawn.items():
      latents = self.rows.latents(state, len(rows["labels"]), like, poll)
      rows[name] = self.rows.decoded(state, latents, poll)

    def clips(name: str) -> Clips:
      return Clips(rows[name]["picture"], rows[name]["sound"][..., 0])

    outputs = {name: clips(name) for name in (*KEPT, *self.drawn)}
    return clips("real"), rows["labels"], outputs

  def evaluate(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    """Squared errors, likeness in coarse features, and the judges' figures."""
    records = self.splits[split]
    real, labels, outputs = self.generate(state, records, len(records), poll)
    errors = {
      part: {
        name: generated.squared_error(
          getattr(real, part), getattr(outputs[name], part)
        )
        for name in KEPT
      }
      for part in MODALITIES
    }
    results = {"clips": len(labels), "squared_error": errors}
    results["coarse"] = likeness(*features_of(coarse, real, outputs))
    if self.judges:
      results["judged"] = judged(self.judges, real, labels, outputs)
    return results

  def images(self, state: TrainState) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Sheets with rows of real clips, and of generated ones by their names.

    Spectrograms have time from left to right, and low bands below.
    """
    real, _, outputs = self.generate(
      state, self.splits["validation"], COLUMNS, lambda: None
    )
    shown = [real, *outputs.values()]
    return {
      "pictures": sheet([clips.picture for clips in shown]),
      "spectrograms": sheet([upright(clips.sound) for clips in shown]),
    }


def upright(sound: np.ndarray) -> np.ndarray:
  """Spectrograms [n, t, f] as images [n, f, t, 1], low bands below."""
  return sound.transpose(0, 2, 1)[:, ::-1, :, None]


def coarse(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
  return (
    generated.coarse(clips.picture),
    generated.coarse(clips.sound[..., None]),
  )


def features_of(
  extract, real: Clips, outputs: dict[str, Clips]
) -> tuple[Any, Any, dict]:
  """Applies `extract` to real clips, to their mean, and to generated clips."""
  mean = Clips(*(generated.flat(x) for x in real))
  return (
    extract(real),
    extract(mean),
    {name: extract(x) for name, x in outputs.items()},
  )


def likeness(
  real: Features, mean: Features, outputs: dict[str, Features]
) -> dict[str, Any]:
  """`generated.likeness` of images, of sounds, and of both concatenated.

  Concatenated features also show pairs that do not belong together (the Frechet
  joint distance of DeVries et al., 2019).

  Args:
    real: features of the images and of the sounds of the split.
    mean: features of their means.
    outputs: features of the generated clips.
  """

  def parts(features):
    return dict(zip(MODALITIES, features, strict=True)) | {
      "pair": np.concatenate(features, axis=1)
    }

  of_real, of_mean = parts(real), parts(mean)
  of_outputs = {name: parts(features) for name, features in outputs.items()}
  return {
    part: generated.likeness(
      of_real[part],
      of_mean[part],
      {name: rows[part] for name, rows in of_outputs.items()},
    )
    for part in of_real
  }


def judged(
  judges: Judges, real: Clips, labels: np.ndarray, outputs: dict[str, Clips]
) -> dict[str, Any]:
  """Figures of the judges, which took no part in training."""

  def extract(clips):
    """Features and logits of the images, and of the sounds."""
    return judges.image(0.5 + 0.5 * clips.picture), judges.audio(clips.sound)

  def features(pair):
    return tuple(rows for rows, _ in pair)

  def match(clips):
    return judges.match(0.5 + 0.5 * clips.picture, clips.sound)

  pairs = outputs | {
    "given_picture": Clips(real.picture, outputs["from_picture"].sound),
    "given_sound": Clips(outputs["from_sound"].picture, real.sound),
  }
  of_real, of_mean, of_outputs = features_of(extract, real, outputs)
  like = likeness(
    features(of_real),
    features(of_mean),
    {name: features(pair) for name, pair in of_outputs.items()},
  )
  (_, pictures), (_, sounds) = of_real
  (_, drawn), _ = of_outputs["from_sound"]
  _, (_, played) = of_outputs["from_picture"]
  return like | {
    "match": generated.matches(match, real, pairs),
    "class": {
      "picture_from_sound": generated.recognised(drawn, pictures, labels),
      "sound_from_picture": generated.recognised(played, sounds, labels),
    },
  }


def likest(results: dict[str, Any]) -> float:
  """The negated Frechet distance of `from_both` pairs, in coarse features.

  The judges, whose figures are reported, must not choose the checkpoint.
  """
  return -results["coarse"]["pair"]["frechet"]["from_both"]["value"]
