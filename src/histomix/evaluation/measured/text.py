"""The scores of a map against orthogonal truth, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..result import Evaluation


def orthogonal_text(scored: Evaluation) -> str:
    """What `score_map` found, in words for a terminal."""
    facts = scored.summary["orthogonal"]
    lines = [f"orthogonal: {scored.summary['protocol_means']}"]
    if "cells" in facts:
        one = facts["cells"]
        lines += [
            f"{one['n_counted']:,} of {one['n_cells']:,} typed cells in {one['n_tiles']:,} tiles of "
            f"{one['counted_in_um']:g} um, {len(one['cell_types'])} cell types; {scored.summary['unit']}",
            "",
            scored.table("truth").drop(columns="interval").to_string(float_format="{:.3f}".format, na_rep="-"),
            "",
            f"Pearson of the map: {_words(one['pearson'])}",
        ]
    if "regions" in facts:
        one = facts["regions"]
        lines += ["", *map(_expected, one["expected"])]
        table = pd.DataFrame(one["auroc"]).astype(float)
        lines += ["", f"{one['auroc_words']}:", table.to_string(float_format="{:.3f}".format, na_rep="-")]
        lines += [] if one["ari"] is None else [f"domains against regions: adjusted Rand index {one['ari']:.3f}"]
    return "\n".join([*lines, "", *(f"note: {note}" for note in scored.summary["notes"])])


def _expected(row: Mapping[str, Any]) -> str:
    where = f"({row['n_inside']:,} tiles in, {row['n_outside']:,} out)"
    return f"{'+'.join(row['cell_types'])} in {row['region']}: AUROC {_words(row, 'auroc')} {where}"


def _words(entry: Mapping[str, Any], name: str = "mean") -> str:
    value, low, high = entry[name], entry["low"], entry["high"]
    if value is None:
        return "undefined"
    return f"{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f}, blocks of this slide)")
