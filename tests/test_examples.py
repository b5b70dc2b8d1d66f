"""Stored examples, parsed, against TFDS's own parsing."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vgsgan.data.builders import clip_records, parsing
from vgsgan.data.builders.clevrgan import records as clevrgan_records


def tensor(shape, dtype, encoding="none"):
  return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)


KINDS = {
  "image": tfds.features.Image(shape=(4, 5, 3), encoding_format="png"),
  "text": tfds.features.Text(),
  "flag": tfds.features.Scalar(np.bool_),
  "count": tfds.features.Scalar(np.int32),
  "share": tfds.features.Scalar(np.float32),
  "bytes": tensor((None,), np.int16, "bytes"),
  "zipped": tensor((None, 4, 3), np.uint8, "zlib"),
  "numbers": tensor((None,), np.int32),
  "boxes": tensor((None, 4), np.float32),
  "fixed": tensor((2, 3), np.int64),
}


def value_of(feature, rng):
  """Anything that it may hold, and nothing too where its length is free."""
  if type(feature) is tfds.features.Text:
    return "".join(map(chr, rng.integers(1, 0x3000, rng.integers(9))))
  if type(feature) is tfds.features.Image:
    return rng.bytes(7)  # As it is stored.
  free = int(rng.integers(4))
  shape = [free if side is None else side for side in feature.shape]
  dtype = np.dtype(feature.np_dtype)
  if dtype.kind == "f":
    return rng.normal(size=shape).astype(dtype)
  least, most = (0, 2) if dtype.kind == "b" else (0, 250)
  return rng.integers(least, most, shape).astype(dtype)


def require_same(one, other):
  assert one.keys() == other.keys()
  for name, value in one.items():
    assert type(value) is type(other[name]), name
    if isinstance(value, np.ndarray):
      assert value.dtype == other[name].dtype, name
    np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize(
  "features",
  [
    tfds.features.FeaturesDict(KINDS),
    clevrgan_records.features(8, 3),
    clip_records.features(8, "jpeg"),
    # Not flat: TFDS's own.
    tfds.features.FeaturesDict(
      KINDS | {"inner": {"count": tfds.features.Scalar(np.int32)}}
    ),
    tfds.features.FeaturesDict(
      KINDS | {"free": tensor((None, None), np.int32, "zlib")}
    ),
    tfds.features.FeaturesDict(
      KINDS | {"many": tfds.features.Sequence(tfds.features.Scalar(np.int32))}
    ),
  ],
)
def test_parsed_records_equal_those_of_tfds(features):
  as_stored = {"image": tfds.decode.SkipDecoding()}
  parse = parsing.parser(features)
  rng = np.random.default_rng(0)
  for _ in range(20):
    example = {
      name: {"count": 7}
      if name == "inner"
      else [1] * int(rng.integers(3))
      if name == "many"
      else value_of(feature, rng)
      for name, feature in features.items()
    }
    stored = features.serialize_example(example)
    found = parse(stored)
    expected = features.deserialize_example_np(stored, decoders=as_stored)
    flat = {k: v for k, v in expected.items() if k != "inner"}
    require_same({k: found[k] for k in flat}, flat)
    assert found.keys() == expected.keys()


def test_features_that_are_not_flat_are_left_to_tfds():
  def is_left(features):
    parse = parsing.parser(tfds.features.FeaturesDict(features))
    return getattr(parse, "func", None) is not None

  assert not is_left(KINDS)
  assert is_left({"free": tensor((None, None), np.int32, "zlib")})
  assert is_left({"mask": KINDS["image"]})
  assert is_left({"label": tfds.features.ClassLabel(num_classes=3)})


def test_a_missing_feature_is_named():
  stored = tfds.features.FeaturesDict({"text": KINDS["text"]})
  parse = parsing.parser(tfds.features.FeaturesDict(KINDS))
  with pytest.raises(
    ValueError, match=r"^it has no boxes, bytes, count, fixed"
  ):
    parse(stored.serialize_example({"text": "a"}))
