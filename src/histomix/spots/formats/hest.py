"""HEST-1k: ``st/<id>.h5ad``, ``wsis/<id>.tif``, ``metadata/<id>.json``, ``patches/<id>.h5`` under one root.

Jaume et al. 2024, "HEST-1k: A Dataset for Spatial Transcriptomics and Histology Image Analysis", arXiv 2406.16192. Its
metadata give ``pixel_size_um_estimated`` (um per px of the WSI), ``spot_diameter`` and ``inter_spot_dist`` (um);
``obsm["spatial"]`` is in px of the WSI. Xenium and Visium HD samples come as square pseudo-spots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.tables import to_numeric
from ...common.words import counted
from ...errors import SectionError
from ...provenance import read_json
from .base import SHEET_IMAGE, Description, Options, SpotFile
from .h5ad import PlainH5AD

if TYPE_CHECKING:
    from anndata import AnnData

_IMAGES = (".tif", ".tiff", ".svs")
#: The key of ``uns["spatial"]`` in every HEST sample.
_LIBRARY = "ST"
#: Difference of the estimated and the embedded um per px beyond which both are told.
_MPP_TOLERANCE = 0.05


class Hest:
    """A HEST-1k sample: its h5ad, or the root folder (with the option ``id`` when it holds several samples)."""

    name = "hest"
    options: Mapping[str, str] = {"id": "the sample, such as TENX95, in a root folder"}

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        if path.is_dir():
            return any((path / "st").glob("*.h5ad")) and ((path / "wsis").is_dir() or (path / "metadata").is_dir())
        return path.suffix == ".h5ad" and _root(path) is not None

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        h5ad = _sample(path, options)
        spots = PlainH5AD().read(h5ad, with_counts, {}).adata
        meta, image = _metadata(h5ad), _image(h5ad)
        mpp, notes = _scale(meta)
        diameter_um, pitch_um = (_number(meta, name) for name in ("spot_diameter", "inter_spot_dist"))
        if diameter_um is None and mpp is not None:
            diameter_px = _scalefactor(spots, "spot_diameter_fullres")
            diameter_um = diameter_px * mpp if diameter_px else None
        if image is None and SHEET_IMAGE not in options:
            notes.append(f"there is no wsis/{h5ad.stem}.tif")
        if not meta:
            notes.append(f"there is no metadata/{h5ad.stem}.json, so neither um per px nor spot size are known")
        elif meta.get("st_technology") in ("Xenium", "Visium HD"):
            notes.append(f"{meta['st_technology']}, pooled by HEST into square pseudo-spots")
        source = "pixel_size_um_estimated of the HEST metadata" if mpp else None
        return SpotFile(_with_array(spots), mpp, source, diameter_um, pitch_um, image, tuple(notes))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        h5ad = _sample(path, options)
        spots, meta = self.read(h5ad, False, {}), _metadata(h5ad)
        technology = meta.get("st_technology", "unknown technology")
        about = [str(meta[key]) for key in ("species", "organ", "oncotree_code") if meta.get(key)]
        contents = [
            f"sample {h5ad.stem} ({', '.join([str(technology), *about])})",
            counted(spots.adata.n_obs, "spot"),
            *([f"{spots.mpp:.4g} um per px"] if spots.mpp else []),
            *([f"spots of {spots.spot_diameter_um:g} um"] if spots.spot_diameter_um else []),
            *spots.notes,
        ]
        if (h5ad.parent.parent / "patches" / f"{h5ad.stem}.h5").exists():
            contents.append("HEST's own patches, which are not used: tiles are cut from the WSI")
        missing = [] if spots.image else ["the WSI"]
        if spots.mpp is None:
            missing.append("um per px")
        if not meta.get("patient"):
            missing.append("the donor: fill in the column by hand")
        row = {"spots": str(h5ad), "format": self.name} | ({"image": str(spots.image)} if spots.image else {})
        if meta.get("patient"):
            row["donor"] = str(meta["patient"])
        if meta.get("organ"):
            row["tissue"] = str(meta["organ"])
        return Description("a HEST-1k sample", tuple(contents), tuple(missing), row)


def _root(h5ad: Path) -> Path | None:
    """The HEST root of an h5ad in its ``st`` folder."""
    root = h5ad.parent.parent
    companions = (root / "metadata" / f"{h5ad.stem}.json", *(root / "wsis" / f"{h5ad.stem}{end}" for end in _IMAGES))
    return root if h5ad.parent.name == "st" and any(path.exists() for path in companions) else None


def _sample(path: Path, options: Options) -> Path:
    if not path.is_dir():
        return path
    samples = {file.stem: file for file in sorted((path / "st").glob("*.h5ad"))}
    wanted = options.get("id")
    if wanted is None and len(samples) == 1:
        return next(iter(samples.values()))
    if wanted in samples:
        return samples[wanted]
    listed = ", ".join(list(samples)[:12]) + (", ..." if len(samples) > 12 else "")
    what = f"has no sample '{wanted}'" if wanted else f"holds {len(samples)} samples"
    raise SectionError(
        f"{what} (in st/: {listed or 'none'})",
        where=path,
        hint=f"Name one after the folder, as in {path.name}#id={next(iter(samples), 'TENX95')}",
    )


def _metadata(h5ad: Path) -> dict[str, Any]:
    path = h5ad.parent.parent / "metadata" / f"{h5ad.stem}.json"
    return read_json(path, hint="Fetch it again from HEST-1k") if path.exists() else {}


def _image(h5ad: Path) -> Path | None:
    paths = (h5ad.parent.parent / "wsis" / f"{h5ad.stem}{end}" for end in _IMAGES)
    return next((path for path in paths if path.exists()), None)


def _number(meta: Mapping[str, Any], name: str) -> float | None:
    """A positive number of the metadata; HEST writes NaN or null where it has none."""
    value = meta.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if known and value is not None else None


def _scale(meta: Mapping[str, Any]) -> tuple[float | None, list[str]]:
    estimated, embedded = (_number(meta, f"pixel_size_um_{kind}") for kind in ("estimated", "embedded"))
    if estimated and embedded and abs(estimated / embedded - 1) > _MPP_TOLERANCE:
        return estimated, [
            f"HEST estimated {estimated:.4g} um per px from the spots; the original image said {embedded:.4g}"
        ]
    return estimated, []


def _scalefactor(adata: AnnData, name: str) -> float | None:
    try:
        value = float(adata.uns["spatial"][_LIBRARY]["scalefactors"][name])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _with_array(adata: AnnData) -> AnnData:
    """Array positions as numbers: HEST stores them as text in some samples."""
    for name in ("array_row", "array_col"):
        if name in adata.obs:
            adata.obs[name] = to_numeric(adata.obs[name])
    return adata


FORMATS = (Hest(),)
