#!/usr/bin/env bash
# TFDS reuses a data set that it says itself is not prepared.
#
# What it does: makes a builder whose version folder is there but empty, or has
#   lost its `dataset_info.json`; asks `is_prepared()`, calls
#   `download_and_prepare()`, and asks again. No TensorFlow: data are ArrayRecords.
# Seen: `is_prepared()` is False, `download_and_prepare()` makes nothing and
#   raises nothing, `is_prepared()` is still False, and reading fails since "the
#   dataset has not been generated yet". Without the folder all is made.
# Expected: what is not prepared is prepared, or an error names the folder.
# Why: `is_prepared()` looks for `dataset_info.json`; `download_and_prepare()`
#   looks only whether the folder exists.
# Why it matters: a copy that ended early, a mount point or a `mkdir` blocks a data
#   set for good, and the error blames the very call that was just made.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q \
  tensorflow-datasets==4.9.10 array_record==0.8.6 numpy==2.4.6

cd "$work"
cat >check.py <<'PY'
import importlib.metadata
import importlib.util
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds

for package in ("tensorflow-datasets", "array_record"):
  print(package, importlib.metadata.version(package))
print("tensorflow there:", importlib.util.find_spec("tensorflow") is not None)

tfds.disable_progress_bar()


class Three(tfds.core.GeneratorBasedBuilder):
  """The numbers 0, 1 and 2."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = tfds.features.FeaturesDict({"number": np.int64})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for number in range(3):
      yield number, {"number": number}


def prepare(folder):
  """Whether it says to be prepared, before and after; what can be read."""
  builder = Three(data_dir=folder, file_format="array_record")
  before = builder.is_prepared()
  builder.download_and_prepare()
  after = builder.is_prepared()
  try:
    source = builder.as_data_source("train")
  except KeyError as error:
    return before, after, "not been generated" in str(error)
  return before, after, [int(example["number"]) for example in source]


here = pathlib.Path.cwd()
seen = {"no folder": prepare(here / "whole")}

(here / "empty/three/1.0.0").mkdir(parents=True)
seen["empty folder"] = prepare(here / "empty")

prepare(here / "lost")
(here / "lost/three/1.0.0/dataset_info.json").unlink()
seen["no dataset_info.json"] = prepare(here / "lost")

for what, (before, after, read) in seen.items():
  print(f"{what}: is_prepared() {before}, after download_and_prepare() {after};", end="")
  print(" 'not been generated' on reading" if read is True else f" reads {read}")
print("expected: prepared after download_and_prepare(), or an error from it")

changed = seen != {
  "no folder": (False, True, [0, 1, 2]),
  "empty folder": (False, False, True),
  "no dataset_info.json": (False, False, True),
}
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
"$work/venv/bin/python" check.py
