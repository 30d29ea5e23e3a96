"""Whole inputs of every format, small: seven genes, three cell types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from tests.ranger_files import make_hd, make_outs, table_of_genes, write_h5

from .materials import Materials

GENES = [f"G{number}" for number in range(7)]
TYPES = ["B cells", "Stroma", "Tumour"]
SIGNATURES = pd.DataFrame(np.random.default_rng(5).gamma(0.6, 4, (7, 3)).round(3) + 0.05, index=GENES, columns=TYPES)
Maker = Callable[[Path, Materials], object]


def _counts(spots: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.dirichlet(np.ones(3), spots) @ SIGNATURES.to_numpy().T * 3)


def _grid(side: int = 6, pitch: float = 200.0) -> np.ndarray:
    y, x = (part.ravel() for part in np.mgrid[:side, :side])
    return np.column_stack([x, y]) * pitch + 150.0


def sheet(spots: str, **more: str) -> str:
    """A sheet of one section without an image."""
    row = {"section": "S", "donor": "P", "spots": spots, "image": "", **more}
    return f"{','.join(row)}\n{','.join(row.values())}\n"


def with_sheet(make: Callable[[Path], object], spots: str, **more: str) -> Maker:
    """What ``make`` writes, with a reference and a sheet."""

    def made(room: Path, _materials: Materials) -> None:
        make(room)
        SIGNATURES.to_csv(room / "reference.csv", index_label="gene")
        (room / "sheet.csv").write_text(sheet(spots, **more))

    return made


def st(room: Path) -> None:
    """Legacy ST: a selection and a table of counts."""
    y, x = (part.ravel() for part in np.mgrid[5:11, 4:10])
    frame = pd.DataFrame(
        {"x": x, "y": y, "new_x": x + 0.1, "new_y": y - 0.1, "pixel_x": 286.5 * x, "pixel_y": 286.5 * y}
    )
    frame.assign(selected=1).to_csv(room / "a_selection.tsv", sep="\t", index=False)
    keys = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    pd.DataFrame(_counts(len(x)), index=keys, columns=GENES).to_csv(room / "counts.tsv", sep="\t")


def visium(positions: str, matrix: str) -> Callable[[Path], object]:
    """Space Ranger's folder."""
    return lambda room: make_outs(room, positions, matrix)


def visium_hd(room: Path) -> None:
    """Bins of 8 um."""
    make_hd(room, sizes=(8,), genes=7)


def hest(room: Path) -> None:
    """A sample of HEST-1k."""
    for name in ("st", "wsis", "metadata"):
        (room / "hest" / name).mkdir(parents=True)
    row, column = (part.ravel() for part in np.mgrid[:5, :6])
    column = 2 * column + row % 2
    xy = np.column_stack([200 + column * 100 / 0.92, 150 + row * 100 / 0.46 * np.sqrt(0.75)])
    obs = pd.DataFrame({"in_tissue": 1, "array_row": row, "array_col": column}, index=[f"s{n}" for n in range(30)])
    counts = sparse.csr_matrix(_counts(30).astype(np.float32))
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES), obsm={"spatial": xy}).write_h5ad(
        room / "hest/st/T1.h5ad"
    )
    facts = {
        "id": "T1", "patient": "P", "organ": "Breast", "st_technology": "Visium", "pixel_size_um_embedded": 0.4599,
        "pixel_size_um_estimated": 0.46, "spot_diameter": 55.0, "inter_spot_dist": 100.0,
    }  # fmt: skip
    (room / "hest" / "metadata" / "T1.json").write_text(json.dumps(facts))


def h5ad(room: Path) -> None:
    """Spots in AnnData."""
    obs = pd.DataFrame(index=[f"s{number}" for number in range(36)])
    counts = sparse.csr_matrix(_counts(36).astype(np.float32))
    table = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES), obsm={"spatial": _grid()})
    table.write_h5ad(room / "spots.h5ad")


def csv(room: Path) -> None:
    """Places and counts in CSV."""
    keys = pd.Index([f"s{number}" for number in range(36)], name="spot")
    pd.DataFrame(_grid(), index=keys, columns=["x_px", "y_px"]).to_csv(room / "spots.csv")
    pd.DataFrame(_counts(36), index=keys, columns=GENES).to_csv(room / "counts.csv")


def beads(room: Path) -> None:
    """Slide-seq's tables."""
    rng = np.random.default_rng(0)
    keys = ["".join(rng.choice(list("ACGT"), 14)) for _ in range(40)]
    places = pd.DataFrame(
        rng.uniform(0, 5000, (40, 2)), columns=["xcoord", "ycoord"], index=pd.Index(keys, name="barcodes")
    )
    places.to_csv(room / "Puck_BeadLocationsForR.csv")
    pd.DataFrame(_counts(40).T, index=pd.Index(GENES, name="GENE"), columns=keys).to_csv(
        room / "Puck_MappedDGEForR.csv"
    )


def stnet(room: Path) -> None:
    """STNet's tables."""
    x, y = (part.ravel() for part in np.mgrid[3:9, 10:16])
    keys = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    pd.DataFrame({"": keys, "X": 300.0 * x, "Y": 300.0 * y}).to_csv(room / "spots_BT1_C1.csv.gz", index=False)
    pd.DataFrame(_counts(36), index=keys, columns=GENES).to_csv(room / "BC1_C1_stdata.tsv.gz", sep="\t")


def cells(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """Typed cells in px of an image of 1200 x 900."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((5, 5), (1195, 895), (count, 2)).round(3)
    table = {"x_px": xy[:, 0], "y_px": xy[:, 1], "cell_type": rng.choice(TYPES, count)}
    return pd.DataFrame(table, index=pd.Index([f"aaaa{n:04d}-1" for n in range(count)], name="cell_id"))


def cell_table(room: Path) -> None:
    """A plain table of cells."""
    cells().to_csv(room / "cells.csv")


def h5ad_cells(room: Path) -> None:
    """Cells in AnnData."""
    table = cells()
    obs = pd.DataFrame({"cell_type": pd.Categorical(table["cell_type"])}, index=list(table.index))
    counts = sparse.csr_matrix(_counts(len(obs)).astype(np.float32))
    places = {"spatial": table[["x_px", "y_px"]].to_numpy()}
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES), obsm=places).write_h5ad(room / "cells.h5ad")


def xenium(kind: str) -> Callable[[Path], object]:
    """Xenium's folder, its cells in Parquet or CSV."""

    def make(room: Path) -> None:
        folder, table = room / "xenium", cells()
        folder.mkdir()
        um = table[["x_px", "y_px"]].to_numpy() * 0.2125 * 1.3 + 100
        stored = pd.DataFrame(
            {"cell_id": table.index, "x_centroid": um[:, 0], "y_centroid": um[:, 1], "cell_area": 40.0}
        )
        if kind == "parquet":
            stored.to_parquet(folder / "cells.parquet", index=False)
        else:
            stored.to_csv(folder / "cells.csv.gz", index=False)
        (folder / "experiment.xenium").write_text(json.dumps({"pixel_size": 0.2125, "major_version": 2}))
        matrix = np.array([[1.3, 0.0, 100 / 0.2125], [0.0, 1.3, 100 / 0.2125], [0.0, 0.0, 1.0]])
        pd.DataFrame(matrix).to_csv(folder / "run_he_imagealignment.csv", header=False, index=False)
        table[["cell_type"]].rename(columns={"cell_type": "group"}).to_csv(folder / "types.csv")

    return make


def segmented(room: Path) -> None:
    """Cells that Space Ranger 4 segmented."""
    folder = room / "outs" / "segmented_outputs"
    (folder / "spatial").mkdir(parents=True)
    factors = {"microns_per_pixel": 0.5, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.01}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    features, places = [], cells(60)[["x_px", "y_px"]].to_numpy()
    for number, (x, y) in enumerate(places, 1):
        ring = [[x - 4, y - 4], [x + 4, y - 4], [x + 4, y + 4], [x - 4, y + 4], [x - 4, y - 4]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"cell_id": number}})
    collection = {"type": "FeatureCollection", "features": features}
    (folder / "cell_segmentations.geojson").write_text(json.dumps(collection))
    barcodes = [f"cellid_{number:09d}-1" for number in range(1, 61)]
    write_h5(folder / "filtered_feature_cell_matrix.h5", barcodes, table_of_genes(7), _counts(60))


def single_cells(count: int = 60) -> ad.AnnData:
    """A reference of single cells: whole counts, types in ``obs``."""
    rng = np.random.default_rng(1)
    types = np.arange(count) % 3
    counts = rng.poisson(SIGNATURES.to_numpy().T[types] * 4)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([TYPES[one] for one in types])}, index=[f"c{n}" for n in range(count)]
    )
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))
