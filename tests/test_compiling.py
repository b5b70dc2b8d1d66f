"""What a step takes of devices that need not be there."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from jax.sharding import PartitionSpec as P

from tests.test_options import load
from vgsgan import tasks
from vgsgan.common.errors import UserError
from vgsgan.data import blank
from vgsgan.data.builders.clevrgan import records as clevrgan_records
from vgsgan.models import pretrained
from vgsgan.parallel import mesh
from vgsgan.tools.bench.case import Case
from vgsgan.tools.compile import chips, footprint, hlo, program, report
from vgsgan.train import costs
from vgsgan.train.state import TrainState
from vgsgan.train.step import jit_step

NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
SLICE = "v5e:2x4"
PLANE = "v5e:4x4"
OF_SIZE = 2048  # Bytes; statistics of a layer, ids and scalars are below.


def small():
  """A config whose step compiles in seconds."""
  config = load("stamps").get_config("smoke,infonce")
  config.image.update({"widths": (16,), "blocks": (1,), "strides": (2,)})
  config.speech.max_kernel = 3
  config.data.augment.update({"tempo": 0.0, "vocal_tract": 0.0, "shift": 0})
  return config


def devices_on(where):
  return jax.devices() if where == "cpu" else program.devices_of(where)


@pytest.mark.parametrize(
  "where",
  ["cpu", *(pytest.param(x, marks=NEEDS_LIBTPU) for x in (SLICE, PLANE))],
)
def test_a_contrastive_step_sends_what_the_algorithm_needs(where):
  """Once the speech's maps and back, scores, one gradient; no more of size."""
  config, grid = small(), mesh.make_mesh(devices=devices_on(where))
  config.train.batch = 2 * grid.size
  splits = blank.splits(config)
  task = tasks.build(config, grid, splits)
  state, batch = footprint.abstract(config, task, splits["train"][0], grid)
  step = jit_step(task.step, state, grid)
  found = hlo.collectives(step.lower(state, batch).compile().as_text())

  b, d = config.train.batch, config.speech.embed
  frames = 1 + int(config.data.seconds * config.data.sample_rate) // 160
  maps = b * math.ceil(math.ceil(math.ceil(frames / 2) / 2) / 2) * d * 4

  def payloads(kind, least=OF_SIZE):
    return [x.payload for x in found if x.kind == kind and x.payload >= least]

  assert payloads("all-gather") == [maps]
  # In two steps, which send what one would; the second has a row's share.
  scattered = [x for x in found if x.kind == "reduce-scatter"]
  assert [x.payload for x in scattered] == [maps, maps // 4]
  one = costs.sent("reduce-scatter", maps, grid.size)
  assert sum(x.sent for x in scattered) == pytest.approx(one)
  assert not payloads("collective-permute", 0)
  # A block of scores, and its gradient.
  assert payloads("all-to-all", 0) == 2 * [b // grid.size * b * 4]
  gradient = sum(x.size * 4 for x in jax.tree.leaves(state.params))
  statistics = sum(x.size * 4 for x in jax.tree.leaves(state.batch_stats))
  reduced = sum(payloads("all-reduce", 0))
  # Statistics of a norm: sum and squares, and the gradients of both.
  assert gradient <= reduced <= gradient + 2 * statistics + OF_SIZE
  assert all(x.times == 1 for x in found)


def test_figures_are_printed_and_written(tmp_path, capsys):
  assert program.run(small(), None, tmp_path) == 0
  (found,) = json.loads((tmp_path / "compile.json").read_text())
  (step,) = found["steps"]
  assert (found["devices"], found["batch"]) == (8, 16)
  assert step["sent"] == pytest.approx(
    sum(x["sent"] for x in step["collectives"])
  )
  # The aim; what is over it are statistics of normalisation.
  assert 0.95 < step["sent"] / step["least_sent"] < 1.1
  memory = step["memory"]
  assert memory["arguments"] < memory["peak"] < memory["of"]
  lines = capsys.readouterr().out
  assert "8 x cpu" in lines
  assert f"{step['flops']['matrix'] / 1e9:,.2f} GFLOP" in lines


def test_the_least_of_a_step_on_shared_parameters_by_hand():
  grid = mesh.make_mesh(8, model=2)
  params = {"large": (64, 128), "bias": (10,)}
  shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in params.items()}
  state = TrainState(jnp.int32(0), mesh.abstract(shapes, grid), {}, {})
  large, bias = 64 * 128 * 4, 40
  expected = 2 * (1 / 2) * large + 2 * (3 / 4) * large / 2 + 2 * (7 / 8) * bias
  assert footprint.gradient_bytes(state, grid) == pytest.approx(expected)


def test_an_estimate_by_hand():
  chip = chips.Chip(flops=100.0, memory=1.0, bandwidth=10.0, links=4.0)
  flops = {"matrix": 100.0, "bfloat16": 300.0}
  found = {"flops": flops, "bytes_accessed": 50.0, "sent": 2.0}
  assert chips.estimate(found, chip) == {
    "compute": 3.0,
    "memory": 5.0,
    "links": 0.5,
    "step": 5.5,
  }


@NEEDS_LIBTPU
@pytest.mark.parametrize(
  ("topology", "devices", "cores"), [("v4:2x2x1", 8, 2), ("v5p:2x2x1", 4, 1)]
)
def test_a_core_has_a_share_of_its_chip(topology, devices, cores):
  found = program.devices_of(topology)
  assert len(found) == devices
  chip, whole = chips.published(found), chips.CHIPS[found[0].device_kind]
  assert chip.flops * cores == whole.flops
  assert chips.memory_of(found) * cores == whole.memory


@NEEDS_LIBTPU
def test_an_unknown_chip_has_no_estimate():
  found = program.devices_of("tpu7x:2x2x1")
  assert chips.published(found) is None
  assert chips.memory_of(found) == 0


def test_a_table_has_no_ratio_to_nothing():
  step = {
    "flops": {"matrix": 2e9},
    "memory": {"peak": 3e9},
    "sent": 0.0,
    "least_sent": 0.0,
  }
  row = {"devices": 1, "batch": 4, "steps": [step]}
  *_, line = report.table([row])
  assert line == "| 1 | 4 | 2.0 | 3.00 | 0.00 | 0.00 |  | nan | nan |"


def test_topologies_have_equal_batches_per_device(monkeypatch):
  monkeypatch.setattr(program, "devices_of", lambda name: [0] * int(name))
  found = [(n, b) for n, _, b in program.slices("8, 16,256", 24)]
  assert found == [("8", 24), ("16", 48), ("256", 768)]


def refused(config, topology=None):
  with pytest.raises(UserError) as error:
    program.run(config, topology, None)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_batch_that_does_not_divide_is_refused():
  config = small()
  config.train.batch = 12
  assert "12 = 8 x 1 + 4" in refused(config)


def test_an_evaluation_batch_that_does_not_divide_is_refused():
  """It would be refused when the run starts, on devices that are paid for."""
  config = small()
  config.eval.batch = 12
  assert "config.eval.batch to 8 or 16" in refused(config)


def test_parts_that_do_not_divide_are_refused():
  config = small()
  config.train.accumulate = 3
  assert "16 = 24 x 0 + 16" in refused(config)
  config.train.accumulate = 0
  assert "train.accumulate=0" in refused(config)


@pytest.mark.parametrize("topology", [",", "v5e:2x4,", ",v5e:2x4"])
def test_an_empty_topology_is_refused(topology):
  message = refused(small(), topology)
  assert f"--topology={topology}: name a topology" in message


def test_a_config_without_a_generator_is_refused():
  config = small()
  config.data.generator = "configs/stamps.py:smoke"
  message = refused(config)
  assert "'configs/stamps.py:smoke' has no config.gan" in message


def test_a_mesh_that_does_not_divide_is_refused():
  config = small()
  config.mesh.model = 3
  assert "config.mesh.model=3" in refused(config)


def test_too_little_memory_is_one_line():
  footprint.check_memory({"peak": 2e9, "of": 0})  # Not known.
  footprint.check_memory({"peak": 2e9, "of": 2e9})
  with pytest.raises(UserError, match=r"needs 2.50 GB and has 2.00 GB"):
    footprint.check_memory({"peak": 2.5e9, "of": 2e9})


def test_a_missing_libtpu_is_one_line(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
  assert 'pip install -e ".[tpu]"' in refused(small(), SLICE)


@NEEDS_LIBTPU
@pytest.mark.parametrize("topology", ["v5e:3x3", "v0e:2x2", "pod"])
def test_an_unknown_topology_is_one_line(topology):
  message = refused(small(), topology)
  assert f"--topology={topology}" in message
  assert "v5e:2x4" in message


@NEEDS_LIBTPU
def test_the_compiler_s_memory_error_is_one_line():
  grid = mesh.make_mesh(devices=program.devices_of(SLICE))
  rows = jax.sharding.NamedSharding(grid, P())
  x = jax.ShapeDtypeStruct((80_000, 80_000), jnp.float32, sharding=rows)
  with pytest.raises(UserError, match=r"out of memory.*exceeds available") as e:
    footprint.compile_or_explain(jax.jit(lambda x: x + x.T).trace(x))
  assert "\n" not in str(e.value)


def test_blank_records_have_the_shapes_of_real_ones():
  config = load("solids").get_config("smoke")
  record = blank.splits(config)["train"][0]
  spec = clevrgan_records.features(config.data.image_size, config.data.most)
  for name in ("attributes", "masks"):
    assert record[name].shape == spec[name].shape
    assert record[name].dtype == spec[name].np_dtype
  network = pretrained.load_generator("")
  assert record["z"].shape == (network.module.latent_size,)


@pytest.mark.parametrize(
  ("edits", "known"),
  [
    ({}, True),
    ({"edits": {"inverter": "i.npz"}}, False),
    ({"task": "grounding"}, False),
  ],
)
def test_blank_records_of_a_generator_s_folder_have_latents(edits, known):
  config = load("solids").get_config("smoke")
  config.data.dataset = "clevrgan_folder"
  with config.unlocked():
    config.update(edits)
  assert ("z" in blank.splits(config)["train"][0]) == known


def test_an_untrained_generator_is_written(tmp_path):
  path = tmp_path / "generator.npz"
  data = ml_collections.ConfigDict(
    {"generator": "configs/scenes_gan.py:published,smoke"}
  )
  program.use_untrained(data, path)
  network = pretrained.unlabelled_generator(data.generator, 32)
  # Of the published layers, whose spectral norms have names of their own.
  assert network.module.spectral
  z = jnp.zeros((1, network.module.latent_size))
  shape = jax.eval_shape(
    lambda: network.module.apply(network.variables, z, train=False)
  ).shape
  assert shape == (1, 32, 32, 3)


def test_a_step_with_an_untrained_generator_compiles():
  """What compiles without a generator's file can be timed without one."""
  config = load("drawing").get_config("random,smoke")
  config.data.generator = "configs/scenes_gan.py:smoke"
  config.data.seconds, config.speech.width = 0.2, 0.02
  config.train.batch = 8
  before = config.to_json()
  pairs = Case(config).batch()
  assert not pairs["z"].any()  # Blank, and with a latent as drawn ones have.
  assert config.to_json() == before


def test_an_untrained_generator_serves_every_topology(monkeypatch):
  config, seen = small(), []
  config.data.generator = "configs/scenes_gan.py:smoke"

  def figures(one, devices):
    pretrained.load_generator(one.data.generator)
    seen.append(devices)
    return {}

  monkeypatch.setattr(program, "devices_of", lambda name: [0] * int(name))
  monkeypatch.setattr(program, "figures", figures)
  monkeypatch.setattr(program, "report", lambda row: [])
  monkeypatch.setattr(program, "table", lambda rows: [])
  assert program.run(config, "1,2", None) == 0
  assert list(map(len, seen)) == [1, 2]
