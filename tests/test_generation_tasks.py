"""Pictures alone: networks, steps and whole runs of every variant."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.filling import filled, normal, same
from tests.placing import placed
from tests.running import run_config
from tests.test_options import load
from vgsgan import data
from vgsgan.common.errors import UserError
from vgsgan.data.builders.scenes import encode
from vgsgan.losses import generative
from vgsgan.models import decoders
from vgsgan.parallel import mesh
from vgsgan.tasks import generation, generation_evaluation, judges
from vgsgan.train import keys
from vgsgan.train.step import jit_step

KEY = jax.random.key(4)
MAKE_MESH = mesh.make_mesh
VARIANTS = ("ae", "vae", "gan", "minimax", "dcgan")


def small(variant, **fields):
  """A config of pictures of 8 pixels."""
  config = load("generation").get_config(f"{variant},smoke")
  config.data.update({"image_size": 8, "num_threads": 1})
  config.generation.update({"decoder": (4, 4), "latent": 5})
  config.generation.widths = (4, 4) if variant == "dcgan" else (4,)
  config.generation.pools = 1
  config.generation.update(fields)
  config.train.update({"batch": 8, "steps": 4, "log_every": 1})
  config.train.update({"eval_every": 2, "save_every": 2})
  config.eval.update({"batch": 4, "fitted": 12})
  return config


def shades(many, seed=0):
  """Pictures of one colour above another."""
  rng = np.random.default_rng(seed)
  halves = rng.integers(0, 256, (many, 2, 1, 3)).astype(np.uint8)
  return np.broadcast_to(np.repeat(halves, 4, 1), (many, 8, 8, 3))


def batch_of(many=8, seed=0):
  return {"image": jnp.asarray(shades(many, seed))}


def with_sgd(model, rate=0.1):
  """A random state, and plain slopes for updates."""
  model.tx = {name: optax.sgd(rate) for name in model.modules}
  made = filled(jax.eval_shape(model.init, KEY), scale=0.3)
  opt_state = {
    name: tx.init(made.params[name]) for name, tx in model.tx.items()
  }
  made.batch_stats["average"]["params"] = made.params["generator"]
  return made.replace(step=jnp.int32(0), opt_state=opt_state)


# ----------------------------------------------------------------- networks


def test_a_decoder_doubles_its_bottom_and_is_bounded():
  module = decoders.Decoder((3, 2), (4, 4, 4), 1)
  latent = normal(5, 6)
  variables = filled(jax.eval_shape(lambda: module.init(KEY, latent, False)))
  images = jax.jit(lambda z: module.apply(variables, z, False))(latent)
  assert images.shape == (5, 24, 16, 1)
  assert np.abs(images).max() <= 1 and images.std() > 0.1


def test_dcgan_starts_all_kernels_with_a_deviation_of_2_hundredths():
  config = load("generation").get_config("dcgan")
  tiny = small("dcgan", decoder=(16, 16), widths=(16, 16), latent=40)
  model = generation.model_of(tiny)
  params = jax.device_get(jax.jit(model.init)(KEY)).params
  kernels = {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(params)
    if x.ndim > 1
  }
  assert len(kernels) == 6
  for name, kernel in kernels.items():
    assert kernel.std() == pytest.approx(0.02, rel=0.25), name
    assert np.abs(kernel.mean()) < 0.006, name
  assert config.generation.latent == 100 and config.train.batch == 128
  for name in ("generator", "discriminator"):
    optim = config.optim[name]
    assert (optim.lr, optim.momentum) == (2e-4, 0.5)


def test_dcgans_discriminator_normalises_each_layer_but_the_first():
  module = decoders.DcganDiscriminator((3, 4, 5))
  x = normal(2, 16, 16, 3)
  made = jax.eval_shape(lambda: module.init(KEY, x, True))
  assert set(made["batch_stats"]) == {"norm2", "norm3"}
  assert made["params"]["head"]["kernel"].shape == (2 * 2 * 5, 1)


def test_a_latent_is_drawn_from_its_distribution():
  known = decoders.Normal(jnp.float32([[1.0, -2.0]]), jnp.float32([[0.0, 2.0]]))
  np.testing.assert_array_equal(decoders.draw(known, None), known.mean)
  noise = normal(20000, 2)
  drawn = decoders.draw(known, noise)
  np.testing.assert_allclose(drawn.mean(0), [1, -2], atol=0.06)
  np.testing.assert_allclose(drawn.std(0), [1, np.e], rtol=0.03)
  # The gradient reaches both: d/d log variance = noise * deviation / 2.
  slope = jax.grad(
    lambda *x: decoders.draw(decoders.Normal(*x), noise[:1]).sum(), 1
  )
  np.testing.assert_allclose(
    slope(*known), noise[:1] * np.array([1, np.e]) / 2, rtol=1e-5
  )


# -------------------------------------------------------------------- steps


@pytest.fixture(scope="module", params=["vae", "gan"])
def plain(request):
  model = generation.model_of(small(request.param, kl_weight=0.3))
  return request.param, model, with_sgd(model), jax.jit(model.step)


def test_the_losses_by_hand(plain):
  variant, model, state, step = plain
  batch = batch_of()
  _, metrics = step(state, batch)
  key = keys.of(model.config.seed, "noise", 0)
  z = jax.random.normal(key, (8, 5))
  params, stats = state.params, state.batch_stats

  @functools.partial(jax.jit, static_argnums=0)
  def run(name, *args):
    variables = {"params": params[name], "batch_stats": stats[name]}
    return model.modules[name].apply(
      variables, *args, train=True, mutable=["batch_stats"]
    )[0]

  real = np.float32(batch["image"]) / 127.5 - 1
  if variant == "vae":
    drawn, known = run("generator", real, z)
    error = np.mean((np.float64(drawn) - real) ** 2)
    assert float(metrics["error"]) == pytest.approx(error, rel=1e-4)
    variance = np.exp(np.float64(known.log_variance))
    terms = variance + np.square(known.mean) - 1 - np.log(variance)
    expected = error + 0.3 * terms.sum(1).mean() / 2
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)
    return
  drawn = run("generator", z)
  logits = run("discriminator", np.concatenate([real, drawn]))[:, 0]
  probability = 1 / (1 + np.exp(-np.float64(logits)))
  on_real, on_drawn = probability[:8], probability[8:]
  expected = -np.log(on_real).mean() - np.log(1 - on_drawn).mean()
  assert float(metrics["loss_discriminator"]) == pytest.approx(
    expected, rel=1e-3
  )
  assert float(metrics["right_real"]) == np.mean(on_real > 0.5)
  assert float(metrics["right_drawn"]) == np.mean(on_drawn < 0.5)


@pytest.mark.parametrize("variant", ["gan", "minimax"])
def test_the_generator_loss_falls_as_images_pass_for_real(variant):
  model = generation.model_of(small(variant))
  state, batch = with_sgd(model), batch_of()
  inputs, z = model.inputs(batch), normal(8, 5)
  own, others = state.params["generator"], (state.params, state.batch_stats)

  def loss(own):
    return model.generator_loss(own, *others, inputs, z)[0]

  def logits(own):
    made, _ = model.generate(own, state.batch_stats["generator"], inputs, z)
    parts = (x["discriminator"] for x in others)
    return model.judge(*parts, inputs, made)[0][1]

  @jax.jit
  def look(own):
    value, slope = jax.value_and_grad(loss)(own)
    moved = jax.tree.map(lambda a, b: a - 1e-3 * b, own, slope)
    return value, logits(own), logits(moved)

  value, before, after = (np.float64(x) for x in look(own))
  real = 1 / (1 + np.exp(-before))
  expected = -np.log(real) if variant == "gan" else np.log(1 - real)
  assert value == pytest.approx(expected.mean(), rel=1e-3)
  assert after.mean() > before.mean()


def test_steps_are_equal_on_1_and_8_devices(plain, monkeypatch):
  variant, model, state, step = plain
  batch = batch_of(16)
  one, metrics = jax.device_get(step(state, batch))
  monkeypatch.setattr(mesh, "SMALLEST_SPLIT", 64)
  devices = MAKE_MESH(8, model=2)
  there = placed(state, devices)
  update = jit_step(model.step, there, devices)
  eight, others = jax.device_get(
    update(there, mesh.shard(jax.device_get(batch), devices))
  )
  for name in metrics:
    np.testing.assert_allclose(
      metrics[name], others[name], rtol=1e-3, atol=1e-5, err_msg=name
    )
  for a, b in zip(
    jax.tree.leaves((one.params, one.batch_stats)),
    jax.tree.leaves((eight.params, eight.batch_stats)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
  assert not same(one.params, jax.device_get(state.params)), variant


def test_an_autoencoder_learns_a_few_images_by_heart():
  model = generation.model_of(small("ae", decoder=(8, 8)))
  model.tx = {"generator": optax.adam(5e-3)}
  state, step = jax.jit(model.init)(KEY), jax.jit(model.step)
  batch = batch_of(8)
  errors = []
  for _ in range(100):
    state, metrics = step(state, batch)
    errors.append(float(metrics["error"]))
  blank = np.var(np.float32(batch["image"]) / 127.5, axis=0).mean()
  assert errors[0] > blank / 2
  assert errors[-1] < 0.2 * blank


# --------------------------------------------------------------- whole runs


@pytest.fixture
def in_memory(monkeypatch):
  """Records by hand, and two devices."""
  monkeypatch.setattr(
    mesh, "make_mesh", lambda n=2, model=1: MAKE_MESH(n, model)
  )

  def load_all(config):
    sizes = {"train": 24, "validation": 8, "test": 9}
    return {
      split: [
        {"id": b"%d" % i, "image": encode(picture)}
        for i, picture in enumerate(shades(many, seed))
      ]
      for seed, (split, many) in enumerate(sizes.items())
    }

  monkeypatch.setattr(data, "load", load_all)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_run_of_every_variant(variant, tmp_path, in_memory):
  config = small(variant)
  config.transfer_guard = "disallow"
  assert run_config(config, tmp_path) == 0
  results = json.loads((tmp_path / "results.json").read_text())
  found = results["splits"]["test"]
  assert found["pictures"] == 9 and "judged" not in found
  names = {"sampled"} | ({"reconstructed"} if "ae" in variant else set())
  names |= {"prior"} if variant == "vae" else set()
  for name in ("frechet", "diversity"):
    assert set(found["coarse"][name]) == names
    for figure in found["coarse"][name].values():
      assert figure["value"] > 0 and figure["real"] > 0
  assert ("squared_error" in found) == ("ae" in variant)
  with Image.open(tmp_path / "samples" / "4.png") as opened:
    assert opened.size == (8 * 8, 8 * (1 + len(names)))
  if variant != "ae":
    return
  # The same state gives the same figures.
  before = (tmp_path / "results.json").read_bytes()
  assert run_config(config, tmp_path, "eval") == 0
  assert before == (tmp_path / "results.json").read_bytes()


def test_a_named_judge_gives_figures(monkeypatch, in_memory):
  """The judge sees pixels in [0, 1]; its features are what is compared."""
  asked = []

  def image(pixels):
    asked.append(pixels)
    return pixels.mean((1, 2)), pixels[:, 0, 0]

  def never(*rows):
    raise AssertionError(len(rows))

  def load_judges(classifier, correspondence, fields):
    assert (classifier, correspondence) == ("a", "b")
    return judges.Judges(image=image, audio=never, match=never)

  monkeypatch.setattr(judges, "load", load_judges)
  config = small("ae")
  config.judges.update({"classifier": "a", "correspondence": "b"})
  splits = data.load(config.data)
  model = generation.model_of(config)
  evaluation = generation_evaluation.Evaluation(model, MAKE_MESH(1), splits)
  found = evaluation.evaluate(with_sgd(model), "test", lambda: None)
  real = np.stack(shades(9, 2)) / 255.0
  np.testing.assert_allclose(asked[0], real, atol=1e-6)
  assert all(x.min() >= 0 and x.max() <= 1 for x in asked)
  kept = found["judged"]["frechet"]["reconstructed"]
  features = real.mean((1, 2))
  assert kept["real"] == pytest.approx(
    generation_evaluation.generated.frechet_distance(
      features[::2], features[1::2]
    ),
    rel=1e-4,
  )
  # It judges what is kept, and so does not choose it.
  assert generation_evaluation.likest(found) == (
    -found["coarse"]["frechet"]["sampled"]["value"]
  )


def test_new_latents_are_standard_normal_or_fitted_to_training_latents(
  in_memory,
):
  """The mean and the covariance of what is encoded, or N(0, I)."""
  splits = data.load(None)
  for variant in ("ae", "vae"):
    model = generation.model_of(small(variant))
    evaluation = generation_evaluation.Evaluation(model, MAKE_MESH(1), splits)
    state = with_sgd(model)
    rows = evaluation.rows
    train = jnp.asarray(shades(24, 0)[:12])
    seen = np.asarray(model.encode(state, model.inputs({"image": train})))
    expected = {"sampled": (seen.mean(0), np.cov(seen.T))}
    if variant == "vae":
      expected["prior"] = np.zeros(5), np.eye(5)
    assert evaluation.drawn.keys() == expected.keys()
    for name, (mean, covariance) in expected.items():
      got = rows.latents(state, 4000, evaluation.drawn[name], lambda: None)
      scale = np.sqrt(np.trace(covariance))
      np.testing.assert_allclose(got.mean(0), mean, atol=0.1 * scale)
      np.testing.assert_allclose(np.cov(got.T), covariance, atol=0.1 * scale**2)


@pytest.mark.parametrize(
  ("variant", "fields", "said"),
  [
    ("ae", {"kind": "aee"}, "config.generation.kind='aee' is unknown"),
    ("gan", {"loss": "hinge"}, "config.generation.loss='hinge' is unknown"),
    ("gan", {"network": "big"}, "config.generation.network='big' is unknown"),
    (
      "gan",
      {"decoder": (4, 4, 4, 4)},
      "4 widths need config.data.image_size to be a multiple of 16, not 8",
    ),
    ("ae", {"pools": 5, "widths": (4,) * 5}, "config.generation: "),
  ],
)
def test_a_wrong_value_is_named_in_one_line(variant, fields, said):
  with pytest.raises(UserError) as refused:
    generation.model_of(small(variant, **fields))
  assert said in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("names", ["vae,gan", "idea-gan,vae"])
def test_kinds_of_generation_exclude_each_other(names):
  with pytest.raises(UserError, match="name one kind of generation alone"):
    load("generation").get_config(names)


def test_networks_without_normalisation_are_trained():
  """One convolution of DCGAN's discriminator has none."""
  model = generation.model_of(small("dcgan", widths=(4,)))
  state = jax.eval_shape(model.init, KEY)
  batch = {"image": jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.uint8)}
  after, _ = jax.eval_shape(model.step, state, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_too_few_images_are_refused():
  config = small("ae")
  splits = {"train": [], "validation": [0] * 7, "test": [0] * 9}
  with pytest.raises(UserError, match=r"num_validation=7 must be at least"):
    generation.build(config, MAKE_MESH(1), splits)


def test_a_sheet_stacks_rows():
  white, black = np.ones((2, 1, 2, 1)), -np.ones((2, 1, 2, 1))
  grey = np.zeros((2, 1, 2, 1))
  grey[1] = 3.0
  page = generation_evaluation.sheet([white, black, grey])
  np.testing.assert_array_equal(
    page[..., 0], [[255] * 4, [0] * 4, [128, 128, 255, 255]]
  )
  assert page.shape == (3, 4, 3)


def test_generator_losses_have_their_names():
  assert set(generative.GENERATOR_LOSSES) == {
    load("generation").get_config(name).generation.loss
    for name in ("gan", "minimax")
  }
