"""Figures of generated pairs, of some whose classes are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.idea_world import COLOURS, ideal_judges, records, small
from vgsgan.evals import generated
from vgsgan.evals.frechet import frechet_distance
from vgsgan.evals.generated import Clips
from vgsgan.parallel import mesh
from vgsgan.tasks import idea, idea_evaluation
from vgsgan.train.state import TrainState


def clips_of(labels, rng):
  """Clips that `ideal_judges` understand."""
  pictures = np.array(COLOURS)[labels][:, None, None] / 127.5 - 1
  sounds = -np.ones((len(labels), 16, 8))
  for row, label in zip(sounds, labels, strict=True):
    row[:, (1, 4, 7)[label]] = 1
  pictures = pictures + rng.normal(0, 0.02, (len(labels), 8, 8, 3))
  return Clips(
    np.float32(pictures), np.float32(sounds + rng.normal(0, 0.02, sounds.shape))
  )


def test_judged_figures_of_clips_whose_classes_are_known():
  rng = np.random.default_rng(0)
  labels = np.array([0, 1, 2, 1, 0, 2, 1, 1, 0, 2, 0, 1])
  wrong = np.array([0, 1, 2, 1, 0, 2, 2, 2, 1, 0, 2, 0])  # Half of them.
  # Like those in a third.
  partly = np.where(np.arange(12) < 4, wrong, (wrong + 1) % 3)
  real, other = clips_of(labels, rng), clips_of(wrong, rng)
  third = clips_of(partly, rng)
  made = {
    "from_both": clips_of(labels, rng),
    "from_picture": Clips(third.picture, other.sound),
    "from_sound": Clips(other.picture, third.sound),
    "sampled": other,
  }
  found = idea_evaluation.judged(
    ideal_judges(), real, np.stack([labels, np.full(12, -1)], 1), made
  )
  accuracy = {k: x["value"] for k, x in found["match"]["accuracy"].items()}
  assert accuracy == {
    "from_both": 1.0,
    "from_picture": pytest.approx(1 / 3),
    "from_sound": pytest.approx(1 / 3),
    "sampled": 1.0,  # Wrong, but of one mind.
    "given_picture": 0.5,
    "given_sound": 0.5,
  }
  apart = np.mean(labels == np.roll(labels, 1))
  for figure in found["match"]["accuracy"].values():
    assert figure["real"] == 1 and figure["mismatched"] == apart
  assert found["match"]["score"]["given_sound"]["value"] == -0.5
  for name in ("picture_from_sound", "sound_from_picture"):
    figure = found["class"][name]
    assert (figure["value"], figure["real"]) == (0.5, 1.0)
    assert figure["chance"] == pytest.approx(np.bincount(labels).max() / 12)
  for part in ("picture", "sound", "pair"):
    assert set(found[part]["frechet"]) == set(made)


def test_mismatched_clips_show_in_pair_figures_alone():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 400)
  real, again = clips_of(labels, rng), clips_of(labels, rng)
  shuffled = Clips(again.picture, again.sound[rng.permutation(400)])
  made = {"again": again, "shuffled": shuffled}
  found = idea_evaluation.likeness(
    *idea_evaluation.features_of(idea_evaluation.coarse, real, made)
  )
  away = {
    part: {name: x["value"] for name, x in figures["frechet"].items()}
    for part, figures in found.items()
  }
  for part in ("picture", "sound"):
    assert away[part]["shuffled"] < 2 * away[part]["again"] + 0.05
  assert away["pair"]["shuffled"] > 20 * away["pair"]["again"]


def test_judges_do_not_choose_the_checkpoint():
  def results(away, judged):
    def found(value):
      return {"pair": {"frechet": {"from_both": {"value": value}}}}

    return {"coarse": found(away), "judged": found(judged)}

  near, far = results(1.0, 9.0), results(2.0, 3.0)
  assert idea_evaluation.likest(near) > idea_evaluation.likest(far)


def test_spectrograms_stand_upright():
  sound = np.zeros((1, 3, 2))
  sound[0, 2, 0] = 1  # The last frame, the lowest band.
  np.testing.assert_array_equal(
    idea_evaluation.upright(sound)[0, :, :, 0], [[0, 0, 0], [0, 0, 1]]
  )


def test_diversity_is_the_mean_distance_of_two():
  rows = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
  assert generated.spread(rows) == pytest.approx((3 + 4 + 5) / 3)
  assert generated.spread(np.ones((4, 2))) == 0
  square = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
  made = {"twice": 2 * square}
  found = generated.likeness(square, generated.flat(square), made)
  # Two sides of 3, two of 4, and both diagonals.
  known = {"value": pytest.approx(8.0), "real": pytest.approx(4.0)}
  assert found["diversity"]["twice"] == known | {"chance": 0.0}


def test_no_row_is_compared_with_its_own_reconstruction():
  rng = np.random.default_rng(0)
  real, other = rng.normal(size=(2, 12, 3))
  own = real.copy()  # A copy is not nearer to the even rows than the real.
  own[0::2] = other[0::2]  # Nor do its own even rows matter.
  found = generated.likeness(real, generated.flat(real), {"own": own})
  figure = found["frechet"]["own"]
  assert figure["value"] == figure["real"]
  assert figure["real"] == frechet_distance(real[::2], real[1::2]) > 0


class Plain:
  """A latent is the first pixel and sample, 0 of what is dropped."""

  config = small("ae")
  variational = False

  def pair(self, batch):
    firsts = batch["image"][:, 0, 0, 0], batch["waveform"][:, 0]
    return tuple(x[:, None].astype(jnp.float32) for x in firsts)

  def encode(self, state, pair, keep):
    return jnp.where(keep, jnp.concatenate(pair, 1), 0.0)

  def decode(self, state, latent):
    return latent[:, :1], latent[:, 1:]


def test_a_clip_from_one_modality_ignores_the_other():
  clips = records(9)
  splits = dict.fromkeys(("train", "validation", "test"), clips)
  transform = idea.example(Plain.config.data)
  evaluation = idea_evaluation.Evaluation(
    Plain(), mesh.make_mesh(1), splits, transform
  )
  state = TrainState(0, {}, {}, {})
  found = evaluation.rows.of(state, clips, 9, lambda: None)
  real = found.pop("real")
  assert (real["picture"] != 0).all() and (real["sound"] != 0).any()
  none = np.zeros((9, 1))
  for name, picture, sound in (
    ("from_both", real["picture"], real["sound"]),
    ("from_picture", real["picture"], none),
    ("from_sound", none, real["sound"]),
  ):
    np.testing.assert_array_equal(found[name]["picture"], picture)
    np.testing.assert_array_equal(found[name]["sound"], sound)
