"""Random keys: no key is used for two things, in any task or over a run."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import random as jax_random  # As JAX's own initialisers have it.

from tests import every_task, stamps_fixture
from tests.filling import KEY
from vgsgan import tasks
from vgsgan.data import pipeline
from vgsgan.parallel import mesh
from vgsgan.tools.bench.case import Case
from vgsgan.train import keys

STEPS = 3
DRAW = (
  "bernoulli",
  "bits",
  "categorical",
  "choice",
  "gumbel",
  "normal",
  "permutation",
  "rademacher",
  "randint",
  "truncated_normal",
  "uniform",
)


# Batches of these tests have the images 0 to 63.
OF_IMAGES = {
  np.asarray(jax.random.key_data(keys.of(0, "pictures", i))).tobytes()
  for i in range(64)
}


class Uses:
  """Notes which keys JAX's random functions are called with, as they run."""

  def __init__(self, monkeypatch):
    self.drawn, self.split, self.folded = [], [], []
    self._inside = False
    for name in (*DRAW, "split", "fold_in"):
      noted = self._noting(name, getattr(jax.random, name))
      monkeypatch.setattr(jax.random, name, noted)
      monkeypatch.setattr(jax_random, name, noted)

  def _noting(self, name, plain):
    to = {"split": self.split, "fold_in": self.folded}.get(name, self.drawn)

    def noted(key, *args, **kwargs):
      if self._inside:  # A random function may call others.
        return plain(key, *args, **kwargs)
      bits = jax.random.key_data(key)
      jax.debug.callback(
        lambda bits: to.append(np.asarray(bits).tobytes()), bits
      )
      self._inside = True
      try:
        return plain(key, *args, **kwargs)
      finally:
        self._inside = False

    return noted

  def of(self, function):
    """The function, run for its random keys alone; makes how many it drew."""
    run = jax.jit(lambda *args: (function(*args), None)[1])

    def count(*args):
      before = len(self.drawn)
      run(*args)
      jax.effects_barrier()
      return len(self.drawn) - before

    return count

  def check(self):
    """A key is drawn by once, split once, or else has numbers folded in.

    But the latent of an image is drawn from its own key in every step.
    """
    once = collections.Counter(self.drawn + self.split)
    again = {key for key, count in once.items() if count > 1}
    assert again <= OF_IMAGES
    assert not once.keys() & {*self.folded}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("keys")
  stamps_fixture.make(folder / "source", n_stamps=16)
  every_task.prepare(folder)
  return folder


def drawn(case, uses, steps):
  """Counts the random draws of initialisation and of each step."""
  shapes, batch = jax.eval_shape(case.task.init, KEY), case.batch()
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  init = uses.of(lambda: case.task.init(keys.of(case.config.seed, "init")))
  counts = [init()]
  updates = {}
  for step in range(steps):
    update = case.task.step_after(step)
    run = updates.setdefault(update, uses.of(update))
    counts.append(run(state.replace(step=jnp.int32(step)), batch))
  return counts


@pytest.fixture
def one_device(monkeypatch):
  one = mesh.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(mesh, "make_mesh", lambda **_: one)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_no_key_is_used_twice(folder, task, one_device, monkeypatch):
  with every_task.made(folder, task) as config:
    case = Case(config)
    uses = Uses(monkeypatch)
    assert drawn(case, uses, STEPS)[0] > 0
    uses.check()


@pytest.mark.parametrize("counts", [(), (1, 2)])
def test_no_key_of_edits_is_used_twice(folder, counts, one_device, monkeypatch):
  with every_task.made(folder, "drawing") as config:
    kinds = ("random", "cluster", "gaussian", "chunk", "direction")
    config.edits.curriculum = "regular@0," + ",".join(
      f"{kind}@{step}" for step, kind in enumerate(kinds, start=1)
    )
    config.edits.update({"counts": counts, "rungs": 2})
    config.edits.strengths = (0.5, 1.0)
    config.edits.update({"changes": (0.1, 0.1), "shares": (0.9, 0.9)})
    case = Case(config)
    uses = Uses(monkeypatch)
    plain, *edited = drawn(case, uses, len(kinds) + 1)[1:]
    uses.check()
    # A draw of units for each layer, of both rungs; and of a concept for the
    # second. Of counts that are given chance takes one rank of units for all.
    units, concept = (1, 0) if counts else (2, 1)
    assert [count - plain for count in edited] == [units, concept, 1, 2, 2]


def test_streams_have_distinct_keys():
  found = [np.asarray(jax.random.key_data(jax.random.key(7)))]
  for stream, names in keys.STREAMS.items():
    for numbers in itertools.product(range(4), repeat=len(names)):
      found.append(jax.random.key_data(keys.of(7, stream, *numbers)))
  # Data sets fold small numbers into their seeds.
  root = jax.random.key(7)
  for i, j in itertools.product(range(16), repeat=2):
    child = jax.random.fold_in(root, i)
    found.append(jax.random.key_data(jax.random.fold_in(child, j)))
  assert len({np.asarray(bits).tobytes() for bits in found}) == len(found)


def test_a_key_depends_on_seed_stream_and_numbers():
  traced = jax.jit(lambda step: keys.of(3, "noise", step))(jnp.int32(5))
  assert traced == keys.of(3, "noise", 5) != keys.of(3, "edits", 5)
  assert keys.of(3, "noise", 5) != keys.of(4, "noise", 5)
  with pytest.raises(ValueError, match="noise takes"):
    keys.of(3, "noise")


def test_the_order_and_the_examples_have_their_own_random_numbers():
  """Not even where the seed and the position are those of an epoch."""

  def states(number):
    found = []

    def note(record, rng):
      state = rng.bit_generator.state["state"]
      found.append((tuple(state["key"]), tuple(state["counter"])))
      return {"x": np.float32(rng.random())}

    records, rows = [{}] * 8, slice(0, 1)
    examples = pipeline.TrainStream(records, note, 1, rows, 0, number, 1)[0]
    evaluated = pipeline.EvalStream(records, note, 1, rows)[number]
    return found, {float(examples["x"][0]), float(evaluated["x"][0])}

  for number in range(3):
    found, drawn = states(number)
    assert len(set(found)) == len(drawn) == 2
    bits = np.random.Philox(key=[0, number])
    assert np.array_equal(
      np.random.Generator(bits).permutation(8),
      pipeline.epoch_order(8, 0, number),
    )
    begins = np.random.Philox(key=[0, number]).state["state"]
    begun = tuple(begins["key"]), tuple(begins["counter"])
    assert begun not in found
