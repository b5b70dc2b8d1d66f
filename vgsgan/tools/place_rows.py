"""Rows of `vgsgan.tools.show` for a run of `places`."""

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vgsgan.data import features
from vgsgan.data.examples import PlaceExample
from vgsgan.data.records import Record
from vgsgan.losses import scores
from vgsgan.negatives import edits
from vgsgan.tasks.places import Places
from vgsgan.tools.drawn_runs import Restored
from vgsgan.tools.shown import Shown
from vgsgan.train import keys, predict
from vgsgan.train.state import TrainState
from vgsgan.train.task import Batch
from vgsgan.worlds import place_words
from vgsgan.worlds.place_words import KINDS, VOCABULARY

_HOP = 0.01  # Seconds between frames of the log-mel.
_SHARE = 0.7  # Of the peak, below which a place is not of the word.


def rows(run: Restored, records: Sequence[Record], kind: str) -> list[Shown]:
  """Each record's image with one word changed that its caption states.

  Args:
    run: a run of `places`.
    records: of a data set with captions.
    kind: kind of the word, one of `scene_edits.EDITS`.
  """
  model, config = run.model, run.model.config
  samples = int(config.eval.seconds * config.data.sample_rate)
  key = keys.of(config.seed, "shown")
  judged = predict.Predictor(
    lambda state, batch: judge(model, kind, state, batch, key),
    PlaceExample(samples, False),
    config,
    model.mesh,
  )(run.state, records, lambda: None)
  found = []
  for i, record in enumerate(records):
    row = {name: values[i] for name, values in judged.items()}
    spoken = json.loads(record["words"])
    words = tuple(word["spoken"] for word in spoken)
    changed = int(np.argmax(row["words"] != record["attributes"]))
    names = VOCABULARY[KINDS[changed]]
    best = next(
      (
        n
        for n, word in enumerate(words)
        if place_words.stated(word)[changed] and row["counts"]
      ),
      None,
    )
    heat = row["heat"]
    if best is not None:
      per_frame = _HOP * model.speech.stride
      first = int(spoken[best]["start"] / per_frame)
      first = min(first, heat.shape[-1] - 1)  # The clip may be cut before it.
      last = int(spoken[best]["end"] / per_frame)
      heat = heat[..., first : max(last, first + 1)]
    found.append(
      Shown(
        row["original"],
        row["picture"],
        np.asarray(edits.region(jnp.asarray(heat.max(-1))[None], _SHARE))[0],
        words or (record["caption"].decode(),),
        best,
        float(row["true"]),
        float(row["edited"]),
        bool(row["counts"]),
        names[row["words"][changed]] if row["counts"] else "",
      )
    )
  return found


def judge(
  model: Places, kind: str, state: TrainState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
  """Edits each image of a batch, and scores its caption with both.

  Returns:
    `original` and `picture` uint8 [b, s, s, 3], the image and its edit; `words`
    [b, 6], those of the edit; `true` and `edited` [b], the caption's scores;
    `counts` [b], whether the caption states an attribute; `heat` [b, h, w, t],
    the matchmap of the image and its caption.
  """
  weights = state.params, state.batch_stats
  if model.generator:
    batch = batch | {"image": model.originals(state.batch_stats, batch)}
  images, mel, num_frames = model.inputs(batch, None)

  def maps_of(x):
    return model.maps(*weights, x, mel, num_frames, train=False)[0]

  maps = maps_of(images)
  drawn, weight, _ = model.edit(kind, key, *weights, batch, images, maps)
  changed, _ = model.impostor(kind, key, batch)
  true, edited = (
    scores.paired(model.score, *x) for x in (maps, maps_of(drawn))
  )
  return {
    "original": batch["image"],
    "picture": features.pixels(drawn),
    "words": changed.words,
    "true": true,
    "edited": edited,
    "counts": weight > 0,
    "heat": model.matchmap(*maps[:2]),
  }
