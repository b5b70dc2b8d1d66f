"""Audio CLEVRGAN: its pictures, captions, voices and labels."""

import dataclasses
import io
import itertools
import json
from collections import Counter

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.data.builders.clevrgan import builder as clevrgan
from vgsgan.data.builders.clevrgan import pictures as world
from vgsgan.data.builders.clevrgan import records as clevrgan_records
from vgsgan.data.examples import DrawnPairExample, PairExample
from vgsgan.evals.retrieval import relevance
from vgsgan.losses import contrastive
from vgsgan.models import pretrained, weights
from vgsgan.models.generator import Generator
from vgsgan.models.recogniser import Recogniser
from vgsgan.worlds import captions, speech, voices
from vgsgan.worlds.attributes import ATTRIBUTES, WORDS

GAN = {
  "channels": (8, 8, 4),
  "chunk": 4,
  "attention": 0,
  "labels": False,
  "spectral": False,
}
JUDGE = {"widths": (4, 4, 8), "norm": "batch"}
SPLITS = {
  "train": 6,
  "validation": 3,
  "test": 6,
  "probe": 4,
  "words": 90,
  "semantic": 2,
}


def one_line(error, *words):
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


def write_generator(path, seed=0, **changes):
  gan = GAN | changes
  count = len(WORDS) if gan["labels"] else 0
  module = Generator(
    gan["channels"], gan["chunk"], gan["attention"], count, gan["spectral"]
  )
  labels = jnp.zeros((1, count)) if count else None
  z = jnp.zeros((1, module.latent_size))
  made = module.init(jax.random.key(seed), z, labels, train=False)
  write(path, made, {"gan": gan})


def write_recogniser(path, seed=0):
  module = Recogniser(*JUDGE.values())
  image = jnp.zeros((1, 16, 16, 3))
  made = module.init(jax.random.key(seed), image, train=False)
  write(path, made, {"recogniser": JUDGE})


def write(path, made, config):
  tree = {k: made[k] for k in ("params", "batch_stats") if k in made}
  weights.save_params(path, tree, {"config": config})


def seen(logits, sure=0.9):
  """Objects that follow from the logits; about one picture in three has none.

  What a network without training sees would be noise.
  """
  size = len(logits)
  rng = np.random.default_rng(int(1e4 * abs(float(logits.mean()))))
  found = []
  for i in range(int(rng.integers(0, 3))):
    mask = np.zeros((size, size), bool)
    mask[4:8, 2 + 6 * i : 6 + 6 * i] = True
    words = {k: w[int(rng.integers(len(w)))] for k, w in ATTRIBUTES.items()}
    if rng.random() < 0.3:
      words["size"] = None
    found.append(words | {"mask": mask})
  return found


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(world, "_BATCH", 8)
  monkeypatch.setattr(world.recognise, "objects", seen)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
  folder = tmp_path_factory.mktemp("networks")
  paths = {n: str(folder / f"{n}.npz") for n in ("generator", "recogniser")}
  write_generator(paths["generator"])
  write_recogniser(paths["recogniser"])
  return paths


def config(networks, **changes):
  fields = {"image_size": 16, "train": 6, "validation": 3, "test": 3}
  fields |= {"probe": 4, "semantic": 2, "workers": 0}
  return clevrgan.ClevrganConfig(**networks, **fields | changes)


def data_config(networks, folder, **changes):
  return ml_collections.ConfigDict(
    networks
    | {
      "dataset": "clevrgan",
      "data_dir": str(folder),
      "image_size": 16,
      "sample_rate": 16000,
      "most": 3,
      "truncation": 0.0,
      "num_train": 6,
      "num_validation": 3,
      "num_test": 3,
      "num_probe": 4,
      "num_semantic": 2,
      "scene_seed": 0,
      "speech_workers": 0,
      "num_workers": 0,
      "num_threads": 1,
    }
    | changes
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture
def splits(networks, folder):
  found = data.load(data_config(networks, folder))
  return {k: [v[i] for i in range(len(v))] for k, v in found.items()}


def pixels(record):
  with Image.open(io.BytesIO(record["image"])) as opened:
    assert (opened.format, opened.mode) == ("PNG", "RGB")
    return np.asarray(opened)


# The records.


def test_splits_have_the_records_that_are_asked_for(splits):
  assert {k: len(v) for k, v in splits.items()} == SPLITS
  ids = [r["id"] for records in splits.values() for r in records]
  assert len(set(ids)) == len(ids)


def test_images_are_what_the_generator_draws_from_z(splits, networks):
  module, variables, meta = pretrained.load_generator(networks["generator"])
  assert meta["config"]["gan"]["chunk"] == 4
  latents = set()
  for split in ("train", "validation", "test", "probe"):
    for record in splits[split]:
      z = record["z"]
      assert z.dtype == np.float32 and z.shape == (12,)
      drawn = module.apply(variables, jnp.array(z)[None], train=False)[0]
      assert np.abs(pixels(record) - 127.5 * (drawn + 1)).max() < 1
      latents.add(z.tobytes())
  assert len(latents) == 6 + 3 + 3 + 4


def test_captions_say_what_is_recognised(splits):
  for split in ("train", "validation", "test", "semantic"):
    for record in splits[split]:
      there = record["masks"].any((1, 2))
      assert (record["attributes"][~there] == -1).all() and there.any()
      said = record["caption"].decode().split()
      words = Counter(filter(None, map(captions.canonical, said)))
      true = Counter(
        ATTRIBUTES[kind][row[i]]
        for row in record["attributes"][there]
        for i, kind in enumerate(ATTRIBUTES)
        if row[i] >= 0
      )
      assert words and not words - true


def test_recordings_are_the_captions_as_spoken(splits):
  for split in ("train", "test", "words", "semantic"):
    for record in splits[split][:8]:
      text, voice = record["caption"].decode(), record["voice"].decode()
      spoken = speech.speak(text, voice)
      np.testing.assert_array_equal(record["waveform"], spoken.waveform)
      words = json.loads(record["words"])
      assert [w["spoken"] for w in words] == [w for w, _, _ in spoken.words]
      for entry, (_, *times) in zip(words, spoken.words, strict=True):
        found = [entry["start"], entry["end"]]
        assert found == pytest.approx(times, abs=1e-3)
        assert entry["word"] in (*WORDS, None)


def test_words_have_the_published_word():
  entry = clevrgan_records._timed("tiny", 0.0, 0.5)
  assert entry == {"spoken": "tiny", "word": "small", "start": 0, "end": 0.5}
  assert clevrgan_records._timed("of a", 0.0, 0.5)["word"] is None
  assert clevrgan_records._timed("a shiny", 0.0, 0.5)["word"] == "metal"


def test_the_held_out_voice_is_in_tests_alone(splits):
  for split, records in splits.items():
    for record in records:
      voice = record["voice"].decode()
      assert record["held_out"] == (voice == speech.HELD_OUT)
      if split == "probe":
        assert (voice, record["caption"]) == ("", b"")
        assert not len(record["waveform"]) and record["words"] == b"[]"
      elif not record["held_out"]:
        assert voice in speech.VOICES
    heard = sum(bool(r["held_out"]) for r in records)
    assert heard == {"test": 3, "words": 15}.get(split, 0)


def test_each_test_image_is_described_by_two_voices(splits):
  pairs = {}
  for record in splits["test"]:
    pairs.setdefault(int(record["image_id"]), []).append(record)
  assert len(pairs) == 3
  for one, other in pairs.values():
    assert one["held_out"] != other["held_out"]
    for name in ("caption", "image", "speech_id", "concept"):
      assert one[name] == other[name]


def test_every_word_is_spoken_by_every_voice(splits):
  said = {(r["caption"].decode(), r["voice"].decode()) for r in splits["words"]}
  every = (*speech.VOICES, speech.HELD_OUT)
  assert said == {(word, voice) for word in WORDS for voice in every}
  for record in splits["words"]:
    assert not pixels(record).any() and not record["masks"].any()


def test_equal_ids_mean_equal_contents(splits):
  images, texts = {}, {}
  for records in splits.values():
    for r in records:
      images.setdefault(int(r["image_id"]), set()).add(r["image"])
      if r["caption"]:
        texts.setdefault(int(r["speech_id"]), set()).add(r["caption"])
  assert all(len(same) == 1 for same in images.values())
  assert len(set.union(*images.values())) == len(images)
  assert all(len(same) == 1 for same in texts.values())
  assert len(set.union(*texts.values())) == len(texts)


def test_equal_captions_are_one_concept():
  silence = speech.Spoken(np.zeros(0, np.int16), ())
  numbers = clevrgan_records.IdCounter()

  def labelled(name, caption, voice, *rows):
    attributes = np.full((3, 4), -1, np.int32)
    attributes[: len(rows)] = np.reshape(rows, (-1, 4))
    picture = world.Picture(
      np.zeros(2, np.float32),
      np.zeros((8, 8, 3), np.uint8),
      attributes,
      np.zeros((3, 8, 8), bool),
    )
    item = clevrgan_records.Item(name, picture, name, caption, voice)
    found = clevrgan_records.record(item, silence, numbers)
    return found["image_id"], found["speech_id"], found["concept"]

  red, blue = (0, 1, 0, 0), (0, 2, 0, 0)
  made = [
    labelled("a", "a red cube and a blue cube", "x", red, blue),
    labelled("b", "a red cube and a blue cube", "x", blue, red),
    labelled("c", "a red cube and a blue cube", "y", red, (1, 2, 0, 0)),
    labelled("d", "a red cube", "x", red, blue),
    labelled("e", "", "", red),
    labelled("f", "", "", red),
    labelled("g", "a red cube", "y"),
  ]
  images, said, concepts = zip(*made, strict=True)
  assert images == (0, 1, 2, 3, 4, 5, 6)
  assert said == concepts == (0, 0, 0, 1, 2, 3, 1)


def few_words(logits):
  """A red cube, small or large: captions recur, with and without its size."""
  number = int(1e4 * abs(float(logits.mean())))
  mask = np.zeros((len(logits), len(logits)), bool)
  mask[4:8, 2:6] = True
  size = ATTRIBUTES["size"][number % 2]
  known = {"size": size, "color": "red", "material": None, "shape": "cube"}
  return [known | {"mask": mask}]


@pytest.fixture(scope="module")
def recurring(networks, tmp_path_factory):
  """Splits whose captions recur, and what they were prepared with."""
  wanted = config(networks, train=110, validation=30, test=30, semantic=10)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(world.recognise, "objects", few_words)
    builder = clevrgan.prepare(wanted, tmp_path_factory.mktemp("recurring"))
  return wanted, {split: _records(builder, split) for split in SPLITS}


def _records(builder, split):
  records = clevrgan.load(builder, split)
  return [records[i] for i in range(len(records))]


def _said(records):
  return {(r["caption"], r["voice"]) for r in records if r["caption"]}


def test_splits_share_no_recording(recurring):
  _, splits = recurring
  parts = [splits[name] for name in ("train", "validation", "test")]
  parts[2] = parts[2] + splits["semantic"] + splits["words"]
  for split, records in (("train", parts[0]), ("test", splits["test"])):
    captions_of = {r["caption"] for r in records}
    assert len(captions_of) < len(records), f"{split}: no caption recurs"
  assert {r["caption"] for r in parts[0]} & {r["caption"] for r in parts[2]}
  for one, other in itertools.combinations(parts, 2):
    assert not _said(one) & _said(other)
    sounds = {r["waveform"].tobytes() for r in one}
    assert not sounds & {r["waveform"].tobytes() for r in other}


def test_records_do_not_depend_on_workers_or_on_other_splits(
  recurring, networks, tmp_path, monkeypatch
):
  monkeypatch.setattr(world.recognise, "objects", few_words)
  wanted, splits = recurring
  other = dataclasses.replace(wanted, workers=2)
  builder = clevrgan.prepare(other, tmp_path / "other")
  for split, expected in splits.items():
    for record, same in zip(_records(builder, split), expected, strict=True):
      for name, value in record.items():
        np.testing.assert_array_equal(value, same[name], name)
  loaded = (
    pretrained.load_generator(networks["generator"]),
    pretrained.load_recogniser(networks["recogniser"]),
  )
  draw = world.drawing(*loaded, wanted.seed, wanted.truncation)
  for split in ("semantic", "test", "train"):
    alone = [
      (item.id, item.caption, item.voice)
      for item in clevrgan.items(wanted, draw, split)
    ]
    assert sorted(alone) == sorted(
      tuple(r[name].decode() for name in ("id", "caption", "voice"))
      for r in splits[split]
    )


def test_training_masks_what_evaluation_counts_as_right(recurring):
  """A batch of all the training records, the first of them twice."""
  _, splits = recurring
  records = splits["train"] + splits["train"][:1]
  rng = np.random.default_rng(0)
  examples = [DrawnPairExample(800, False)(r, rng) for r in records]
  ids = {
    name: np.array([e[name] for e in examples])
    for name in ("image_id", "speech_id", "image_concept", "speech_concept")
  }
  gallery, column = np.unique(ids["image_id"], return_inverse=True)
  right = relevance(ids["speech_id"], ids["image_id"], gallery)[:, column]
  labels = jnp.asarray(ids["image_concept"]), jnp.asarray(ids["speech_concept"])
  masked = contrastive.same_pairs(*labels)
  np.testing.assert_array_equal(masked, right)
  texts = np.array([r["caption"] for r in records])
  np.testing.assert_array_equal(right, texts[:, None] == texts)
  assert right.sum() > len(records)


def test_a_caption_has_voices_in_every_split_and_no_voice_in_two():
  heard = {split: Counter() for split in world.SPLITS}
  for number in range(400):
    of = {
      split: voices.speakers(f"caption {number}", 0, split)
      for split in world.SPLITS
    }
    parts = [of[split] for split in ("train", "validation", "test")]
    assert sorted(itertools.chain(*parts)) == sorted(speech.VOICES)
    assert [len(part) for part in parts] == [3, 1, 1]
    assert of["semantic"] == of["words"] == of["test"]
    for split, some in of.items():
      heard[split].update(some)
  for counts in heard.values():  # Every voice speaks in every split.
    assert set(counts) == set(speech.VOICES)
    assert max(counts.values()) < 1.5 * min(counts.values())
  assert {voices.speakers("a cube", seed, "test") for seed in range(40)} == {
    (voice,) for voice in speech.VOICES
  }


def test_examples_have_the_latent(splits):
  rng = np.random.default_rng(0)
  for split, size in (("train", 12), ("probe", 12), ("words", 0)):
    record = splits[split][0]
    example = DrawnPairExample(8000, False)(record, rng)
    np.testing.assert_array_equal(example.pop("z"), record["z"])
    assert len(record["z"]) == size
    plain = PairExample(8000, False)(record, rng)
    assert plain.keys() == example.keys()
    for name, value in plain.items():
      np.testing.assert_array_equal(value, example[name])


# Preparing.


def test_preparing_again_gives_equal_records(splits, networks, tmp_path):
  again = clevrgan.prepare(config(networks), tmp_path)
  for split, records in splits.items():
    other = clevrgan.load(again, split)
    for i, record in enumerate(records):
      for name, value in other[i].items():
        np.testing.assert_array_equal(value, record[name], name)


def test_another_seed_gives_other_records(splits, networks, tmp_path):
  other = clevrgan.prepare(config(networks, seed=1), tmp_path)
  train = clevrgan.load(other, "train")
  latents = {r["z"].tobytes() for r in splits["train"]}
  assert not latents & {train[i]["z"].tobytes() for i in range(6)}


def test_an_interrupted_preparation_starts_again(
  splits, networks, tmp_path, monkeypatch
):
  calls, record = [], clevrgan.record

  def interrupt(*args):
    calls.append(args)
    if len(calls) > 10:  # Train is written, test is not.
      raise KeyboardInterrupt
    return record(*args)

  monkeypatch.setattr(clevrgan, "record", interrupt)
  with pytest.raises(KeyboardInterrupt):
    clevrgan.prepare(config(networks), tmp_path)
  monkeypatch.setattr(clevrgan, "record", record)
  assert not list(tmp_path.rglob("*.array_record*"))
  builder = clevrgan.prepare(config(networks), tmp_path)
  found = clevrgan.load(builder, "test")
  for i, expected in enumerate(splits["test"]):
    assert found[i]["id"] == expected["id"]
    np.testing.assert_array_equal(found[i]["waveform"], expected["waveform"])


def test_a_second_start_finds_what_the_first_prepared(
  splits, networks, folder, monkeypatch
):
  monkeypatch.setattr(clevrgan, "items", None)
  again = data.load(data_config(networks, folder, speech_workers=2))
  assert {k: len(v) for k, v in again.items()} == SPLITS


def test_the_name_tells_what_changes_the_data(networks):
  changes = ["image_size", "most", "seed"]
  changes += ["train", "validation", "test", "probe", "semantic"]
  configs = [config(networks, **{name: 77}) for name in changes]
  configs += [config(networks, sample_rate=8000), config(networks)]
  configs += [config(networks, truncation=1.5), config(networks, seed=2)]
  configs += [config(networks, fingerprint="a")]
  assert len({c.name for c in configs}) == len(configs)
  assert config(networks, workers=3).name == config(networks).name


def test_other_networks_have_a_folder_of_their_own(
  networks, tmp_path, monkeypatch
):
  judge, found = tmp_path / "judge.npz", set()

  def note(_, prepared, *rest, **more):
    found.add(prepared.name)
    raise KeyboardInterrupt

  monkeypatch.setattr(clevrgan.preparing, "prepare_once", note)
  for seed in (0, 1, 0):
    write_recogniser(judge, seed)
    given = config(networks | {"recogniser": str(judge)})
    with pytest.raises(KeyboardInterrupt):
      clevrgan.prepare(given, tmp_path)
  assert len(found) == 2


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"image_size": 4}, ("data.image_size", "8")),
    ({"image_size": 32}, ("data.image_size=32", "16 pixels", "agree")),
    ({"most": 1}, ("data.most", "2")),
    ({"truncation": -1.0}, ("data.truncation", "0")),
    ({"num_semantic": 0}, ("data.num_semantic", "1")),
    ({"scene_seed": -1}, ("data.scene_seed", "0")),
    ({"speech_workers": -1}, ("data.speech_workers", "0")),
    ({"generator": "gone.npz"}, ("no weights in gone.npz",)),
  ],
)
def test_wrong_fields_are_named(networks, folder, change, words):
  with pytest.raises(UserError) as error:
    data.load(data_config(networks, folder, **change))
  one_line(error, *words)


def test_networks_that_do_not_fit_are_refused(networks, tmp_path):
  with pytest.raises(UserError) as error:
    pretrained.load_generator(networks["recogniser"])
  one_line(error, networks["recogniser"], "no generator", "gan")
  with pytest.raises(UserError) as error:
    pretrained.load_recogniser(networks["generator"])
  one_line(error, "no recogniser")
  tree, meta = weights.load_params(networks["generator"])
  meta["config"]["gan"]["channels"] = (8, 8, 8)
  weights.save_params(tmp_path / "other.npz", tree, meta)
  with pytest.raises(UserError) as error:
    pretrained.load_generator(tmp_path / "other.npz")
  one_line(error, "other.npz", "no generator", "another shape")
  write_generator(tmp_path / "labels.npz", labels=True)
  labelled = {"generator": str(tmp_path / "labels.npz")}
  with pytest.raises(UserError) as error:
    clevrgan.prepare(config(networks | labelled), tmp_path)
  one_line(error, "config.data.generator", "without labels")


def test_the_packaged_networks_are_taken_where_none_is_named(
  networks, monkeypatch
):
  monkeypatch.setattr(pretrained, "PACKAGED", networks)
  for load in (pretrained.load_generator, pretrained.load_recogniser):
    module, variables, _ = load("")
    assert module and set(variables) == {"params", "batch_stats"}


# Pictures and drops.


def fake_draw(split, numbers, tries):
  """Latents that tell where they come from, and logits that do."""
  z = np.stack([np.full_like(numbers, split), numbers, tries], 1)
  logits = np.zeros((len(numbers), 8, 8, 16), np.float32)
  logits[:, 0, 0, :2] = z[:, 1:]
  images = np.zeros((len(numbers), 8, 8, 3), np.uint8)
  return z.astype(np.float32), images, logits


def thing(**words):
  mask = np.ones((8, 8), bool)
  return dict.fromkeys(ATTRIBUTES) | words | {"mask": mask}


def drops(number):
  """How many latents of a number show nothing."""
  return (7 * number) % 5


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_dropped_pictures_are_drawn_from_the_next_latent(monkeypatch, batch):
  def objects(logits):
    number, attempt = logits[0, 0, :2].astype(int)
    return [] if attempt < drops(number) else [thing(color="red")]

  monkeypatch.setattr(world.recognise, "objects", objects)
  monkeypatch.setattr(world, "_BATCH", batch)
  found = [p.z.tolist() for p in world.pictures(fake_draw, 2, 23, 3)]
  assert found == [[2, number, drops(number)] for number in range(23)]


def test_a_description_depends_on_its_seed_split_and_number():
  """No split repeats what another says of one picture at equal numbers."""
  mask = np.ones((1, 4, 4), bool)
  picture = world.Picture(
    np.zeros(2, np.float32),
    np.zeros((4, 4, 3), np.uint8),
    np.zeros((1, 4), np.int32),
    mask,
  )

  def captions(seed, split):
    return [world.describe(picture, seed, split, i)[0] for i in range(40)]

  drawn = [captions(seed, split) for seed in (0, 1) for split in range(3)]
  assert drawn[0] == captions(0, 0)
  for i, one in enumerate(drawn):
    assert len(set(one)) > 1
    assert all(one != other for other in drawn[i + 1 :])


def test_usable_needs_few_objects_with_a_shape_or_a_colour():
  cases = (
    ([], False),
    ([thing(color="red")], True),
    ([thing(shape="cube")], True),
    ([thing(size="small", material="metal")], False),
    ([thing(shape="cube"), thing(size="small")], False),
    ([thing(shape="cube")] * 3, True),
    ([thing(shape="cube")] * 4, False),
  )
  for objects, expected in cases:
    assert world.usable(objects, 3) == expected


def test_a_generator_without_usable_pictures_gives_one_line(monkeypatch):
  monkeypatch.setattr(world.recognise, "objects", lambda _: [])
  with pytest.raises(UserError) as error:
    list(world.pictures(fake_draw, 0, 3, 3))
  one_line(error, "100 pictures", "config.data.generator", "recogniser")


def test_labels_and_objects_are_inverse():
  rng = np.random.default_rng(0)
  objects = seen(rng.normal(size=(16, 16, 16)))
  while len(objects) < 2:
    objects = seen(rng.normal(size=(16, 16, 16)))
  attributes, masks = world.labels(objects, 3, 16)
  image = np.zeros((16, 16, 3), np.uint8)
  picture = world.Picture(np.zeros(1), image, attributes, masks)
  assert picture.objects == [
    {kind: o[kind] for kind in ATTRIBUTES} for o in objects
  ]
  for mask, expected in zip(masks, objects, strict=False):
    np.testing.assert_array_equal(mask, expected["mask"])


def test_truncation_bounds_the_latents(networks):
  loaded = (
    pretrained.load_generator(networks["generator"]),
    pretrained.load_recogniser(networks["recogniser"]),
  )
  numbers = np.arange(8, dtype=np.int32)
  for limit, largest in ((0.0, 5.0), (0.5, 0.5)):
    draw = world.drawing(*loaded, 0, limit)
    z, images, logits = jax.device_get(draw(1, numbers, 0 * numbers))
    assert limit / 2 < np.abs(z).max() <= largest
    assert images.shape == (8, 16, 16, 3) and logits.shape == (8, 16, 16, 16)
    again, _, _ = draw(1, numbers[::-1], 0 * numbers)
    np.testing.assert_array_equal(z[::-1], again)
    for change in ((2, numbers, 0 * numbers), (1, numbers, 0 * numbers + 1)):
      assert not np.intersect1d(z, draw(*change)[0]).size
