"""A tiny run of every task, for the processes of `test_every_task`."""

import functools
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from tests import (
  drawing_world,
  idea_world,
  places_world,
  test_classification,
  test_correspondence,
  test_gan,
  test_generation_tasks,
  test_trainer,
)
from tests.running import run_config
from tests.test_options import load
from vgsgan import data
from vgsgan.data import pipeline
from vgsgan.models import mixture, namer, weights
from vgsgan.models.generator import Generator
from vgsgan.tasks import classification, correspondence, grounding
from vgsgan.tasks.towers import SPEECH_TOWERS

SIGNAL_AT = 2  # Of the batches, the one whose fetching sends the signal.


def prepare(folder: pathlib.Path) -> None:
  """Makes what the runs share: the file of a random generator."""
  module = Generator(
    drawing_world.GAN["channels"], drawing_world.GAN["chunk"], spectral=False
  )
  tree = test_gan.variables_of(
    module, jnp.zeros((1, module.latent_size)), scale=0.3
  )
  meta = {"config": {"gan": drawing_world.GAN}}
  weights.save_params(folder / "generator.npz", tree, meta)
  places_world.save_generator(folder / "places_generator.npz")


def of_three(make):
  """Splits of records that `make(count, seed)` gives."""
  sizes = {"train": 24, "validation": 9, "test": 10}
  return {k: make(n, seed) for seed, (k, n) in enumerate(sizes.items())}


def make_grounding(folder):
  return test_trainer.small(folder), None


def make_drawing(folder):
  config = drawing_world.small(str(folder / "generator.npz"))
  config.edits.curriculum = "regular@0,cluster@2"
  pairs = drawing_world.pairs(config.data.generator)
  return config, dict.fromkeys(("train", "validation", "test"), pairs)


def make_places(folder):
  config = places_world.small("drawn_attribute,smoke")
  config.edits.generator = str(folder / "places_generator.npz")
  return config, of_three(places_world.records)


def make_naming(folder):
  config = load("namer").get_config("smoke")
  config.namer.widths = (8, 12)
  return config, of_three(places_world.records)


def make_gan(folder):
  return test_gan.tiny(folder / "scenes"), None


def make_recognition(folder):
  config = load("recogniser").get_config("smoke")
  config.data.update({"num_train": 12, "num_validation": 8, "num_test": 8})
  config.data.data_dir = str(folder / "scenes")
  return config, None


def make_inversion(folder):
  config = load("inversion").get_config("smoke")
  config.data.generator = str(folder / "generator.npz")
  config.data.image_size = 32
  pairs = drawing_world.pairs(config.data.generator)[:9]
  return config, dict.fromkeys(("train", "validation", "test"), pairs)


def make_correspondence(folder):
  config = test_correspondence.config_of("ave", "judge")
  return config, of_three(lambda n, seed: test_correspondence.records(n))


def make_classification(folder):
  return test_classification.small(), test_classification.splits()


def make_generation(folder):
  def pictures(many, seed):
    shades = test_generation_tasks.shades(many, seed)
    return [
      {"id": b"%d" % i, "image": test_generation_tasks.encode(picture)}
      for i, picture in enumerate(shades)
    ]

  return test_generation_tasks.small("vae"), of_three(pictures)


def make_idea(folder):
  return idea_world.small("gan"), idea_world.splits()


@contextmanager
def made(folder: pathlib.Path, task: str) -> Iterator[ConfigDict]:
  """The config of a run of a few steps, each logged; its data in place."""
  config, splits = globals()[f"make_{task}"](folder)
  config.data.num_threads = 1
  config.train.update({"batch": 8, "steps": 4, "log_every": 1, "keep": 4})
  config.train.update({"eval_every": 4, "save_every": 2})
  config.eval.batch = 8
  drawn = task in ("drawing", "inversion", "places")
  with ExitStack() as patched:
    patch = lambda *how: patched.enter_context(mock.patch.object(*how))  # noqa: E731
    if splits:
      patch(data, "load", lambda _: splits)
    if drawn:
      patch(grounding.Grounding, "inputs", drawing_world.plain_inputs)
    # Where normalisation takes a gradient away, Adam would follow the signs of
    # its rounding.
    for name in ("adam", "adamw"):
      patch(optax, name, functools.partial(getattr(optax, name), eps=1e-3))
    # The gradient of a maximum goes where x equals it, which code that was not
    # optimised may compute anew, and round in another way.
    for module in (mixture, classification, correspondence, namer):
      patch(module, "global_max", lambda x: jnp.mean(x, (1, 2)))
    towers = {"small": drawing_world.short_tower}
    patched.enter_context(mock.patch.dict(SPEECH_TOWERS, towers))
    yield config


def run(folder: pathlib.Path, workdir: pathlib.Path, task: str) -> int:
  """A run of a task; its exit status."""
  with made(folder, task) as config:
    return run_config(config, workdir / task)


def signalled():
  """Sends this process a SIGTERM once so many batches were fetched."""
  plain, count = pipeline.DeviceBatches.next, 0

  def fetch(self, running):
    nonlocal count
    count += 1
    if count == SIGNAL_AT:
      os.kill(os.getpid(), signal.SIGTERM)
      # JAX looks for it once a second, in which the run might end.
      time.sleep(2.5)
    return plain(self, running)

  return mock.patch.object(pipeline.DeviceBatches, "next", fetch)


def main(rank: int, folder: str, workdir: str, *names: str) -> None:
  """Runs tasks one after another, each in `workdir/TASK`.

  Of one whose name ends in `!`, the second process sends itself a SIGTERM on
  its way. Says of each how it ended.
  """
  for name in names:
    task = name.rstrip("!")
    with signalled() if task != name and rank == 1 else nullcontext():
      status = run(pathlib.Path(folder), pathlib.Path(workdir), task)
    print(f"{task} ended with {status}", flush=True)
