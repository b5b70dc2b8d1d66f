"""Active selection against a dense computation; its folder, read back."""

import io
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from tests import (
  drawing_world,
  places_world,
  stamps_fixture,
  test_clevrgan_folder,
)
from vgsgan import data
from vgsgan.common import jsonfiles
from vgsgan.common.errors import UserError
from vgsgan.data import features
from vgsgan.data.examples import decode
from vgsgan.parallel import mesh
from vgsgan.tasks import drawing
from vgsgan.tools import drawn_runs, select
from vgsgan.train.checkpoints import manager

CAPTION = 'a "red"\n cube: é'

generator = drawing_world.generator
quick_to_compile = drawing_world.quick_to_compile


@pytest.fixture(scope="module")
def records(generator):
  """Twenty: two whole batches of 9 and two more."""
  made = drawing_world.pairs(generator)[:20]
  return [record | {"caption": CAPTION.encode()} for record in made]


@pytest.fixture
def in_memory(monkeypatch, records):
  monkeypatch.setattr(data, "load", lambda config: {"train": records})


@pytest.fixture(scope="module")
def run(generator, tmp_path_factory):
  """A workdir with the best checkpoint at step 3, and a model and its state."""
  workdir = tmp_path_factory.mktemp("run")
  config = drawing_world.small(generator, curriculum="regular@0,random@2")
  config.eval.batch = 9  # Whatever the devices can share.
  model = drawing.Drawing(config, mesh.make_mesh(2))
  state = drawing_world.state_of(model)
  worse = state.replace(params=jax.tree.map(np.zeros_like, state.params))
  there = mesh.replicated(model.mesh)
  with manager.Checkpoints(workdir / "checkpoints", best="selection") as saved:
    for step, one, figure in ((3, state, 0.5), (5, worse, 0.4)):
      saved.save(step, jax.device_put(one, there), {}, {"selection": figure})
  jsonfiles.write_json(workdir / "config.json", config.to_dict())
  return workdir, model, state


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def maps_of(run, records, pictures):
  """Feature maps of pictures and captions of length 1, from the towers."""
  _, model, state = run

  def variables(name):
    stats = state.batch_stats[name]
    return {"params": state.params[name], "batch_stats": stats}

  @jax.jit
  def look(x):
    return model.image.apply(variables("image"), x, train=False)

  @jax.jit
  def listen(sound, num_samples):
    batch = {"image": pictures, "waveform": sound, "num_samples": num_samples}
    _, frames, lengths = model.inputs(batch, None)
    return model.speech.apply(variables("speech"), frames, lengths, train=False)

  waveforms = [record["waveform"] for record in records]
  padded = np.stack([np.pad(w, (0, 5120 - len(w))) for w in waveforms])
  speech, lengths = listen(padded, np.array(list(map(len, waveforms))))
  clips = [
    np.float64(clip[:n]) for clip, n in zip(speech, lengths, strict=True)
  ]
  image = look(features.normalize_image(jnp.asarray(pictures)))
  return unit(np.float64(image)), list(map(unit, clips))


def dense_scores(images, clips):
  """MISA of each pair."""
  match = [
    np.einsum("hwd,td->hwt", image, clip)
    for image, clip in zip(images, clips, strict=True)
  ]
  return np.array([m.max((0, 1)).mean() for m in match]), match


def expected_box(match, share, size):
  """Of the part of the heat map that is connected with its peak."""
  heat = match.max(-1)
  parts, _ = scipy.ndimage.label(heat > share * heat.max(), np.ones((3, 3)))
  peak = np.unravel_index(heat.argmax(), heat.shape)
  rows, columns = np.nonzero(parts == parts[peak])
  cell = size // len(heat)
  return [
    columns.min() * cell,
    rows.min() * cell,
    (columns.max() + 1) * cell,
    (rows.max() + 1) * cell,
  ]


def lines_of(folder):
  text = (folder / "selection.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def picture(path):
  return np.asarray(Image.open(path))


def mirrored(self, kind, key, params, batch_stats, batch, pictures, maps):
  """Instead of an edit: the mirrored picture, of two out of three."""
  weight = (batch["speech_id"] % 3 != 1).astype(jnp.float32)
  return pictures[:, :, ::-1], weight, {}


def test_the_pairs_with_the_highest_loss_are_chosen(
  run, records, tmp_path, monkeypatch, in_memory
):
  monkeypatch.setattr(drawing.Drawing, "edit", mirrored)
  out = tmp_path / "out"
  assert select.select(run[0], 7, out, "") == 7
  images = np.stack([decode(record["image"]) for record in records])
  there, clips = maps_of(run, records, images)
  true, match = dense_scores(there, clips)
  edited, _ = dense_scores(maps_of(run, records, images[:, :, ::-1])[0], clips)
  counts = np.arange(20) % 3 != 1
  loss = np.maximum(0, run[1].config.loss.margin + edited - true) * counts
  order = np.argsort(-loss, kind="stable")[:7]
  lines = lines_of(out)
  assert [line["record"] for line in lines] == order.tolist()
  assert [line["rank"] for line in lines] == list(range(7))
  for name, values in (("loss", loss), ("true", true), ("edited", edited)):
    found = [line[name] for line in lines]
    np.testing.assert_allclose(found, values[order], atol=1e-4, err_msg=name)
  for rank, record in enumerate(order):
    shown = picture(out / f"images/{rank}.png")
    np.testing.assert_array_equal(shown, images[record, :, ::-1])
    line = lines[rank]
    assert line["caption"] == CAPTION and line["id"] == f"pair{record}"
    assert line["box"] == expected_box(match[record], 0.8, 32)
  z = np.load(out / "z.npy", allow_pickle=False)
  # Of an edited picture no latent is known.
  assert z.shape == (7, len(records[0]["z"])) and np.isnan(z).all()
  names = (out / "name_list_train.txt").read_text().split()
  assert names == [str(rank) for rank in range(7)]


def test_edits_that_do_not_count_are_not_chosen(
  run, records, tmp_path, monkeypatch, in_memory
):
  def none(*arguments):
    pictures, weight, metrics = mirrored(*arguments)
    return pictures, 0 * weight, metrics

  monkeypatch.setattr(drawing.Drawing, "edit", mirrored)
  out = tmp_path / "all"
  found = select.select(run[0], 99, out, "")
  kept = {line["record"] for line in lines_of(out)}
  assert len(kept) == found and not any(i % 3 == 1 for i in kept)
  monkeypatch.setattr(drawing.Drawing, "edit", none)
  refused(run[0], 99, tmp_path / "none", "no 'random' edit of the 20 training")
  assert not (tmp_path / "none").exists()
  # Before the pass and not after it.
  monkeypatch.setattr(select, "hardest", None)
  (tmp_path / "file").write_text("")
  refused(run[0], 99, tmp_path / "file" / "out", str(tmp_path / "file"))


def test_written_edits_have_the_written_scores(
  run, records, tmp_path, in_memory
):
  out = tmp_path / "out"
  chosen = select.select(run[0], 20, out, "chunk")
  lines = lines_of(out)
  assert chosen == len(lines) > 5
  images = np.stack([picture(out / f"images/{i}.png") for i in range(chosen)])
  own = [records[line["record"]] for line in lines]
  edited, _ = dense_scores(*maps_of(run, own, images))
  np.testing.assert_allclose(
    [line["edited"] for line in lines], edited, atol=1e-4
  )
  hinge = [0.2 + line["edited"] - line["true"] for line in lines]
  np.testing.assert_allclose([line["loss"] for line in lines], hinge, atol=1e-5)
  losses = [line["loss"] for line in lines]
  assert losses == sorted(losses, reverse=True)
  for image, record in zip(images, own, strict=True):
    assert np.any(image != decode(record["image"]))


def test_the_frame_is_round_the_box():
  region = np.zeros((4, 4), bool)
  region[1, 2:] = region[2, 3] = True
  edges = select.box(region, 32)
  assert edges.tolist() == [16, 8, 32, 24]
  plain = np.full((32, 32, 3), 90, np.uint8)
  large = select.marked(plain, edges)
  assert large.shape == (256, 256, 3)
  red = (large == [255, 0, 0]).all(-1)
  rows, columns = np.nonzero(red)
  assert (columns.min(), rows.min()) == (128, 64)
  assert (columns.max(), rows.max()) == (255, 191)
  assert (large[~red] == 90).all()
  assert not red[70:186, 134:250].any() and red[64, 128:256].all()
  # A grid that does not divide the picture, and a picture that is large.
  assert select.box(np.eye(3, dtype=bool), 32).tolist() == [0, 0, 32, 32]
  assert select.box(np.eye(3, dtype=bool)[:1], 32).tolist() == [0, 0, 11, 32]
  assert len(select.marked(np.zeros((300, 300, 3), np.uint8), edges)) == 300


def test_the_folder_is_read_as_more_training_pairs(tmp_path):
  rng = np.random.default_rng(0)
  base = tmp_path / "base"
  base.mkdir()
  test_clevrgan_folder.make(base)
  own = rng.normal(size=(4200, 6)).astype(np.float32)
  np.save(base / "z.npy", own)
  fields = ("picture", "region", "record", "loss", "true", "edited")
  rows = [
    (
      rng.integers(0, 256, (32, 32, 3)).astype(np.uint8),
      np.eye(4, dtype=bool),
      *(i, 0.3, 0.2, 0.4),
    )
    for i in range(3)
  ]
  chosen = [dict(zip(fields, row, strict=True)) for row in rows]
  about = [{"id": b"x", "caption": b""}] * 3
  folder = tmp_path / "chosen"
  select.write(folder, chosen, about, 6)
  for i in range(3):
    sound = stamps_fixture.tone(210 + 100 * i, 0.2, 16000)
    stamps_fixture.write(folder / f"audio/{i}.wav", sound, 16000)
  (folder / "text/1.txt").write_text("a red cube")

  def load(**changes):
    fields = test_clevrgan_folder.config(base, tmp_path / "data", **changes)
    return fields, data.load(fields)

  plain, splits = load()
  more, joined = load(more=str(folder))
  train, before = joined["train"], splits["train"]
  assert len(before) == 5 and len(train) == 8
  ids = [train[i]["id"] for i in range(8)]
  assert ids[:5] == [before[i]["id"] for i in range(5)]
  for record in (before[i] for i in range(5)):
    number = int(record["id"].decode().rpartition("/")[2].rpartition(":")[2])
    np.testing.assert_array_equal(record["z"], own[number])
  added = {train[i]["id"].decode(): train[i] for i in range(5, 8)}
  for i, row in enumerate(chosen):
    record = added[f"train:{i}"]
    assert record["z"].shape == (6,) and np.isnan(record["z"]).all()
    pixels = np.asarray(Image.open(io.BytesIO(record["image"])))
    np.testing.assert_array_equal(pixels, row["picture"])
    pitch = np.abs(np.fft.rfft(record["waveform"])).argmax() / 0.2
    assert pitch == pytest.approx(210 + 100 * i, abs=6)
  assert added["train:1"]["caption"] == b"a red cube"
  # What says the same in either folder is one, and nothing else is.
  said = [train[i]["caption"] or ids[i] for i in range(8)]
  assert len(set(said)) == 6 and said.count(b"a red cube") == 3
  for name, keys in (("image_id", ids), ("speech_id", said), ("concept", said)):
    labels = np.array([train[i][name] for i in range(8)])
    same_key = [[one == other for other in keys] for one in keys]
    np.testing.assert_array_equal(labels[:, None] == labels, same_key)
  with pytest.raises(IndexError):
    train[8]
  # A run does not go on with other pairs; an old run has no such field.
  assert data.identity(plain) | {"more": str(folder)} == data.identity(more)
  assert "more" not in data.identity(plain)
  # Latents of another generator, and a recording that is missing.
  (folder / "audio/2.wav").unlink()
  with pytest.raises(UserError, match="1 of 3 pairs"):
    load(more=str(folder))
  np.save(folder / "z.npy", own[:3, :5])
  stamps_fixture.write(folder / "audio/2.wav", sound, 16000)
  with pytest.raises(UserError) as error:
    load(more=str(folder))
  drawing_world.one_line(error, "5", "6", str(folder), "config.data.more")


@pytest.mark.parametrize(
  "z",
  [
    np.zeros(4200, np.float32),
    np.zeros((4200, 2)),
    np.full((4200, 2), np.inf, np.float32),
    np.array([{}] * 4200),
    b"no array",
  ],
  ids=["flat", "float64", "infinite", "objects", "bytes"],
)
def test_invalid_latents_are_one_line(tmp_path, z):
  test_clevrgan_folder.make(tmp_path)
  if isinstance(z, bytes):
    (tmp_path / "z.npy").write_bytes(z)
  else:
    np.save(tmp_path / "z.npy", z)
  with pytest.raises(UserError) as error:
    test_clevrgan_folder.load(tmp_path, tmp_path / "data")
  drawing_world.one_line(error, "z.npy", "float32")


def refused(workdir, count, out, *words, kind=""):
  with pytest.raises(UserError) as error:
    select.select(workdir, count, out, kind)
  drawing_world.one_line(error, *words)


def test_mistakes_are_one_line(run, generator, tmp_path, in_memory):
  out = tmp_path / "out"
  refused(tmp_path / "gone", 3, out, f"no run in {tmp_path / 'gone'}")
  assert not (tmp_path / "gone").exists()
  refused(run[0], 0, out, "--count=0")
  refused(run[0], 3, out, "did you mean 'random'", kind="randon")
  refused(run[0], 3, out, "ends without edits", "random", kind="regular")
  refused(run[0], 3, out, "of step 3", "no clusters", kind="cluster")
  full = tmp_path / "full"
  full.mkdir()
  (full / "file").touch()
  refused(run[0], 3, full, f"--out={full} is not an empty folder")
  refused(run[0], 3, full / "file", "is not an empty folder")
  assert not out.exists()


def test_runs_without_edits_or_checkpoints_are_one_line(
  generator, tmp_path, in_memory
):
  config = drawing_world.small(generator, curriculum="regular@0")
  jsonfiles.write_json(tmp_path / "config.json", config.to_dict())
  refused(tmp_path, 3, tmp_path / "out", "no evaluated checkpoint")
  config.task = "grounding"
  jsonfiles.write_json(tmp_path / "config.json", config.to_dict())
  refused(tmp_path, 3, tmp_path / "out", "a run of 'grounding'", "no edits")
  # `show` draws those of a run of places; `select` knows its own alone.
  config = places_world.small()
  jsonfiles.write_json(tmp_path / "config.json", config.to_dict())
  refused(tmp_path, 3, tmp_path / "out", "'places'", "configs/solids.py")


def test_the_last_phase_gives_the_kind_of_edit(run):
  _, model, state = run
  restored = drawn_runs.Restored(model, 3, state)
  assert drawn_runs.kind_of(restored, "") == "random"
  assert drawn_runs.kind_of(restored, "gaussian") == "gaussian"
  config = ml_collections.ConfigDict(model.config.to_dict())
  config.edits.curriculum = "regular@0,cluster@1"
  model = drawing.Drawing(config, mesh.make_mesh(2))
  state = drawing_world.state_of(model)
  restored = drawn_runs.Restored(model, 3, state)
  assert drawn_runs.kind_of(restored, "") == "cluster"
