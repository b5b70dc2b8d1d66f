"""Records of the right shapes with nothing in them, to compile for.

The contents of records decide only the shapes in the program of a training
step, and `config.data` tells those. So a step can be compiled on a machine
without its data set.
"""

import io

import ml_collections
import numpy as np
from PIL import Image

from vgsgan.data.records import Record
from vgsgan.models import pretrained
from vgsgan.worlds.attributes import ATTRIBUTES
from vgsgan.worlds.place_words import KINDS
from vgsgan.worlds.places import POSE

# Tasks check the length of a split before they are built; this is enough.
_MANY = 64


def splits(config: ml_collections.ConfigDict) -> dict[str, list[Record]]:
  """`train`, `validation` and `test` of blank records.

  A record has the fields of every data set, except that the config decides
  whether it has a latent.

  Args:
    config: the config of a run; its data set is not read.

  Raises:
    UserError: `data.generator` is needed and is no file of a generator.
  """
  data = config.data
  size, objects = data.image_size, data.get("most", 1)
  png = io.BytesIO()
  Image.new("RGB", (size, size)).save(png, "PNG")
  record = {
    "id": b"blank",
    "image": png.getvalue(),
    "waveform": np.zeros(1, np.int16),
    "masks": np.zeros((objects, size, size), np.uint8),
    "attributes": np.zeros((objects, len(ATTRIBUTES)), np.int32),
    "labels": np.zeros(1, np.int32),
  } | dict.fromkeys(("concept", "image_id", "speech_id", "clip_id"), 0)
  if data.dataset == "places":
    record |= {
      "attributes": np.zeros(len(KINDS), np.int32),
      "said": np.zeros(len(KINDS), bool),
      "pose": np.zeros(len(POSE), np.float32),
      "wrong": np.zeros(0, np.int16),
    }
  # A folder of generated images brings its latents in `z.npy`.
  edits = config.get("edits", {}) if config.task == "drawing" else {}
  brought = data.dataset == "clevrgan_folder" and edits
  if data.dataset == "clevrgan" or (brought and not edits.get("inverter", "")):
    network = pretrained.unlabelled_generator(data.generator, size)
    record["z"] = np.zeros(network.module.latent_size, np.float32)
  return {name: [record] * _MANY for name in ("train", "validation", "test")}
