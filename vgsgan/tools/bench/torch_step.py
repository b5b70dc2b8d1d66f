"""Compares the training step of grounding in PyTorch with that in JAX.

Both begin after the front end, with images, spectrograms and their valid
frames. Network, loss, clipping, optimiser and initial weights are the same;
before timing, their maps, losses and gradients are compared. PyTorch runs
eagerly, with images in `channels_last`, its fused optimisers and its own number
of threads, in float32 and with the whole batch at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import torch

from vgsgan.common.errors import UserError
from vgsgan.tasks import grounding
from vgsgan.tools.bench import timing, torch_losses, torch_towers
from vgsgan.tools.bench.case import Case, Training
from vgsgan.train import keys
from vgsgan.train.state import schedule
from vgsgan.train.task import Batch

# Largest differences, as shares of the length. Gradients get the most, because
# rounding may choose another hardest impostor.
TOLERANCES = {
  "picture_maps": 1e-3,
  "speech_maps": 1e-3,
  "valid_frames": 0.0,
  "loss": 1e-3,
  "gradients": 0.1,
}

# The negatives of losses without edits.
_DRAWN = {"hard": ("sampled", "hardest")}


class Prepared(grounding.Grounding):
  """Grounding whose batches have already passed the front end."""

  def inputs(self, batch: Batch, key: jax.Array | None):
    return batch["images"], batch["mel"], batch["num_frames"]


class Twin:
  """A grounding model in PyTorch, with the weights of a JAX state.

  Args:
    model: the JAX model.
    state: its parameters.
    device: 'cpu' or 'cuda'.
  """

  def __init__(self, model: grounding.Grounding, state: Any, device: str):
    self.config, self.model, self.device = model.config, model, device
    params, stats = jax.device_get((state.params, state.batch_stats))
    self.params = torch_towers.tensors(params, device)
    with torch.no_grad():
      self.stats = jax.tree.map(
        lambda x: x.detach(), torch_towers.tensors(stats, device)
      )
    # All rates are computed here, so that PyTorch's steps never wait for JAX.
    steps = model.config.train.steps
    rate = schedule(model.config.optim, steps)
    self.rates = np.broadcast_to(jax.jit(rate)(jnp.arange(steps)), steps)
    self.optimizer = optimizer(model.config.optim, self.leaves())
    self.steps_done = 0

  def leaves(self) -> list[torch.Tensor]:
    return jax.tree.leaves(self.params)

  def batch(self, batch: Batch) -> dict[str, torch.Tensor]:
    """A batch of `Prepared` in PyTorch's layout."""
    host = jax.device_get(batch)
    tensors = {
      name: torch.from_numpy(np.array(host[name])).to(self.device)
      for name in ("num_frames", "image_concept", "speech_concept")
    }
    images = torch.from_numpy(np.array(host["images"])).permute(0, 3, 1, 2)
    mel = torch.from_numpy(np.array(host["mel"])).transpose(1, 2).contiguous()
    return tensors | {
      "images": images.contiguous(memory_format=torch.channels_last).to(
        self.device
      ),
      "mel": mel.to(self.device),
    }

  def maps(self, batch: dict[str, torch.Tensor]):
    """Feature maps of images and of speech, and the valid frames."""
    images = torch_towers.image_map(
      self.model.image,
      self.params["image"],
      self.stats["image"],
      batch["images"],
    )
    speech, num_valid = torch_towers.speech_map(
      self.model.speech,
      self.params["speech"],
      self.stats["speech"],
      batch["mel"],
      batch["num_frames"],
    )
    frames = torch.arange(speech.shape[-1], device=self.device)
    return images, speech, frames < num_valid[:, None]

  def loss(
    self, batch: dict[str, torch.Tensor], noise: torch.Tensor
  ) -> torch.Tensor:
    """The loss of a batch; `noise` samples the negatives."""
    use, loss = self.config.score, self.config.loss
    scores = torch_losses.score(use.kind, *self.maps(batch), use.normalize)
    same = batch["image_concept"][:, None] == batch["image_concept"]
    same |= batch["speech_concept"][:, None] == batch["speech_concept"]
    if loss.name == "infonce":
      rows = torch_losses.info_nce(scores, ~same, self.params["log_scale"])
    else:
      given = tuple(name.strip() for name in loss.negatives.split(","))
      plain = given if loss.name == "triplet" else ("sampled",)
      negatives = _DRAWN.get(loss.name, plain)
      rows = torch_losses.triplet(scores, ~same, noise, negatives, loss.margin)
    return rows.mean()

  def step(self, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> float:
    """Makes one update; returns the loss before it."""
    self.optimizer.zero_grad()
    value = self.loss(batch, noise)
    value.backward()
    if self.config.optim.clip_norm:
      torch.nn.utils.clip_grad_norm_(self.leaves(), self.config.optim.clip_norm)
    for group in self.optimizer.param_groups:
      group["lr"] = float(self.rates[min(self.steps_done, len(self.rates) - 1)])
    self.optimizer.step()
    self.steps_done += 1
    if "log_scale" in self.params:
      with torch.no_grad():
        highest = float(np.log(torch_losses.MAX_LOGIT_SCALE))
        self.params["log_scale"].clamp_(max=highest)
    return value.item()


def optimizer(
  optim: ml_collections.ConfigDict, leaves: list[torch.Tensor]
) -> torch.optim.Optimizer:
  """`state.optimizer` without clipping; `Twin.step` sets the rates."""
  decay = optim.weight_decay
  if optim.name == "sgd":
    return torch.optim.SGD(
      leaves, optim.lr, optim.momentum, weight_decay=decay, fused=True
    )
  kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
  betas = (optim.momentum, optim.b2)
  return kind(leaves, optim.lr, betas, weight_decay=decay, fused=True)


def check_plain(train: ml_collections.ConfigDict) -> None:
  """Raises UserError for options that the PyTorch side lacks."""
  plain = {"dtype": "float32", "accumulate": 1, "remat": False}
  for name, value in plain.items():
    if train[name] != value:
      raise UserError(
        f"config.train.{name}={train[name]!r}: the PyTorch side of --torch is "
        "float32, takes the whole batch at once and keeps all that it "
        f"computes; set --config.train.{name}={value}, or leave out --torch"
      )


class Pair:
  """The same training in JAX and in PyTorch, from the same weights.

  Attributes:
    case: the config of both.
    model: the JAX model.
    training: its state and batch.
    twin: the PyTorch model.
    fed: its batch.
    noise: random numbers for the first step's negatives.
  """

  def __init__(self, case: Case):
    config = case.config
    if config.task not in ("grounding", "drawing"):
      raise UserError(
        f"--torch has the towers of grounding, not those of the task "
        f"{config.task!r}: name another --config"
      )
    check_plain(config.train)
    self.case = case
    self.model = Prepared(config, case.devices)
    front = grounding.Grounding(config, case.devices)
    read = case.batch()
    names = ("images", "mel", "num_frames")
    augment = keys.of(config.seed, "augment", 0)
    batch = dict(zip(names, jax.jit(front.inputs)(read, augment), strict=True))
    batch |= {k: read[k] for k in ("image_concept", "speech_concept")}
    self.training = Training(case.state_of(self.model.init), batch)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    self.twin = Twin(self.model, self.training.state, device)
    self.fed = self.twin.batch(batch)
    self.noise = self._noise(keys.of(config.seed, "negatives", 0))

  def _noise(self, key: jax.Array) -> torch.Tensor:
    """The random numbers that `Grounding.step` draws for its first step."""
    b = self.model.config.train.batch
    noise = jax.random.uniform(key, (2, b, b))
    return torch.from_numpy(np.array(noise)).to(self.twin.device)

  def differences(self) -> dict[str, float]:
    """Differences of maps, loss and gradients, as shares of their length."""
    keeping = Prepared(self.case.config, self.case.devices)
    keeping.tx = keeps_gradients()

    def everything(state, batch):
      fed = keeping.inputs(batch, None)
      stats = state.batch_stats
      maps, _ = keeping.maps(state.params, stats, *fed, train=True)
      state = state.replace(opt_state=keeping.tx.init(state.params))
      state, metrics = keeping.step(state, batch)
      return maps, metrics["loss"], state.opt_state

    (images, speech, valid), value, grads = jax.jit(everything)(
      self.training.state, self.training.batch
    )
    got_images, got_speech, got_valid = self.twin.maps(self.fed)
    got = self.twin.loss(self.fed, self.noise)
    got.backward()
    want_grads = torch_towers.tensors(jax.device_get(grads), "cpu")
    got_grads = [leaf.grad.cpu() for leaf in self.twin.leaves()]
    return {
      "picture_maps": apart(
        [got_images.permute(0, 2, 3, 1)], [torch_tensor(images)]
      ),
      "speech_maps": apart(
        [got_speech.transpose(1, 2)], [torch_tensor(speech)]
      ),
      "valid_frames": float((got_valid.cpu() != torch_tensor(valid)).sum()),
      "loss": apart([got], [torch_tensor(value)]),
      "gradients": apart(got_grads, jax.tree.leaves(want_grads)),
    }


def keeps_gradients() -> optax.GradientTransformation:
  """A transformation that changes nothing; its state is the last gradient."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
  )


def torch_tensor(x: jax.Array) -> torch.Tensor:
  return torch.from_numpy(np.array(x))


def apart(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
  """Distance of all tensors together, as a share of the length of `want`."""
  with torch.no_grad():
    squares = sum(
      (a.cpu().double() - b.double()).square().sum()
      for a, b in zip(got, want, strict=True)
    )
    length = sum(b.double().square().sum() for b in want)
  return float((squares / length).sqrt())


def measure(config: ml_collections.ConfigDict, repeat: int) -> dict:
  """Times the step without front end and edits, in JAX and in PyTorch."""
  case = Case(config)
  pair = Pair(case)
  differences = pair.differences()
  wrong = {k: v for k, v in differences.items() if not v <= TOLERANCES[k]}
  if wrong:
    raise UserError(
      f"PyTorch computes something else than JAX, by these shares: {wrong}; "
      "see vgsgan/tools/bench/torch_step.py"
    )
  training, twin = pair.training, pair.twin
  ours = training.timer(
    case.compile(pair.model.step, training.state, training.batch)
  )

  def theirs() -> float:
    return timing.seconds(twin.step, pair.fed, torch.rand_like(pair.noise))

  median = timing.medians({"jax": ours, "torch": theirs}, repeat)
  return {
    "threads": torch.get_num_threads(),
    "differences": differences,
    "jax_seconds": median["jax"],
    "torch_seconds": median["torch"],
    "torch_over_jax": median["torch"] / median["jax"],
  }
