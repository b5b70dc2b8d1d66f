"""Generation: images alone, and images with their sounds.

    python -m vgsgan.main --config=configs/generation.py:idea-gan \\
      --workdir=runs/idea-gan

Arguments, combined with commas (`configs/generation.py:idea-gan,smoke`):
  idea, idea-ae   images and sounds through one representation: autoencoder
  idea-vae        variational autoencoder
  idea-gan        autoencoder against an audio-visual correspondence network
  idea-vae-gan    variational autoencoder against the same network
  ae, vae         autoencoder of images alone; variational
  gan             images of random latents, with the non-saturating loss
  minimax         gan with the minimax loss
  dcgan           gan with the architecture and the optimiser of DCGAN
  table           the four of `idea` with three seeds; needs judges
  smoke           a few steps of small networks

2,000 steps take eight minutes without an adversary and fourteen with one, on
one core of an AMD EPYC. The Frechet distance of test pairs (three seeds,
2026-11-21) is 129 ± 26 with `idea-gan` and 235 ± 13 with `idea-ae` (524 for the
mean pair, 13 for real ones); docs/generation.md has more.

Two frozen networks judge generated clips, if they are named:

    python -m vgsgan.main --config=configs/classification.py \\
      --workdir=runs/classifier
    python -m vgsgan.main --config=configs/correspondence.py:ave,judge \\
      --workdir=runs/matcher
    python -m vgsgan.main --config=configs/generation.py:table \\
      --workdir=runs/idea
"""

from typing import Any

import ml_collections

from configs import common
from vgsgan.common import options
from vgsgan.common.errors import UserError

IDEA = ("ae", "vae", "gan", "vae-gan")

_TEST = "splits.test"
_JUDGED = f"{_TEST}.judged"
COLUMNS = {
  "picture, error": f"{_TEST}.squared_error.picture.from_both",
  "sound, error": f"{_TEST}.squared_error.sound.from_both",
  "picture, Frechet": f"{_JUDGED}.picture.frechet.from_both",
  "sound, Frechet": f"{_JUDGED}.sound.frechet.from_both",
  "pair, Frechet": f"{_JUDGED}.pair.frechet.from_both",
  "new pair, Frechet": f"{_JUDGED}.pair.frechet.sampled",
  "pair, diversity": f"{_JUDGED}.pair.diversity.from_both",
  "new pair, diversity": f"{_JUDGED}.pair.diversity.sampled",
  "pair, match": f"{_JUDGED}.match.accuracy.from_both",
  "new pair, match": f"{_JUDGED}.match.accuracy.sampled",
  "sound of picture, match": f"{_JUDGED}.match.accuracy.given_picture",
  "picture of sound, match": f"{_JUDGED}.match.accuracy.given_sound",
  "sound of picture, class": f"{_JUDGED}.class.sound_from_picture",
  "picture of sound, class": f"{_JUDGED}.class.picture_from_sound",
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("idea")
  config.data = common.sounding(common.splits(4000, 400, 1000))

  config.idea = ml_collections.ConfigDict()
  config.idea.kind = "ae"
  config.idea.latent = 64
  config.idea.features = 128
  config.idea.widths = (16, 32, 64, 64)  # All towers have these.
  config.idea.pools = 2
  config.idea.picture_decoder = (64, 32, 16)
  config.idea.sound_decoder = (64, 32, 16, 8)
  config.idea.drop = 0.3  # Share without the image, and without the sound.
  config.idea.weight = 300.0  # Weight of the squared errors.
  config.idea.kl_weight = 3e-2

  config.optim = ml_collections.ConfigDict()
  config.optim.generator = common.constant_adam(lr=1e-3, momentum=0.5)
  config.optim.discriminator = common.constant_adam(lr=1e-3, momentum=0.5)

  config.train = common.train(batch=32, steps=2000)
  config.train.average = 0.99

  config.judges = ml_collections.ConfigDict()
  # The workdirs of runs of configs/classification.py, and of
  # configs/correspondence.py:ave,judge.
  config.judges.classifier = ""
  config.judges.correspondence = ""

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 50
  config.eval.fitted = 1000  # Training clips for the Gaussian of new latents.
  return config


def idea(kind: str) -> options.Variant:
  def variant(config: ml_collections.ConfigDict) -> None:
    config.idea.kind = kind

  return variant


def images(kind: str, **fields: Any) -> options.Variant:
  """A variant that generates images alone."""

  def variant(config: ml_collections.ConfigDict) -> None:
    if config.task != "idea" or config.idea.kind != "ae":
      raise UserError(
        f"config argument {kind!r}: name one kind of generation alone"
      )
    config.task = "generation"
    del config.idea
    config.generation = ml_collections.ConfigDict()
    config.generation.kind = kind
    config.generation.network = "plain"
    config.generation.loss = "non_saturating"
    config.generation.latent = 64
    config.generation.widths = (16, 32, 64, 64)
    config.generation.pools = 2
    config.generation.decoder = (64, 64, 32)
    config.generation.kl_weight = 1e-4
    config.generation.update(fields)

  return variant


def dcgan(config: ml_collections.ConfigDict) -> None:
  images("gan", network="dcgan", latent=100, widths=(16, 32, 64))(config)
  for name in ("generator", "discriminator"):
    config.optim[name].update({"lr": 2e-4, "b2": 0.999})
  config.train.batch = 128


def table(config: ml_collections.ConfigDict) -> None:
  config.judges.update(
    {
      "classifier": "runs/classifier",
      "correspondence": "runs/matcher",
    }
  )
  config.compare = ml_collections.ConfigDict()
  config.compare.seeds = (0, 1, 2)
  config.compare.arms = ml_collections.ConfigDict(
    {f"idea-{kind}": {"idea": {"kind": kind}} for kind in IDEA}
  )
  config.compare.columns = tuple(COLUMNS.items())
  config.compare.numbers = tuple(
    name for name in COLUMNS if name.endswith(("error", "Frechet", "diversity"))
  )


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update(common.splits(250, 32, 32))
  use = config[config.task]
  use.latent = 8
  if config.task == "idea":
    use.update({"widths": (4, 8, 8), "features": 16})
    use.update({"picture_decoder": (8, 8), "sound_decoder": (8, 8, 4)})
  else:
    use.update({"widths": (4, 8), "decoder": (8, 8)})
  common.shorten(config, steps=6, log_every=2, every=3)
  config.eval.fitted = 64


VARIANTS = {
  "idea": lambda config: None,
  **{f"idea-{kind}": idea(kind) for kind in IDEA},
  "ae": images("ae"),
  "vae": images("vae"),
  "gan": images("gan"),
  "minimax": images("gan", loss="minimax"),
  "dcgan": dcgan,
  "table": table,
  "smoke": smoke,
}
