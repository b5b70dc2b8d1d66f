"""Checks vector drawings (SVG), and draws them in a separate program.

A drawing can refer to other files of the machine, embed drawings, repeat itself
without end, or crash the program that draws it. The checks refuse what they can
see, with a reason, before anything is drawn. Against the rest, `svg_renderer`
runs as a separate process with little time and memory, and can open no file.
"""

import base64
import binascii
import pathlib
import re
import signal
import subprocess
import sys
import urllib.parse
import zlib
from xml.parsers import expat

MAX_BYTES = 2**23  # Limit of an unpacked drawing, and of its entities.
MAX_CPU_SECONDS = 30
MAX_MEMORY_BYTES = 2**31
_RASTER = re.compile(r"\s*data:image/(png|jpe?g|gif|webp);base64,", re.I)
# Any url() except of an element, url(#a), and of data.
_OUTSIDE = re.compile(r"@import|url\(\s*['\"]?\s*(?![#'\"\s)]|data:)", re.I)
# Values of `display` in a style attribute.
_DISPLAY = re.compile(r"(?:^|;)\s*display\s*:\s*([^;]*?)\s*(?=;|$)")
# Quotes, brackets, escapes and comments, in which a `display` may not count.
_UNCLEAR = re.compile(r"['\"\\({]|/\*")
_REFERENCE = re.compile(r"#([^\s'\")]+)")


def check(content: bytes) -> tuple[str, list[bytes]]:
  """Refuses drawings that are not safe to draw.

  Args:
    content: the drawing, possibly compressed by gzip.

  Returns:
    The text, and the encoded images in it, which are not yet checked.

  Raises:
    ValueError: it is no XML in UTF-8, too large, refers to something outside,
      or holds another drawing.
  """
  if content[:2] == b"\x1f\x8b":
    try:
      unpack = zlib.decompressobj(wbits=31)
      content = unpack.decompress(content, MAX_BYTES + 1)
    except zlib.error as error:
      raise ValueError(str(error)) from error
  if len(content) > MAX_BYTES:
    raise ValueError(f"it has more than {MAX_BYTES} bytes")
  text = content.decode("utf-8-sig")
  try:
    reader = _Reader(text)
    reader.parse()
    if reader.may_show_hidden():
      reader = _Reader(text, skips_hidden=False)
      reader.parse()
  except expat.ExpatError as error:
    raise ValueError(str(error)) from error
  return text, reader.embedded


def render(text: str, width: int, height: int) -> bytes:
  """Draws a checked drawing as PNG, as large as fits.

  Args:
    text: from `check`.
    width, height: the most pixels of both sides.

  Raises:
    ValueError: the renderer refuses it, ends, or takes too long.
  """
  program = pathlib.Path(__file__).with_name("svg_renderer.py")
  bounds = (width, height, MAX_CPU_SECONDS, MAX_MEMORY_BYTES)
  done = subprocess.run(
    [sys.executable, "-P", str(program), *map(str, bounds)],
    input=text.encode(),
    capture_output=True,
    check=False,
    start_new_session=True,  # If Ctrl-C ended it, the file would count as bad.
  )
  if done.returncode < 0:
    name = signal.Signals(-done.returncode).name
    raise ValueError(
      f"the renderer ended by {name}: it may take {MAX_CPU_SECONDS} s and "
      f"{MAX_MEMORY_BYTES} bytes"
    )
  if done.returncode:
    words = done.stderr.decode(errors="replace").split()
    raise ValueError(" ".join(words)[-200:])
  return done.stdout


class _Reader:
  """Reads a drawing once and collects the images in it.

  Attributes:
    embedded: the encoded images.
  """

  def __init__(self, text: str, *, skips_hidden: bool = True):
    self.embedded: list[bytes] = []
    self._text = text
    self._skips_hidden = skips_hidden
    self._hidden = 0  # Depth within an element that is not displayed.
    self._hidden_ids: set[str] = set()
    self._references: set[str] = set()  # IDs that displayed elements refer to.
    self._in_sheet = False
    self._sheets: list[str] = []
    self._entities = 0  # Bytes of all uses of entities.

  def parse(self) -> None:
    """Raises ValueError, or ExpatError if the text is no XML."""
    parser = expat.ParserCreate()  # It opens no other file.
    parser.buffer_text = True
    parser.EntityDeclHandler = self._entity
    parser.StartElementHandler = self._start
    parser.EndElementHandler = self._end
    parser.CharacterDataHandler = self._characters
    parser.ProcessingInstructionHandler = self._instruction
    parser.Parse(self._text, True)

  def may_show_hidden(self) -> bool:
    """Tells whether a style sheet or a reference can show skipped elements."""
    sheets = "".join(self._sheets)
    references = self._references.union(_REFERENCE.findall(sheets))
    return (
      "display" in sheets.lower()
      or "\\" in sheets  # Escapes can spell any word.
      or not references.isdisjoint(self._hidden_ids)
    )

  def _entity(self, name, is_parameter, value, *_):
    # Illustrator writes namespaces as entities. These refer to no others.
    if is_parameter or value is None or "&" in value or "%" in value:
      raise ValueError(f"its entity {name} refers to others or outside")
    self._entities += self._text.count(f"&{name};") * len(value)
    if self._entities > MAX_BYTES:
      raise ValueError(f"its entities have more than {MAX_BYTES} bytes")

  def _start(self, tag, attributes):
    self._in_sheet |= _is_sheet(tag)
    # Hidden elements are not drawn. Inkscape keeps the path of a traced image
    # in one.
    if self._skips_hidden and (self._hidden or _is_hidden(attributes)):
      self._hidden += 1
      self._hidden_ids.update(filter(None, [attributes.get("id")]))
      return
    for name, value in attributes.items():
      self._references.update(_REFERENCE.findall(value))
      if name.rpartition(":")[2] != "href":
        self._check_urls(value)
      elif tag.rpartition(":")[2] != "a":  # A link for readers.
        self._check_href(value)

  def _end(self, tag):
    self._in_sheet &= not _is_sheet(tag)
    self._hidden = max(0, self._hidden - 1)

  def _characters(self, data):
    if self._in_sheet:
      self._sheets.append(data)
    self._check_urls(data)

  def _check_urls(self, value):
    match = _OUTSIDE.search(value)
    if match:
      raise ValueError(_outside(value[match.start() :]))

  def _check_href(self, value):
    value = value.strip()
    raster = _RASTER.match(value)
    if raster:
      self.embedded.append(_decoded(value[raster.end() :]))
    elif value.startswith("data:"):
      raise ValueError(
        f"it holds {value[:30]!r}, and may hold PNG, JPEG, GIF and WebP"
      )
    elif value and not value.startswith("#"):
      raise ValueError(_outside(value))

  def _instruction(self, target, data):
    if target == "xml-stylesheet":
      raise ValueError(_outside(data))


def _is_sheet(tag: str) -> bool:
  return tag.rpartition(":")[2] == "style"


def _is_hidden(attributes: dict[str, str]) -> bool:
  """Tells whether an element says, beyond doubt, that it is not displayed.

  For the renderer, 'NONE' and 'none ' are not this value.
  """
  style = re.sub(r"url\(#[\w-]+\)", "", attributes.get("style", ""))
  if "display" not in style.lower() and "\\" not in style:
    return attributes.get("display") == "none"
  values = _DISPLAY.findall(style)
  return (
    set(values) == {"none"}
    and len(values) == style.lower().count("display")
    and not _UNCLEAR.search(style)
  )


def _outside(reference: str) -> str:
  return f"it refers to something outside of it: {reference[:60]!r}"


def _decoded(data: str) -> bytes:
  try:
    return base64.b64decode(urllib.parse.unquote_to_bytes(data))
  except binascii.Error as error:
    raise ValueError(f"it holds a picture that is damaged: {error}") from error
