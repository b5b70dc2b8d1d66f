"""Vector drawings: what is refused, and what is drawn as it was."""

import base64
import gzip
import io
import json
import os
import sys
import types
import zlib

import numpy as np
import pytest
import resvg_py
from PIL import Image

from tests import stamps_fixture
from tests.test_stamps import LANGUAGES, config
from vgsgan.data import decoding, svg
from vgsgan.data.builders.stamps import builder as stamps

HEAD = (
  'xmlns="http://www.w3.org/2000/svg" '
  'xmlns:xlink="http://www.w3.org/1999/xlink" width="40" height="30"'
)


def encoded(image, kind="PNG"):
  content = io.BytesIO()
  image.save(content, kind)
  data = base64.b64encode(content.getvalue()).decode()
  return f"data:image/{kind.lower()};base64,{data}"


RED = encoded(Image.new("RGB", (6, 6), "red"))
INSIDE = {
  "shapes": '<circle cx="20" cy="15" r="9" fill="#a00"/>',
  "gradient": (
    '<defs><linearGradient id="a"><stop stop-color="red"/><stop offset="1"/>'
    '</linearGradient><linearGradient id="b" xlink:href="#a"/></defs>'
    '<rect width="30" height="20" fill="url(#b)" style="stroke:url( \'#a\' )"/>'
  ),
  "use": '<g id="g"><path d="M2 2h9v9z"/></g><use x="9" href="#g"/>',
  "picture": f'<image width="20" height="20" xlink:href="{RED}"/>',
  "jpeg": (
    '<image width="20" height="20" '
    f'href="{encoded(Image.new("RGB", (6, 6), "blue"), "JPEG")}"/>'
  ),
  "link": '<a xlink:href="http://example.org"><path d="M2 2h9v9z"/></a>',
  "style": (
    "<style>path { fill: url(#a) }</style><linearGradient id='a'>"
    "<stop stop-color='red'/></linearGradient><path d='M2 2h9v9z'/>"
  ),
  "hidden": (
    '<g display="none"><image xlink:href="traced.png" width="9" height="9"/>'
    '</g><path style="display:inline" d="M2 2h9v9z"/>'
  ),
  "empty": '<image href="" width="9" height="9"/><path d="M2 2h9v9z"/>',
}


def drawing(inside, head=HEAD, before=""):
  return f"{before}<svg {head}>{inside}</svg>"


def pixels(png):
  with Image.open(io.BytesIO(png)) as opened:
    return np.asarray(opened.convert("RGBA"))


def read(tmp_path, text):
  path = tmp_path / "x.svg"
  path.write_text(text)
  return decoding.read_image(path, "RGBA", drawn_px=64)


def refused(tmp_path, text, *words):
  with pytest.raises(ValueError) as error:
    read(tmp_path, text)
  for word in ("x.svg", *words):
    assert word in str(error.value)
  assert "\n" not in str(error.value)


@pytest.fixture
def undrawn(monkeypatch):
  """Starting the renderer fails the test."""

  def fail(*_, **__):
    raise AssertionError("drawn")

  monkeypatch.setattr(svg, "render", fail)


@pytest.mark.parametrize("kind", INSIDE)
def test_drawings_equal_those_of_the_renderer(kind, tmp_path):
  text = drawing(INSIDE[kind])
  direct = resvg_py.svg_to_bytes(
    svg_string=text, width=64, dpi=96.0, skip_system_fonts=True
  )
  np.testing.assert_array_equal(read(tmp_path, text), pixels(direct))
  assert pixels(direct)[..., 3].any()


@pytest.mark.parametrize(
  "head",
  [
    'width="40pt" height="30pt"',
    'viewBox="0 0 8 30"',
    'width="5cm" viewBox="0 0 8 30"',
    "",
    'width="50%" height="50%" viewBox="0 0 40 20"',
  ],
)
def test_sizes_agree_with_the_renderer(head, tmp_path):
  text = drawing(INSIDE["shapes"], f'xmlns="http://www.w3.org/2000/svg" {head}')
  direct = resvg_py.svg_to_bytes(
    svg_string=text, width=64, dpi=96.0, skip_system_fonts=True
  )
  np.testing.assert_array_equal(read(tmp_path, text), pixels(direct))


def test_packed_drawings_are_drawn_up_to_a_bound(tmp_path, monkeypatch):
  text = drawing(INSIDE["shapes"])
  plain = np.asarray(read(tmp_path, text))
  packed = gzip.compress(text.encode())
  (tmp_path / "x.svg").write_bytes(packed)
  found = decoding.read_image(tmp_path / "x.svg", "RGBA", drawn_px=64)
  np.testing.assert_array_equal(found, plain)
  monkeypatch.setattr(svg, "MAX_BYTES", len(text) - 1)
  for content in (packed, text.encode()):
    with pytest.raises(ValueError, match=f"more than {len(text) - 1} bytes"):
      svg.check(content)
  with pytest.raises(ValueError):
    svg.check(packed[:4])


@pytest.mark.parametrize(
  "inside",
  [
    '<image {} width="9" height="9"/>',
    '<filter id="f"><feImage {}/></filter><path filter="url(#f)" d="M2 2h9"/>',
    "<use {}/>",
    "<g><g><image {}/></g></g>",
    "<linearGradient {}/>",
    '<g display="none"><path/></g><image {}/>',
    '<g display="none" style="display: inline"><image {}/></g>',
  ],
)
@pytest.mark.parametrize("attribute", ["href", "xlink:href"])
@pytest.mark.parametrize("place", ["", "sub/", "file://"])
def test_references_to_other_files_are_refused(
  inside, attribute, place, tmp_path, undrawn
):
  other = f"{place}secret.png"
  text = drawing(inside.format(f'{attribute}="{other}"'))
  refused(tmp_path, text, "outside", other)


@pytest.mark.parametrize(
  ("inside", "before"),
  [
    ("<style>@import 'a.css';</style>", ""),
    ("<style><![CDATA[ path { fill: url( 'a.svg#b' ) } ]]></style>", ""),
    ('<path style="fill:url(a.svg#b)"/>', ""),
    ('<path fill="URL(&quot;http://example.org/a&quot;)"/>', ""),
    ('<image href="&e;"/>', '<!DOCTYPE svg [<!ENTITY e "secret.png">]>'),
    ('<image href="&#115;ecret.png"/>', ""),
    ("<path/>", '<?xml-stylesheet href="a.css"?>'),
    ("&e;", '<!DOCTYPE svg [<!ENTITY e SYSTEM "secret.svg">]>'),
    ("&e;", "<!DOCTYPE svg [<!ENTITY e \"<image href='a.png'/>\">]>"),
  ],
)
def test_other_ways_out_are_refused(inside, before, tmp_path, undrawn):
  refused(tmp_path, drawing(inside, before=before), "outside")


HIDDEN = '<g class="a" {}><image id="b" {} width="9" height="9"/></g>'
SHOWN = {
  "sheet": "<style>.a{display:inline}</style>"
  + HIDDEN.format('display="none"', "{}"),
  "sheet after it": HIDDEN.format('display="none"', "{}")
  + "<style>.a{display:inline}</style>",
  "sheet by data": HIDDEN.format('display="none"', "{}")
  + "<style><![CDATA[.a{dis]]><![CDATA[play:inline}]]></style>",
  "important": "<style>.a{display:inline !important}</style>"
  + HIDDEN.format('style="display:none"', "{}"),
  "last": HIDDEN.format('style="display:none;display:inline"', "{}"),
  "comment": HIDDEN.format('style="fill:red/*;display:none;*/"', "{}"),
  "string": HIDDEN.format(
    "style=\"font-family:'a; display:none; b'\"",
    "{}",
  ),
  "capitals": HIDDEN.format('display="NONE"', "{}"),
  "use": HIDDEN.format('display="none"', "{}") + '<use href="#b"/>',
  "pattern": '<pattern id="p" width="9" height="9" display="none"><image {} '
  'width="9" height="9"/></pattern><path d="M0 0h9v9z" fill="url(#p)"/>',
}


@pytest.mark.parametrize("kind", SHOWN)
def test_hidden_elements_that_are_drawn_are_checked(kind, tmp_path, undrawn):
  inside = SHOWN[kind].replace("{}", 'href="{}"')
  direct = resvg_py.svg_to_bytes(
    svg_string=drawing(inside.replace('"{}"', f'"{RED}"')),
    skip_system_fonts=True,
  )
  assert pixels(direct)[..., 3].any()
  text = drawing(inside.replace('"{}"', '"secret.png"'))
  refused(tmp_path, text, "outside", "secret.png")
  _, embedded = svg.check(drawing(inside.replace('"{}"', f'"{RED}"')).encode())
  assert len(embedded) == 1


@pytest.mark.parametrize(
  "hidden",
  [
    'display="none"',
    'style="display:none"',
    'style="fill:url(#g);stroke:#000; display : none ;"',
  ],
)
def test_elements_that_stay_hidden_are_not_checked(hidden):
  """A sheet that sets no display does not show it."""
  inside = "<style>.a{fill:red}</style>" + HIDDEN.format(hidden, 'href="a.png"')
  assert svg.check(drawing(inside).encode())[1] == []


def test_the_renderer_opens_no_file_in_any_case(tmp_path):
  """Not even for a drawing that passed the checks: they are passed by."""
  green = tmp_path / "green.png"
  Image.new("RGB", (40, 30), "green").save(green)
  text = drawing(f'<image width="40" height="30" href="{green}"/>')
  direct = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)
  assert pixels(direct).tolist() == [[[0, 128, 0, 255]] * 40] * 30
  assert not pixels(svg.render(text, 40, 40)).any()


def test_entities_are_read_up_to_a_bound(tmp_path, monkeypatch):
  """Illustrator writes such; one counts as often as it is there."""
  entities = '<!DOCTYPE svg [<!ENTITY a "M2 2h9v9z"><!ENTITY b "#a00">]>'
  text = drawing('<path d="&a;&a;" fill="&b;"/>', before=entities)
  found = read(tmp_path, text)
  plain = read(tmp_path, drawing('<path d="M2 2h9v9zM2 2h9v9z" fill="#a00"/>'))
  np.testing.assert_array_equal(found, plain)
  monkeypatch.setattr(svg, "MAX_BYTES", len(text))
  svg.check(text.encode())
  more = text.replace("&a;&a;", 200 * "&a;")
  monkeypatch.setattr(svg, "MAX_BYTES", len(more))
  with pytest.raises(ValueError, match="entities have more than"):
    svg.check(more.encode())


@pytest.mark.parametrize(
  "entities",
  [
    '<!ENTITY a "b"><!ENTITY c "&a;&a;">',
    '<!ENTITY a "b"><!ENTITY c "&#38;a;">',
    '<!ENTITY % a "b">',
  ],
)
def test_entities_of_entities_are_refused(entities, tmp_path, undrawn):
  text = drawing("<path/>", before=f"<!DOCTYPE svg [{entities}]>")
  refused(tmp_path, text, "its entity")


@pytest.mark.parametrize("kind", ["svg+xml", "tiff", "svg+xml;base64"])
def test_drawings_in_drawings_are_refused(kind, tmp_path, undrawn):
  text = drawing(f'<image href="data:image/{kind},PHN2Zy8+"/>')
  refused(tmp_path, text, "holds", f"data:image/{kind[:4]}")


def test_images_in_drawings_have_the_same_bounds(
  tmp_path, monkeypatch, undrawn
):
  large = encoded(Image.new("RGB", (21, 4)))
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 20)
  kind, _, data = large.partition(",")
  for written in (data, data.replace("+", "%2B").replace("A", "%41")):
    text = drawing(f'<image width="9" height="9" href=" {kind},{written}"/>')
    refused(tmp_path, text, "21 x 4 pixels")


@pytest.mark.parametrize("sides", [(200, 1), (1, 60)])
def test_drawings_of_extreme_proportions_are_refused(sides, tmp_path):
  head = (
    f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {sides[0]} {sides[1]}"'
  )
  refused(tmp_path, drawing(INSIDE["shapes"], head), "50 times")


def test_both_sides_are_bounded(tmp_path, monkeypatch):
  head = 'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}"'
  shape = '<rect width="40" height="40" fill="red"/>'
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 80)
  for viewbox, size in (
    ((10, 20), (40, 80)),  # 64 wide, it would be 128 high.
    ((20, 10), (64, 32)),
    ((1e9, 2e9), (40, 80)),
    ((1e-6, 1e-6), (64, 64)),
  ):
    text = drawing(shape, head.format(*viewbox))
    assert read(tmp_path, text).size == size
  monkeypatch.setattr(decoding, "MAX_SIDE_PX", 32)
  assert read(tmp_path, drawing(shape, head.format(20, 10))).size == (32, 16)


def test_no_more_is_unpacked_than_the_bound(monkeypatch):
  packed = gzip.compress(bytes(1000))
  unpacked = []

  class Unpack:
    def __init__(self, wbits):
      self.made = zlib.decompressobj(wbits)

    def decompress(self, data, most):
      unpacked.append(self.made.decompress(data, most))
      return unpacked[-1]

  monkeypatch.setattr(svg, "MAX_BYTES", 10)
  monkeypatch.setattr(svg, "zlib", types.SimpleNamespace(decompressobj=Unpack))
  with pytest.raises(ValueError, match="more than 10 bytes"):
    svg.check(packed)
  assert [len(content) for content in unpacked] == [11]


def test_the_renderer_has_limits_of_all_resources(tmp_path, monkeypatch):
  """Another module of its name says what it may take."""
  kinds = ("CPU", "AS", "NOFILE", "CORE")
  (tmp_path / "resvg_py.py").write_text(
    "import resource\n"
    "def svg_to_bytes(**_):\n"
    f"  kinds = [getattr(resource, 'RLIMIT_' + kind) for kind in {kinds}]\n"
    "  limits = [resource.getrlimit(kind) for kind in kinds]\n"
    "  return repr([most for both in limits for most in both]).encode()\n"
  )
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  found = json.loads(svg.render("", 1, 1))
  assert found == [30, 30, 2**31, 2**31, 3, 3, 0, 0]


def test_a_system_that_bounds_no_memory_draws_all_the_same(
  tmp_path, monkeypatch
):
  """macOS refuses this bound. The others are still set."""
  (tmp_path / "resvg_py.py").write_text(
    "import resource\n"
    "set = resource.setrlimit\n"
    "def refuse(kind, limits):\n"
    "  if kind == resource.RLIMIT_AS:\n"
    "    raise ValueError('current limit exceeds maximum limit')\n"
    "  set(kind, limits)\n"
    "resource.setrlimit = refuse\n"
    "def svg_to_bytes(**_):\n"
    "  return repr(resource.getrlimit(resource.RLIMIT_NOFILE)).encode()\n"
  )
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  assert svg.render("", 1, 1) == b"(3, 3)"


def test_a_signal_to_the_run_does_not_reach_the_renderer(tmp_path, monkeypatch):
  told = tmp_path / "told"
  told.write_text(f"#!{sys.executable}\nimport os\nprint(os.getsid(0))\n")
  told.chmod(0o700)
  monkeypatch.setattr(svg.sys, "executable", str(told))
  assert int(svg.render("", 1, 1)) != os.getsid(0)


def test_a_drawing_past_the_limits_counts_as_bad(tmp_path, monkeypatch):
  """A harmless drawing, and less than the renderer needs to begin."""
  text = drawing(INSIDE["shapes"])
  monkeypatch.setattr(svg, "MAX_MEMORY_BYTES", 2**20)
  refused(tmp_path, text, "cannot decode the picture")
  monkeypatch.undo()
  # What the kernel does to one that takes longer.
  ended = tmp_path / "ended"
  ended.write_text("#!/bin/sh\nkill -KILL $$\n")
  ended.chmod(0o700)
  monkeypatch.setattr(svg.sys, "executable", str(ended))
  refused(tmp_path, text, "the renderer ended by SIGKILL", "30 s")


def test_stamps_count_drawings_that_are_refused_as_bad(tmp_path):
  source = stamps_fixture.make(tmp_path / "s", 16, LANGUAGES, 0.1)
  drawn = source / "food/pear4.svg"
  drawn.write_text(drawing('<image href="pear1.png" width="9" height="9"/>'))
  builder = stamps.prepare(config(source, max_bad_share=0.1), tmp_path / "d")
  bad = dict(builder.info.metadata["bad"])
  assert sorted(bad) == [f"food/pear4:{name}" for name in LANGUAGES]
  assert "outside of it: 'pear1.png'" in bad["food/pear4:fr"]
