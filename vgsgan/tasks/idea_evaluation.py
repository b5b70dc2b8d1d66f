"""What a state of `idea` generates from a split: figures, and pictures.

Names of what is made:
  from_both      a pair, decoded of the latent of picture and sound
  from_picture   a pair, decoded of the latent of a picture without its sound
  from_sound     a pair, decoded of the latent of a sound without its picture
  sampled        a pair, decoded of a random latent that is normal with the
                 mean and covariance of those of the training clips
  prior          the same of N(0, I), for those that are trained towards it
  given_picture  a real picture and the sound that is generated from it
  given_sound    a real sound and the picture that is generated from it
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

# What of (picture, sound) is kept.
KEPT = {
  "from_both": (True, True),
  "from_picture": (True, False),
  "from_sound": (False, True),
}
MODALITIES = ("picture", "sound")
Features = tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n e"]]


class Looks:
  """Figures and pictures of the task `idea`.

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
    # What random latents are like.
    self.drawn = {"sampled": splits["train"]}
    self.drawn |= {"prior": None} if model.variational else {}

    def decode(state, latent):
      return dict(zip(MODALITIES, model.decode(state, latent), strict=True))

    def look(state, batch):
      pair = model.pair(batch)
      # All that is kept in one pass, which is compiled once.
      many, kept = len(KEPT), np.array(list(KEPT.values()))
      latent = model.encode(
        state,
        tuple(jnp.concatenate([x] * many) for x in pair),
        jnp.repeat(kept, len(pair[0]), axis=0),
      )
      made = {
        name: jnp.split(rows, many)
        for name, rows in decode(state, latent).items()
      }
      found = {
        name: dict(zip(MODALITIES, rows, strict=True))
        for name, *rows in zip(KEPT, *made.values(), strict=True)
      }
      found["real"] = dict(zip(MODALITIES, pair, strict=True))
      return found | {"labels": batch["labels"]}

    def encode(state, batch):
      keep = jnp.ones((len(batch["image"]), len(MODALITIES)), bool)
      return model.encode(state, model.pair(batch), keep)

    self.rows = Rows(config, mesh, transform, look, decode, encode)

  def made(self, state: TrainState, records, many: int, poll: Poll):
    """Real clips, their labels, and what is made of and beside them."""
    found = self.rows.of(state, records, many, poll)
    for name, like in self.drawn.items():
      latents = self.rows.latents(state, len(found["labels"]), like, poll)
      found[name] = self.rows.decoded(state, latents, poll)

    def clips(name: str) -> Clips:
      return Clips(found[name]["picture"], found[name]["sound"][..., 0])

    made = {name: clips(name) for name in (*KEPT, *self.drawn)}
    return clips("real"), found["labels"], made

  def evaluate(
    self, state: TrainState, split: str, poll: Poll
  ) -> dict[str, Any]:
    """Squared errors; likeness in coarse features; what the judges find."""
    records = self.splits[split]
    real, labels, made = self.made(state, records, len(records), poll)
    errors = {
      part: {
        name: generated.squared_error(
          getattr(real, part), getattr(made[name], part)
        )
        for name in KEPT
      }
      for part in MODALITIES
    }
    results = {"clips": len(labels), "squared_error": errors}
    results["coarse"] = likeness(*looked(coarse, real, made))
    if self.judges:
      results["judged"] = judged(self.judges, real, labels, made)
    return results

  def pictures(
    self, state: TrainState
  ) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Rows: the real, and what is made in the order of the names above.

    Spectrograms have time from left to right, and low bands below.
    """
    real, _, made = self.made(
      state, self.splits["validation"], COLUMNS, lambda: None
    )
    shown = [real, *made.values()]
    return {
      "pictures": sheet([clips.picture for clips in shown]),
      "spectrograms": sheet([upright(clips.sound) for clips in shown]),
    }


def upright(sound: np.ndarray) -> np.ndarray:
  """Spectrograms [n, t, f] as pictures [n, f, t, 1], low bands below."""
  return sound.transpose(0, 2, 1)[:, ::-1, :, None]


def coarse(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
  return (
    generated.coarse(clips.picture),
    generated.coarse(clips.sound[..., None]),
  )


def looked(look, real: Clips, made: dict[str, Clips]) -> tuple[Any, Any, dict]:
  """What `look` finds in the real, in their mean, and in all that was made."""
  mean = Clips(*(generated.flat(x) for x in real))
  return look(real), look(mean), {name: look(x) for name, x in made.items()}


def likeness(
  real: Features, mean: Features, made: dict[str, Features]
) -> dict[str, Any]:
  """`generated.likeness` of pictures, of sounds, and of both side by side.

  Side by side, what does not belong together is unlike the real too (the
  Frechet joint distance of DeVries et al., 2019).

  Args:
    real: features of the pictures and of the sounds of the split.
    mean: of their means.
    made: of what was generated.
  """

  def parts(features):
    return dict(zip(MODALITIES, features, strict=True)) | {
      "pair": np.concatenate(features, axis=1)
    }

  of_real, of_mean = parts(real), parts(mean)
  of_made = {name: parts(features) for name, features in made.items()}
  return {
    part: generated.likeness(
      of_real[part],
      of_mean[part],
      {name: rows[part] for name, rows in of_made.items()},
    )
    for part in of_real
  }


def judged(
  judges: Judges, real: Clips, labels: np.ndarray, made: dict[str, Clips]
) -> dict[str, Any]:
  """What networks find that took no part in training."""

  def look(clips):
    """Features and logits of the pictures, and of the sounds."""
    return judges.image(0.5 + 0.5 * clips.picture), judges.audio(clips.sound)

  def features(looks):
    return tuple(found for found, _ in looks)

  def match(clips):
    return judges.match(0.5 + 0.5 * clips.picture, clips.sound)

  pairs = made | {
    "given_picture": Clips(real.picture, made["from_picture"].sound),
    "given_sound": Clips(made["from_sound"].picture, real.sound),
  }
  of_real, of_mean, of_made = looked(look, real, made)
  like = likeness(
    features(of_real),
    features(of_mean),
    {name: features(looks) for name, looks in of_made.items()},
  )
  (_, pictures), (_, sounds) = of_real
  (_, drawn), _ = of_made["from_sound"]
  _, (_, played) = of_made["from_picture"]
  return like | {
    "match": generated.matches(match, real, pairs),
    "class": {
      "picture_from_sound": generated.recognised(drawn, pictures, labels),
      "sound_from_picture": generated.recognised(played, sounds, labels),
    },
  }


def likest(results: dict[str, Any]) -> float:
  """Less the Frechet distance of pairs that are made of both.

  In coarse features: who judges what is reported must not choose it too.
  """
  return -results["coarse"]["pair"]["frechet"]["from_both"]["value"]
