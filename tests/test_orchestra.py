"""The tree of instruments and their appearances."""

import collections

import numpy as np
import pytest

from vgsgan.data.builders import sounding
from vgsgan.worlds import orchestra
from vgsgan.worlds.attributes import ATTRIBUTES
from vgsgan.worlds.orchestra import GROUPS, INSTRUMENTS

# The families of General MIDI by their first program; each has eight.
FAMILIES = {
  "pianos": 0,
  "chimes": 8,
  "guitars": 24,
  "basses": 32,
  "brass": 56,
  "reeds": 64,
}


def test_three_groups_of_two_families_of_four():
  assert [len(families) for families in GROUPS.values()] == [2, 2, 2]
  for families in GROUPS.values():
    assert [len(instruments) for instruments in families.values()] == [4, 4]
  assert len(INSTRUMENTS) == len({i.name for i in INSTRUMENTS}) == 24


def test_programs_belong_to_their_family_of_general_midi():
  for families in GROUPS.values():
    for family, instruments in families.items():
      programs = [each.program for each in instruments]
      assert len(set(programs)) == 4
      assert {p // 8 * 8 for p in programs} == {FAMILIES[family]}


@pytest.mark.parametrize(
  ("name", "program", "note"),
  # From the tables of General MIDI, which count from 1, and of what the
  # instruments can play: a note in the middle of the range of each.
  [
    ("grand piano", 1, 60),
    ("xylophone", 14, 77),
    ("nylon guitar", 25, 55),
    ("acoustic bass", 33, 38),
    ("tuba", 59, 46),
    ("oboe", 69, 72),
    ("clarinet", 72, 65),
  ],
)
def test_instruments_have_their_program_and_range(name, program, note):
  instrument = next(each for each in INSTRUMENTS if each.name == name)
  assert instrument.program == program - 1
  assert instrument.low < note < instrument.high


def test_ranges_leave_room_for_chords_and_melodies():
  for each in INSTRUMENTS:
    assert 0 <= each.low and each.low + 24 <= each.high <= 127


def test_the_tree_is_two_four_or_six_deep():
  tree = sounding.hierarchy()
  assert [tree.names[node] for node in tree.labels] == [
    each.name for each in INSTRUMENTS
  ]
  leaf = np.arange(24)
  # By hand: up to the first common node, and down again.
  expected = np.full((24, 24), 6)
  expected[leaf[:, None] // 8 == leaf // 8] = 4
  expected[leaf[:, None] // 4 == leaf // 4] = 2
  np.fill_diagonal(expected, 0)
  np.testing.assert_array_equal(tree.distances, expected)


def test_inner_nodes_contain_their_leaves():
  tree = sounding.hierarchy()
  parent = {child: above for above, child in tree.edges}
  assert len(parent) == len(tree.edges) == len(tree.names) - 1 == 33
  for group, families in GROUPS.items():
    for family, instruments in families.items():
      for each in instruments:
        node = parent[tree.names.index(each.name)]
        assert tree.names[node] == family
        assert tree.names[parent[node]] == group
        assert parent[parent[node]] == 0


def test_appearances_follow_the_tree():
  appearances = orchestra.appearances()
  assert len(appearances) == len(set(appearances)) == 24
  tree = sounding.hierarchy()
  for i, (shape, material, color) in enumerate(appearances):
    for j, (other_shape, other_material, other_color) in enumerate(appearances):
      same_group = tree.distances[i, j] <= 4
      assert (shape == other_shape) == same_group
      if same_group:
        assert (material == other_material) == (tree.distances[i, j] <= 2)
        assert (color == other_color) == (i == j)


def test_appearances_use_all_attributes_equally():
  for column, kind in enumerate(("shape", "material", "color")):
    times = collections.Counter(
      leaf[column] for leaf in orchestra.appearances()
    )
    values = len(ATTRIBUTES[kind])
    assert times == {value: 24 // values for value in range(values)}
