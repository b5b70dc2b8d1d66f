"""Qt's binary resources: what its own compiler wrote, and damage to it."""

import base64
import pathlib
import struct

import numpy as np
import pytest

from vgsgan.data.builders import rcc
from vgsgan.errors import UserError

# Of `rcc --binary --threshold 1` of Qt 5.15.8, the resource /farm with
# sounds/cow.txt, "moo", and tree.svg, by --format-version and --compress-algo.
COMPILED = {
  "1, zlib": (
    "cXJlcwAAAAEAAACBAAAAFAAAADcAAAAYAAAAR3icsykuS7dLpADY6INMAADASRqAAAAAA21v"
    "bwAEAAbIjQBmAGEAcgBtAAgIuFWnAHQAcgBlAGUALgBzAHYAZwAGB6bEswBzAG8AdQBuAGQA"
    "cwAHCmpbNABjAG8AdwAuAHQAeAB0AAAAAAACAAAAAQAAAAEAAAAAAAIAAAACAAAAAgAAACQA"
    "AgAAAAEAAAAEAAAADgABAAAAAQAAAAAAAAA2AAAAAAABAAAAHA=="
  ),
  "2, zlib": (
    "cXJlcwAAAAIAAACBAAAAFAAAADcAAAAYAAAAR3icsykuS7dLpADY6INMAADASRqAAAAAA21v"
    "bwAEAAbIjQBmAGEAcgBtAAgIuFWnAHQAcgBlAGUALgBzAHYAZwAGB6bEswBzAG8AdQBuAGQA"
    "cwAHCmpbNABjAG8AdwAuAHQAeAB0AAAAAAACAAAAAQAAAAEAAAAAAAAAAAAAAAAAAgAAAAIA"
    "AAACAAAAAAAAAAAAAAAkAAIAAAABAAAABAAAAAAAAAAAAAAADgABAAAAAQAAAAAAAADo1KUQ"
    "AAAAADYAAAAAAAEAAAAcAAAA6NSlEAA="
  ),
  "3, zstd": (
    "cXJlcwAAAAMAAACIAAAAGAAAAD4AAAAEAAAAGyi1L/0gR5UAAGA8c3ZnPmE8L3N2Zz4BAJBA"
    "EQAAAANtb28ABAAGyI0AZgBhAHIAbQAICLhVpwB0AHIAZQBlAC4AcwB2AGcABgemxLMAcwBv"
    "AHUAbgBkAHMABwpqWzQAYwBvAHcALgB0AHgAdAAAAAAAAgAAAAEAAAABAAAAAAAAAAAAAAAA"
    "AAIAAAACAAAAAgAAAAAAAAAAAAAAJAACAAAAAQAAAAQAAAAAAAAAAAAAAA4ABAAAAAEAAAAA"
    "AAAA6NSlEAAAAAA2AAAAAAABAAAAHwAAAOjUpRAA"
  ),
}
HELD = {
  "farm/sounds/cow.txt": b"moo",
  "farm/tree.svg": b"<svg>" + 60 * b"a" + b"</svg>",
}


def write(path, raw):
  path.write_bytes(raw)
  return path


@pytest.fixture
def compiled(tmp_path):
  raw = base64.b64decode(COMPILED["2, zlib"])
  return write(tmp_path / "it.rcc", raw)


def by_hand(names, entries):
  """A resource, version 2, of names and a tree; its files are empty."""
  places, block = [], b""
  for name in names:
    units = name.encode("utf-16-be")
    places.append(len(block))
    block += struct.pack(">HI", len(units) // 2, 0) + units
  tree = b"".join(
    struct.pack(">IHIIQ", places[name], flags, count, first, 0)
    for name, flags, count, first in entries
  )
  header = struct.pack(">4sIIII", b"qres", 2, 24 + len(block), 20, 24)
  return header + struct.pack(">I", 0) + block + tree


def refused(path, *words):
  with pytest.raises(UserError) as error:
    rcc.read(path)
  assert "\n" not in str(error.value)
  for word in (str(path), *words):
    assert word in str(error.value)


@pytest.mark.parametrize("kind", COMPILED)
def test_files_are_what_was_compiled(tmp_path, kind):
  path = write(tmp_path / "it.rcc", base64.b64decode(COMPILED[kind]))
  assert rcc.read(path) == HELD
  assert list(rcc.read(str(path))) == sorted(HELD)


def test_names_may_be_of_any_script(tmp_path):
  names = ["čmelák 🐝", "ø.txt", "empty"]
  entries = [(0, 2, 2, 1), (0, 2, 1, 3), (2, 2, 0, 9), (1, 0, 0, 0)]
  path = write(tmp_path / "it.rcc", by_hand(names, entries))
  assert rcc.read(path) == {"čmelák 🐝/ø.txt": b""}


@pytest.mark.parametrize("kind", COMPILED)
def test_damage_is_named_or_harmless(tmp_path, kind):
  whole = base64.b64decode(COMPILED[kind])
  path = tmp_path / "it.rcc"
  for end in range(len(whole)):
    try:
      # The last bytes are a time that is not read.
      assert rcc.read(write(path, whole[:end])) == HELD and kind != "1, zlib"
    except UserError as error:
      assert str(path) in str(error) and "\n" not in str(error)
  rng = np.random.default_rng(0)
  for _ in range(300):
    raw = np.frombuffer(whole, np.uint8).copy()
    raw[rng.integers(len(raw))] = rng.integers(256)
    try:
      rcc.read(write(path, raw.tobytes()))
    except UserError as error:
      assert str(path) in str(error)


def test_what_is_no_resource_is_named(tmp_path):
  refused(tmp_path / "gone.rcc", "cannot read", "No such file")
  refused(write(tmp_path / "a.rcc", b"PK\x03\x04" + bytes(99)), "'qres'")
  refused(write(tmp_path / "b.rcc", b""), "no whole Qt resource")


def test_later_versions_are_named(compiled):
  raw = bytearray(compiled.read_bytes())
  raw[7] = 4
  refused(write(compiled, raw), "version, 4")


def test_content_must_have_the_length_that_is_told(compiled):
  raw = compiled.read_bytes().replace(b"\0\0\0\x47\x78", b"\0\0\0\x48\x78")
  refused(write(compiled, raw), "71 bytes, not 72")
  raw = base64.b64decode(COMPILED["2, zlib"])
  raw = raw.replace(b"\0\0\0\3moo", b"\0\1\0\3moo")
  refused(write(compiled, raw), f"ends after {len(raw)} bytes")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../etc/x"])
def test_names_cannot_leave_a_folder(tmp_path, name):
  raw = by_hand([name], [(0, 2, 1, 1), (0, 0, 0, 0)])
  refused(write(tmp_path / "it.rcc", raw), f"the name {name!r}")
  raw = by_hand(["a"], [(0, 2, 1, 1), (0, 0, 0, 0)])
  assert rcc.read(write(tmp_path / "it.rcc", raw)) == {"a": b""}


def test_folders_within_themselves_are_refused(tmp_path):
  for first in (0, 1):
    raw = by_hand(["a"], [(0, 2, 1, 1), (0, 2, 1, first)])
    refused(write(tmp_path / "it.rcc", raw), "in two folders")
  raw = by_hand(["a"], [(0, 2, 2**31, 1)])
  refused(write(tmp_path / "it.rcc", raw), "2147483648 entries")


def test_a_package_of_gcompris_if_it_is_there():
  path = pathlib.Path("/usr/share/gcompris-qt/rcc/instruments.rcc")
  if not path.exists():
    pytest.skip("needs the Debian package gcompris-qt-data")
  found = rcc.read(path)
  sounds = [v for k, v in found.items() if k.endswith(".ogg")]
  assert len(sounds) == 26 and all(v.startswith(b"OggS") for v in sounds)
  drawings = [v for k, v in found.items() if k.endswith(".svg")]
  assert drawings and all(b"</svg>" in v[-20:] for v in drawings)


@pytest.mark.parametrize("kind", COMPILED)
def test_files_larger_than_the_bound_are_not_unpacked(
  tmp_path, monkeypatch, kind
):
  path = write(tmp_path / "it.rcc", base64.b64decode(COMPILED[kind]))
  most = len(HELD["farm/tree.svg"])
  monkeypatch.setattr(rcc, "MAX_BYTES", most)
  assert rcc.read(path) == HELD
  monkeypatch.setattr(rcc, "MAX_BYTES", most - 1)
  refused(path, str(most - 1), "bytes")


def test_no_more_is_unpacked_than_the_length_says(tmp_path):
  raw = base64.b64decode(COMPILED["2, zlib"])
  said = struct.pack(">I", len(HELD["farm/tree.svg"]))
  assert raw.count(said) == 1
  path = write(tmp_path / "it.rcc", raw.replace(said, struct.pack(">I", 20)))
  refused(path, "a file has 21 bytes, not 20")
