"""Signatures from single cells by cell2location's own regression, which sets the effects of batches aside."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...errors import InputError, LabelError
from ...progress import Progress
from ...provenance import atomic_path, digest_file, digest_json, read_json, versions, write_json
from ..groups import coarser_column
from ..number_tables import read_numbers
from ..signatures import Signatures, average_cells, check_reference, read_cells, set_aside
from .cell2location import most_specific_genes
from .svi import UNFINISHED, Checkpoint, Plan, fit_guide, isolated_torch, moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

#: Files that a folder of labels keeps the fitted signatures in.
TABLE, FACTS = "signatures.csv", "signatures.json"
#: The tutorial of cell2location: genes in over 3 % of the cells, or in over 5 cells with this mean where present.
_FRACTION_OF_CELLS, _FEWEST_CELLS, _MEAN_WHERE_PRESENT = 0.03, 5, 1.12
_BATCH = 2500
#: Begun from the averages of the types, and with some steps in every epoch, it settles early.
_PLAN = Plan(lr=0.02, max_epochs=100, patience=10)
#: What keeps it in minutes: cells of a type at most, and genes (the most specific ones) per gene that is used at last.
_MOST_CELLS, _GENES_PER_GENE = 1000, 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Regression:
    """What decides the fitted signatures, apart from the cells."""

    cell_type_key: str | None
    batch_key: str | None
    covariates: tuple[str, ...]
    n_genes: int
    seed: int
    layer: str | None = None

    def facts(self) -> dict[str, Any]:
        """As they are recorded; fits of versions that had no choice of a layer are those without one."""
        return {name: value for name, value in asdict(self).items() if name != "layer" or value is not None}


def fit_reference(
    path: Path, choice: Regression, folder: Path | None, threads: int | None, progress: Progress
) -> Signatures:
    """Fit cell2location's ``RegressionModel`` to single cells, or take what a folder of labels has of the same fit.

    Genes are filtered as in the tutorial of cell2location, without mitochondrial ones; of the rest the most specific
    are kept (see `most_specific_genes`), twice as many as will be used. Of each type 1000 cells at most, drawn at
    random, have a part. The signatures are posterior means of ``per_cluster_mu_fg``, which cell2location's guide names
    ``inf_aver``.

    Parameters
    ----------
    path
        h5ad of single cells with raw counts (see `read_reference`).
    choice
        Columns of ``obs``: cell types, batches (the additive background and the depth are fitted per batch),
        categorical covariates (each gene has a factor for each of their values); number of genes to be used; seed.
    folder
        Keeps ``signatures.csv``, and the state of an unfinished fit.
    threads, progress
        See `histomix.abundance.deconvolve.svi`.

    Raises
    ------
    LabelError
        The cells cannot be used (see `read_reference`), or a column is missing or has gaps.
    MissingExtraError
        cell2location is not installed.
    """
    digest = digest_file(path)
    identity = digest_json([choice.facts(), digest, asdict(_PLAN), versions("cell2location")])
    stored = None if folder is None else _stored(folder, identity)
    if stored is None:
        cells, types = read_cells(path, choice.cell_type_key, choice.layer)
        table, facts = _fit(cells, types, choice, path, folder, identity, threads, progress)
        if folder is not None:
            with atomic_path(folder / TABLE) as temporary:
                table.to_csv(temporary, index_label="gene", lineterminator="\n")
            # The facts come last: without them, or beside another table, the signatures are fitted anew.
            facts = {"identity": identity, "digest": digest_file(folder / TABLE), "source": Path(path).name, **facts}
            write_json(folder / FACTS, facts)
            _checkpoint(folder, identity).remove()
    else:
        table, facts = stored
        cells, types = read_cells(path, choice.cell_type_key, choice.layer)
        _log.info("%s: signatures fitted before are kept", folder)
    known = {name: facts[name] for name in ("cells", "genes_filtered", "epochs", "loss")}
    made_by = {"regression": {**choice.facts(), **known}}
    signatures = set_aside(table, os.fspath(path), digest, made_by, cells.var.reindex(table.index).fillna(""))
    return replace(signatures, groups=coarser_column(cells.obs, types))


def _stored(folder: Path, identity: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    if not (folder / FACTS).exists() or not (folder / TABLE).exists():
        return None
    try:
        facts = read_json(folder / FACTS)
    except InputError as error:
        _log.warning("%s The signatures are fitted anew", error)
        return None
    if facts.get("identity") != identity or facts.get("digest") != digest_file(folder / TABLE):
        return None
    return read_numbers(folder / TABLE), facts


def _checkpoint(folder: Path, identity: str) -> Checkpoint:
    return Checkpoint(folder / UNFINISHED / "signatures.safetensors", identity)


def _fit(
    cells: AnnData,
    types: pd.Series,
    choice: Regression,
    path: Path,
    folder: Path | None,
    identity: str,
    threads: int | None,
    progress: Progress,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    rng = np.random.default_rng(choice.seed)
    rows = np.sort(np.concatenate([_some(np.flatnonzero(types == name), rng) for name in types.cat.categories]))
    if len(rows) < len(types):
        _log.info("%s: %d of %d cells are used, %d of a type at most", path, len(rows), len(types), _MOST_CELLS)
    columns = [] if choice.batch_key is None else [choice.batch_key]
    columns += choice.covariates
    obs = _categories(cells[rows].obs, columns, path).assign(_type=types.iloc[rows].astype(str).to_numpy())
    averages = check_reference(average_cells(cells, types), os.fspath(path))
    genes = _filtered(cells[rows])
    if len(genes) < 2:
        raise LabelError("no genes are left by the filter of cell2location", where=path, hint="Give more cells")
    genes = genes[most_specific_genes(_per_type(averages.to_numpy()[genes]), _GENES_PER_GENE * choice.n_genes)]
    _log.info("%s: %d of %d genes are kept by the filter", path, len(genes), cells.n_vars)
    with isolated_torch(choice.seed, threads):
        import torch
        from anndata import AnnData
        from cell2location.models import RegressionModel

        counts = cells.X[rows][:, genes].astype(np.float32)
        adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=cells.var_names[genes]))
        RegressionModel.setup_anndata(
            adata,
            batch_key=choice.batch_key,
            labels_key="_type",
            categorical_covariate_keys=list(choice.covariates) or None,
        )
        model = RegressionModel(adata)
        manager = model.adata_manager
        batch, label = (
            torch.from_numpy(manager.get_from_registry(key).astype(np.int64)) for key in ("batch", "labels")
        )
        extra = label
        if choice.covariates:
            extra = torch.from_numpy(manager.get_from_registry("extra_categorical_covs").to_numpy().astype(np.int64))

        def batches() -> Iterator[tuple[torch.Tensor, ...]]:
            order = torch.randperm(len(rows))
            for some in order.split(_BATCH):
                part = torch.from_numpy(counts[some.numpy()].toarray())
                yield part, some, batch[some], label[some], extra[some]

        checkpoint = None if folder is None else _checkpoint(folder, identity)
        losses = fit_guide(model.module, batches, _PLAN, progress, "signatures", checkpoint)
        mean, _ = moments(model.module.guide, "per_cluster_mu_fg")
        table = pd.DataFrame(mean.T, index=adata.var_names, columns=[str(name) for name in model.factor_names_])
    facts = {"cells": len(rows), "genes_filtered": len(genes), "epochs": len(losses), "loss": losses[-1]}
    return table[list(types.cat.categories.astype(str))], facts


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= _MOST_CELLS else rng.choice(rows, _MOST_CELLS, replace=False)


def _categories(obs: pd.DataFrame, columns: list[str], path: Path) -> pd.DataFrame:
    for name in columns:
        if name not in obs or obs[name].isna().any():
            fault = "has gaps in the" if name in obs else "has no"
            raise LabelError(
                f"{fault} column '{name}' of obs (it has: {', '.join(map(str, obs))})",
                where=path,
                hint="Name columns that say something of every cell: batch_key, covariates",
            )
    return obs[columns].astype(str).astype("category")


def _filtered(cells: AnnData) -> np.ndarray:
    """Genes that the filter of cell2location keeps (its function of this name also draws a figure)."""
    present = np.asarray((cells.X > 0).sum(axis=0)).ravel()
    total = np.asarray(cells.X.sum(axis=0)).ravel()
    mean = np.divide(total, present, out=np.zeros(len(total)), where=present > 0)
    kept = (present > _FRACTION_OF_CELLS * cells.n_obs) | ((present > _FEWEST_CELLS) & (mean > _MEAN_WHERE_PRESENT))
    mitochondrial = cells.var_names.str.upper().str.startswith("MT-")
    return np.flatnonzero(kept & ~np.asarray(mitochondrial))


def _per_type(averages: np.ndarray) -> np.ndarray:
    """Averages without types that have none of these genes, which cannot be scored."""
    return averages[:, averages.any(axis=0)]
