"""The rendered scenes and CLEVR as data sets of one layout."""

import io
import pickle
import shutil

import jax
import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.data.builders import clevr, scenes
from vgsgan.data.examples import SceneExample
from vgsgan.data.records import prepared_names
from vgsgan.worlds import scenes as world
from vgsgan.worlds.attributes import ATTRIBUTES


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
  monkeypatch.setattr(scenes, "_BATCH", 4)


def config(**changes):
  fields = {"image_size": 16, "train": 6, "validation": 2, "test": 3}
  return scenes.ScenesConfig(**fields | changes)


def data_config(folder, **changes):
  return ml_collections.ConfigDict(
    {
      "dataset": "scenes",
      "scenes": "rendered",
      "data_dir": str(folder),
      "image_size": 16,
      "fewest": 1,
      "most": 2,
      "num_train": 6,
      "num_validation": 2,
      "num_test": 3,
      "scene_seed": 0,
      "num_workers": 0,
      "num_threads": 1,
    }
    | changes
  )


def one_line(error, *words):
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def test_records_hold_what_the_world_renders(folder):
  splits = data.load(data_config(folder))
  assert {k: len(v) for k, v in splits.items()} == {
    "train": 6,
    "validation": 2,
    "test": 3,
  }
  records = {r["id"].decode(): r for r in (splits["test"][i] for i in range(3))}
  assert sorted(records) == ["test0", "test1", "test2"]
  root = jax.random.fold_in(jax.random.key(0), 2)
  for number in range(3):
    record = records[f"test{number}"]
    scene = world.sample(jax.random.fold_in(root, number), 1, 2)
    picture = world.render(scene, 16)
    with Image.open(io.BytesIO(record["image"])) as opened:
      assert opened.format == "PNG"
      pixels = np.asarray(opened)
    assert np.abs(pixels / 255.0 - picture.image).max() < 1 / 255
    np.testing.assert_array_equal(record["masks"], picture.masks)
    np.testing.assert_allclose(record["boxes"], picture.boxes, atol=1e-6)
    for i, kind in enumerate(ATTRIBUTES):
      expected = np.where(scene.present, getattr(scene, kind), -1)
      np.testing.assert_array_equal(record["attributes"][:, i], expected)


def test_a_record_depends_on_its_number_and_split_alone(monkeypatch):
  few = list(scenes.rendered(config(train=3), "train"))
  monkeypatch.setattr(scenes, "_BATCH", 5)
  many = list(scenes.rendered(config(train=7), "train"))
  assert (len(few), len(many)) == (3, 7)
  for one, other in zip(few, many[:3], strict=True):
    assert one["image"] == other["image"]
    np.testing.assert_array_equal(one["attributes"], other["attributes"])
  other_split = next(scenes.rendered(config(), "test"))
  other_seed = next(scenes.rendered(config(seed=1), "train"))
  images = {r["image"] for r in (*many, other_split, other_seed)}
  assert len(images) == 9


def test_a_second_start_finds_what_the_first_prepared(folder, monkeypatch):
  data.load(data_config(folder))
  monkeypatch.setattr(scenes, "rendered", None)
  assert len(data.load(data_config(folder))["train"]) == 6


def test_a_split_is_opened_anew_where_it_is_sent(folder, caplog):
  """As worker processes get it: the same records, and no warnings."""
  for split in data.load(data_config(folder)).values():
    caplog.clear()
    sent = pickle.loads(pickle.dumps(split))
    assert not caplog.records
    for one, other in zip(split, sent, strict=True):
      jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_name_tells_every_field():
  changes = (
    {"image_size": 17},
    {"fewest": 2},
    {"most": 1},
    {"train": 7},
    {"validation": 7},
    {"test": 7},
    {"seed": 7},
  )
  assert len({config(**c).name for c in ({}, *changes)}) == 8


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"image_size": 4}, ("data.image_size", "8")),
    ({"fewest": 0}, ("data.fewest", "1")),
    ({"fewest": 2, "most": 1}, ("data.most", "2")),
    ({"most": 3}, ("data.most=3", "floor")),
    ({"num_test": 0}, ("data.num_test", "1")),
    ({"scenes": "clever"}, ("data.scenes", "'clevr'")),
    ({"dataset": "scene"}, ("data.dataset", "'scenes'")),
  ],
)
def test_wrong_fields_are_named(folder, change, words):
  with pytest.raises(UserError) as error:
    data.load(data_config(folder, **change))
  one_line(error, *words)


def test_identity_has_the_fields_of_its_data_set(folder):
  found = data.identity(data_config(folder))
  assert found["dataset"] == "scenes" and found["num_train"] == 6
  assert "data_dir" not in found and "num_threads" not in found
  changed = data.identity(data_config(folder, scene_seed=1))
  assert {k for k in found if found[k] != changed[k]} == {"scene_seed"}


def test_an_example_has_fixed_shapes(folder):
  record = data.load(data_config(folder))["train"][0]
  example = SceneExample()(record, np.random.default_rng(0))
  assert {k: (v.shape, v.dtype.name) for k, v in example.items()} == {
    "image": ((16, 16, 3), "uint8"),
    "masks": ((2, 16, 16), "uint8"),
    "attributes": ((2, 4), "int32"),
  }


# CLEVR.

TFDS_COLORS = "gray blue brown yellow red green purple cyan".split()
OBJECTS = (
  ("small", "red", "metal", "sphere"),
  ("large", "yellow", "rubber", "cylinder"),
  ("large", "cyan", "metal", "cube"),
)


class Clevr(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The layout of tensorflow_datasets/datasets/clevr, version 3.1.0."""

  code_path = tfds.core.Path(__file__)
  VERSION = tfds.core.Version("3.1.0")

  def _info(self):
    label = tfds.features.ClassLabel
    number = tfds.features.Tensor
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "file_name": tfds.features.Text(),
          "objects": tfds.features.Sequence(
            {
              "color": label(names=TFDS_COLORS),
              "material": label(names=["rubber", "metal"]),
              "shape": label(names=["cube", "sphere", "cylinder"]),
              "size": label(names=["small", "large"]),
              "rotation": number(shape=(), dtype=np.float32),
              "3d_coords": number(shape=(3,), dtype=np.float32),
              "pixel_coords": number(shape=(3,), dtype=np.float32),
            }
          ),
          "question_answer": tfds.features.Sequence(
            {"question": tfds.features.Text(), "answer": tfds.features.Text()}
          ),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples("train", 3),
      "validation": self._generate_examples("val", 4),
      "test": self._generate_examples("test", 1),
    }

  def _generate_examples(self, name, count):
    for i in range(count):
      pixels = np.full((32, 48, 3), 10 * i, np.uint8)
      pixels[:, :24, 0] = 200
      file_name = f"CLEVR_{name}_{i:06d}.png"
      yield (
        file_name,
        {
          "image": scenes.encode(pixels),
          "file_name": file_name,
          "question_answer": [{"question": "How many?", "answer": "1"}],
          "objects": [
            {
              "size": size,
              "color": color,
              "material": material,
              "shape": shape,
              "rotation": 30.0,
              "3d_coords": [0.0, 0.0, 0.7],
              "pixel_coords": [1.0, 2.0, 3.0],
            }
            for size, color, material, shape in OBJECTS[:i]
          ],
        },
      )


@pytest.fixture(scope="module")
def clevr_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  builder = Clevr(data_dir=folder, file_format="array_record")
  builder.download_and_prepare(file_format="array_record")
  return folder


def test_clevr_has_the_records_of_the_scenes(clevr_dir):
  splits = data.load(data_config(clevr_dir, scenes="clevr"))
  assert prepared_names(splits["train"]) == ["clevr/3.1.0"]
  assert {k: len(v) for k, v in splits.items()} == {
    "train": 3,
    "validation": 2,
    "test": 2,
  }
  rendered = data.load(data_config(clevr_dir))["train"][0]
  ids = set()
  for records in splits.values():
    for record in (records[i] for i in range(len(records))):
      assert record.keys() == rendered.keys()
      ids.add(record["id"])
      example = SceneExample()(record, np.random.default_rng(0))
      assert example["image"].shape == (16, 16, 3)
      assert example["masks"].shape == (10, 16, 16)
      assert not example["masks"].any() and not record["boxes"].any()
      count = int(record["id"].decode()[-5])
      red = example["image"][:, :, 0]
      assert (red[:, :6] > 190).all() and (red[:, 10:] < 50).all()
      words = [
        tuple(
          ATTRIBUTES[kind][i] for kind, i in zip(ATTRIBUTES, row, strict=True)
        )
        for row in example["attributes"][:count]
      ]
      assert words == list(OBJECTS[:count])
      assert (example["attributes"][count:] == -1).all()
  assert len(ids) == 7


@pytest.mark.parametrize("harm", ["deleted", "cut", "zeros"])
@pytest.mark.parametrize("kind", ["rendered", "clevr"])
def test_a_damaged_file_is_noticed_before_anything_is_trained(
  folder, clevr_dir, tmp_path, kind, harm
):
  data.load(data_config(folder))
  shutil.copytree(folder if kind == "rendered" else clevr_dir, tmp_path / "d")
  for file in (tmp_path / "d").rglob("*-validation.array_record*"):
    whole = file.read_bytes()
    left = whole[: len(whole) // 2]
    file.write_bytes(left if harm == "cut" else bytes(len(whole)))
    if harm == "deleted":
      file.unlink()
  with pytest.raises(UserError) as error:
    data.load(data_config(tmp_path / "d", scenes=kind))
  one_line(error, str(tmp_path), "validation", "delete that folder")
  again = f"tfds build clevr --data_dir={tmp_path / 'd'} "
  assert (again in str(error.value)) == (kind == "clevr")
  assert ("prepares it anew" in str(error.value)) == (kind != "clevr")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_clevr_with_a_damaged_file_says_how_to_prepare_it(
  clevr_dir, tmp_path, name
):
  shutil.copytree(clevr_dir, tmp_path / "d")
  (tmp_path / "d/clevr/3.1.0" / name).write_text("{")
  with pytest.raises(UserError) as error:
    clevr.load(tmp_path / "d", 32)
  one_line(error, "clevr/3.1.0 is damaged", "tfds build clevr")


def test_clevr_that_is_not_prepared_says_how(tmp_path):
  with pytest.raises(UserError) as error:
    clevr.load(tmp_path, 32)
  one_line(error, "tfds build clevr", f"--data_dir={tmp_path}", "array_record")
