#!/usr/bin/env bash
# A small ArrayRecord file that was cut in half gives empty records by index.
#
# What it does: writes ten records of 200 bytes, whose file is 131072 bytes long as
#   those of little data are, keeps the first 65536, and reads records by index: with
#   `ArrayRecordReader`, and with `ArrayRecordDataSource` as TFDS does, which states
#   how many records there are. Then the same with 64 bytes more.
# Seen: at 65536 bytes both give b"" for each index and raise nothing. The reader
#   has `ok()` False and no records, and an index past the end of a whole file
#   raises. At 65600 bytes both raise.
# Expected: an error at 65536 bytes too: there is no such record.
# Why it matters: a copy that breaks off often does so at a round number of bytes.
#   Where it ends with the first block, users train on empty records. Cuts elsewhere
#   are noticed, so few will look at `ok()` or at lengths, which both tell.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q array_record==0.8.6 etils==1.15.0

cd "$work"
"$work/venv/bin/python" - <<'PY'
import dataclasses
import importlib.metadata
import pathlib
import random
import sys

from array_record.python import array_record_data_source, array_record_module

print("array_record", importlib.metadata.version("array_record"))


@dataclasses.dataclass
class Instruction:
  """The fields of TFDS's FileInstruction."""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


def result(read):
  try:
    return [len(record) for record in read()]
  except RuntimeError:
    return "RuntimeError"


def look(path):
  """State and records 0 and 9 as the reader and the data source give them."""
  reader = array_record_module.ArrayRecordReader(path)
  instruction = Instruction(path, 0, 10, 10)
  source = array_record_data_source.ArrayRecordDataSource(instruction)
  return {
    "ok": reader.ok(),
    "num_records": reader.num_records(),
    "reader": result(lambda: reader.read([0, 9])),
    "data source": result(lambda: source.__getitems__([0, 9])),
    "past the end": result(lambda: reader.read([10])),
  }


whole = pathlib.Path("whole.array_record")
writer = array_record_module.ArrayRecordWriter(str(whole), "group_size:1")
rng = random.Random(0)
for _ in range(10):
  writer.write(rng.randbytes(200))
writer.close()
contents = whole.read_bytes()

seen = {}
for length in (131072, 65600, 65536):
  path = pathlib.Path(f"{length}.array_record")
  path.write_bytes(contents[:length])
  seen[length] = look(str(path))
  print(length, "of", len(contents), "bytes, lengths of records:", seen[length])
print("expected: RuntimeError from each that is cut")

failed = "RuntimeError"
cut = {"ok": False, "num_records": 0}
changed = len(contents) != 131072 or seen != {
  131072: {
    "ok": True,
    "num_records": 10,
    "reader": [200, 200],
    "data source": [200, 200],
    "past the end": failed,
  },
  65600: {**cut, "reader": failed, "data source": failed, "past the end": failed},
  65536: {**cut, "reader": [0, 0], "data source": [0, 0], "past the end": [0]},
}
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
