"""CLEVR as TFDS prepares it, in the records of `builders.scenes`.

CLEVR (Johnson et al., CVPR 2017) publishes no scenes for its test split, so
`validation` and `test` here are the two halves of its validation split.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from PIL import Image

from vgsgan.common.errors import UserError
from vgsgan.data import decoding
from vgsgan.data.builders import reading, scenes, sources
from vgsgan.data.records import Record, Wrapped
from vgsgan.worlds.attributes import ATTRIBUTES

MOST = 10  # Objects in one image.
_SPLITS = {
  "train": "train",
  "validation": "validation[:50%]",
  "test": "validation[50%:]",
}


@dataclasses.dataclass(frozen=True)
class Clevr(Wrapped):
  """Random access to a split.

  Attributes:
    records: the records of TFDS.
    order: maps TFDS's labels of each kind of attribute to those of ATTRIBUTES.
    image_size: side to which the images, of 480 x 320 pixels, are squashed.
  """

  order: dict[str, Int[np.ndarray, "_"]]
  image_size: int

  def __getitem__(self, index: int) -> Record:
    """Reads a record as `scenes.load` does; masks and boxes are zeros."""
    record = self.records[index]
    attributes = np.full((MOST, len(ATTRIBUTES)), -1, np.int32)
    for i, kind in enumerate(ATTRIBUTES):
      labels = self.order[kind][record["objects"][kind]]
      attributes[: len(labels), i] = labels
    size = self.image_size
    return {
      "id": record["file_name"],
      "image": _resized(record["image"], size),
      "masks": np.zeros((MOST, size, size), np.uint8),
      "boxes": np.zeros((MOST, 4), np.float32),
      "attributes": attributes,
    }


def load(data_dir: str | pathlib.Path, image_size: int) -> dict[str, Clevr]:
  """The splits `train`, `validation` and `test`.

  Args:
    data_dir: where TFDS has prepared 'clevr'.
    image_size: side of the square images, pixels.

  Raises:
    UserError: it is not there, or not as ArrayRecord.
  """
  data_dir = sources.expanded(data_dir)
  advice = _advice(data_dir)
  builder = _builder(data_dir)
  features = builder.info.features["objects"]
  order = {
    kind: np.array([words.index(name) for name in features[kind].names])
    for kind, words in ATTRIBUTES.items()
  }
  return {
    split: Clevr(reading.open_split(builder, name, advice), order, image_size)
    for split, name in _SPLITS.items()
  }


def _builder(data_dir: pathlib.Path) -> tfds.core.DatasetBuilder:
  """The newest version that is there."""
  prepared = sorted(data_dir.glob("clevr/*/dataset_info.json"))
  for path in reversed(prepared):
    with reading.whole(path.parent, _advice(data_dir)):
      builder = tfds.builder_from_directory(path.parent)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
      return builder
  raise UserError(
    f"no CLEVR in {data_dir} as ArrayRecord: prepare it (18 GB download) with "
    f"'pip install tensorflow-cpu && {_command(data_dir)}'"
  )


def _command(data_dir: pathlib.Path) -> str:
  """The command that prepares CLEVR."""
  return f"tfds build clevr --data_dir={data_dir} --file_format=array_record"


def _advice(data_dir: pathlib.Path) -> str:
  """Advice on how to replace a damaged data set."""
  return f"delete that folder and run '{_command(data_dir)}'"


def _resized(image: bytes, size: int) -> bytes:
  with decoding.open_image(image) as opened:
    small = opened.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
  return scenes.encode(np.asarray(small))
