"""The classes of the sounding world: instruments and their appearance.

24 instruments of General MIDI form a tree: three groups by sound production,
each of two families of four. Neighbours in the tree sound alike and look alike:
the group sets an object's shape, the family its material and the instrument its
colour. So shape and colour identify an instrument.
"""

from typing import NamedTuple


class Instrument(NamedTuple):
  """An instrument of General MIDI.

  Attributes:
    name: its name.
    program: program number of General MIDI, from 0.
    low: the lowest note it plays here, a MIDI key (60 is middle C).
    high: the highest note.
  """

  name: str
  program: int
  low: int
  high: int


# Ranges of the real instruments, without their rare extremes.
GROUPS = {
  "struck": {
    "pianos": (
      Instrument("grand piano", 0, 40, 84),
      Instrument("electric piano", 4, 40, 84),
      Instrument("harpsichord", 6, 40, 84),
      Instrument("clavinet", 7, 40, 84),
    ),
    "chimes": (
      Instrument("glockenspiel", 9, 72, 96),
      Instrument("vibraphone", 11, 55, 86),
      Instrument("xylophone", 13, 65, 96),
      Instrument("tubular bells", 14, 55, 79),
    ),
  },
  "plucked": {
    "guitars": (
      Instrument("nylon guitar", 24, 40, 76),
      Instrument("steel guitar", 25, 40, 76),
      Instrument("muted guitar", 28, 40, 76),
      Instrument("distorted guitar", 30, 40, 76),
    ),
    "basses": (
      Instrument("acoustic bass", 32, 28, 55),
      Instrument("fretless bass", 35, 28, 55),
      Instrument("slap bass", 36, 28, 55),
      Instrument("synth bass", 38, 28, 55),
    ),
  },
  "blown": {
    "brass": (
      Instrument("trumpet", 56, 54, 82),
      Instrument("trombone", 57, 40, 70),
      Instrument("tuba", 58, 30, 58),
      Instrument("french horn", 60, 41, 74),
    ),
    "reeds": (
      Instrument("alto saxophone", 65, 49, 80),
      Instrument("oboe", 68, 58, 86),
      Instrument("bassoon", 70, 34, 70),
      Instrument("clarinet", 71, 50, 86),
    ),
  },
}

# The leaves, in the order of their labels.
INSTRUMENTS = tuple(
  instrument
  for families in GROUPS.values()
  for instruments in families.values()
  for instrument in instruments
)


def appearances() -> tuple[tuple[int, int, int], ...]:
  """(shape, material, color) of each leaf, indices into ATTRIBUTES[...].

  The eight instruments of a group have the eight colours.
  """
  result = []
  for shape, families in enumerate(GROUPS.values()):
    materials = [m for m, each in enumerate(families.values()) for _ in each]
    result += [(shape, m, color) for color, m in enumerate(materials)]
  return tuple(result)
