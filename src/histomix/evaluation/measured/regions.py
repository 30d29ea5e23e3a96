"""How a map's cell types follow the regions that a pathologist named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...common.metrics import auroc
from ...common.words import counted
from ...errors import InputError
from ..spatial.domains import DOMAINS, composition_domains, partition_agreement
from .blocks import block_interval
from .read_regions import Regions


def score_regions(
    values: pd.DataFrame,
    names: NDArray[np.object_],
    expect: Mapping[str, Sequence[str]],
    blocks: NDArray[np.intp],
    seed: int,
    where: str | None,
    drawn: Regions,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """AUROC of declared types in their regions, of every type in every region, and the agreement of domains.

    Parameters
    ----------
    values
        The map, tiles x cell types.
    names
        Region of each tile, None for none; tiles in none are left out, unless there is one region only.
    expect
        Region (several with commas) -> cell types whose sum should be higher in it.
    blocks
        Of `block_of`, for the intervals.
    seed
        Of intervals and clusters.
    where
        The map, for errors.
    drawn
        The regions: ``expect`` may name the class of some for them.

    Returns
    -------
    Facts for the summary, with ``notes``; and rows (cell_type, metric, value, target, n_spots).

    Raises
    ------
    InputError
        A region or cell type of ``expect`` does not exist.
    """
    known = np.array([name is not None for name in names])
    groups = pd.Series(names[known]).value_counts()
    notes = [f"{int((~known).sum()):,} of {len(values):,} tiles lie in no region"] if (~known).any() else []
    if empty := [name for name in drawn.all_names if name not in groups.index]:
        notes.append(f"no tile lies in {counted(len(empty), 'region')} that the file names: {', '.join(empty)}")
    if len(groups) < 2:
        # One region alone: what lies outside of it is all that it can be told from.
        notes.append(f"there is one region ({groups.index[0]}): the tiles outside of it are taken as not in it")
        known = np.ones(len(values), dtype=bool)
    cells, inside = values.to_numpy(np.float64)[known], names[known]
    rows: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    for label, types in expect.items():
        chosen = [region for one in label.split(",") for region in _of_class(one.strip(), groups.index, drawn.classes)]
        for what, given, there, file in (
            ("region", chosen, groups.index, drawn.source), ("cell type", types, values.columns, where)
        ):  # fmt: skip
            odd = [one for one in given if one not in there]
            if odd or not given:
                raise InputError(
                    f"there is no {what} {odd[0] if odd else ''!r}; there are {', '.join(map(str, there))}",
                    where=file,
                    hint="Spell regions and cell types as the files do, as in 'invasive cancer=Epithelial'",
                )
        present = np.isin(inside.astype(str), chosen)
        sums = values[list(types)].sum(axis=1).to_numpy(np.float64)[known]
        area = float(auroc(present[:, None], sums[:, None])[0])
        low, high = block_interval(present[:, None], sums[:, None], blocks[known], seed, statistic="auroc", bare=True)
        counts = {"n_inside": int(present.sum()), "n_outside": int((~present).sum())}
        expected.append({"region": label, "cell_types": list(types), "auroc": _number(area), "low": low, "high": high}
                        | counts)  # fmt: skip
        rows.append(
            {"cell_type": "+".join(types), "metric": "auroc_region", "value": area, "target": f"region {label}",
             "n_spots": len(cells)}
        )  # fmt: skip
    every = {
        str(name): dict(
            zip(
                map(str, values.columns),
                map(_number, auroc(np.repeat((inside == name)[:, None], cells.shape[1], axis=1), cells)),
                strict=True,
            )
        )
        for name in groups.index
    }
    ari = np.nan
    if len(groups) > 1:
        ari = partition_agreement(composition_domains(cells, len(groups), seed), inside)
        rows.append(
            {"cell_type": "", "metric": "ari_regions", "value": ari, "target": "regions", "n_spots": len(cells)}
        )
    part = {
        "n_tiles": {str(name): int(count) for name, count in groups.items()},
        "expected": expected,
        "auroc": every,
        "auroc_words": "AUROC of every cell type in every region against the other regions; not declared beforehand, "
        "so it describes and proves nothing",
        "ari": _number(ari),
        "ari_words": DOMAINS,
        "notes": notes,
    }
    return part, pd.DataFrame(rows, columns=["cell_type", "metric", "value", "target", "n_spots"])


def _of_class(name: str, regions: pd.Index, classes: Mapping[str, str]) -> list[str]:
    """The region of a name, else the regions of a class of that name, else the name itself."""
    return [name] if name in regions else [one for one in regions if classes.get(one) == name] or [name]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
