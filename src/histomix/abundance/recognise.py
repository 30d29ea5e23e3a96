"""Labels as other tools write them, told by what is in the file and not by its name.

Layouts follow what the tools write: cell2location (``export_posterior``, and the older pymc3 version), Tangram
(``project_cell_annotations``, ``count_cell_annotations``), SPOTlight before 1.0 (``res_ss``), RCTD (``results_df``).
Tables of stereoscope, CARD, later SPOTlight and normalised RCTD weights carry no mark: plain tables of proportions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import LabelError
from .abundance import examples

if TYPE_CHECKING:
    from anndata import AnnData

Place = str | os.PathLike[str]

#: What is taken as the label, the best first: the 5 % quantile is what the authors of cell2location use.
_SUMMARIES = ("q05", "q50", "means")
_SD, _MEDIAN = "stds", "q50"
_ALL = (*_SUMMARIES, _SD, "q95")
# "q05cell_abundance_w_sf_T", with or without "_" after the summary; "q05_spot_factorsT" before version 0.06.
_PREFIX = re.compile(rf"^({'|'.join(_ALL)})_?(?:cell_abundance_w_sf_|spot_factors_?)(.+)$", re.DOTALL)
_OBSM = ("{}_cell_abundance_w_sf", "{}cell_abundance_w_sf", "{}_spot_factors")
_TYPE_NAMES = ("factor_names", "fact_names")

#: Columns, in lower case, that tell where a spot is, how good it is or whose, and never a cell type: those of Space
#: Ranger, scanpy, Seurat and histomix, as an exported ``obs`` has them.
_NO_TYPES = frozenset((
    "x_px", "y_px", "x", "y", "x_um", "y_um", "x_centroid", "y_centroid", "pixel_x", "pixel_y", "new_x", "new_y",
    "row", "col", "in_tissue", "selected", "array_row", "array_col", "array_x", "array_y", "pxl_row_in_fullres",
    "pxl_col_in_fullres", "imagerow", "imagecol", "n_counts", "n_genes", "n_genes_by_counts", "total_counts",
    "n_umi", "n_umis", "numi", "umi", "umis", "ngenes", "nfeatures", "log_counts", "size_factor", "size_factors",
    "mt_frac", "frac_mito", "doublet_score", "predicted_doublet", "s_score", "g2m_score", "phase", "sample",
    "sample_id", "batch", "library_id", "orig.ident", "donor", "donor_id", "patient", "patient_id", "section",
    "section_id", "slide", "slide_id", "cluster", "clusters", "seurat_clusters", "tissue", "novelty", "in_scope",
    "read_ok", "region", "piece", "fragment", "answer", "answer_lower", "answer_upper",
))  # fmt: skip
_NO_TYPE = re.compile(
    r"(log1p_)?(total_counts|n_genes_by_counts|n_counts|n_genes|mean_counts)(_.+)?|pct_counts_.+|(n_?count|n_?feature)_.+"
    r"|(percent|pct)[._](mt|mito|mitochondrial|ribo|rb|hb)|(leiden|louvain)([._].*)?|.+_snn_res\..+",
    re.IGNORECASE,
)
_TANGRAM_COUNTS = ("cell_n", "centroids")
_RCTD_RESULTS = {"spot_class", "first_type", "second_type"}
_KEY_NAMES = ("barcode", "barcodes", "spot", "spots", "spot_id", "spotid", "spot_name", "key", "id", "cell_id", "cell")
_SPOT_KEY = re.compile(r"X?(\d+(\.\d+)?x\d+(\.\d+)?|[ACGT]{10,}([-.]\d+)?)")
# More columns than any reference has types: the file holds genes.
_MOST_TYPES = 500


def spot_keys(names: pd.Index) -> bool:
    """Whether names are keys of spots or barcodes, as those of counts are, and never those of genes."""
    return len(names) > 1 and all(_SPOT_KEY.fullmatch(str(name)) for name in names)


@dataclass
class Recognised:
    """Labels found in a file; ``scaled`` when only their shares within a spot have a meaning."""

    values: pd.DataFrame
    name: str
    unit: str | None = None
    sd: pd.DataFrame | None = None
    median: pd.DataFrame | None = None
    scaled: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


def recognise_table(table: pd.DataFrame, where: Place) -> Recognised:
    """Find the labels in a text table (all cells text; index: its first column).

    Raises
    ------
    LabelError
        The table is not one of labels, though it comes from a tool that is known.
    """
    notes: dict[str, Any] = {}
    table = _keyed(table, notes)
    columns = set(table.columns)
    if columns >= _RCTD_RESULTS:
        raise LabelError(
            "is the results_df of RCTD, which holds classes of spots and no weights",
            where=where,
            hint="Export the weights: write.csv(as.matrix(normalize_weights(rctd@results$weights)), FILE)",
        )
    recognised = _posterior({name: table[name] for name in table.columns}, "cell2location table", notes)
    if recognised is not None:
        return recognised
    if columns >= set(_TANGRAM_COUNTS):
        values = _without(table, notes, _TANGRAM_COUNTS)
        return Recognised(values, "Tangram counts of cells", "cells per spot", notes=notes)
    if "res_ss" in columns:
        values = _without(table, notes, ("res_ss",))
        return Recognised(values, "SPOTlight table", notes=notes)
    return Recognised(_without(table, notes), "table of spots x cell types", notes=notes)


def recognise_h5ad(adata: AnnData, where: Place) -> Recognised:
    """Find the labels in an annotated matrix: a result of cell2location or Tangram, else ``X``.

    Raises
    ------
    LabelError
        There are none, or a result is there but its cell types are not named.
    """
    notes: dict[str, Any] = {}
    names = _factor_names(adata)
    columns: dict[str, Any] = {}
    for summary in _ALL:
        key = next((form.format(summary) for form in _OBSM if form.format(summary) in adata.obsm), None)
        if key is None:
            continue
        frame = _frame(adata, key, names, where)
        for name in frame:
            given = _PREFIX.match(str(name))
            if given and given[1] != summary:
                raise LabelError(
                    f"obsm['{key}'] has the column '{name}', which names another summary",
                    where=where,
                    hint="Export the posterior again",
                )
            columns[f"{summary}cell_abundance_w_sf_{given[2] if given else name}"] = frame[name]
    if columns:
        recognised = _posterior(columns, "cell2location h5ad", notes)
        if recognised is not None:
            return recognised
    recognised = _posterior({name: adata.obs[name] for name in adata.obs}, "cell2location h5ad, copied to obs", {})
    if recognised is not None:
        return recognised
    if names and set(names) <= set(adata.obs.columns):
        # The authors' tutorial copies the 5 % quantiles into obs under the bare names of the types.
        notes["summary"] = "q05"
        return Recognised(adata.obs[names], "cell2location h5ad, copied to obs", "cells per spot", notes=notes)
    if "tangram_ct_count" in adata.obsm:
        frame = _frame(adata, "tangram_ct_count", (), where)
        values = _without(frame, notes, _TANGRAM_COUNTS)
        return Recognised(values, "Tangram counts of cells", "cells per spot", notes=notes)
    if "tangram_ct_pred" in adata.obsm:
        listed = [str(name) for name in adata.uns.get("tangram_ct_pred_names", ())]
        values = _frame(adata, "tangram_ct_pred", listed, where)
        return Recognised(values, "Tangram mapped mass", scaled=True, notes=notes)
    return _plain(adata, where)


def orient_table(values: pd.DataFrame, notes: dict[str, Any], where: Place) -> pd.DataFrame:
    """Labels as spots x cell types: turned, and noted, where the columns are spot keys and the rows are not.

    Raises
    ------
    LabelError
        There are more columns than there can be cell types.
    """
    if len(values.columns) and _are_keys(values.columns) and not _are_keys(values.index):
        notes["transposed"] = True
        values = values.T
    if values.shape[1] > _MOST_TYPES:
        raise LabelError(
            f"has {values.shape[1]} columns (such as {examples(values.columns)}), which are no cell types",
            where=where,
            hint="Give spots x cell types: no counts of genes, no features of tiles, and not cell types x spots",
        )
    return values


def _plain(adata: AnnData, where: Place) -> Recognised:
    if adata.X is None:
        raise LabelError("has no X to read labels from", where=where, hint="Store spots x cell types in X")
    if adata.n_vars > _MOST_TYPES and not _are_keys(adata.var_names):
        tables = ", ".join(map(str, adata.obsm)) or "none"
        raise LabelError(
            f"has {adata.n_vars} columns in X, which must be genes, and no known table of labels (obsm: {tables})",
            where=where,
            hint="Export the labels as spots x cell types, as CSV or in X",
        )
    declared = adata.uns.get("unit")
    return Recognised(adata.to_df(), "h5ad of spots x cell types", None if declared is None else str(declared))


def _posterior(columns: dict[str, Any], name: str, notes: dict[str, Any]) -> Recognised | None:
    """Columns of cell2location by summary and cell type; None if there are no summaries that can be labels."""
    tables: dict[str, dict[str, Any]] = {}
    left_out = []
    for column, values in columns.items():
        match = _PREFIX.match(str(column))
        if match:
            tables.setdefault(match[1], {})[match[2]] = values
        else:
            left_out.append(str(column))
    chosen = next((summary for summary in _SUMMARIES if summary in tables), None)
    if chosen is None:
        return None
    frames = {summary: pd.DataFrame(table) for summary, table in tables.items()}
    notes["summary"] = chosen
    if left_out:
        notes["left_out"] = left_out
    median = None if chosen == _MEDIAN else frames.get(_MEDIAN)
    return Recognised(frames[chosen], name, "cells per spot", frames.get(_SD), median, notes=notes)


def _frame(adata: AnnData, key: str, names: Sequence[str], where: Place) -> pd.DataFrame:
    table = adata.obsm[key]
    if isinstance(table, pd.DataFrame):
        return table
    if table.ndim != 2 or table.shape[1] != len(names):
        raise LabelError(
            f"obsm['{key}'] is an array of shape {table.shape}, with {len(names)} names for its columns in uns",
            where=where,
            hint="Store it as a DataFrame with the cell types as columns",
        )
    dense = table.toarray() if hasattr(table, "toarray") else table
    return pd.DataFrame(dense, index=adata.obs_names, columns=list(names))


def _factor_names(adata: AnnData) -> list[str]:
    model = adata.uns.get("mod", {})
    names = next((model[key] for key in _TYPE_NAMES if key in model), ())
    return [str(name) for name in names]


def _without(table: pd.DataFrame, notes: dict[str, Any], names: Sequence[str] = ()) -> pd.DataFrame:
    """The table without columns that are no cell types, and without ``names``."""
    left_out = [str(name) for name in table.columns if name in names or _is_no_type(str(name))]
    if left_out:
        notes["left_out"] = left_out
    return table.drop(columns=left_out)


def _is_no_type(name: str) -> bool:
    return name.lower() in _NO_TYPES or _NO_TYPE.fullmatch(name) is not None


def _keyed(table: pd.DataFrame, notes: dict[str, Any]) -> pd.DataFrame:
    """Where the first column only counts the rows, the column of spot keys instead."""
    numbers = [str(number) for number in range(len(table) + 1)]
    if len(table) < 2 or list(table.index) not in (numbers[:-1], numbers[1:]):
        return table
    for name in table.columns:
        if str(name).lower() in _KEY_NAMES:
            notes["key_column"] = str(name)
            return table.set_index(name).rename_axis(None)
    return table


def _are_keys(names: pd.Index) -> bool:
    return all(_SPOT_KEY.fullmatch(str(name)) for name in names)
