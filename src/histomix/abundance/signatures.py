"""The reference: mean counts of each gene in each cell type, and its genes found among those of a section."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.tables import read_numbers
from ..errors import LabelError
from ..provenance import digest_bytes, digest_file
from .abundance import examples
from .deconvolve.checks import check_counts
from .tables import read_h5ad

if TYPE_CHECKING:
    from anndata import AnnData

#: Above this many rows, an h5ad without cell types in ``obs`` is taken for single cells and refused.
_MOST_TYPES = 500
_CELL_TYPE_KEY = "cell_type"
#: Columns of ``var`` that hold other names of the genes than ``var_names``.
_OTHER_NAMES = ("gene_ids", "gene_symbols", "gene_name", "feature_name")
_VERSIONED = re.compile(r"^(ENS[A-Z]*G\d+)\.\d+$")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signatures:
    """Mean counts per cell, ``table`` (genes x cell types, float64), with the digest of what they were read from.

    ``made_by`` tells how they were made of single cells, where it was not by averages.
    """

    table: pd.DataFrame
    source: str
    digest: str
    mitochondrial: tuple[str, ...]
    silent: tuple[str, ...]
    made_by: dict[str, Any] = field(default_factory=dict)

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


@dataclass(frozen=True)
class GeneMatch:
    """Genes shared by a section and a reference: their positions in each, and how many have the very same name."""

    in_section: np.ndarray
    in_reference: np.ndarray
    exact: int


def read_reference(reference: str | os.PathLike[str] | pd.DataFrame, cell_type_key: str | None = None) -> Signatures:
    """Read a reference of cell-type signatures.

    Mitochondrial genes (``MT-``, any case) and genes without counts in any type are set aside.

    Parameters
    ----------
    reference
        A table, CSV, TSV or DataFrame, of genes x cell types (first column: gene) with mean raw counts per cell. Or an
        h5ad: with ``obs[cell_type_key]``, raw counts of single cells (``layers["counts"]``, else ``X``), averaged by
        type; without it, one row per cell type.
    cell_type_key
        Column of ``obs`` with the cell types; ``"cell_type"`` is found by itself.

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
        table = _read_h5ad(path, cell_type_key) if path.suffix == ".h5ad" else read_numbers(path)
        digest = digest_file(path)
    return set_aside(check_reference(table, source), source, digest)


def set_aside(table: pd.DataFrame, source: str, digest: str, made_by: dict[str, Any] | None = None) -> Signatures:
    """Signatures without mitochondrial genes, and without genes of no counts.

    Raises
    ------
    LabelError
        A type has no counts in the others.
    """
    mitochondrial = np.array([gene.upper().startswith("MT-") for gene in table.index])
    silent = table.eq(0).all(axis=1).to_numpy()
    kept = table[~(mitochondrial | silent)]
    empty = kept.columns[kept.eq(0).all(axis=0).to_numpy()]
    if len(empty):
        raise LabelError(
            f"{len(empty)} cell types have no counts (such as {examples(empty)})", where=source, hint="Leave them out"
        )
    return Signatures(
        kept, source, digest, tuple(table.index[mitochondrial]), tuple(table.index[silent]), made_by or {}
    )


def is_single_cells(reference: str | os.PathLike[str] | pd.DataFrame, cell_type_key: str | None) -> bool:
    """Whether a reference is an h5ad of single cells, not a table of signatures."""
    if isinstance(reference, pd.DataFrame) or Path(reference).suffix != ".h5ad":
        return False
    adata = read_h5ad(Path(reference))
    return cell_type_key is not None or _CELL_TYPE_KEY in adata.obs or adata.n_obs > _MOST_TYPES


def match_genes(genes: pd.Index, reference: pd.Index) -> GeneMatch:
    """Find the genes of a reference among those of a section.

    Same names first; then names that differ only in case or in the version of an Ensembl id, where just one gene of
    each side has that name.
    """
    positions = reference.get_indexer(genes)
    exact = int((positions >= 0).sum())
    free = np.flatnonzero(positions < 0)
    others = np.setdiff1d(np.arange(len(reference)), positions)
    loose = pd.Series(free, index=_plain(genes[free]))
    loose_reference = pd.Series(others, index=_plain(reference[others]))
    both = pd.concat(
        [names[~names.index.duplicated(keep=False)] for names in (loose, loose_reference)], axis=1, join="inner"
    ).to_numpy(dtype=np.intp)
    positions[both[:, 0]] = both[:, 1]
    in_section = np.flatnonzero(positions >= 0)
    return GeneMatch(in_section, positions[in_section], exact)


def match_section(adata: AnnData, signatures: Signatures, min_genes: int | None = None) -> GeneMatch:
    """Find the genes of a reference in a section, by those of its gene names that fit best.

    Parameters
    ----------
    adata
        The section; its genes may be named by ``var_names``, or by ids or symbols in ``var``.
    signatures
        The reference.
    min_genes
        Refuse fewer shared genes than this; None: twice as many as cell types, and at least 20.

    Raises
    ------
    LabelError
        Too few genes are shared, or a cell type has no counts in the shared genes.
    """
    reference = signatures.table.index
    names = [adata.var_names, *(pd.Index(adata.var[name].astype(str)) for name in _OTHER_NAMES if name in adata.var)]
    unique = [index if index.is_unique else pd.Index(index.where(~index.duplicated(), "")) for index in names]
    best, match = max(
        ((index, match_genes(index, reference)) for index in unique), key=lambda pair: len(pair[1].in_section)
    )
    n_shared = len(match.in_section)
    floor = gene_floor(signatures, min_genes)
    if n_shared < floor:
        raise LabelError(
            f"{n_shared} of the {len(best)} genes of the section (such as {examples(best)}) are among the "
            f"{len(reference)} of {signatures.source} (such as {examples(reference)}); {floor} are needed",
            hint="Use the same gene names in both (symbols or Ensembl ids, same species)",
        )
    if n_shared < 0.1 * len(reference):
        _log.warning("only %d of the %d genes of the reference are in the section", n_shared, len(reference))
    empty = signatures.table.columns[~signatures.table.to_numpy()[match.in_reference].any(axis=0)]
    if len(empty):
        raise LabelError(
            f"{len(empty)} cell types have no counts in the {n_shared} shared genes (such as {examples(empty)})",
            hint="Leave these types out of the reference, or give it more genes",
        )
    return match


def gene_floor(signatures: Signatures, min_genes: int | None) -> int:
    """Fewest shared genes to go on with."""
    return max(20, 2 * signatures.table.shape[1]) if min_genes is None else min_genes


def _plain(genes: pd.Index) -> pd.Index:
    names = (str(gene).upper() for gene in genes)
    return pd.Index([_VERSIONED.sub(r"\1", name) if name.startswith("ENS") else name for name in names], dtype=object)


def check_reference(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a table of genes x types as float64; LabelError if it cannot be one of signatures."""
    if table.shape[1] < 2 or table.empty:
        raise LabelError(
            f"holds {table.shape[0]} genes x {table.shape[1]} cell types",
            where=source,
            hint="Give genes x cell types, with two types or more",
        )
    for names, kind in ((table.index, "gene"), (table.columns, "cell type")):
        if not names.is_unique:
            raise LabelError(
                f"has the {kind} '{names[names.duplicated()][0]}' more than once ({names.duplicated().sum()} such)",
                where=source,
                hint=f"Keep each {kind} once",
            )
    if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes):
        raise LabelError("has columns that are not numeric", where=source, hint="Keep genes as index, then numbers")
    checked = table.astype(np.float64)
    checked.index, checked.columns = checked.index.astype(str), checked.columns.astype(str)
    wrong = np.argwhere(~(np.isfinite(checked.to_numpy()) & (checked.to_numpy() >= 0)))
    if len(wrong):
        row, column = wrong[0]
        raise LabelError(
            f"gene '{checked.index[row]}', cell type '{checked.columns[column]}' is {checked.to_numpy()[row, column]} "
            f"({len(wrong)} such values)",
            where=source,
            hint="A signature is a mean of raw counts: finite, not negative, not log-transformed or scaled",
        )
    return checked


def read_cells(path: Path, cell_type_key: str | None) -> tuple[AnnData, pd.Series]:
    """Read single cells with a type: raw counts (csr) in ``X``, and their types (categories, all of them present).

    Raises
    ------
    LabelError
        There is no such column, there are no counts, or they are not raw; or genes or cells repeat.
    """
    from anndata import AnnData

    adata = read_h5ad(path)
    key = cell_type_key or _CELL_TYPE_KEY
    if key not in adata.obs:
        raise LabelError(
            f"has {adata.n_obs} rows and no column '{key}' in obs (it has: {', '.join(adata.obs)})",
            where=path,
            hint="Name the column of cell types with cell_type_key",
        )
    counts = adata.layers.get("counts", adata.X)
    if counts is None:
        raise LabelError("has no counts", where=path, hint='Store raw counts in X or layers["counts"]')
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
        raise LabelError(error.what, where=path, hint=error.hint) from error
    types = adata.obs[key].astype("category").cat.remove_unused_categories()
    known = types.notna().to_numpy()
    if not known.all():
        _log.info("%s: %d of %d cells have no type: left out", path, (~known).sum(), adata.n_obs)
    return AnnData(table[known], obs=adata.obs[known].copy(), var=pd.DataFrame(index=adata.var_names)), types[known]


def average_cells(cells: AnnData, types: pd.Series) -> pd.DataFrame:
    """Mean counts of each type, genes x types."""
    codes = types.cat.codes.to_numpy()
    sizes = np.bincount(codes, minlength=len(types.cat.categories))
    average = sparse.csr_matrix((1 / sizes[codes], (codes, np.arange(cells.n_obs))), shape=(len(sizes), cells.n_obs))
    means = (average @ cells.X).toarray()
    return pd.DataFrame(means.T, index=cells.var_names, columns=types.cat.categories.astype(str))


def _read_h5ad(path: Path, cell_type_key: str | None) -> pd.DataFrame:
    if is_single_cells(path, cell_type_key):
        return average_cells(*read_cells(path, cell_type_key))
    adata = read_h5ad(path)
    if adata.X is None:
        raise LabelError("has no counts", where=path, hint='Store raw counts in X or layers["counts"]')
    table: pd.DataFrame = adata.to_df().T
    return table
