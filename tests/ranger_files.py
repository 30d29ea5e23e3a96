"""Space Ranger folders for tests, written with h5py, pandas and scipy only."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite

from .extras import extra_module

COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
MPP = 0.5
SIZE_PX = (3400, 3000)


@dataclass(frozen=True)
class Truth:
    """What was written: all positions, and the counts (spots under tissue x genes) as a dense table."""

    outs: Path
    positions: pd.DataFrame
    counts: pd.DataFrame

    @property
    def spots(self) -> pd.DataFrame:
        return self.positions[self.positions["in_tissue"] == 1].set_index("barcode")


def lattice(rows: int = 16, columns: int = 30, mpp: float = MPP, seed: int = 0) -> pd.DataFrame:
    """Positions of a hexagonal array, 100 um apart, with tissue in an ellipse."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    keep = (row + column) % 2 == 0
    row, column = row[keep], column[keep]
    x_um, y_um = column * 50.0, row * 100 * np.sqrt(3) / 2
    inside = ((column / columns - 0.5) ** 2 + (row / rows - 0.5) ** 2) < 0.2
    rng = np.random.default_rng(seed)
    letters = rng.choice(list("ACGT"), size=(len(row), 16))
    barcodes = ["".join(some) + "-1" for some in letters]
    values = (barcodes, inside.astype(int), row, column, (y_um + 100) / mpp, (x_um + 50) / mpp)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def table_of_genes(genes: int) -> pd.DataFrame:
    ids = [f"ENSG{n:011d}" for n in range(genes)]
    return pd.DataFrame({"id": ids, "symbol": [f"G{n}" for n in range(genes)], "type": "Gene Expression"})


def write_positions(path: Path, positions: pd.DataFrame, header: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        extra_module("st", "pyarrow")
        positions.to_parquet(path, index=False)
    else:
        positions.to_csv(path, index=False, header=header)


def write_h5(path: Path, barcodes: list[str], features: pd.DataFrame, matrix: np.ndarray, layout: int = 3) -> None:
    """``matrix`` is barcodes x features."""
    columns = sparse.csc_matrix(np.asarray(matrix).T)
    with h5py.File(path, "w") as store:
        group = store.create_group("matrix" if layout == 3 else "GRCh38")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"] = columns.data.astype("i4"), columns.indices.astype("i8")
        group["indptr"], group["shape"] = columns.indptr.astype("i8"), np.array(columns.shape, "i4")
        if layout == 3:
            inner = group.create_group("features")
            for name, key in (("id", "id"), ("name", "symbol"), ("feature_type", "type")):
                inner[name] = features[key].to_numpy().astype("S")
            inner["genome"] = np.full(len(features), b"GRCh38")
        else:
            group["genes"] = features["id"].to_numpy().astype("S")
            group["gene_names"] = features["symbol"].to_numpy().astype("S")


def write_mtx(folder: Path, barcodes: list[str], features: pd.DataFrame, matrix: np.ndarray, layout: int = 3) -> None:
    folder.mkdir(parents=True)
    mmwrite(folder / "matrix.mtx", sparse.coo_matrix(np.asarray(matrix).T.astype(int)))
    columns = ["id", "symbol", "type"] if layout == 3 else ["id", "symbol"]
    texts = {
        "barcodes.tsv": "\n".join(barcodes) + "\n",
        f"{'features' if layout == 3 else 'genes'}.tsv": features[columns].to_csv(sep="\t", header=False, index=False),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    if layout == 3:
        for path in list(folder.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()


def write_factors(spatial: Path, mpp: float = MPP, hires: float = 0.2, **more: float) -> None:
    factors = {
        "spot_diameter_fullres": 65 / mpp,
        "fiducial_diameter_fullres": 105 / mpp,
        "tissue_hires_scalef": hires,
        "tissue_lowres_scalef": hires / 4,
    }
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors | more))


def write_small_images(spatial: Path, size_px: tuple[int, int] = SIZE_PX, hires: float = 0.2) -> None:
    for name, scale in (("hires", hires), ("lowres", hires / 4)):
        size = round(size_px[0] * scale), round(size_px[1] * scale)
        Image.new("RGB", size, "white").save(spatial / f"tissue_{name}_image.png")


def make_outs(folder: Path, positions: str = "tissue_positions.csv", matrix: str = "h5", genes: int = 7) -> Truth:
    """A section as Space Ranger leaves it; ``matrix`` is h5, h5-v2, mtx, mtx-v2 or empty."""
    table = lattice()
    outs = folder / "sample" / "outs"
    header = positions != "tissue_positions_list.csv"
    write_positions(outs / "spatial" / positions, table, header)
    write_factors(outs / "spatial")
    write_small_images(outs / "spatial")
    barcodes = sorted(table.loc[table["in_tissue"] == 1, "barcode"])
    counts = np.random.default_rng(1).poisson(0.7, (len(barcodes), genes))
    features = table_of_genes(genes)
    if matrix.startswith("h5"):
        layout = 2 if matrix.endswith("v2") else 3
        write_h5(outs / "filtered_feature_bc_matrix.h5", barcodes, features, counts, layout)
    elif matrix == "mtx":
        write_mtx(outs / "filtered_feature_bc_matrix", barcodes, features, counts)
    elif matrix == "mtx-v2":
        write_mtx(outs / "filtered_gene_bc_matrices" / "GRCh38", barcodes, features, counts, layout=2)
    return Truth(outs, table, pd.DataFrame(counts, index=barcodes, columns=features["symbol"]))


def bins(bin_um: int, side: int, mpp: float = 0.25) -> pd.DataFrame:
    """Positions of ``side`` x ``side`` bins; a corner is not under tissue. The array is turned by 180 degrees."""
    row, column = np.divmod(np.arange(side * side), side)
    x_px, y_px = (side - column - 0.5) * bin_um / mpp + 40, (side - row - 0.5) * bin_um / mpp + 20
    inside = ~((row < side * 0.4) & (column < side * 0.4))
    barcodes = [f"s_{bin_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)]
    values = (barcodes, inside.astype(int), row, column, y_px, x_px)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def make_hd(folder: Path, um: int = 160, sizes: tuple[int, ...] = (2, 8, 16), genes: int = 5) -> dict[int, Truth]:
    """A Visium HD section of ``um`` x ``um``; the counts of all sizes are sums of the finest."""
    outs, mpp = folder / "hd" / "outs", 0.25
    finest = np.random.default_rng(2).poisson(0.2, (um // 2, um // 2, genes))
    found = {}
    for size in sizes:
        side, step = um // size, size // 2
        table = bins(size, side, mpp)
        summed = finest.reshape(side, step, side, step, genes).sum(axis=(1, 3)).reshape(-1, genes)
        square = outs / "binned_outputs" / f"square_{size:03d}um"
        write_positions(square / "spatial" / "tissue_positions.parquet", table)
        write_factors(square / "spatial", mpp, microns_per_pixel=mpp, bin_size_um=float(size))
        inside = table["in_tissue"].to_numpy() == 1
        barcodes = table.loc[inside, "barcode"].tolist()
        features = table_of_genes(genes)
        write_h5(square / "filtered_feature_bc_matrix.h5", barcodes, features, summed[inside])
        found[size] = Truth(square, table, pd.DataFrame(summed[inside], index=barcodes, columns=features["symbol"]))
    return found
