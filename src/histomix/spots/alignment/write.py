"""Corrected spots on disk, with the transformation that made them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from numpy.typing import ArrayLike

from ...provenance import atomic_path, digest_bytes, versions, write_json
from .proposal import Proposal, apply_alignment, as_affine

if TYPE_CHECKING:
    from ..section import Section

_ARRAY_COLUMNS = ("array_x", "array_y", "array_row", "array_col", "in_tissue")


def write_spots_csv(section: Section, affine: Proposal | ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Write the spots of a section after an affine, as a CSV that the column ``spots`` of a sheet can name.

    ``<path>.transform.json`` beside it records the transformation: section, matrix, the proposal's numbers if it came
    from one, and the digest of the CSV. The section's own files are not touched.

    Parameters
    ----------
    section
        The section as read.
    affine
        2 x 3 matrix, px to px, or a `Proposal`; an ambiguous one is the caller's choice to take.
    path
        CSV with ``spot``, ``x_px``, ``y_px`` and the array positions of the section.

    Raises
    ------
    SectionError
        The affine is no invertible 2 x 3 matrix.
    StorageError
        The files cannot be written.
    """
    path = Path(path)
    matrix = as_affine(affine)
    x_px, y_px = apply_alignment(section.adata, matrix).T
    table = pd.DataFrame({"x_px": x_px.round(3), "y_px": y_px.round(3)}, index=section.keys.rename("spot"))
    for column in _ARRAY_COLUMNS:
        if column in section.adata.obs:
            table[column] = section.adata.obs[column].to_numpy()
    content = table.to_csv(lineterminator="\n").encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    write_json(
        path.with_name(f"{path.name}.transform.json"),
        {
            "section": section.name,
            "read_from": section.where,
            "spots": len(table),
            "affine_px": matrix.tolist(),
            "formula": "x' = a x + b y + c, y' = d x + e y + f; rows of affine_px are (a, b, c) and (d, e, f)",
            "proposal": None
            if not isinstance(affine, Proposal)
            else {
                "verdict": affine.verdict,
                "change": affine.change,
                "on_tissue": [affine.on_tissue_before, affine.on_tissue],
                "overlap": [affine.overlap_before, affine.overlap],
                "runner_up": affine.runner_up,
                "runner_up_overlap": affine.runner_up_overlap if affine.runner_up else None,
            },
            "csv": digest_bytes(content),
            "versions": versions("numpy", "scipy", "pandas"),
        },
    )
    return path
