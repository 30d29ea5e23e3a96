"""Prepare a reference of single cells under the name that studies ask for (hub:wu2021-breast, hub:hlca).

Usage: python scripts/prepare_reference.py wu2021-breast [--archive GSE176078_Wu_etal_2021_BRCA_scRNASeq.tar.gz]
       python scripts/prepare_reference.py NAME --cells cells.h5ad --key COLUMN

The first takes the archive of GEO's GSE176078, which is fetched where it is not named (histomix[st]); the second any
file of raw counts with a column of cell types. The result goes into histomix's cache, with a note of its source.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.io import mmread

from histomix.common.cache import cache_folder
from histomix.common.storage.h5ad import write_h5ad
from histomix.common.transfer.download import RemoteFile, download
from histomix.datasets.references import REFERENCES
from histomix.provenance import digest_file, write_json

ARCHIVE = "GSE176078_Wu_etal_2021_BRCA_scRNASeq.tar.gz"
URL = f"https://ftp.ncbi.nlm.nih.gov/geo/series/GSE176nnn/GSE176078/suppl/{ARCHIVE}"
PARTS = ("count_matrix_sparse.mtx", "count_matrix_genes.tsv", "count_matrix_barcodes.tsv", "metadata.csv")
#: Cells of a type that are kept: averages of more are the same.
MOST_CELLS = 2000


def from_archive(path: Path, key: str) -> ad.AnnData:
    """Cells of the archive as GEO has it: genes x cells, and a table with the cell types at three levels."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(path) as files:
            members = {Path(one.name).name: one for one in files.getmembers() if one.isfile()}
            missing = [name for name in PARTS if name not in members]
            if missing:
                raise SystemExit(f"{path} has no {', '.join(missing)}")
            for name in PARTS:
                one = members[name]
                one.name = name
                files.extract(one, folder, filter="data")
        root = Path(folder)
        matrix = sparse.csr_matrix(mmread(root / PARTS[0]).T)
        genes, barcodes = (pd.read_csv(root / name, sep="\t", header=None)[0].astype(str) for name in PARTS[1:3])
        facts = pd.read_csv(root / PARTS[3], index_col=0).loc[barcodes]
    obs = pd.DataFrame({"cell_type": facts[key].astype(str).to_numpy()}, index=pd.Index(barcodes.to_numpy()))
    obs["donor"] = facts["orig.ident"].astype(str).to_numpy()
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(genes.to_numpy())))


def from_cells(path: Path, key: str) -> ad.AnnData:
    cells = ad.read_h5ad(path)
    if key not in cells.obs:
        raise SystemExit(f"{path} has no column {key!r}; it has {', '.join(map(str, cells.obs.columns))}")
    obs = pd.DataFrame({"cell_type": cells.obs[key].astype(str)}, index=cells.obs_names)
    return ad.AnnData(cells.X, obs=obs, var=pd.DataFrame(index=cells.var_names))


def thinned(cells: ad.AnnData, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    kept = []
    for rows in cells.obs.groupby("cell_type", sort=True).indices.values():
        kept.append(rng.choice(rows, MOST_CELLS, replace=False) if len(rows) > MOST_CELLS else rows)
    return cells[np.sort(np.concatenate(kept))].copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(REFERENCES))
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--key", help="column of cell types", default="celltype_major")
    chosen = parser.parse_args()
    folder = cache_folder("references")
    if chosen.cells is not None:
        source, cells = chosen.cells, from_cells(chosen.cells, chosen.key)
    elif chosen.name == "wu2021-breast":
        source = chosen.archive or download(RemoteFile(ARCHIVE, URL, most_bytes=2 << 30), folder)
        cells = from_archive(source, chosen.key)
    else:
        raise SystemExit(
            f"{chosen.name}: {REFERENCES[chosen.name]}; name its cells with --cells FILE.h5ad --key COLUMN"
        )
    cells = thinned(cells)
    target = folder / f"{chosen.name}.h5ad"
    write_h5ad(target, cells)
    write_json(target.with_suffix(".json"), {"source": str(source), "digest": digest_file(source), "key": chosen.key})
    print(f"{target}: {cells.n_obs:,} cells of {cells.obs['cell_type'].nunique()} types, {cells.n_vars:,} genes")


if __name__ == "__main__":
    main()
