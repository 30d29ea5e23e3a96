"""Cells that Space Ranger 4 segmented: its polygons as cells, with their counts and the scale of the image."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histomix.errors import SectionError
from histomix.spots import inspect_data, read_cohort
from histomix.spots.readers import detect_format, read_section_spots

from .ranger_files import make_hd, table_of_genes, write_h5

N = 40


def make(outs: Path, counts: bool = True) -> Path:
    """Cells of 8 px in rows of ten, 60 px apart; each third has no counts."""
    folder = outs / "segmented_outputs"
    (folder / "spatial").mkdir(parents=True)
    factors = {"microns_per_pixel": 0.5, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.01}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    features = []
    for cell in range(1, N + 1):
        x, y = 20 + 60 * ((cell - 1) % 10), 20 + 60 * ((cell - 1) // 10)
        ring = [[x - 4, y - 4], [x + 4, y - 4], [x + 4, y + 4], [x - 4, y + 4], [x - 4, y - 4]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"cell_id": cell}})
    collection = {"type": "FeatureCollection", "features": features}
    (folder / "cell_segmentations.geojson").write_text(json.dumps(collection))
    if counts:
        cells = [cell for cell in range(1, N + 1) if cell % 3]
        values = np.array([[cell, 1] for cell in cells])
        barcodes = [f"cellid_{cell:09d}-1" for cell in cells]
        write_h5(folder / "filtered_feature_cell_matrix.h5", barcodes, table_of_genes(2), values)
    return folder


def test_segmented_cells_are_read_as_cells(tmp_path: Path) -> None:
    folder = make(tmp_path / "outs")
    for path in (folder, tmp_path / "outs", tmp_path, folder / "cell_segmentations.geojson"):
        assert detect_format(path) == "visium-hd-cells"
    found = read_section_spots(folder, "visium-hd-cells", with_counts=True, options={"at": "cells"})
    cells = [cell for cell in range(1, N + 1) if cell % 3]
    assert list(found.adata.obs_names) == [f"cellid_{cell:09d}-1" for cell in cells]
    assert found.adata.X.toarray()[:, 0].tolist() == cells
    assert found.adata.obsm["spatial"][0].tolist() == [20.0, 20.0]
    assert (found.mpp, found.mpp_source) == (0.5, "microns_per_pixel of scalefactors_json.json")
    assert "13 cells of 40 have no counts and are dropped" in found.notes
    tiles = read_section_spots(folder, "visium-hd-cells", with_counts=True)
    assert tiles.spot_diameter_um == 112 and tiles.adata.X.sum() == sum(cells) + len(cells)


def test_types_of_segmented_cells_come_from_a_table(tmp_path: Path) -> None:
    folder = make(tmp_path / "outs", counts=False)
    lines = [f"cellid_{cell:09d}-1,{'T' if cell % 2 else 'B'}" for cell in range(1, N + 1)]
    (folder / "types.csv").write_text("\n".join(["cell_id,cell_type", *lines]) + "\n")
    Image.new("RGB", (700, 300), "pink").save(tmp_path / "he.png")
    row = "a,P,outs/segmented_outputs#types=types.csv,he.png"
    (tmp_path / "sheet.csv").write_text(f"section,donor,spots,image\n{row}\n")
    counts = read_cohort(tmp_path / "sheet.csv").section("a").adata.obsm["cell_counts"]
    assert counts.sum().to_dict() == {"B": 20, "T": 20}


def test_where_bins_are_too_they_are_read_and_the_cells_are_told(tmp_path: Path) -> None:
    outs = make_hd(tmp_path, sizes=(8,))[8].outs.parent.parent
    folder = make(outs)
    assert detect_format(outs) == "visium-hd" and detect_format(folder) == "visium-hd-cells"
    assert "segmented cells in segmented_outputs: name that folder" in " ".join(inspect_data(outs).description.contents)
    described = inspect_data(folder)
    assert described.rows[0]["section"] == "hd" and "0.5 um per px" in " ".join(described.description.contents)


def test_what_segmented_outputs_may_lack(tmp_path: Path) -> None:
    folder = make(tmp_path / "outs")
    file = folder / "cell_segmentations.geojson"
    text = file.read_bytes()
    file.write_bytes(text.replace(b'"cell_id": 7', b'"name": 7'))
    with pytest.raises(SectionError, match="feature 7 has no cell_id"):
        read_section_spots(folder, "visium-hd-cells")
    file.write_bytes(text[:2000])
    with pytest.raises(SectionError, match="is no JSON"):
        read_section_spots(folder, "visium-hd-cells")
    file.unlink()
    (folder / "cell_segmentations.geojson.gz").write_bytes(gzip.compress(text))
    assert read_section_spots(folder, "visium-hd-cells", options={"at": "cells"}).adata.n_obs == N
    write_h5(folder / "filtered_feature_cell_matrix.h5", ["cellid_000000999-1"], table_of_genes(2), np.ones((1, 2)))
    with pytest.raises(SectionError, match="has counts of other cells"):
        read_section_spots(folder, "visium-hd-cells", with_counts=True)
