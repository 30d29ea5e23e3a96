"""Cell types in groups, and groups in wider ones: a tree whose leaves are the cell types."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from ..errors import InputError
from .tables import read_table
from .words import NO_ANSWERS
from .yaml_text import YamlFile, line_of

#: Groups within groups at most, and groups of a tree.
_DEEPEST, _MOST = 32, 2000
_HINT = (
    "Give YAML with the cell types of each group as a list and wider groups around them, or a CSV with the columns "
    "cell_type and group (a group may stand under cell_type too)"
)


@dataclass(frozen=True)
class Node:
    """A cell type or a group.

    Attributes
    ----------
    name
        What it is called.
    parent
        Position of the group that it belongs to; -1 for none.
    members
        Positions of its cell types, in order.
    """

    name: str
    parent: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Hierarchy:
    """A tree of cell types.

    Attributes
    ----------
    cell_types
        The leaves.
    nodes
        Of the cell types, in their order, then of the groups, the smaller first; names are unique.
    """

    cell_types: tuple[str, ...]
    nodes: tuple[Node, ...]

    @cached_property
    def chains(self) -> tuple[tuple[int, ...], ...]:
        """Of each cell type, the positions of itself and of the groups around it, the smallest first."""
        found = []
        for place in range(len(self.cell_types)):
            chain = [place]
            while self.nodes[chain[-1]].parent >= 0:
                chain.append(self.nodes[chain[-1]].parent)
            found.append(tuple(chain))
        return tuple(found)

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sums over the cell types of each node, ``(n, n_types)`` to ``(n, n_nodes)``.

        Added one by one, so that a row's sums do not depend on the rows beside it, as those of a matrix product do.
        """
        totals = np.zeros((len(values), len(self.nodes)))
        for column, node in enumerate(self.nodes):
            for member in node.members:
                totals[:, column] += values[:, member]
        return totals

    @property
    def parents(self) -> dict[str, str]:
        """Name -> name of the group that it belongs to, of all that belong to one."""
        return {node.name: self.nodes[node.parent].name for node in self.nodes if node.parent >= 0}

    @classmethod
    def of(
        cls, parents: Mapping[str, str], cell_types: Sequence[str], where: str | os.PathLike[str] | None = None
    ) -> Hierarchy:
        """The tree of some cell types.

        Parameters
        ----------
        parents
            Name -> name of the group that it belongs to. Cell types without any stand by themselves.
        cell_types
            The leaves.
        where
            What the groups were read from, for messages.

        Raises
        ------
        InputError
            There is a circle, a group without cell types, a group called as a cell type, or a name that is neither a
            cell type nor a group.
        """
        types = [str(name) for name in cell_types]
        found = list(dict.fromkeys(parents.values()))
        _check(parents, types, found, where)
        members: dict[str, set[int]] = {name: set() for name in found}
        for place, name in enumerate(types):
            for group in _above(name, parents):
                members[group].add(place)
        for group in found:
            if not members[group]:
                raise InputError(f"the group '{group}' holds no cell type", where=where, hint=_HINT)
        # The smaller first, whatever the order they were given in; of two of the same types the inner one.
        each = {name: tuple(sorted(members[name])) for name in found}
        groups = sorted(found, key=lambda name: (len(each[name]), each[name], -len(_above(name, parents)), name))
        position = {name: place for place, name in enumerate([*types, *groups])}
        each |= {name: (place,) for place, name in enumerate(types)}
        return cls(
            tuple(types),
            tuple(
                Node(name, position[parents[name]] if name in parents else -1, each[name]) for name in [*types, *groups]
            ),
        )


def read_hierarchy(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read which group each cell type, or group, belongs to: YAML, or CSV with the columns ``cell_type`` and ``group``.

    YAML has a group's cell types as a list, and its groups, if it has any, as a mapping::

        Immune:
          Lymphoid: [T cells, B cells]
          Myeloid: [Macrophages]
        Stroma: [CAFs, Endothelial]

    Returns
    -------
    Name -> name of its group; `Hierarchy.of` makes the tree of it.

    Raises
    ------
    InputError
        The file is absent or neither, puts a name into two groups, or has an empty group.
    """
    place = Path(path)
    pairs = _from_yaml(place) if place.suffix.lower() in (".yaml", ".yml") else _from_csv(place)
    parents: dict[str, str] = {}
    for name, group in pairs:
        if parents.setdefault(name, group) != group:
            raise InputError(f"'{name}' is in '{parents[name]}' and in '{group}'", where=place, hint=_HINT)
    if not parents:
        raise InputError("names no group", where=place, hint=_HINT)
    return parents


def _from_csv(place: Path) -> list[tuple[str, str]]:
    table = read_table(place, InputError, empty_ok=True)
    if not {"cell_type", "group"} <= set(table.columns):
        raise InputError("lacks the columns cell_type and group", where=place, hint=_HINT)
    columns = (table[name].astype(str).str.strip() for name in ("cell_type", "group"))
    pairs = list(zip(*columns, strict=True))
    for name, group in pairs:
        if not name:
            raise InputError(f"names no cell type of the group '{group}'", where=place, hint=_HINT)
    return [(name, group) for name, group in pairs if group]


def _from_yaml(place: Path) -> list[tuple[str, str]]:
    file, wanted = YamlFile(place, InputError, _HINT), "a list of cell types, or groups of them, under each group"
    pairs: list[tuple[str, str]] = []

    def walk(node: yaml.Node, group: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise InputError(f"line {line_of(node)} is deeper than {_DEEPEST} groups", where=place, hint=_HINT)
        if isinstance(node, yaml.MappingNode):
            for name, inner in file.mapping(node, wanted, "the name of a group").items():
                pairs.append((name, group))
                walk(inner, name, depth + 1)
        else:
            pairs.extend((name, group) for name in file.names(node, wanted, "the name of a cell type"))
        if not any(one == group for _, one in pairs):
            raise InputError(f"line {line_of(node)}: the group '{group}' is empty", where=place, hint=_HINT)
        if len(pairs) > _MOST:
            raise InputError(f"has more than {_MOST} names", where=place, hint=_HINT)

    for name, inner in file.mapping(file.root(), wanted, "the name of a group").items():
        walk(inner, name, 1)
    return pairs


def _check(
    parents: Mapping[str, str], types: Sequence[str], groups: Sequence[str], where: str | os.PathLike[str] | None
) -> None:
    for name in groups:
        if name in NO_ANSWERS:
            raise InputError(f"no group can be called '{name}'", where=where, hint="Call the group otherwise")
        if name in types:
            raise InputError(f"'{name}' is a cell type and a group", where=where, hint="Call the group otherwise")
    known = {*types, *groups}
    for name in parents:
        if name not in known:
            near = difflib.get_close_matches(name, types, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Cell types of the labels: {', '.join(types[:12])}"
            raise InputError(f"'{name}' is no cell type of the labels, and no group", where=where, hint=hint)
    for name in groups:
        above = _above(name, parents)
        if name in above:
            raise InputError(f"'{name}' lies within itself ({' in '.join([name, *above])})", where=where, hint=_HINT)


def _above(name: str, parents: Mapping[str, str]) -> list[str]:
    """The groups that a name lies in, the closest first; ends where it comes round."""
    found: list[str] = []
    while name in parents and parents[name] not in found:
        name = parents[name]
        found.append(name)
    return found


def joined_names(names: Iterable[str], listed: int = 4) -> str:
    """What a group without a name is called: its cell types, of many the first two and how many more."""
    each = list(names)
    if len(each) <= listed:
        return " + ".join(each)
    return f"{each[0]} + {each[1]} + {len(each) - 2} more"
