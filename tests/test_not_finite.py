"""A number that is none stops a run, whichever of eight devices has it.

To some of XLA's kernels for CPUs the larger of NaN and 0 is 0, and so is the
maximum over devices. A network with ReLUs then hides what it is to tell.
"""

from unittest import mock

import jax
import numpy as np
import pytest

from tests import drawing_world
from tests.filling import filled
from tests.placing import placed
from vgsgan.parallel import mesh
from vgsgan.tasks import grounding, towers
from vgsgan.train import saving
from vgsgan.train.runs import Run
from vgsgan.train.step import jit_step

KEY = jax.random.key(0)
DEVICES = 8


class Prepared(grounding.Grounding):
  """Grounding whose batches hold what networks see: numbers with NaN, too."""

  def inputs(self, batch, key):
    return batch["pictures"], batch["mel"], batch["num_frames"]


@pytest.fixture(scope="module", params=[1, 4], ids=["whole", "split"])
def run(request):
  """`(state, batch)` and a compiled step; networks whole, or split by four."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(mesh, "SMALLEST_SPLIT", 64)
    patched.setitem(towers.SPEECH_TOWERS, "small", drawing_world.short_tower)
    config = drawing_world.small("", batch=DEVICES)
    config.loss.name = "regular"
    devices = mesh.make_mesh(DEVICES, model=request.param)
    model = Prepared(config, devices)
    state = filled(jax.eval_shape(model.init, KEY))
    state = state.replace(
      step=np.int32(0), opt_state=model.tx.init(state.params)
    )
    rng = np.random.default_rng(0)
    side, concepts = config.data.image_size, np.arange(DEVICES)
    batch = {
      "pictures": rng.normal(size=(DEVICES, side, side, 3)).astype("float32"),
      "mel": rng.normal(size=(DEVICES, 32, 16)).astype("float32"),
      "num_frames": np.full(DEVICES, 32, np.int32),
      "image_concept": concepts,
      "speech_concept": concepts,
    }
    there = placed(state, devices)
    step = jit_step(model.step, there, devices)

    def metrics(state, batch):
      _, found = step(placed(state, devices), mesh.shard(batch, devices))
      return found

    yield devices, jax.device_get(state), batch, metrics


def stops(metrics, folder):
  """Tells whether the trainer stops and says so in a file."""
  run = mock.Mock(spec=Run)
  run.saved, run.log, run.workdir = mock.Mock(), mock.Mock(), folder
  run.record_ids.return_value = ["first"]
  try:
    saving.check_finite(run, 7, metrics)
  except saving.NonFiniteError:
    return run.log.write_json.called
  return False


def test_finite_numbers_go_on(run, tmp_path):
  _, state, batch, metrics = run
  assert not stops(metrics(state, batch), tmp_path)


@pytest.mark.parametrize("device", range(DEVICES))
def test_a_nan_in_a_row_of_any_device_stops_the_run(run, device, tmp_path):
  devices, state, batch, metrics = run
  pictures = batch["pictures"].copy()
  place = mesh.batch_sharding(devices).devices_indices_map(pictures.shape)
  rows = place[devices.devices.flat[device]][0]
  pictures[rows, 3, 4, 1] = np.nan
  found = metrics(state, batch | {"pictures": pictures})
  assert np.isnan(found["loss"]) and np.isnan(found["grad_norm"])
  assert stops(found, tmp_path)


@pytest.mark.parametrize("device", range(DEVICES))
def test_a_nan_in_a_weight_of_any_device_stops_the_run(run, device, tmp_path):
  devices, state, batch, metrics = run
  kernels, where = jax.tree.flatten(state.params["image"])
  number = int(np.argmax([x.size for x in kernels]))
  kernels = list(kernels)
  kernel = kernels[number] = np.array(kernels[number])
  place = mesh.state_shardings(kernel, devices).devices_indices_map(
    kernel.shape
  )
  here = place[devices.devices.flat[device]]
  kernel[tuple(s.start or 0 for s in here)] = np.nan
  params = state.params | {"image": jax.tree.unflatten(where, kernels)}
  found = metrics(state.replace(params=params), batch)
  assert np.isnan(found["loss"]) and np.isnan(found["grad_norm"])
  assert stops(found, tmp_path)
