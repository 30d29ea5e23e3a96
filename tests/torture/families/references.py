"""References: signatures in a table, and single cells as people have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .. import commands, inputs
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_hdf5, of_text


def _section(room: Path) -> None:
    inputs.with_sheet(inputs.h5ad, "spots.h5ad", mpp="0.5", spot_diameter_um="55")(room, None)  # type: ignore[arg-type]


def _table(room: Path, _materials: object) -> None:
    _section(room)


def _cells(room: Path, _materials: object) -> None:
    _section(room)
    (room / "reference.csv").unlink()
    inputs.single_cells().write_h5ad(room / "cells.h5ad")


def _role(name: str, file: str, make: inputs.Maker, *more: str) -> Role:
    def argv(_room: Path, _materials: object) -> list[str]:
        return commands.label(*more, reference=file)

    return Role(name, file, make, argv, lambda _room: commands.labels_of())


def _changed(change: Callable[[ad.AnnData], ad.AnnData | None]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        cells = ad.read_h5ad(path)
        changed = change(cells)
        (cells if changed is None else changed).write_h5ad(path)

    return apply


def _scaled(cells: ad.AnnData, per_cell: float) -> np.ndarray:
    counts = cells.X.toarray()
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * per_cell


def _set(value: Callable[[ad.AnnData], object]) -> Damage:
    def change(cells: ad.AnnData) -> None:
        cells.X = value(cells)

    return _changed(change)


def _keep_raw(cells: ad.AnnData) -> None:
    cells.raw = cells.copy()
    cells.X = sparse.csr_matrix(np.log1p(_scaled(cells, 1e4)).astype(np.float32))


def _keep_layer(name: str) -> Callable[[ad.AnnData], None]:
    def change(cells: ad.AnnData) -> None:
        cells.layers[name] = cells.X.copy()
        cells.X = sparse.csr_matrix(np.log1p(_scaled(cells, 1e4)).astype(np.float32))

    return change


def _named(cells: ad.AnnData) -> ad.AnnData:
    var = pd.DataFrame({"feature_name": cells.var_names}, index=[f"ENSG{n:011d}" for n in range(cells.n_vars)])
    return ad.AnnData(cells.X, obs=cells.obs, var=var)


def _prefixed(cells: ad.AnnData) -> ad.AnnData:
    human, mouse = (f"{genome}_" + cells.var_names.to_series() for genome in ("GRCh38", "mm10"))
    both = sparse.hstack([cells.X, cells.X[::-1]]).tocsr()
    return ad.AnnData(both, obs=cells.obs, var=pd.DataFrame(index=[*human, *mouse]))


def _without(name: str) -> Callable[[ad.AnnData], None]:
    def change(cells: ad.AnnData) -> None:
        del cells.obs[name]

    return change


def _one_type(cells: ad.AnnData) -> None:
    cells.obs["cell_type"] = "B cells"


def _unknown(cells: ad.AnnData) -> None:
    types = cells.obs["cell_type"].astype(object)
    types.iloc[:6] = np.nan
    cells.obs["cell_type"] = types.astype("category")


def _numbered(cells: ad.AnnData) -> None:
    cells.obs["cell_type"] = np.arange(cells.n_obs) / 7


def _twins(cells: ad.AnnData) -> None:
    cells.obs_names = ["c0"] * cells.n_obs


def _marked(cells: ad.AnnData) -> None:
    cells.uns["log1p"] = {}


def _one(value: float) -> Callable[[ad.AnnData], object]:
    def change(cells: ad.AnnData) -> np.ndarray:
        X = cells.X.toarray().astype(np.float64)
        X[3, 2] = value
        return X

    return change


def _by_type(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """A table of signatures in another scale."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        table = pd.read_csv(path, index_col=0)
        pd.DataFrame(change(table.to_numpy()), table.index, table.columns).to_csv(path, index_label="gene")

    return apply


def _signatures(room: Path, _materials: object) -> None:
    _section(room)
    inputs.SIGNATURES.to_csv(room / "signatures.csv", index_label="gene")


def cases() -> Iterator[Case]:
    """Cases of references."""
    # Without a column there is one type fewer, which nobody can tell.
    texts = [
        (name, damage, UNTOLD if name == "column-lost" else expect) for name, damage, expect in of_text.table(1, 2)
    ]
    yield from cases_of(_role("reference-table", "reference.csv", _table), texts)
    scales: list[tuple[str, Damage, str]] = [
        ("1e12", _by_type(lambda values: values * 1e12), ERROR),
        ("negative", _by_type(lambda values: values - values.mean()), ERROR),
        ("zero", _by_type(lambda values: values * 0), ERROR),
        ("one-type-zero", _by_type(lambda values: values * np.array([0, 1, 1])), ERROR),
    ]
    yield from cases_of(_role("signatures", "signatures.csv", _signatures), scales)
    damages: list[tuple[str, Damage, str]] = [
        ("log1p", _set(lambda cells: np.log1p(cells.X.toarray())), ERROR),
        ("log1p-float32", _set(lambda cells: np.log1p(cells.X.toarray()).astype(np.float32)), ERROR),
        ("log1p-cp10k", _set(lambda cells: np.log1p(_scaled(cells, 1e4))), ERROR),
        ("log2", _set(lambda cells: np.log2(1 + cells.X.toarray())), ERROR),
        ("log10", _set(lambda cells: np.log10(1 + cells.X.toarray())), ERROR),
        ("cpm", _set(lambda cells: _scaled(cells, 1e6)), ERROR),
        ("fractions", _set(lambda cells: _scaled(cells, 1)), ERROR),
        ("z-scores", _set(lambda cells: cells.X.toarray() - cells.X.toarray().mean(axis=0)), ERROR),
        ("sqrt", _set(lambda cells: np.sqrt(cells.X.toarray())), ERROR),
        ("dense", _set(lambda cells: cells.X.toarray()), RIGHT),
        ("csc", _set(lambda cells: cells.X.tocsc()), RIGHT),
        ("int64", _set(lambda cells: cells.X.toarray().astype(np.int64)), RIGHT),
        ("nan", _set(_one(np.nan)), ERROR),
        ("infinite", _set(_one(np.inf)), ERROR),
        ("negative", _set(_one(-1)), ERROR),
        ("one-1e12", _set(_one(1e12)), ERROR),
        ("all-zero", _set(lambda cells: cells.X * 0), ERROR),
        ("counts-in-raw", _changed(_keep_raw), RIGHT),
        ("counts-in-layer", _changed(_keep_layer("counts")), RIGHT),
        ("counts-in-other-layer", _changed(_keep_layer("umi")), RIGHT),
        ("ensembl", _changed(_named), RIGHT),
        ("genes-lower", _changed(lambda cells: _renamed(cells, str.lower)), UNTOLD),
        ("genes-other", _changed(lambda cells: _renamed(cells, lambda name: f"X{name}")), ERROR),
        ("two-genomes", _changed(_prefixed), EITHER),
        ("transposed", _changed(lambda cells: cells.T), ERROR),
        ("no-key", _changed(_without("cell_type")), UNTOLD),
        ("one-type", _changed(_one_type), ERROR),
        ("some-unknown", _changed(_unknown), UNTOLD),
        ("types-numbers", _changed(_numbered), UNTOLD),
        ("cells-twins", _changed(_twins), EITHER),
        ("marked-log", _changed(_marked), EITHER),
        ("two-cells", _changed(lambda cells: cells[:2].copy()), UNTOLD),
        ("no-cells", _changed(lambda cells: cells[:0].copy()), ERROR),
        ("no-genes", _changed(lambda cells: cells[:, :0].copy()), ERROR),
        ("no-x", _changed(lambda cells: ad.AnnData(obs=cells.obs, var=cells.var)), ERROR),
    ]
    role = _role("reference-cells", "cells.h5ad", _cells)
    # Without columns, a few rows may as well be the cell types themselves.
    blind = [(name, damage, UNTOLD if name == "obs-compound" else expect) for name, damage, expect in of_hdf5.h5ad()]
    yield from cases_of(role, [*damages, *blind, *of_bytes.BROKEN, *of_bytes.LOST, *of_bytes.flipped(4, UNTOLD)])


def _renamed(cells: ad.AnnData, rename: Callable[[str], str]) -> None:
    cells.var_names = [rename(name) for name in cells.var_names]
