"""STNet as published: ``spots_<section>.csv[.gz]`` beside ``<section>_stdata.tsv.gz`` and ``<section>_Coords.tsv``.

He et al. 2020, Nature Biomedical Engineering 4:827; data: doi 10.17632/29ntw7sh4r. Spots are named by their array
position; ``X``, ``Y`` are px of the full-resolution image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ...common import tables
from ...common.words import counted
from ...errors import SectionError
from ..counts import read_counts, read_keys
from .base import Description, Options, SpotFile, no_counts, require_unique
from .st import DIAMETER_UM, PITCH_UM

_NAME = re.compile(r"spots_(?P<section>.+?)\.(csv|tsv|txt)(\.gz)?")
_KEY = re.compile(r"\s*(\d+)\s*[x_,]\s*(\d+)\s*")
_ENDINGS = (".tsv.gz", ".tsv", ".csv.gz", ".csv")


class STNet:
    """STNet's table of spots; counts and tumour annotation are found beside it by the section's name."""

    name = "stnet"
    options: Mapping[str, str] = {}

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        columns = tables.columns_or_none(path) or []
        return _NAME.fullmatch(path.name) is not None and len(columns) == 3 and columns[1:] == ["X", "Y"]

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        from anndata import AnnData

        obs, xy_px = _read(path)
        notes, matrix, var = [], no_counts(len(obs)), None
        counts = _beside(path, "_stdata")
        if counts is not None:
            table = read_counts(counts) if with_counts else None
            rows = (table.keys if table else read_keys(counts)).get_indexer(obs.index)
            has_counts = rows >= 0
            if not has_counts.any():
                raise SectionError(
                    f"shares no spot with the counts {counts.name}", where=path, hint="Give both of one section"
                )
            if not has_counts.all():
                notes.append(
                    f"{counted(int((~has_counts).sum()), 'spot')} of {len(obs):,} have no counts and are dropped"
                )
            obs, xy_px = obs[has_counts], xy_px[has_counts]
            matrix, var = no_counts(len(obs)), None
            if table is not None:
                matrix, var = table.matrix[rows[has_counts]], pd.DataFrame(index=table.genes)
        tumour = _tumour(path, obs.index)
        if tumour is not None:
            obs = obs.assign(tumour=tumour)
        adata = AnnData(X=matrix, obs=obs, var=var, obsm={"spatial": xy_px})
        image = _beside(path, "", (".jpg", ".jpeg", ".tif", ".png"), ("HE_", ""))
        return SpotFile(adata, spot_diameter_um=DIAMETER_UM, spot_pitch_um=PITCH_UM, image=image, notes=tuple(notes))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        spots = self.read(path, False, options)
        counts = _beside(path, "_stdata")
        contents = [counted(spots.adata.n_obs, "spot") + " with their places in px", *spots.notes]
        if counts is not None:
            contents.append(f"counts in {counts.name}")
        if "tumour" in spots.adata.obs:
            contents.append("the pathologist's tumour annotation")
        missing = ([] if counts else ["its counts (<section>_stdata.tsv.gz)"]) + ["um per px of the image"]
        if spots.image is None:
            missing.insert(0, "its image (HE_<section>.jpg)")
        row = {"spots": str(path), "format": self.name} | ({"image": str(spots.image)} if spots.image else {})
        return Description("the spots of one STNet section", tuple(contents), tuple(missing), row)


def _read(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = tables.read_table(path)
    missing = [name for name in ("X", "Y") if name not in table]
    if missing:
        raise SectionError(
            f"lacks {', '.join(missing)} (it has: {', '.join(table.columns[:8])})",
            where=path,
            hint="Give a spots_<section>.csv with the spot, X and Y",
        )
    keys = table.iloc[:, 0]
    matches = [_KEY.fullmatch(key) for key in keys]
    xy_px = np.column_stack([tables.numbers(table, name, path) for name in ("X", "Y")])
    obs = pd.DataFrame(index=pd.Index(keys, name="spot"))
    if all(matches):
        obs.index = pd.Index([f"{int(match[1])}x{int(match[2])}" for match in matches if match], name="spot")
        obs["array_x"] = [float(match[1]) for match in matches if match]
        obs["array_y"] = [float(match[2]) for match in matches if match]
    require_unique(obs.index, path)
    return obs, xy_px


def _beside(path: Path, tail: str, endings: tuple[str, ...] = _ENDINGS, heads: tuple[str, ...] = ("",)) -> Path | None:
    named = _NAME.fullmatch(path.name)
    if named is None:
        return None
    # Counts, spots and image of one section may begin with BC or with BT.
    section = named["section"]
    stems = dict.fromkeys([section, re.sub("^B[CT]", "BC", section), re.sub("^B[CT]", "BT", section)])
    paths = (path.with_name(f"{head}{stem}{tail}{end}") for stem in stems for head in heads for end in endings)
    return next((place for place in paths if place.exists()), None)


def _tumour(path: Path, keys: pd.Index) -> np.ndarray | None:
    """Tumour annotation of the spots as text; their coordinates are array positions, some not whole."""
    annotation = _beside(path, "_Coords", (".tsv", ".tsv.gz"))
    if annotation is None:
        return None
    table = tables.read_table(annotation)
    if not {"xcoord", "ycoord", "tumor"} <= set(table.columns):
        return None
    x, y = (np.round(tables.numbers(table, name, annotation)).astype(int) for name in ("xcoord", "ycoord"))
    labels = pd.Series(table["tumor"].to_numpy(), index=[f"{a}x{b}" for a, b in zip(x, y, strict=True)])
    return labels[~labels.index.duplicated()].reindex(keys).fillna("").to_numpy()


FORMATS = (STNet(),)
