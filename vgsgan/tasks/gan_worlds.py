"""The worlds whose images a GAN learns: examples, labels, and their judge.

Each is a class with `transform`, which makes an example of a record;
`num_labels` and `labels`, what the networks are given; `load`, which loads the
judge of a file, '' for the packaged one; `score`, which compares drawn images
with real ones; and `select`, whose largest value on validation chooses the
best checkpoint, in words `selection`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vgsgan.data.examples import SceneExample, SceneWordsExample
from vgsgan.evals import frechet, judging, naming
from vgsgan.models import pretrained
from vgsgan.models.pretrained import Network
from vgsgan.negatives import scene_edits
from vgsgan.worlds import attributes as scene_words
from vgsgan.worlds import places
from vgsgan.worlds.place_words import KINDS, NUM_LABELS

Real = Float[np.ndarray, "n s s 3"]  # In [0, 1].
Drawn = Float[np.ndarray, "m s s 3"]


class Scenes:
  """Scenes of several objects; labels are the words that are present."""

  transform = SceneExample()
  num_labels = len(scene_words.WORDS)

  @staticmethod
  def labels(attributes: Int[Array, "b n 4"]) -> Float[Array, "b 15"]:
    """1 for each of WORDS that is true of some object."""
    parts = [
      jnp.any(attributes[..., i, None] == jnp.arange(len(words)), axis=1)
      for i, words in enumerate(scene_words.ATTRIBUTES.values())
    ]
    return jnp.concatenate(parts, axis=-1).astype(jnp.float32)

  load = staticmethod(pretrained.load_recogniser)

  @staticmethod
  def score(judge: Network, real: Real, drawn: Drawn, _: Any) -> dict[str, Any]:
    return judging.score(judging.predictor(judge), real, drawn)

  selection = "Frechet distance"

  @staticmethod
  def select(results: dict[str, Any]) -> float:
    return -results["frechet_distance"]["value"]


class Places:
  """One thing at one of many places; labels are its words."""

  transform = SceneWordsExample()
  num_labels = NUM_LABELS
  labels = staticmethod(places.labels)
  load = staticmethod(pretrained.load_namer)

  @staticmethod
  def score(
    judge: Network,
    real: Real,
    drawn: Drawn,
    words: Int[np.ndarray, "m 6"],
  ) -> dict[str, Any]:
    logits, features = naming.predict(judge, drawn)
    _, real_features = naming.predict(judge, real)
    figures = frechet.compare(real_features, features)
    return figures | {"shares": naming.shares(naming.named(logits), words)}

  @staticmethod
  def asked(
    key: Key[Array, ""],
    words: Int[np.ndarray, "n 6"],
    data: ml_collections.ConfigDict,
  ) -> tuple[Int[np.ndarray, "n 6"], Int[np.ndarray, "n"]]:
    """Words with one changed, of each kind in turn; and that kind."""
    counts = places.counts(data.things, data.places, data.skies)
    kinds = np.array([i for i in range(len(KINDS)) if counts[i] > 1], np.int32)
    changed = np.resize(kinds, len(words))
    asked = scene_edits.change(
      key, *jax.device_put((words, changed)), counts=counts
    )
    return jax.device_get(asked), changed

  @staticmethod
  def edits(
    judge: Network, drawn: Drawn, edited: Drawn, words, asked, changed
  ) -> dict[str, Any]:
    """Figures of drawn images and of their edits; see `evals.naming`."""
    logits, _ = naming.predict(judge, drawn)
    edit_logits, _ = naming.predict(judge, edited)
    names, edit_names = naming.named(logits), naming.named(edit_logits)
    return {
      "named": naming.accuracy(names, words),
      "edits": naming.edits(names, edit_names, words, asked, changed),
    }

  selection = "edits that change the word and no noun"

  @staticmethod
  def select(results: dict[str, Any]) -> float:
    """Without labels there are no edits: the Frechet distance."""
    if "edits" in results:
      return results["edits"]["all"]["clean"]
    return Scenes.select(results)


# By the data set whose images are learnt.
WORLDS = {"scenes": Scenes, "places": Places}
