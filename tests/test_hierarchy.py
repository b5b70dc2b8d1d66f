"""Distances against a breadth-first search, relevance against a plain loop."""

import collections

import numpy as np
import pytest

from vgsgan.common.errors import UserError
from vgsgan.data import hierarchy as h

#        root
#      /      \
#    wind    strings
#    /  \    /    \
# flute horn harp  lute
SMALL = h.Hierarchy(
  ("root", "wind", "strings", "flute", "horn", "harp", "lute"),
  ((0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)),
  (3, 4, 5, 6, 1),
)


def _by_search(edges, start):
  """Steps to every node that can be reached, either way along an edge."""
  steps, queue = {start: 0}, collections.deque([start])
  while queue:
    node = queue.popleft()
    for edge in edges:
      if node in edge:
        (other,) = set(edge) - {node}
        if other not in steps:
          steps[other] = steps[node] + 1
          queue.append(other)
  return steps


def _random(rng, size=14, labels=6):
  """A connected graph: some nodes have two parents, some edges come twice."""
  edges = [(int(rng.integers(child)), child) for child in range(1, size)]
  for _ in range(4):
    parent, child = sorted(rng.choice(size, 2, replace=False))
    edges.append((int(parent), int(child)))
  edges.append(edges[0])
  chosen = tuple(int(i) for i in rng.permutation(size)[:labels])
  names = tuple(f"n{i}" for i in range(size))
  return h.Hierarchy(names, tuple(edges), chosen)


def test_distances_agree_with_a_count_by_hand():
  expected = [
    [0, 2, 4, 4, 1],
    [2, 0, 4, 4, 1],
    [4, 4, 0, 2, 3],
    [4, 4, 2, 0, 3],
    [1, 1, 3, 3, 0],
  ]
  assert SMALL.distances.tolist() == expected
  assert h.Hierarchy(("alone",), (), (0,)).distances.tolist() == [[0]]


def test_distances_agree_with_a_search():
  rng = np.random.default_rng(0)
  for _ in range(20):
    tree = _random(rng)
    for i, one in enumerate(tree.labels):
      steps = _by_search(tree.edges, one)
      assert tree.distances[i].tolist() == [steps[j] for j in tree.labels]


def test_relevance_takes_the_nearest_labels():
  rng = np.random.default_rng(1)
  for _ in range(10):
    tree = _random(rng)
    one, other = (rng.integers(-1, 6, (n, 3)) for n in (5, 7))
    one[:, 1], other[:, 0] = rng.integers(0, 6, 5), rng.integers(0, 6, 7)
    got = tree.relevance(one, other)
    longest = max(max(row) for row in tree.distances.tolist())
    for i, these in enumerate(one):
      for j, those in enumerate(other):
        pairs = [(a, b) for a in these for b in those if a >= 0 and b >= 0]
        nearest = min(tree.distances[a, b] for a, b in pairs)
        assert got[i, j] == longest - nearest


def test_relevance_agrees_with_a_count_by_hand():
  flute, horn_and_harp = np.array([[0, -1]]), np.array([[1, 2]])
  assert SMALL.relevance(flute, horn_and_harp).tolist() == [[2]]
  assert SMALL.relevance(flute, flute).tolist() == [[4]]
  assert SMALL.relevance(flute, np.array([[2], [4]])).tolist() == [[0, 3]]


@pytest.mark.parametrize(
  "edges, labels, message",
  [
    (((0, 3),), (0,), "no node 3 among 3"),
    (((0, -1),), (0,), "no node -1 among 3"),
    ((), (5,), "no node 5 among 3"),
    (((0, 1),), (), "no labels"),
    (((0, 1),), (1, 0, 1), "'b' is two labels"),
    (((0, 1),), (0, 1, 2), "no path between 'a' and 'c'"),
  ],
)
def test_broken_hierarchies_are_refused(edges, labels, message):
  with pytest.raises(UserError, match=message) as caught:
    h.Hierarchy(("a", "b", "c"), edges, labels)
  assert "\n" not in str(caught.value)


def test_labels_of_clips_are_checked():
  good = np.array([[0, -1]])
  for bad, message in (
    ([[0, 5]], "label 5 is none of the hierarchy's 5"),
    ([[0, -2]], "label -2 is none"),
    ([[0, 1], [-1, -1]], "clip 1 of 2 has no label"),
  ):
    for pair in ((good, np.array(bad)), (np.array(bad), good)):
      with pytest.raises(UserError, match=message):
        SMALL.relevance(*pair)


def _node(name, *children):
  return {"id": f"/m/{name}", "name": name} | {
    "child_ids": [f"/m/{child}" for child in children],
    "description": "ignored",
  }


ONTOLOGY = [
  _node("music", "guitar", "singing"),
  _node("guitar"),
  _node("voice", "singing", "speech"),
  _node("singing"),
  _node("speech"),
  _node("things", "tools"),
  _node("tools"),
]


def test_ontology_with_two_parents_and_three_roots():
  kept = ["/m/guitar", "/m/speech", "/m/tools", "/m/singing"]
  tree = h.from_ontology(ONTOLOGY, kept)
  assert [tree.names[i] for i in tree.labels] == [k[3:] for k in kept]
  # Guitar to speech by music, singing, voice, or by music, root, voice.
  expected = [[0, 4, 4, 2], [4, 0, 4, 2], [4, 4, 0, 4], [2, 2, 4, 0]]
  assert tree.distances.tolist() == expected


def test_ontology_with_one_root_gets_no_other():
  nodes = [*ONTOLOGY, _node("all", "music", "voice", "things")]
  tree = h.from_ontology(nodes, ["/m/tools", "/m/guitar"])
  assert len(tree.names) == len(nodes)
  assert tree.distances[0, 1] == 4


@pytest.mark.parametrize(
  "nodes, kept, message",
  [
    (ONTOLOGY, ["/m/harp"], "no node '/m/harp', which is a label"),
    ([_node("a", "b")], ["/m/a"], "no node '/m/b', a child of '/m/a'"),
    ([_node("a"), _node("a")], ["/m/a"], "id '/m/a' is there twice"),
    ([{"id": "/m/a", "name": "a"}], ["/m/a"], "node 0 has no 'child_ids'"),
    # Two circles, which have no root.
    (
      [_node("a", "b"), _node("b", "a"), _node("c", "d"), _node("d", "c")],
      ["/m/a", "/m/d"],
      "no path between 'a' and 'd'",
    ),
  ],
)
def test_broken_ontologies_are_refused(nodes, kept, message):
  with pytest.raises(UserError, match=message):
    h.from_ontology(nodes, kept)
