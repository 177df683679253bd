"""Memory as trees for a terminal: what fills a device, and what lies behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from gemmstone.core import units

DEPTH = 4


def trees(document: Mapping[str, Any], depth: int = DEPTH) -> Iterator[Tree]:
    """The memory of a device, and its share of the host's where something lies there."""
    for key, name in (("memory", "memory of a device"), ("host_memory", "behind it in the host's memory")):
        if document.get(key):
            yield tree(document[key], depth, name)


def tree(node: Mapping[str, Any], depth: int = DEPTH, name: str = "memory of a device") -> Tree:
    """One memory node and its parts, `depth` levels of them."""
    root = Tree(f"{name}: {units.show(float(node['bytes']), 'bytes')}")
    _branch(root, node["parts"], depth)
    return root


def _branch(whole: Tree, parts: Iterable[Mapping[str, Any]], depth: int) -> None:
    for part in parts:
        branch = whole.add(Text(f"{units.show(float(part['bytes']), 'bytes'):>9}  {part['name']}"))
        if depth > 1:
            _branch(branch, part["parts"], depth - 1)
