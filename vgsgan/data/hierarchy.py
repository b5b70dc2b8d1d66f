"""Distances of labels in a tree of classes, and the relevance they give.

After "Objects that Sound" (Arandjelović and Zisserman, ECCV 2018, A): the
relevance of one clip for another is a constant minus the length of the path
between their labels, of the nearest two where clips have several.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Int

from vgsgan.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Hierarchy:
  """A graph of classes, some of which are labels.

  names: names of the nodes.
  edges: (parent, child) pairs of nodes. A node may have several parents.
  labels: the node of each label; inner nodes may be labels. The labels of
    records are indices into this.

  Raises:
    UserError: there are no labels, two labels of one node, or two without a
      path between them; or an index is no node's.
  """

  names: tuple[str, ...]
  edges: tuple[tuple[int, int], ...]
  labels: tuple[int, ...]

  def __post_init__(self):
    used = {node for edge in self.edges for node in edge} | set(self.labels)
    unknown = sorted(used - set(range(len(self.names))))
    if unknown:
      raise UserError(
        f"hierarchy: no node {unknown[0]} among {len(self.names)}: correct "
        "its edges or labels"
      )
    if not self.labels:
      raise UserError("hierarchy: it has no labels: name at least one")
    if len(set(self.labels)) < len(self.labels):
      twice = next(n for n in self.labels if self.labels.count(n) > 1)
      raise UserError(
        f"hierarchy: {self.names[twice]!r} is two labels: keep one of them"
      )
    apart = np.flatnonzero(np.isinf(self._lengths[0]))
    if len(apart):
      first, second = (self.names[self.labels[i]] for i in (0, apart[0]))
      raise UserError(
        f"hierarchy: no path between {first!r} and {second!r}: join them under "
        "one node"
      )

  @functools.cached_property
  def _lengths(self) -> np.ndarray:
    """Lengths [l, l] of the paths between labels; inf: there is none."""
    size = len(self.names)
    ends = np.array(self.edges, np.int64).reshape(-1, 2)
    graph = scipy.sparse.coo_array(
      (np.ones(len(ends)), ends.T), shape=(size, size)
    ).tocsr()
    lengths = scipy.sparse.csgraph.shortest_path(
      graph, directed=False, unweighted=True, indices=list(self.labels)
    )
    return lengths[:, list(self.labels)]

  @functools.cached_property
  def distances(self) -> Int[np.ndarray, "l l"]:
    """Edges on the shortest path, up or down, between any two labels."""
    return self._lengths.astype(np.int32)

  def relevance(
    self, clips: Int[np.ndarray, "n j"], others: Int[np.ndarray, "m k"]
  ) -> Int[np.ndarray, "n m"]:
    """Computes the relevance of each of m clips to each of n: C - d.

    Args:
      clips: labels of n clips; -1 is padding.
      others: labels of m clips; -1 is padding.

    Returns:
      d is the distance between the nearest labels of two clips. C is that
      between the two labels farthest apart, so the least relevance is 0. (The
      paper's C is 20, the longest path of its own classes.)

    Raises:
      UserError: a label is not in the hierarchy, or a clip has none.
    """
    self._check(clips)
    self._check(others)
    longest = self.distances.max()
    # The last row and column stand for padding, too far to be the nearest.
    padded = np.pad(self.distances, (0, 1), constant_values=longest + 1)
    to_label = np.min(padded[clips], axis=1)
    nearest = np.min([to_label[:, column] for column in others.T], axis=0)
    return longest - nearest

  def _check(self, clips: Int[np.ndarray, "n j"]):
    size = len(self.labels)
    unknown = clips[(clips < -1) | (clips >= size)]
    if unknown.size:
      raise UserError(
        f"label {unknown[0]} is none of the hierarchy's {size}: correct the "
        "labels of the records, or the hierarchy"
      )
    without = np.flatnonzero((clips < 0).all(axis=1))
    if without.size:
      raise UserError(
        f"clip {without[0]} of {len(clips)} has no label: leave it out, or "
        "give it one"
      )


def from_ontology(
  nodes: Sequence[Mapping[str, Any]], kept: Sequence[str]
) -> Hierarchy:
  """Builds a hierarchy from the nodes of AudioSet's `ontology.json`.

  Args:
    nodes: each with `id`, `name` and `child_ids`; other fields are
      ignored. A node may have several parents. If several nodes have none, a
      new root joins them, because there must be a path between all labels.
    kept: the id of each label, in the order of the records' indices.

  Raises:
    UserError: a node lacks a field, an id is missing or there twice, or
      `Hierarchy` refuses the nodes.
  """
  for i, node in enumerate(nodes):
    absent = {"id", "name", "child_ids"} - set(node)
    if absent:
      raise UserError(f"ontology: node {i} has no {min(absent)!r}: add it")
  index = {node["id"]: i for i, node in enumerate(nodes)}
  if len(index) < len(nodes):
    twice = next(n["id"] for i, n in enumerate(nodes) if index[n["id"]] != i)
    raise UserError(f"ontology: id {twice!r} is there twice: keep one of them")

  def find(name: str, what: str) -> int:
    if name not in index:
      raise UserError(f"ontology: no node {name!r}, {what}: add it, or drop it")
    return index[name]

  edges = [
    (parent, find(child, f"a child of {node['id']!r}"))
    for parent, node in enumerate(nodes)
    for child in node["child_ids"]
  ]
  names = [node["name"] for node in nodes]
  children = {child for _, child in edges}
  roots = [i for i in range(len(names)) if i not in children]
  if len(roots) > 1:
    edges += [(len(names), root) for root in roots]
    names.append("root")
  labels = [find(name, "which is a label") for name in kept]
  return Hierarchy(tuple(names), tuple(edges), tuple(labels))
