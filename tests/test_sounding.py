"""The data set of scenes of which one object sounds."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vgsgan.common.errors import UserError
from vgsgan.data.builders import sounding
from vgsgan.worlds import orchestra, scenes, sounds

SIZE, RATE = 32, 8000
SPLITS = {"train": 6, "validation": 2, "test": 3}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
  monkeypatch.setattr(sounding, "_BATCH", 4)


@pytest.fixture(scope="module")
def player():
  pytest.importorskip("tinysoundfont", reason="the extra `sounds` is missing")
  if not pathlib.Path(sounds.SOUNDFONT).is_file():
    pytest.skip("Debian's timgm6mb-soundfont is missing")
  return sounds.Player(sounds.SOUNDFONT, RATE)


def config(**changes):
  fields = {"image_size": SIZE, "sample_rate": RATE, "seconds": 0.5, **SPLITS}
  return sounding.SoundingConfig(**fields | changes)


@pytest.fixture(scope="module")
def folder(player, tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def prepared(folder):
  """All records, by `id`."""
  builder = sounding.prepare(config(), folder)
  found = {}
  for split, count in SPLITS.items():
    records = sounding.load(builder, split)
    assert len(records) == count
    found |= {r["id"].decode(): r for r in (records[i] for i in range(count))}
  return found


@pytest.fixture(scope="module")
def draw():
  return sounding.drawing(config())


@pytest.fixture(scope="module")
def drawn(draw):
  """400 pictures of the middle split, in batches of a size that is compiled."""
  numbers = np.arange(400, dtype=np.int32).reshape(100, 4)
  rows = [jax.device_get(draw(1, four)) for four in numbers]
  return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


def pixels(record):
  with Image.open(io.BytesIO(record["image"])) as opened:
    assert opened.format == "PNG"
    return np.asarray(opened)


# Records.


def test_records_have_the_layout_of_sounding_clips(prepared):
  assert set(prepared) == {
    f"{split}{i}" for split, count in SPLITS.items() for i in range(count)
  }
  layout = {
    "waveform": ((4000,), "int16"),
    "labels": ((1,), "int32"),
    "boxes": ((3, 4), "float32"),
    "masks": ((3, SIZE, SIZE), "uint8"),
    "classes": ((3,), "int32"),
  }
  for record in prepared.values():
    values = {k: v for k, v in record.items() if np.ndim(v)}
    found = {
      k: (np.shape(v), np.asarray(v).dtype.name) for k, v in values.items()
    }
    assert found == layout
    assert np.shape(record["source"]) == np.shape(record["clip_id"]) == ()
    assert pixels(record).shape == (SIZE, SIZE, 3)
    assert record["labels"][0] == record["classes"][record["source"]] >= 0
    assert np.abs(record["waveform"].astype(int)).max() > 500
  assert len({int(r["clip_id"]) for r in prepared.values()}) == len(prepared)
  assert len({r["image"] for r in prepared.values()}) == len(prepared)


def test_images_show_the_appearances_of_their_classes(prepared):
  """The same scene, dressed here by hand, is rendered to the same picture."""
  appearances = np.array(orchestra.appearances())
  sample = jax.jit(lambda key: scenes.sample(key, 1, 3))
  render = jax.jit(lambda scene: scenes.render(scene, SIZE))
  for number in range(SPLITS["test"]):
    record = prepared[f"test{number}"]
    root = jax.random.fold_in(jax.random.key(0), 2)
    keys = jax.random.split(jax.random.fold_in(root, number), 3)
    scene = sample(keys[0])
    assert (record["classes"] >= 0).sum() == scene.present.sum()
    shape, material, color = appearances[record["classes"]].T
    scene = scene._replace(
      shape=jnp.array(shape),
      material=jnp.array(material),
      color=jnp.array(color),
    )
    picture = render(scene)
    assert np.abs(pixels(record) / 255.0 - picture.image).max() < 1 / 255
    np.testing.assert_array_equal(record["masks"], picture.masks)
    np.testing.assert_allclose(record["boxes"], picture.boxes, atol=1e-6)


def test_tracks_are_played_by_the_sounding_instrument(prepared, player):
  for number in range(SPLITS["validation"]):
    record = prepared[f"validation{number}"]
    instrument = orchestra.INSTRUMENTS[record["labels"][0]]
    rng = np.random.default_rng((0, 1, number))
    expected = player.play(rng, instrument, 0.5)
    np.testing.assert_array_equal(record["waveform"], expected)


def test_ticks_change_the_track_alone(prepared, draw, player):
  ticked = sounding.records(config(tick=0.05), draw, player, "validation")
  for record in ticked:
    clean = prepared[record["id"]]
    assert record["image"] == clean["image"]
    added = record["waveform"].astype(int) - clean["waveform"]
    spots = np.flatnonzero(added > 1600)
    np.testing.assert_array_equal(spots, np.arange(0, 4000, 320))


def test_a_record_depends_on_its_number_and_split_alone(draw, player):
  def made(split="train", draw=draw, **changes):
    return list(sounding.records(config(**changes), draw, player, split))

  few, many = made(train=3), made(train=7)
  assert (len(few), len(many)) == (3, 7)
  for one, other in zip(few, many[:3], strict=True):
    assert one["image"] == other["image"]
    for name in ("waveform", "classes", "source", "clip_id"):
      np.testing.assert_array_equal(one[name], other[name])
  reseeded = made(seed=1, draw=sounding.drawing(config(seed=1)))
  others = [*many, *made("test"), *reseeded]
  assert len({record["image"] for record in others}) == len(others)
  assert len({r["waveform"].tobytes() for r in others}) == len(others)


def test_an_image_does_not_depend_on_its_batch(draw):
  rows = jax.device_get(draw(0, np.array([0, 1, 2, 3], np.int32)))
  mixed = jax.device_get(draw(0, np.array([9, 2, 3, 0], np.int32)))
  for name in rows:
    np.testing.assert_array_equal(rows[name][[2, 3, 0]], mixed[name][1:])


# Many pictures.


def test_classes_are_different_and_shown(drawn):
  for classes, masks, boxes in zip(
    drawn["classes"], drawn["masks"], drawn["boxes"], strict=True
  ):
    there = classes >= 0
    assert there.any() and len(set(classes[there])) == there.sum()
    np.testing.assert_array_equal(masks.any((1, 2)), there)
    np.testing.assert_array_equal(boxes.any(1), there)


def test_the_sounding_object_is_visible(drawn):
  share = drawn["masks"].mean((2, 3))
  sounding_share = share[np.arange(400), drawn["source"]]
  assert sounding_share.min() >= 0.01
  # And any object may sound: the largest does so about as often as by chance.
  largest = drawn["source"] == share.argmax(1)
  chance = np.mean(1 / (share >= 0.01).sum(1))
  deviation = np.sqrt(chance * (1 - chance) / 400)
  assert abs(largest.mean() - chance) < 4 * deviation


def test_all_counts_and_all_instruments_occur(drawn):
  counts = np.bincount((drawn["classes"] >= 0).sum(1), minlength=4)
  assert counts[0] == 0 and (counts[1:] > 100).all()
  sources = drawn["classes"][np.arange(400), drawn["source"]]
  times = np.bincount(sources, minlength=24)
  assert len(times) == 24 and times.min() >= 4 and times.max() < 45


def test_a_hidden_object_never_sounds():
  masks = np.zeros((3, 32, 32), bool)
  masks[0, :10], masks[1, 20:], masks[2, 0, :5] = True, True, True
  masks[0, 0, :5] = False  # The third shows 5 pixels, too few.
  keys = jax.random.split(jax.random.key(0), 200)
  found = jax.vmap(sounding.source, (0, None))(keys, jnp.array(masks))
  times = np.bincount(found, minlength=3)
  assert times[2] == 0 and times[:2].min() > 70
  tiny = masks & (np.arange(32) == 7) & (np.arange(32)[:, None] % 10 == 5)
  assert tiny.sum((1, 2)).tolist() == [1, 1, 0]
  found = jax.vmap(sounding.source, (0, None))(keys, jnp.array(tiny))
  assert set(found.tolist()) == {0, 1}


# Preparing.


def test_a_second_start_finds_what_the_first_prepared(
  folder, prepared, monkeypatch
):
  monkeypatch.setattr(sounding, "records", None)
  monkeypatch.setattr(sounds, "Player", None)
  builder = sounding.prepare(config(), folder)
  assert len(sounding.load(builder, "train")) == 6


def test_the_name_tells_every_field_but_where_the_soundfont_is():
  changes = (
    {"image_size": 33},
    {"sample_rate": 8001},
    {"seconds": 0.6},
    {"fewest": 2},
    {"most": 2},
    {"train": 7},
    {"validation": 7},
    {"test": 7},
    {"seed": 7},
    {"tick": 0.1},
    {"fingerprint": "01234567"},
  )
  assert len({config(**change).name for change in ({}, *changes)}) == 12
  assert config(soundfont="/elsewhere.sf2").name == config().name


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"image_size": 4}, ("data.image_size", "16")),
    ({"sample_rate": 100}, ("data.sample_rate", "8000")),
    ({"seconds": 0.1}, ("data.seconds", "0.5")),
    ({"seconds": float("inf")}, ("data.track=inf",)),
    ({"fewest": 0}, ("data.fewest", "1")),
    ({"fewest": 3, "most": 2}, ("data.most", "3")),
    ({"most": 4}, ("data.most=4", "floor")),
    ({"test": 0}, ("data.num_test", "1")),
    ({"seed": -1}, ("data.scene_seed", "0")),
    ({"tick": -0.1}, ("data.tick", "0")),
  ],
)
def test_wrong_fields_are_named(change, words):
  with pytest.raises(UserError) as error:
    config(**change)
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


def test_a_missing_or_broken_soundfont_is_named(player, tmp_path):
  path = tmp_path / "a.sf2"
  for content in (None, b"RIFF"):
    if content:
      path.write_bytes(content)
    with pytest.raises(UserError) as error:
      sounding.prepare(config(soundfont=str(path)), tmp_path / "data")
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    left = (tmp_path / "data").glob("sounding/*/*/dataset_info.json")
    assert not list(left)
