"""Localisation of the sounding object among several.

"Objects that Sound" (Arandjelovic and Zisserman, ECCV 2018, section 4.1) shows
such maps; these figures need labels of the object that sounds.
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
  """Localisation figures over the images that show several objects.

  Args:
    image_map: features of each place.
    sound: features of each image's sound.
    boxes: boxes of the objects; zeros where there is none.
    classes: classes of the objects; -1 where there is none.
    source: index of the object that sounds.
    threshold: see `localisation.intersection_over_union`.

  Returns:
    `own_sound`: `pointing` of each image's sound at its source; `iou`: its
    intersection over union. `wrong_sound`: `pointing` with the sound of another
    image, of a class that this one lacks; `wrong_sound_elsewhere`: that sound
    at the other objects. Empty if no image has several objects.
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
  """Draws for each image another whose sounding class the image lacks.

  The seed is fixed. -1 for an image that shows every sounding class.
  """
  rng = np.random.default_rng(0)
  chosen = np.full(len(sounding), -1)
  for row in range(len(sounding)):
    absent = np.flatnonzero(~np.isin(sounding, classes[row]))
    if len(absent):
      chosen[row] = rng.choice(absent)
  return chosen
