"""A vocabulary: how the cell types of labels or of a reference are merged, renamed and dropped."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.naming import plain_name, repeated
from ..common.yaml_text import YamlFile
from ..errors import LabelError
from ..provenance import digest_json
from .abundance import Abundance

_KEYS = ("merge", "rename", "drop", "renormalise", "independent_sd")
_MAPPING, _NAMES, _NAME = "a mapping of name: value", "a list of cell types, [A, B]", "the name of a cell type"
_EXAMPLE = "merge: {Epithelial: [Cancer Epithelial, Normal Epithelial]}"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Names of cell types, mapped. Types that it does not mention stay as they are.

    Parameters
    ----------
    merge
        New name -> the types (two or more, usually) that become one.
    rename
        Old name -> new name.
    drop
        Types to leave out.
    renormalise
        Divide proportions by their total per spot: needed to drop types from proportions, and to read weights that
        were never normalised (RCTD).
    independent_sd
        Take the posteriors of merged types as independent: their sds then combine as the root of the sum of squares.
    source
        The file, for messages.

    Raises
    ------
    LabelError
        A type is mentioned twice, or two types would get the same name.
    """

    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    renormalise: bool = False
    independent_sd: bool = False
    source: str | None = None

    def __post_init__(self) -> None:
        mentioned = [name for group in self.merge.values() for name in group] + [*self.rename, *self.drop]
        twice = sorted(repeated(mentioned))
        if twice:
            raise self._error(f"the cell type '{twice[0]}' is mentioned more than once", "Map each type once")
        targets = [*self.merge, *self.rename.values()]
        same = sorted(repeated(targets))
        if same:
            raise self._error(f"two entries give the name '{same[0]}'", "Merge the types under one name instead")
        if not all(self.merge.values()):
            raise self._error("a group of merge is empty", "List the types of the group, or remove it")

    def facts(self) -> dict[str, Any]:
        """What is recorded with labels."""
        merge = {name: list(group) for name, group in self.merge.items()}
        source = None if self.source is None else Path(str(self.source)).name  # a path may name a person
        facts = {**dataclasses.asdict(self), "source": source}
        return {**facts, "merge": merge, "drop": list(self.drop), "digest": self.digest}

    @property
    def digest(self) -> str:
        """Equal for vocabularies that do the same, wherever they were read from."""
        return digest_json({**dataclasses.asdict(self), "source": None})

    def apply(self, abundance: Abundance) -> Abundance:
        """Map the cell types of labels; ``provenance["vocabulary"]`` records it.

        Values of merged types add up (the sum of 5 % quantiles is below the 5 % quantile of the sum). What does not
        follow from the parts is left out: the median where types are merged; the sd as well, unless
        ``independent_sd``; both, and the reliability, where proportions are renormalised. The reliability of merged
        types is NaN.

        Raises
        ------
        LabelError
            A type is not among those of the labels, two would have the same name, no type is left, types of proportions
            would be dropped without ``renormalise``, or cells per spot would be renormalised.
        """
        where = abundance.provenance.get("file")
        groups = self._groups(abundance.cell_types, where)
        if self.renormalise and abundance.unit != "proportion":
            raise LabelError(
                f'the vocabulary says renormalise, but the labels are in "{abundance.unit}"',
                where=where,
                hint="Remove renormalise: only proportions sum to 1",
            )
        if self.drop and abundance.unit == "proportion" and not self.renormalise:
            raise LabelError(
                f"without {', '.join(self.drop)} the proportions of a spot do not sum to 1",
                where=where,
                hint="State it in the vocabulary with `renormalise: true`, or merge these types into another",
            )
        values = _summed(abundance.values, groups)
        sd, median, reliability = abundance.sd, abundance.median, abundance.reliability
        if self.renormalise:
            values, sd, median, reliability = self.normalised(values, where), None, None, None
        merged = [name for name, group in groups.items() if len(group) > 1]
        if sd is not None:
            sd = _summed(sd**2, groups) ** 0.5 if self.independent_sd or not merged else None
        if median is not None:
            median = None if merged else _summed(median, groups)
        if reliability is not None:
            kept = {name: np.nan if len(group) > 1 else reliability[group[0]] for name, group in groups.items()}
            reliability = pd.Series(kept, dtype=np.float64)
        provenance = {**abundance.provenance, "vocabulary": self.facts()}
        return replace(abundance, values=values, sd=sd, median=median, reliability=reliability, provenance=provenance)

    def apply_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """Map the cell types of a reference (genes x cell types).

        The signature of merged types is their plain mean: how many cells of each the tissue holds is not known.

        Raises
        ------
        LabelError
            As `apply`; dropping needs nothing stated here.
        """
        groups = self._groups([str(name) for name in table.columns], None)
        return pd.DataFrame({name: table[group].mean(axis=1) for name, group in groups.items()}, index=table.index)

    @staticmethod
    def normalised(values: pd.DataFrame, where: str | None = None) -> pd.DataFrame:
        """Each spot divided by its total; spots of total 0 are left out, with a logged note."""
        total = values.sum(axis=1)
        empty = total == 0
        if empty.all():
            raise LabelError("every spot sums to 0: there are no proportions", where=where, hint="Check these types")
        if empty.any():
            _log.info("%d of %d spots sum to 0: left out", empty.sum(), len(total))
        return values[~empty].div(total[~empty], axis=0)

    def _groups(self, cell_types: list[str], where: str | None) -> dict[str, list[str]]:
        """New name -> old names, in the order in which types first occur."""
        new_names = {old: new for new, group in self.merge.items() for old in group} | dict(self.rename)
        unknown = [name for name in (*new_names, *self.drop) if name not in cell_types]
        if unknown:
            hints = []
            for name in unknown:
                near = difflib.get_close_matches(name, cell_types, n=2, cutoff=0.6)
                hints.append(f"'{name}'" + (f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""))
            raise self._error(
                f"{', '.join(hints)} {'is' if len(unknown) == 1 else 'are'} not among the cell types"
                f"{f' of {where}' if where else ''}, which are {', '.join(cell_types)}",
                "Spell the types as the labels do; labels that are mapped already need no vocabulary",
            )
        groups: dict[str, list[str]] = {}
        for name in cell_types:
            if name not in self.drop:
                groups.setdefault(new_names.get(name, name), []).append(name)
        for name, group in groups.items():
            if len(group) > 1 and set(group) != set(self.merge.get(name, ())):
                raise self._error(
                    f"'{name}' would be the name of {', '.join(group)}",
                    f"Merge all of them under '{name}', or choose another name",
                )
        if not groups:
            raise self._error("no cell type would be left", "Drop fewer types")
        return groups

    def _error(self, what: str, hint: str) -> LabelError:
        return LabelError(what, where=self.source or "vocabulary", hint=hint)


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read a vocabulary: YAML with any of ``merge``, ``rename``, ``drop``, ``renormalise`` and ``independent_sd``.

    For example::

        merge: {Epithelial: [Cancer Epithelial, Normal Epithelial]}
        rename: {Plasmablasts: Plasma Cells}

    Raises
    ------
    LabelError
        The file is absent, empty, no YAML, has an unknown key, something that is not a name where a name belongs, or
        is not a valid `Vocabulary`.
    """
    place, hint = os.fspath(path), f"Write for example {_EXAMPLE}"
    file = YamlFile(Path(path), LabelError, hint)
    root = file.root()
    if root is None:
        raise LabelError("is empty", where=place, hint=hint)
    parts = dict.fromkeys(_KEYS, None) | file.mapping(root, _MAPPING, _NAME)
    unknown = [name for name in parts if name not in _KEYS]
    if unknown:
        raise LabelError(f"has the key '{unknown[0]}'", where=place, hint=f"The keys are {', '.join(_KEYS)}")
    merges = file.mapping(parts["merge"], _MAPPING, _NAME)
    merge = {plain_name(name): tuple(map(plain_name, file.names(node, _NAMES, _NAME))) for name, node in merges.items()}
    renames = file.mapping(parts["rename"], _MAPPING, _NAME)
    rename = {plain_name(name): plain_name(file.name(node, _NAME)) for name, node in renames.items()}
    drop = tuple(map(plain_name, file.names(parts["drop"], _NAMES, _NAME)))
    if not (merge or rename or drop or parts["renormalise"]):
        raise LabelError("maps nothing", where=place, hint=hint)
    flags = {name: file.flag(name, parts[name]) for name in ("renormalise", "independent_sd")}
    return Vocabulary(merge, rename, drop, flags["renormalise"], flags["independent_sd"], place)


def _summed(table: pd.DataFrame, groups: Mapping[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame({name: table[group].sum(axis=1) for name, group in groups.items()}, index=table.index)
