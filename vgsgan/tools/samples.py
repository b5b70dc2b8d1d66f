"""Writes images and sounds that a run of `configs/generation.py` makes.

    python -m vgsgan.tools.samples --workdir=runs/idea-gan

sheet.png shows the first validation clips, and what the run's best checkpoint
makes of them and of random latents: each image above its spectrogram. A run of
image and sound pairs also gives NAME-NUMBER.wav, the sound of each spectrogram.
Real sounds are made from their spectrograms, too, so that both lack the same
phases and loudness. Sounds need the extra `sounds`.
"""

import inspect
import io
import pathlib
from typing import Any

import ml_collections
import numpy as np
import soundfile
from absl import flags
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import signal

from vgsgan import data, tasks
from vgsgan.common import commands, files, options
from vgsgan.common.errors import UserError
from vgsgan.evals.generated import Clips
from vgsgan.parallel import mesh
from vgsgan.tasks import generation, idea
from vgsgan.tasks.generation_evaluation import sheet
from vgsgan.tasks.idea_evaluation import upright
from vgsgan.train import compile_cache, finished, terminal

FEW = 6  # Number of clips.
_PEAK = 0.9
_LINE, _SIZE = 20, 14  # Height of a heading and size of its text, in pixels.

# Parameters of `features.log_mel`.
_WINDOW, _HOP, _LOWEST, _PREEMPHASIS = 0.025, 0.010, 20.0, 0.97
_ITERATIONS = 60  # Iterations of the Griffin-Lim algorithm.


def evaluation_of(config: ml_collections.ConfigDict, devices: Any) -> tuple:
  """The model of a config and its evaluation, without judges."""
  config.judges.update({"classifier": "", "correspondence": ""})
  splits = data.load(config.data)
  if config.task == "idea":
    model = idea.Idea(config)
    example = idea.example(config.data)
    return model, idea.figures.Evaluation(model, devices, splits, example)
  model = generation.model_of(config)
  return model, generation.figures.Evaluation(model, devices, splits)


def generate(workdir: pathlib.Path) -> tuple[dict[str, Clips], int]:
  """Generates clips, by their names, and gives their sample rate.

  `tasks.idea_evaluation` lists the names. A run of images alone gives sounds
  without frames.

  Raises:
    UserError: there is no such run, it generates nothing, or it has no
      evaluated checkpoint.
  """
  config = tasks.config_of(workdir)
  if config.task not in ("idea", "generation"):
    raise UserError(
      f"{workdir} is a run of {config.task!r}, which generates no clips: name "
      "one of configs/generation.py"
    )
  compile_cache.start_for(config)
  devices = mesh.make_mesh(1)
  model, evaluation = evaluation_of(config, devices)
  _, state = finished.best(workdir, model.init, devices)
  real, *_, clips = evaluation.generate(
    state, evaluation.splits["validation"], FEW, lambda: None
  )
  if config.task == "idea":
    return {"real": real} | clips, config.data.sample_rate
  silent = np.zeros((len(real), 0, 1), np.float32)
  clips = {"real": real} | clips
  return {name: Clips(x, silent) for name, x in clips.items()}, 0


def page(clips: dict[str, Clips]) -> UInt8[np.ndarray, "h w 3"]:
  """Draws a heading, images and their spectrograms for each name."""
  width = max(next(iter(clips.values())).sound.shape[1], 96)
  rows = []
  for name, (images, sounds) in clips.items():
    larger = [
      np.asarray(
        Image.fromarray(sheet([image[None]])).resize(
          (width, width), Image.Resampling.NEAREST
        )
      )
      for image in images
    ]
    rows += [heading(name, width * len(images)), np.hstack(larger)]
    if sounds.shape[1]:
      spectrograms = sheet([upright(sounds)])
      size = (width * len(images), spectrograms.shape[0])
      rows.append(np.asarray(Image.fromarray(spectrograms).resize(size)))
  return np.concatenate(rows)


def heading(name: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
  line = Image.new("RGB", (width, _LINE), "white")
  font = ImageFont.load_default(_SIZE)
  text = name.replace("_", " ")
  ImageDraw.Draw(line).text((4, 2), text, fill="black", font=font)
  return np.asarray(line)


def waveform(
  spectrogram: Float[np.ndarray, "t f"], sample_rate: int
) -> Float[np.ndarray, "n"]:
  """Synthesises a sound from a log-mel spectrogram of `features.spectrogram`.

  Least squares invert the mel bands. The phases are estimated from random ones
  with a fixed seed (Griffin and Lim, IEEE Transactions on Acoustics, Speech,
  and Signal Processing, 1984).

  Raises:
    UserError: librosa is not installed.
  """
  try:
    from librosa import griffinlim
    from librosa.feature import inverse
  except ImportError as error:
    raise UserError(
      "sounds are made by librosa, which is not installed: "
      'pip install -e ".[sounds]"'
    ) from error
  # librosa 1.0, for Python 3.12 and newer, has another name for the seed.
  parameters = inspect.signature(griffinlim).parameters
  seed = "rng" if "rng" in parameters else "random_state"
  window = round(_WINDOW * sample_rate)
  magnitudes = inverse.mel_to_stft(
    10.0 ** (4.0 * (np.float64(spectrogram.T) - 1.0)),
    sr=sample_rate,
    n_fft=window,
    fmin=_LOWEST,
  )
  emphasised = griffinlim(
    magnitudes,
    n_iter=_ITERATIONS,
    hop_length=round(_HOP * sample_rate),
    n_fft=window,
    window=np.hamming(window),
    **{seed: 0},
  )
  sound = signal.lfilter([1.0], [1.0, -_PREEMPHASIS], emphasised)
  return _PEAK * sound / max(np.abs(sound).max(), 1e-9)


def write(workdir: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the sheet, and the sounds if there are any."""
  say = terminal.Terminal()
  with say.status(f"restoring {workdir} and generating"):
    clips, sample_rate = generate(workdir)
  with say.status("making images and sounds"):
    contents = rendered(clips, sample_rate)
  with files.explain_os_errors(out):
    out.mkdir(parents=True, exist_ok=True)
  for name, file in contents.items():
    files.replace(out / name, file.getvalue())
  say.info(f"wrote {len(contents)} files into {out}: {', '.join(contents)}")


def rendered(
  clips: dict[str, Clips], sample_rate: int
) -> dict[str, io.BytesIO]:
  """Contents of the files, the sheet and every sound, by their names."""
  contents = {}
  for name, (_, sounds) in clips.items():
    for number, spectrogram in enumerate(sounds):
      if len(spectrogram):
        file = io.BytesIO()
        sound = waveform(spectrogram, sample_rate)
        soundfile.write(file, sound, sample_rate, "PCM_16", format="WAV")
        contents[f"{name}-{number}.wav"] = file
  file = contents["sheet.png"] = io.BytesIO()
  Image.fromarray(page(clips)).save(file, "png", optimize=True)
  return contents


def define_flags(values: flags.FlagValues) -> None:
  options.define_path(values, "workdir", None, "Folder of the run (needed).")
  options.define_path(
    values, "out", "", "Folder to write; WORKDIR/report if empty."
  )


def main(argv: list[str]) -> None:
  given = flags.FLAGS
  commands.require(argv, "workdir")
  workdir = pathlib.Path(given.workdir)
  write(workdir, pathlib.Path(given.out or workdir / "report"))


if __name__ == "__main__":
  commands.start(main, define_flags)
