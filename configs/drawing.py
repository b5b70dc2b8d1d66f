"""Learning words by drawing images, at the published size: for accelerators.

    python -m vgsgan.main --config=configs/drawing.py \\
      --config.data.generator=GENERATOR.npz --workdir=runs/drawing

The towers, score, loss, optimiser and edits are those of Surís et al. (CVPR
2019). `configs/scenes_gan.py:published` trains the 128 px generator, and
`python -m vgsgan.tools.export` takes it out of its run. It is a BigGAN, the
published one a progressive GAN; its 8 x 8 layer, `up1`, replaces `layer4`. This
config has not been trained; there are no results.

Arguments, combined with commas (`configs/drawing.py:random`):
  regular, hard    losses without edits
  random           edits of random units only
  edited           without the hardest impostors of the batch
  folder           the published data, or others of their layout, without edits:
                   --config.data.source=DIR
  smoke            the packaged 32 px generator and narrow towers, for CPU

The progressive GAN of the published images is not available, so their latents
cannot be drawn. A folder of another generator's images has its latents in
`z.npy`. It gets edits with --config.task=drawing, --config.loss.name=both and
--config.data.generator=GENERATOR.npz.
"""

import ml_collections

from configs import common
from vgsgan.common import options

_EPOCH = 500  # Updates: 4,000 pairs in batches of 8.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return options.choose(default(), arg, VARIANTS)


def default() -> ml_collections.ConfigDict:
  config = common.base("drawing")
  config.data = common.spoken_scenes(
    common.splits(4000, 500, 500),
    image_size=128,
    seconds=10.24,
    num_probe=4000,
    num_semantic=500,
  )
  config.data.source = ""  # For `folder` alone, as is the next field.
  config.data.max_bad_share = 0.01
  config.data.augment = common.speech_augment()
  config.data.augment.shortest = 0.0

  config.speech = common.published_speech("large", embed=512)
  config.image = common.image(
    tower="vgg",
    embed=512,
    widths=(),
    blocks=(),
    strides=(),
    norm="none",
    final_relu=True,
  )
  config.score = common.score("misa")
  config.loss = common.contrastive("both", "sampled", margin=1.0)
  config.edits = common.edits(
    curriculum=f"regular@0,random@{60 * _EPOCH},cluster@{90 * _EPOCH}",
    refresh_every=10 * _EPOCH,
  )
  config.optim = common.sgd(lr=1e-3, decay_steps=30 * _EPOCH)
  config.train = common.train(
    batch=8,
    steps=180 * _EPOCH,
    log_every=50,
    eval_every=10 * _EPOCH,
    save_every=2 * _EPOCH,
  )

  config.eval = ml_collections.ConfigDict()
  config.eval.batch = 40
  config.eval.block = 100
  config.eval.seconds = 20.48
  return config


def regular(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "regular"
  config.edits.curriculum = "regular@0"


def hard(config: ml_collections.ConfigDict) -> None:
  regular(config)
  config.loss.name = "hard"


def edited(config: ml_collections.ConfigDict) -> None:
  config.loss.name = "edited"


def random(config: ml_collections.ConfigDict) -> None:
  config.edits.curriculum = f"regular@0,random@{60 * _EPOCH}"


def folder(config: ml_collections.ConfigDict) -> None:
  config.task = "grounding"
  config.data.dataset = "clevrgan_folder"
  if config.loss.name != "regular":
    config.loss.name = "hard"


def smoke(config: ml_collections.ConfigDict) -> None:
  config.data.update({"image_size": 32, "seconds": 2.56})
  config.data.update(common.splits(64, 32, 32), num_probe=64, num_semantic=16)
  config.speech.update({"embed": 32, "width": 0.0625})
  config.image.update({"embed": 32, "width": 0.0625})
  config.edits.update({"concepts": 8, "concept_pairs": 64, "refresh_every": 1})
  config.edits.update({"rungs": 2, "first_count": 20, "strengths": (0.5, 1.0)})
  phases = [phase.split("@")[0] for phase in config.edits.curriculum.split(",")]
  config.edits.curriculum = ",".join(f"{p}@{i}" for i, p in enumerate(phases))
  common.shorten(config, batch=8, steps=4, log_every=1, every=4)
  config.eval.update({"batch": 16, "block": 32, "seconds": 2.56})


VARIANTS = {
  "regular": regular,
  "hard": hard,
  "random": random,
  "edited": edited,
  "folder": folder,
  "smoke": smoke,
}
