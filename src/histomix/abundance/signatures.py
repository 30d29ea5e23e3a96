"""The reference: mean counts of each gene in each cell type, from a table or from single cells."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.naming import plain_name
from ..common.strangers.annotated import RAW, X, find_counts, looks_whole
from ..errors import LabelError
from ..provenance import digest_bytes, digest_file
from .abundance import examples
from .deconvolve.checks import check_counts, says_logarithms
from .groups import coarser_column
from .number_tables import read_numbers, refuse_values_for_names
from .recognise import spot_keys
from .tables import read_h5ad

if TYPE_CHECKING:
    from anndata import AnnData

#: Above this many rows, an h5ad without cell types in ``obs`` is taken for single cells and refused.
_MOST_TYPES = 500
_CELL_TYPE_KEY = "cell_type"
#: Columns of ``var`` that hold other names of the genes than ``var_names``.
_OTHER_NAMES = (
    "gene_ids", "gene_id", "ensembl_id", "feature_id", "gene_symbols", "gene_symbol", "symbol", "gene_name",
    "gene_names", "feature_name",
)  # fmt: skip
#: A mean count above this is none: a cell has no ten million transcripts of one gene.
_MOST_COUNTS = 1e7
#: Rows that tables of signatures have at most, where what is in them may as well be cells.
_MOST_LIKELY_TYPES = 100
_BARCODE = re.compile(r".*[ACGT]{12,}([-_.].*)?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signatures:
    """Mean counts per cell, ``table`` (genes x cell types, float64), with the digest of what they were read from.

    ``made_by`` tells how they were made of single cells, where it was not by averages. ``other_names`` are names of the
    genes beside those of the table, such as symbols beside Ensembl ids: one column for each kind, one row a gene.
    ``groups``: cell type -> its group, where single cells have a coarser column (`coarser_column`).
    """

    table: pd.DataFrame
    source: str
    digest: str
    mitochondrial: tuple[str, ...]
    silent: tuple[str, ...]
    made_by: dict[str, Any] = field(default_factory=dict)
    other_names: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What a manifest records."""
        return {
            "file": Path(self.source).name,  # a path may name a person
            "digest": self.digest,
            "genes": len(self.table),
            "cell_types": list(self.table.columns),
            "set_aside": {"mitochondrial": list(self.mitochondrial), "without_counts": len(self.silent)},
            **self.made_by,
        }


def read_reference(
    reference: str | os.PathLike[str] | pd.DataFrame, cell_type_key: str | None = None, layer: str | None = None
) -> Signatures:
    """Read a reference of cell-type signatures.

    Mitochondrial genes (``MT-``, any case) and genes without counts in any type are set aside.

    Parameters
    ----------
    reference
        A table, CSV, TSV or DataFrame, of genes x cell types (first column: gene) with mean raw counts per cell. Or an
        h5ad: with ``obs[cell_type_key]``, raw counts of single cells, averaged by type; without it, one row per cell
        type.
    cell_type_key
        Column of ``obs`` with the cell types; ``"cell_type"`` is found by itself.
    layer
        Where the raw counts of single cells are: ``"X"``, ``"raw"`` or the name of a layer. When left out, the first
        of ``layers["counts"]``, ``X`` and ``raw`` that holds whole numbers, else the one other layer that does.

    Raises
    ------
    LabelError
        The reference cannot be read; it has negative or missing values, repeated genes or cell types, fewer than two
        types, or a type without counts; or single cells whose counts are not raw.
    """
    if isinstance(reference, pd.DataFrame):
        table, source = reference, "DataFrame"
        digest = digest_bytes(reference.to_csv(lineterminator="\n").encode())
    else:
        path = Path(reference)
        source = os.fspath(path)
        if path.suffix == ".h5ad":
            table, others, groups = _read_h5ad(path, cell_type_key, layer)
            found = set_aside(check_reference(table, source), source, digest_file(path), other_names=others)
            return replace(found, groups=groups)
        table = read_numbers(path)
        digest = digest_file(path)
    return set_aside(check_reference(table, source), source, digest)


def set_aside(
    table: pd.DataFrame,
    source: str,
    digest: str,
    made_by: dict[str, Any] | None = None,
    other_names: pd.DataFrame | None = None,
) -> Signatures:
    """Signatures without mitochondrial genes, by any of their names, and without genes of no counts.

    Raises
    ------
    LabelError
        A type has no counts in the others.
    """
    others = pd.DataFrame(index=table.index) if other_names is None else other_names
    names = [table.index, *(others[kind] for kind in others)]
    mitochondrial = np.any([[str(gene).upper().startswith("MT-") for gene in kind] for kind in names], axis=0)
    silent = table.eq(0).all(axis=1).to_numpy()
    kept = table[~(mitochondrial | silent)]
    empty = kept.columns[kept.eq(0).all(axis=0).to_numpy()]
    if len(empty):
        if spot_keys(table.index):
            raise LabelError(
                f"has keys of spots in its rows (such as {examples(table.index)}): it looks like counts, and a "
                "reference has cell types",
                where=source,
                hint="Give signatures, genes x cell types, or single cells with their types; counts stand in the sheet",
            )
        raise LabelError(
            f"{len(empty)} cell types have no counts (such as {examples(empty)})",
            where=source,
            hint="Leave them out; where these are genes, turn the table: one row per gene, one column per cell type",
        )
    aside = tuple(table.index[mitochondrial]), tuple(table.index[silent])
    return Signatures(kept, source, digest, *aside, made_by or {}, others[~(mitochondrial | silent)])


def is_single_cells(reference: str | os.PathLike[str] | pd.DataFrame, cell_type_key: str | None) -> bool:
    """Whether a reference is an h5ad of single cells, not a table of signatures."""
    if isinstance(reference, pd.DataFrame) or Path(reference).suffix != ".h5ad":
        return False
    return cell_type_key is not None or _holds_cells(read_h5ad(Path(reference)))


def other_names(var: pd.DataFrame) -> pd.DataFrame:
    """What a table of genes calls them beside its index: ids, symbols; one column for each kind, as text."""
    known = [name for name in _OTHER_NAMES if name in var]
    return pd.DataFrame({name: var[name].astype(str).to_numpy() for name in known}, index=var.index)


def check_reference(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a table of genes x types as float64; LabelError if it cannot be one of signatures."""
    if table.shape[1] < 2 or table.empty:
        raise LabelError(
            f"holds {table.shape[0]} genes x {table.shape[1]} cell types",
            where=source,
            hint="Give genes x cell types, with two types or more",
        )
    table = table.rename(columns=plain_name)
    if "" in table.columns:
        raise LabelError(
            "has a column without a name", where=source, hint="Name its cell type, or leave the column out"
        )
    for names, kind in ((table.index, "gene"), (table.columns, "cell type")):
        if not names.is_unique:
            raise LabelError(
                f"has the {kind} '{names[names.duplicated()][0]}' more than once ({names.duplicated().sum()} such)",
                where=source,
                hint=f"Keep each {kind} once",
            )
    refuse_values_for_names(table.columns, source)
    if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes):
        raise LabelError("has columns that are not numeric", where=source, hint="Keep genes as index, then numbers")
    checked = table.astype(np.float64)
    checked.index = checked.index.astype(str)
    values = checked.to_numpy()
    wrong = np.argwhere(~(np.isfinite(values) & (values >= 0) & (values <= _MOST_COUNTS)))
    if len(wrong):
        row, column = wrong[0]
        raise LabelError(
            f"gene '{checked.index[row]}', cell type '{checked.columns[column]}' is {checked.to_numpy()[row, column]} "
            f"({len(wrong)} such values)",
            where=source,
            hint="A signature is a mean of raw counts per cell: finite, not negative, not log-transformed or scaled",
        )
    # Fewer rows are of a table that is turned, and keys of spots in them of counts: both are told further on.
    genes = len(checked) > _MOST_LIKELY_TYPES and not spot_keys(checked.index)
    if genes and checked.shape[1] > _MOST_LIKELY_TYPES and looks_whole(values):
        raise LabelError(
            f"has {checked.shape[1]:,} columns of whole numbers (such as {examples(checked.columns)}): it looks like "
            "single cells, and each would be a cell type of its own",
            where=source,
            hint="Give the mean of each cell type, or single cells as h5ad with their types in a column of obs",
        )
    if (why := says_logarithms(values)) is not None:
        raise LabelError(
            f"holds logarithms of counts: {why}",
            where=source,
            hint="Give mean raw counts per cell: not normalised, scaled or log-transformed",
        )
    return checked


def read_cells(path: Path, cell_type_key: str | None, layer: str | None = None) -> tuple[AnnData, pd.Series]:
    """Read single cells with a type: raw counts (csr) in ``X``, and their types (categories, all of them present).

    ``var`` holds other names of the genes; ``layer`` is as in `read_reference`.

    Raises
    ------
    LabelError
        There is no such column, there are no counts, or they are not raw; or genes or cells repeat.
    """
    from anndata import AnnData

    adata = read_h5ad(path)
    key = cell_type_key or _CELL_TYPE_KEY
    if key not in adata.obs and key in adata.var:
        raise LabelError(
            f"has the column '{key}' in var: its cells are where genes belong",
            where=path,
            hint="Turn it (adata.T): cells are rows, genes are columns",
        )
    if key not in adata.obs:
        raise LabelError(
            f"has {adata.n_obs:,} rows and no column '{key}' in obs "
            f"(it has: {', '.join(map(str, adata.obs)) or 'none'})",
            where=path,
            hint="Name the column of cell types with --cell-type-key (in Python cell_type_key)",
        )
    try:
        source = find_counts(adata, layer, ("counts", X, RAW))
    except ValueError as error:
        raise LabelError(
            str(error), where=path, hint="Name where the raw counts are with --layer: X, raw, or a layer"
        ) from error
    counts = source.matrix
    if layer is None and source.place not in ("counts", X):
        _log.info("%s: its counts are those of %s", path, source.place)
    if not adata.obs_names.is_unique:
        repeated = adata.obs_names[adata.obs_names.duplicated()]
        raise LabelError(
            f"has the cell '{repeated[0]}' more than once ({len(repeated)} such)",
            where=path,
            hint="Keep each cell once",
        )
    try:
        table = check_counts(counts)
    except LabelError as error:
        hint = f"{error.hint}; or name where they are with --layer (X, raw, or a layer)"
        raise LabelError(f"{source.place}: {error.what}", where=path, hint=hint) from error
    types = _plain_types(adata.obs[key])
    known = types.notna().to_numpy()
    if not known.all():
        _log.info("%s: %d of %d cells have no type: left out", path, (~known).sum(), adata.n_obs)
    if len(types.cat.categories) > max(_MOST_LIKELY_TYPES, known.sum() / 2):
        raise LabelError(
            f"has {len(types.cat.categories):,} cell types for {known.sum():,} cells in obs['{key}'], such as "
            f"{examples(types.cat.categories)}: these look like names of cells",
            where=path,
            hint="Name the column of cell types with --cell-type-key (in Python cell_type_key)",
        )
    return AnnData(table[known], obs=adata.obs[known].copy(), var=other_names(source.var)), types[known]


def _plain_types(given: pd.Series) -> pd.Series:
    """Cell types in their plain names, as categories that all occur; a blank is no type."""
    types = given.astype("category").cat.remove_unused_categories()
    plain = {name: plain_name(name) or None for name in types.cat.categories}
    if all(str(name) == to for name, to in plain.items()):
        return types
    return types.astype(object).map(plain).astype("category")


def average_cells(cells: AnnData, types: pd.Series) -> pd.DataFrame:
    """Mean counts of each type, genes x types."""
    codes = types.cat.codes.to_numpy()
    sizes = np.bincount(codes, minlength=len(types.cat.categories))
    average = sparse.csr_matrix((1 / sizes[codes], (codes, np.arange(cells.n_obs))), shape=(len(sizes), cells.n_obs))
    means = (average @ cells.X).toarray()
    return pd.DataFrame(means.T, index=cells.var_names, columns=types.cat.categories.astype(str))


def _read_h5ad(
    path: Path, cell_type_key: str | None, layer: str | None
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Signatures (genes x types), other names of their genes, and groups of their types."""
    adata = read_h5ad(path)
    if cell_type_key is not None or _holds_cells(adata):
        cells, types = read_cells(path, cell_type_key, layer)
        return average_cells(cells, types), cells.var, coarser_column(cells.obs, types)
    if layer not in (None, X) or "log1p" in adata.uns:
        what = "is marked as logarithms (uns['log1p'])" if layer in (None, X) else "is a table of signatures, in X"
        raise LabelError(what, where=path, hint="Store mean raw counts in X, one row per cell type, and name no layer")
    if adata.X is None:
        raise LabelError("has no counts", where=path, hint='Store raw counts in X or layers["counts"]')
    return adata.to_df().T, other_names(adata.var), {}


def _holds_cells(adata: AnnData) -> bool:
    """Whether the rows are single cells, and not one for each cell type: then many are of one kind, or have barcodes.

    A few hundred cells would else pass for as many cell types.
    """
    if _CELL_TYPE_KEY in (*adata.obs, *adata.var) or adata.n_obs > _MOST_TYPES or adata.n_obs < 2:
        return bool(adata.n_obs > 1)
    grouped = any(
        adata.obs[name].nunique() < adata.n_obs
        for name in adata.obs
        if not pd.api.types.is_numeric_dtype(adata.obs[name]) and adata.obs[name].notna().any()
    )
    barcodes = all(_BARCODE.fullmatch(str(name)) for name in adata.obs_names)
    return grouped or barcodes or (adata.n_obs > _MOST_LIKELY_TYPES and adata.X is not None and looks_whole(adata.X))
