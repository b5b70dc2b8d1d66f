"""Reads the files in a binary resource of Qt (`.rcc`).

As `rcc --binary` of Qt 5 and 6 writes it, big-endian throughout:

    header    'qres', version, places of the tree, the data and the names
    tree      22 bytes an entry (version 1: 14), the root's first: place of the
              name, flags, then of a folder the count and the first of its
              entries, of a file the territory, the language and its place
    names     length in UTF-16 units, hash, UTF-16
    data      length, content, which may be compressed
"""

import pathlib
import struct
import zlib

import pyarrow

from vgsgan.errors import UserError

_HEADER = struct.Struct(">4sIIII")
_ENTRY = struct.Struct(">IHII")
_ENTRY_SIZES = {1: 14, 2: 22, 3: 22}
MAX_BYTES = 2**28  # Of a file in a resource, unpacked.
_ZLIB, _FOLDER, _ZSTD = 1, 2, 4  # Flags.


def read(path: str | pathlib.Path) -> dict[str, bytes]:
  """The content of each file by its path in the resource, as "a/b.svg".

  Of a file in several languages, one of them.

  Raises:
    UserError: the file is missing, no resource, or broken.
  """
  try:
    return _files(pathlib.Path(path).read_bytes())
  except OSError as error:
    raise UserError(
      f"cannot read {path}: {error.strerror or error}: check the path"
    ) from error
  except (ValueError, struct.error, zlib.error) as error:
    raise UserError(
      f"{path} is no whole Qt resource (.rcc): {error}: install it again"
    ) from error


def _files(raw: bytes) -> dict[str, bytes]:
  magic, version, tree, data, names = _HEADER.unpack_from(raw)
  if magic != b"qres":
    raise ValueError("it does not begin with 'qres'")
  if version not in _ENTRY_SIZES:
    raise ValueError(f"its version, {version}, is unknown")
  size = _ENTRY_SIZES[version]
  found, seen, todo = {}, set(), [(0, "")]
  while todo:
    entry, folder = todo.pop()
    if entry in seen:
      raise ValueError(f"its entry {entry} is in two folders")
    seen.add(entry)
    name, flags, high, low = _ENTRY.unpack_from(raw, tree + size * entry)
    path = folder + _name(raw, names + name) if entry else ""
    if not flags & _FOLDER:
      found[path] = _content(raw, data + low, flags)
    elif size * high > len(raw):
      raise ValueError(f"its folder {path!r} has {high} entries")
    else:
      inside = f"{path}/" if path else ""
      todo += [(child, inside) for child in range(low, low + high)]
  return dict(sorted(found.items()))


def _name(raw: bytes, place: int) -> str:
  (length,) = struct.unpack_from(">H", raw, place)
  name = _cut(raw, place + 6, 2 * length).decode("utf-16-be")
  if "/" in name or name in ("", ".", ".."):
    raise ValueError(f"it has a file of the name {name!r}")
  return name


def _content(raw: bytes, place: int, flags: int) -> bytes:
  (length,) = struct.unpack_from(">I", raw, place)
  stored = _cut(raw, place + 4, length)
  if flags & _ZSTD:
    return _unpacked(stored)
  if not flags & _ZLIB:
    return stored
  (length,) = struct.unpack_from(">I", stored)
  if length > MAX_BYTES:
    raise ValueError(f"a file has {length} bytes, and may have {MAX_BYTES}")
  unpack = zlib.decompressobj()
  content = unpack.decompress(stored[4:], length + 1)
  if len(content) != length or not unpack.eof:
    raise ValueError(f"a file has {len(content)} bytes, not {length}")
  return content


def _unpacked(stored: bytes) -> bytes:
  """Of zstd, which Python reads from 3.14 on."""
  try:
    with pyarrow.CompressedInputStream(pyarrow.py_buffer(stored), "zstd") as s:
      content = s.read(MAX_BYTES + 1)
  except OSError as error:  # Of the content: nothing is read from a disk.
    raise ValueError(str(error)) from error
  if len(content) > MAX_BYTES:
    raise ValueError(f"a file has more than {MAX_BYTES} bytes")
  return content


def _cut(raw: bytes, place: int, length: int) -> bytes:
  if place + length > len(raw):
    raise ValueError(f"it ends after {len(raw)} bytes")
  return raw[place : place + length]
