"""Does a map of a picture point at what makes the sound?

"Objects that Sound" (Arandjelovic and Zisserman, ECCV 2018, section 4.1) shows
such maps; these are figures of them, where it is known what sounds.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vgsgan.evals import localisation


def pointing(
  image_map: Float[np.ndarray, "n h w d"],
  sound: Float[np.ndarray, "n d"],
  boxes: Float[np.ndarray, "n m 4"],
  classes: Int[np.ndarray, "n m"],
  source: Int[np.ndarray, "n"],
  threshold: float,
) -> dict[str, Any]:
  """Where the sound is found in pictures that show several objects.

  Args:
    image_map: features of each place.
    sound: of what sounds in each.
    boxes: of the objects; zeros where there is none.
    classes: of the objects; -1 where there is none.
    source: which of them sounds.
    threshold: see `localisation.intersection_over_union`.

  Returns:
    `own_sound`: `pointing` of each picture's sound at its source; `iou`
    likewise. `wrong_sound`: the same with the sound of another picture, of
    what this one does not show. `wrong_sound_elsewhere`: how often that one
    points at one of the other objects. Nothing if no picture has several.
  """
  several = np.flatnonzero((classes >= 0).sum(1) > 1)
  sounding = classes[np.arange(len(source)), source]
  wrong = strangers(classes, sounding)
  several = several[wrong[several] >= 0]
  if not len(several):
    return {}
  wrong = wrong[several]
  maps, boxes, source = image_map[several], boxes[several], source[several]
  at = np.arange(len(several))
  target = boxes[at, source]
  others = boxes.copy()
  others[at, source] = 0.0

  def heard(sounds):
    return np.einsum("nhwd,nd->nhw", maps, sounds)

  own, strange = heard(sound[several]), heard(sound[wrong])
  return {
    "own_sound": localisation.pointing(own, target),
    "iou": localisation.intersection_over_union(own, target, threshold),
    "wrong_sound": localisation.pointing(strange, target),
    "wrong_sound_elsewhere": localisation.pointing_any(strange, others),
  }


def strangers(
  classes: Int[np.ndarray, "n m"], sounding: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
  """For each picture, another in which something sounds that it lacks.

  Drawn with a fixed seed; -1 of a picture that shows all that sounds.
  """
  rng = np.random.default_rng(0)
  found = np.full(len(sounding), -1)
  for row in range(len(sounding)):
    absent = np.flatnonzero(~np.isin(sounding, classes[row]))
    if len(absent):
      found[row] = rng.choice(absent)
  return found
