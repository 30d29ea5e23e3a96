"""Public cohorts in the layouts in which they are published: fetched, checked, and read."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.datasets import catalogue
from histomix.errors import DownloadError, InputError

from .published_layouts import lung, made_sections, stnet
from .ranger_files import lattice, table_of_genes, write_factors, write_positions, write_small_images
from .test_fetch import Server, server  # noqa: F401


def test_stnet_is_read_as_it_is_published(server: Server, tmp_path: Path) -> None:  # noqa: F811
    _, sections = made_sections(tmp_path, 2, sources=2)
    server.files = stnet(sections, 2)
    sheet = hm.fetch_cohort("stnet", tmp_path / "stnet", mirror=server.url, progress=False)
    cohort = hm.read_cohort(sheet)
    assert cohort.names == ["BC23000_C1", "BC23001_C1"] and set(cohort.donors.values()) == {"BC23000", "BC23001"}
    section = cohort.section("BC23001_C1")
    assert section.adata.n_obs > 15 and section.adata.X.sum() > 0
    assert float(pd.read_csv(sheet)["mpp"][0]) == pytest.approx(1.0, abs=0.02)
    assert json.loads((tmp_path / "stnet" / "cohort.json").read_text(encoding="utf-8"))["licence"] == "CC BY 4.0"
    asked = len(server.asked)
    hm.fetch_cohort("stnet", tmp_path / "stnet", mirror=server.url, progress=False)
    assert len(server.asked) == asked


def test_a_listing_of_stnet_that_leads_elsewhere_is_refused(server: Server, tmp_path: Path) -> None:  # noqa: F811
    _, sections = made_sections(tmp_path, 1, sources=1)
    server.files = stnet(sections, 1)
    place = next(path for path in server.files if "public-api" in path)
    whole = server.files[place]
    server.files[place] = whole.replace(b"https://data.mendeley.com", b"https://elsewhere.example")
    with pytest.raises(DownloadError, match="another server"):
        hm.fetch_cohort("stnet", tmp_path / "stnet", mirror=server.url, progress=False)
    server.files[place] = whole
    image = next(path for path, data in server.files.items() if data[:2] == b"\xff\xd8")
    server.files[image] += b"more"
    with pytest.raises(DownloadError, match=r"digest|sha256"):
        hm.fetch_cohort("stnet", tmp_path / "stnet", mirror=server.url, progress=False)


def _tar(folder: Path, name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder / name, arcname=name)
    return stream.getvalue()


def _wu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two sections as the record has them: one column of genes, and plain text under names that end in .gz."""
    from scipy import sparse
    from scipy.io import mmwrite

    for number, section in enumerate(("CID4465", "1142243F")):
        positions = lattice(seed=number)
        spatial = folder / "spatial" / f"{section}_spatial"
        write_positions(spatial / "tissue_positions_list.csv", positions, header=False)
        write_factors(spatial)
        write_small_images(spatial)
        barcodes = positions.loc[positions["in_tissue"] == 1, "barcode"].tolist()
        matrix = folder / "filtered_count_matrices" / f"{section}_filtered_count_matrix"
        matrix.mkdir(parents=True)
        genes = table_of_genes(5)["symbol"]
        counts = sparse.random(
            5, len(barcodes), 0.5, "coo", random_state=number, data_rvs=lambda size: np.full(size, 3)
        )
        mmwrite(matrix / "matrix.mtx", counts.astype(int))
        (matrix / "matrix.mtx").rename(matrix / "matrix.mtx.gz")
        (matrix / "features.tsv.gz").write_text("\n".join(genes) + "\n", encoding="utf-8")
        (matrix / "barcodes.tsv.gz").write_text("\n".join(barcodes) + "\n", encoding="utf-8")
        (folder / "metadata").mkdir(exist_ok=True)
        (folder / "metadata" / f"{section}_metadata.csv").write_text("X,patientid\na,1\n", encoding="utf-8")
    wanted = catalogue.Wu2021Visium()
    data = {name: _tar(folder, name) for name, _ in wanted.archives}
    digests = tuple((name, f"md5:{hashlib.md5(data[name]).hexdigest()}") for name in data)
    monkeypatch.setitem(catalogue.COHORTS, wanted.name, catalogue.Wu2021Visium(archives=digests))
    base = wanted.base.partition("://")[2]
    return {f"/{base}/{name}.tar.gz": content for name, content in data.items()}


def test_the_visium_of_wu_becomes_outs(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files = _wu(tmp_path / "made", monkeypatch)
    cohort = hm.read_cohort(hm.fetch_cohort("wu2021-visium", tmp_path / "wu", mirror=server.url, progress=False))
    assert cohort.names == ["1142243F", "CID4465"]
    section = cohort.section("CID4465")
    assert section.adata.X.sum() > 0 and section.adata.var_names[0] == "G0"
    kept = tmp_path / "wu" / "spatial" / "CID4465_spatial" / "scalefactors_json.json"
    kept.write_text("{}", encoding="utf-8")
    with pytest.raises(DownloadError, match="was altered since it was fetched"):
        hm.fetch_cohort("wu2021-visium", tmp_path / "wu", mirror=server.url, progress=False)


def test_what_zenodo_did_not_publish_is_refused(
    server: Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    base = catalogue.Wu2021Visium().base.partition("://")[2]
    server.files = {f"/{base}/filtered_count_matrices.tar.gz": b"<html>"}
    with pytest.raises(DownloadError, match=r"digest|md5"):
        hm.fetch_cohort("wu2021-visium", tmp_path / "wu", mirror=server.url, progress=False)


def test_the_lung_is_read_by_its_sample_table(server: Server, tmp_path: Path) -> None:  # noqa: F811
    _, sections = made_sections(tmp_path, 2, sources=2)
    server.files = lung(tmp_path / "made", sections, 2)
    sheet = hm.fetch_cohort("hist2cell-lung", tmp_path / "lung", mirror=server.url, progress=False)
    cohort = hm.read_cohort(sheet)
    assert cohort.donors == {"WSA_LngSP8759311": "A50", "WSA_LngSP8759312": "A51"}
    assert cohort.section("WSA_LngSP8759311").adata.n_obs > 15
    # Nobody publishes digests: what first arrived is noted, and must stay the same.
    image = tmp_path / "lung" / "WSA_LngSP8759311" / "image.tif"
    image.write_bytes(image.read_bytes() + b"more")
    with pytest.raises(DownloadError, match="was altered since it was fetched"):
        hm.fetch_cohort("hist2cell-lung", tmp_path / "lung", mirror=server.url, progress=False)


def test_a_sample_table_that_is_none_or_leads_out_is_refused(server: Server, tmp_path: Path) -> None:  # noqa: F811
    table = f"/{catalogue.Hist2CellLung().base.partition('://')[2]}/E-MTAB-11640.sdrf.txt"
    server.files = {table: b"<html>Please log in</html>"}
    with pytest.raises(DownloadError, match="no sample table"):
        hm.fetch_cohort("hist2cell-lung", tmp_path / "first", mirror=server.url, progress=False)
    head = b"Source Name\tCharacteristics[individual]\tArray Data File\n"
    server.files = {table: head + b"../../up\tA1\tx_filtered_feature_bc_matrix.h5\n"}
    with pytest.raises(InputError):
        hm.fetch_cohort("hist2cell-lung", tmp_path / "second", mirror=server.url, progress=False)
    assert not (tmp_path / "up").exists()


def test_a_reference_by_name_is_prepared_by_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive of GEO, made small: genes x cells, and a table of cells."""
    import sys

    from scipy import sparse
    from scipy.io import mmwrite

    from histomix.datasets.references import find_reference

    from .repository_files import load_script

    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="has not been prepared"):
        find_reference("hub:wu2021-breast")
    inner = tmp_path / "Wu_etal_2021_BRCA_scRNASeq"
    inner.mkdir()
    cells, genes = [f"CID1_{n}" for n in range(12)], [f"G{n}" for n in range(30)]
    counts = sparse.random(len(genes), len(cells), 0.5, "coo", random_state=0, data_rvs=lambda size: np.full(size, 2))
    mmwrite(inner / "count_matrix_sparse.mtx", counts.astype(int))
    (inner / "count_matrix_genes.tsv").write_text("\n".join(genes) + "\n", encoding="utf-8")
    (inner / "count_matrix_barcodes.tsv").write_text("\n".join(cells) + "\n", encoding="utf-8")
    facts = pd.DataFrame({"orig.ident": "CID1", "celltype_major": ["B-cells", "T-cells"] * 6}, index=cells)
    facts.iloc[::-1].to_csv(inner / "metadata.csv")
    (tmp_path / "archive.tar.gz").write_bytes(_tar(tmp_path, inner.name))
    script = load_script("prepare_reference")
    monkeypatch.setattr(sys, "argv", ["prepare", "wu2021-breast", "--archive", str(tmp_path / "archive.tar.gz")])
    script.main()
    import anndata as ad

    found = ad.read_h5ad(find_reference("hub:wu2021-breast"))
    assert found.shape == (12, 30) and found.obs["cell_type"].tolist() == ["B-cells", "T-cells"] * 6
    assert found.X.sum() == counts.sum()
