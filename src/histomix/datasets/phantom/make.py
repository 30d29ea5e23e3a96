"""The phantom cohort: synthetic H&E sections and spot counts whose true cells are known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from scipy import sparse

from ...abundance import Abundance
from ...common.storage.h5ad import write_h5ad
from ...common.words import MADE_TISSUE
from ...errors import InputError, MissingFileError
from ...progress import Progress, progress_bars
from ...provenance import atomic_path, read_json
from .cells import Cells, draw_cells
from .counts import SPOT_DIAMETER_UM, SPOT_PITCH_UM, cells_around, draw_counts, make_signatures, spot_lattice
from .donors import CELL_TYPES, make_donor
from .fields import Field
from .stain import fibre_direction, render
from .store import Parameters, is_there, section_name, write_manifest
from .tissue import STEP_UM, make_layout

#: A spot is kept when at least this share of its disc lies on tissue.
_MIN_SPOT_ON_TISSUE = 0.3


def make_phantom(
    folder: str | os.PathLike[str],
    seed: int = 0,
    donors: int = 4,
    sections_per_donor: int = 2,
    size_um: tuple[float, float] = (1600.0, 1600.0),
    mpp: float = 0.5,
    counts: bool = True,
    genes: int = 800,
    workers: int = 2,
    progress: Progress | bool = True,
) -> Path:
    """Make a cohort of synthetic H&E sections with spots, UMI counts and the truth about every cell.

    The folder is written whole or not at all, and a phantom with the same parameters that is there already is kept.
    The same parameters give the same pixels, counts and truth, whatever ``workers`` is.

    Parameters
    ----------
    folder
        Where to write. It gets ``sheet.csv`` (the cohort), ``images/<section>.tif`` (pyramidal TIFF),
        ``spots/<section>.h5ad`` (raw counts, spots on tissue only), ``reference.csv`` (genes x cell types, mean raw
        counts per cell), ``truth/<section>.csv`` (cells per spot: those whose centre lies in the spot's disc),
        ``truth/<section>.cells.csv.gz`` (x_px, y_px and type of every cell) and ``manifest.json``.
    seed
        0 or more.
    donors, sections_per_donor
        Donors differ in stain, tissue and expression; sections of a donor share these and differ in layout.
    size_um
        Width and height of a section, 400 to 6000 um each.
    mpp
        um per pixel of the images, 0.2 to 2.
    counts
        Draw UMI counts and write the reference; without, the spots have no genes.
    genes
        Number of genes, 400 or more.
    workers
        Threads that make sections side by side.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how many sections are made.

    Returns
    -------
    Path
        The written ``sheet.csv``.

    Raises
    ------
    InputError
        A parameter is out of range, or the folder holds something else than this phantom.
    StorageError
        The disk is full or the folder cannot be written.

    Examples
    --------
    >>> sheet = hm.make_phantom("tiny", donors=1, sections_per_donor=1, size_um=(400, 400), progress=False)
    >>> sheet.name
    'sheet.csv'
    """
    parameters = Parameters(
        int(seed),
        int(donors),
        int(sections_per_donor),
        (float(size_um[0]), float(size_um[1])),
        float(mpp),
        bool(counts),
        int(genes),
    )
    parameters.check()
    target = Path(folder)
    if is_there(target, parameters):
        return target / "sheet.csv"

    names = [(d, s) for d in range(parameters.donors) for s in range(parameters.sections_per_donor)]
    with atomic_path(target) as temporary:
        for part in ("images", "spots", "truth"):
            (temporary / part).mkdir(parents=True)
        signatures = make_signatures(parameters.seed, parameters.genes) if parameters.counts else None
        if signatures is not None:
            signatures.to_csv(temporary / "reference.csv", float_format="%.6g", lineterminator="\n")
        rows: list[dict[str, Any]] = [{} for _ in names]
        with progress_bars(progress) as report, ThreadPoolExecutor(max(1, workers)) as pool:
            report("phantom", 0, len(names))
            jobs = {
                pool.submit(_make_section, temporary, parameters, signatures, donor, section): place
                for place, (donor, section) in enumerate(names)
            }
            try:
                for done, job in enumerate(as_completed(jobs), start=1):
                    rows[jobs[job]] = job.result()
                    report("phantom", done, len(names))
            finally:  # after a failure, do not finish what will be thrown away
                pool.shutdown(cancel_futures=True)
        pd.DataFrame(rows).to_csv(temporary / "sheet.csv", index=False, lineterminator="\n")
        write_manifest(temporary, parameters)
    return target / "sheet.csv"


def phantom_truth(folder: str | os.PathLike[str]) -> dict[str, Abundance]:
    """True cells per spot of every section of a phantom.

    Parameters
    ----------
    folder
        A folder that `make_phantom` has written.

    Returns
    -------
    dict
        Section name to `Abundance` in "cells per spot". Some spots (in fat, in lumens, at the edge) hold no cell.

    Raises
    ------
    InputError
        The folder holds no whole phantom.
    """
    root = Path(folder)
    manifest = read_json(root / "manifest.json", hint="Make the phantom with make_phantom")
    if manifest.get("kind") != "phantom":
        raise InputError("the folder holds no phantom", where=root, hint="Make one with make_phantom")
    truth = {}
    for name in manifest["sections"]:
        path = root / "truth" / f"{name}.csv"
        if not path.is_file():
            raise MissingFileError(
                "the phantom's truth is missing", where=path, hint="Delete the folder and make the phantom again"
            )
        values = pd.read_csv(path, index_col="spot", dtype={"spot": str}).astype(np.float64)
        truth[name] = Abundance(
            values, "cells per spot", provenance={"method": "phantom truth", "phantom": manifest["digest"]}
        )
    return truth


def _make_section(
    folder: Path, parameters: Parameters, signatures: pd.DataFrame | None, donor_index: int, section: int
) -> dict[str, Any]:
    """Make and write one section; give its row of the sheet."""
    name, mpp = section_name(donor_index, section), parameters.mpp
    donor = make_donor(parameters.seed, donor_index)
    # One stream per purpose: the layout must not depend on whether counts are drawn, nor on mpp.
    layout_rng, cell_rng, pixel_rng, count_rng = (
        np.random.default_rng([parameters.seed, 31, donor_index, section, purpose]) for purpose in range(4)
    )
    layout = make_layout(layout_rng, donor, parameters.size_um)
    direction = fibre_direction(layout_rng, layout)
    cells = draw_cells(cell_rng, donor, layout, direction)
    picture = render(pixel_rng, donor, layout, cells, direction, mpp)
    _write_image(folder / "images" / f"{name}.tif", picture, mpp)

    spots = spot_lattice(parameters.size_um)
    spots = spots[_share_on_tissue(spots, layout.tissue) >= _MIN_SPOT_ON_TISSUE]
    truth = pd.DataFrame(
        cells_around(spots, cells, SPOT_DIAMETER_UM / 2).astype(np.int64), index=spots.index, columns=list(CELL_TYPES)
    )
    truth.to_csv(folder / "truth" / f"{name}.csv", lineterminator="\n")
    _write_cells(folder / "truth" / f"{name}.cells.csv.gz", cells, mpp)
    genes = pd.Index([], dtype=str, name="gene") if signatures is None else signatures.index
    values = (
        sparse.csr_matrix(np.zeros((len(spots), 0), dtype=np.int32))
        if signatures is None
        else draw_counts(count_rng, parameters.seed, donor_index, signatures, spots, cells)
    )
    adata = ad.AnnData(values, obs=spots[["array_row", "array_col"]].copy(), var=pd.DataFrame(index=genes))
    adata.obsm["spatial"] = spots[["x_um", "y_um"]].to_numpy() / mpp
    write_h5ad(folder / "spots" / f"{name}.h5ad", adata, compression="gzip")
    return {
        "section": name,
        "donor": donor.name,
        "spots": f"spots/{name}.h5ad",
        "image": f"images/{name}.tif",
        "mpp": mpp,
        "tissue": MADE_TISSUE,
        "spot_diameter_um": SPOT_DIAMETER_UM,
        "spot_pitch_um": SPOT_PITCH_UM,
        "format": "h5ad",
    }


def _share_on_tissue(spots: pd.DataFrame, tissue: Field) -> npt.NDArray[np.float64]:
    """Share of each spot's disc that lies on tissue."""
    offsets = np.arange(-27.0, 28.0, 3.0)
    dx, dy = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    disc = np.hypot(dx, dy) <= SPOT_DIAMETER_UM / 2
    columns = ((spots["x_um"].to_numpy()[:, None] + dx[disc]) / STEP_UM).astype(np.intp)
    rows = ((spots["y_um"].to_numpy()[:, None] + dy[disc]) / STEP_UM).astype(np.intp)
    share: npt.NDArray[np.float64] = (
        tissue[rows.clip(0, tissue.shape[0] - 1), columns.clip(0, tissue.shape[1] - 1)] > 0
    ).mean(axis=1)
    return share


def _write_cells(path: Path, cells: Cells, mpp: float) -> None:
    names = np.array(CELL_TYPES)[cells.kind]
    table = pd.DataFrame({"x_px": cells.x_um / mpp, "y_px": cells.y_um / mpp, "type": names})
    # No time in the gzip header: the same cells are the same bytes.
    table.to_csv(
        path, index=False, float_format="%.3f", compression={"method": "gzip", "mtime": 0}, lineterminator="\n"
    )


def _write_image(path: Path, picture: npt.NDArray[np.uint8], mpp: float) -> None:
    """Write a tiled TIFF with JPEG tiles and levels at 1/4 and 1/16, which OpenSlide and QuPath open."""
    levels: Sequence[npt.NDArray[np.uint8]] = [picture, picture[2::4, 2::4], picture[8::16, 8::16]]
    with tifffile.TiffWriter(path) as writer:
        for level, pixels in enumerate(levels):
            writer.write(
                np.ascontiguousarray(pixels),
                photometric="rgb",  # the JPEG codec itself turns it into YCbCr
                compression="jpeg",
                compressionargs={"level": 90},
                tile=(256, 256),
                subfiletype=1 if level else 0,
                resolution=(1e4 / (mpp * 4**level), 1e4 / (mpp * 4**level)),
                resolutionunit="CENTIMETER",
                software="histomix",
                metadata=None,
            )
