"""SpatialData stores (Zarr v2 and v3): a table, the shapes or labels it annotates, and the image they lie on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ...common.geometry.pitch import spot_pitch
from ...common.strangers.annotated import check_sparse, is_anndata_zarr
from ...common.strangers.zarr import check_zarr
from ...common.words import counted
from ...errors import MissingExtraError, SectionError
from ...slides.readers.zarr import image_names
from ..alignment.layout import array_positions
from .base import SHEET_IMAGE, Description, Options, SpotFile, no_counts, require_unique
from .cells.placement import DISTORTION

if TYPE_CHECKING:
    from anndata import AnnData

_KINDS = ("shapes", "labels", "points")
#: Coordinate systems that are in um, by their names in common use.
_MICRONS = ("microns", "micron", "micrometers", "micrometer", "um")
#: With fewer of the table's instances than this in its region, they are taken for another section's.
_MIN_MATCHED = 0.5
#: Visium: spot pitch and diameter in um (10x Genomics).
_VISIUM_PITCH_UM, _VISIUM_DIAMETER_UM = 100.0, 55.0
_FAULTS = (
    OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, LookupError, AssertionError, SystemError,
)  # fmt: skip


class SpatialDataStore:
    """A ``.zarr`` of spatialdata. Centres of the table's instances come out in px of the image."""

    name = "spatialdata"
    options: Mapping[str, str] = {
        "table": "the table, when there are several",
        "image": "the image that the spots lie on, when there are several",
        "region": "the element that the spots are, when the table annotates several",
        "coordinate_system": "the system that spots and image share (default: global)",
        "mpp": "um per px of the image",
    }

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        if not path.is_dir() or is_anndata_zarr(path):
            return False
        stored = any((path / mark).exists() for mark in ("zarr.json", ".zgroup", ".zattrs"))
        inside = any((path / name).is_dir() for name in ("tables", "table", *_KINDS, "images"))
        return path.suffix == ".zarr" or (stored and inside)

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        from .cells.gather import positive

        store = _open(path)
        table, region, instances = _table(store, path, options)
        element = _element(store, region, path)
        image_name = _image_name(path, options)
        system = _system(store, element, image_name, path, options)
        centres, radii = _centres(element, system, path)
        notes: list[str] = []
        if table is None:
            instances = centres.index
            table = _bare(instances)
        rows = centres.index.get_indexer(instances)
        matched = rows >= 0
        if matched.mean() < _MIN_MATCHED:
            raise SectionError(
                f"{matched.sum():,} of the {len(matched):,} instances of the table are in '{region}' (table: "
                f"{', '.join(map(str, instances[:3]))}; '{region}': {', '.join(map(str, centres.index[:3]))})",
                where=path,
                hint="Store the table with the instance_key of its region",
            )
        if not matched.all():
            notes.append(f"{counted(int((~matched).sum()), 'row')} of the table are not in '{region}' and are dropped")
        to_px = np.eye(3) if image_name is None else _inverse(store.images[image_name], image_name, system, path)
        if image_name is None:
            notes.append(f"no image of the store is used: the coordinate system '{system}' is taken to be px")
        xy_px = centres.to_numpy()[rows[matched]] @ to_px[:2, :2].T + to_px[:2, 2]
        adata = _spots(table[matched], xy_px, with_counts, path)
        mpp, source, pitch_um, diameter_um = _sizes(store, image_name, adata)
        if "mpp" in options:
            mpp, source = positive(options["mpp"], "mpp", path), "option mpp"
        if radii is not None and mpp is not None and diameter_um is None:
            scale = float(np.sqrt(abs(np.linalg.det(to_px[:2, :2]))))
            diameter_um = 2 * float(np.median(radii)) * scale * mpp
        image = path / "images" / image_name if image_name else None
        return SpotFile(adata, mpp, source, diameter_um, pitch_um, image, tuple(notes))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        store = _open(path)
        contents = []
        for kind in ("tables", *_KINDS, "images"):
            names = image_names(path) if kind == "images" else list(getattr(store, kind))
            if names:
                contents.append(f"{kind}: {', '.join(names)}")
        missing = [] if image_names(path) else ["an image"]
        row = {"spots": str(path), "format": self.name}
        try:
            spots = self.read(path, False, options)
        except SectionError as error:
            missing.append(f"a choice: {error.what}. {error.hint}")
        else:
            contents += [counted(spots.adata.n_obs, "spot"), *spots.notes]
            if spots.mpp is None:
                missing.append("um per px of the image")
            else:
                contents.append(f"{spots.mpp:.4g} um per px ({spots.mpp_source})")
            if not list(store.tables):
                missing.append("counts")
        if options:
            row["spots"] += "#" + ";".join(f"{key}={value}" for key, value in options.items() if key != SHEET_IMAGE)
        return Description("a SpatialData store", tuple(contents), tuple(missing), row)


def _open(path: Path) -> Any:
    try:
        import spatialdata
    except ImportError as error:
        raise MissingExtraError("spatialdata", "st", "reading a SpatialData store") from error
    check_zarr(path, SectionError)
    try:
        with warnings.catch_warnings():  # of the age of a store, which is still read in full
            warnings.simplefilter("ignore", UserWarning)
            return spatialdata.read_zarr(path)
    except _FAULTS as error:
        raise SectionError(
            f"cannot be read as SpatialData ({type(error).__name__}: {error})",
            where=path,
            hint="Write it again with a current spatialdata, or copy it again",
        ) from error


def _choose(what: str, names: Iterable[str], option: str, options: Options, path: Path) -> str | None:
    """The name that an option gives, or the only one; None when there is none."""
    known = sorted(names)
    wanted = options.get(option)
    if wanted is not None and wanted not in known:
        raise SectionError(
            f"has no {what} '{wanted}' (it has: {', '.join(known) or 'none'})", where=path, hint="Name one of these"
        )
    if wanted is None and len(known) > 1:
        raise SectionError(
            f"holds {len(known)} {what}s: {', '.join(known)}",
            where=path,
            hint=f"Name one after the store, as in {path.name}#{option}={known[0]}",
        )
    return wanted or (known[0] if known else None)


def _table(store: Any, path: Path, options: Options) -> tuple[AnnData | None, str, pd.Index]:
    """The table's rows of one region (None without tables), the region, and the instance of each row."""
    name = _choose("table", store.tables, "table", options, path)
    if name is None:
        shapes = _choose("shapes element", store.shapes, "region", options, path)
        if shapes is None:
            raise SectionError("has neither a table nor shapes", where=path, hint="Store the spots as shapes")
        return None, shapes, pd.Index([])
    table = store.tables[name]
    try:
        check_sparse(table)
    except ValueError as error:
        raise SectionError(f"the table '{name}': {error}", where=path, hint="Copy or write the store again") from error
    attrs = table.uns.get("spatialdata_attrs") or {}
    regions, region_key, instance_key = (attrs.get(key) for key in ("region", "region_key", "instance_key"))
    if regions is None or region_key not in table.obs or instance_key not in table.obs:
        raise SectionError(
            f"the table '{name}' annotates no region, so nothing tells where its rows lie",
            where=path,
            hint="Store it with TableModel.parse(adata, region=..., region_key=..., instance_key=...)",
        )
    known = [regions] if isinstance(regions, str) else list(map(str, regions))
    region = _choose("region", known, "region", options, path) or ""
    rows = (table.obs[region_key].astype(str) == region).to_numpy()
    if not rows.any():
        raise SectionError(
            f"the table '{name}' has no row of region '{region}'", where=path, hint="Name another region"
        )
    chosen = table[rows]
    return chosen, region, pd.Index(chosen.obs[instance_key].to_numpy())


def _element(store: Any, region: str, path: Path) -> Any:
    for kind in _KINDS:
        if region in getattr(store, kind):
            return getattr(store, kind)[region]
    known = [name for kind in _KINDS for name in getattr(store, kind)]
    raise SectionError(
        f"the table annotates '{region}', which is not in the store (it has: {', '.join(known) or 'none'})",
        where=path,
        hint="Store that element too",
    )


def _image_name(path: Path, options: Options) -> str | None:
    wanted = Path(options.get(SHEET_IMAGE, ""))
    if "image" not in options and wanted.parent == path / "images":
        return _choose("image", image_names(path), "image", {**options, "image": wanted.name}, path)
    return _choose("image", image_names(path), "image", options, path)


def _system(store: Any, element: Any, image_name: str | None, path: Path, options: Options) -> str:
    from spatialdata.transformations import get_transformation

    systems = set(get_transformation(element, get_all=True))
    if image_name is not None:
        systems &= set(get_transformation(store.images[image_name], get_all=True))
    if not systems:
        raise SectionError(
            f"the spots and the image '{image_name}' share no coordinate system",
            where=path,
            hint="Align them with spatialdata (align_elements_using_landmarks) and store the transformation",
        )
    if "coordinate_system" not in options and "global" in systems:
        return "global"
    return _choose("shared coordinate system", sorted(systems), "coordinate_system", options, path) or ""


def _matrix(element: Any, system: str) -> np.ndarray:
    from spatialdata.transformations import get_transformation

    axes = ("x", "y")
    return np.asarray(get_transformation(element, system).to_affine_matrix(axes, axes))


def _inverse(image: Any, name: str, system: str, path: Path) -> np.ndarray:
    """From a coordinate system to px of an image."""
    try:
        return np.linalg.inv(_matrix(image, system))
    except np.linalg.LinAlgError as error:
        raise SectionError(
            f"the transformation of the image '{name}' to '{system}' makes a line or a point of it",
            where=path,
            hint="Store the transformation again",
        ) from error


def _centres(element: Any, system: str, path: Path) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Centres in a coordinate system (index: instances), and radii in it where the element is circles."""
    from spatialdata import get_centroids

    try:
        centres = get_centroids(element, coordinate_system=system).compute()[["x", "y"]].astype(np.float64)
    except _FAULTS as error:
        raise SectionError(f"its spots have no centres ({error})", where=path, hint="Store them again") from error
    if not np.isfinite(centres.to_numpy()).all():
        raise SectionError("has spots without finite coordinates", where=path, hint="Remove them from the store")
    if "radius" not in getattr(element, "columns", ()):
        return centres, None
    scale = np.sqrt(abs(np.linalg.det(_matrix(element, system)[:2, :2])))
    return centres, np.asarray(element["radius"], dtype=np.float64) * scale


def _bare(instances: pd.Index) -> AnnData:
    from anndata import AnnData

    return AnnData(X=no_counts(len(instances)), obs=pd.DataFrame(index=pd.Index(instances.astype(str), name="spot")))


def _spots(table: AnnData, xy_px: np.ndarray, with_counts: bool, path: Path) -> AnnData:
    from anndata import AnnData

    require_unique(table.obs_names, path)
    if with_counts and table.X is not None and table.n_vars:
        matrix, var = sparse.csr_matrix(table.X, dtype=np.float32), table.var.copy()
    else:
        matrix, var = no_counts(table.n_obs), None
    return AnnData(X=matrix, obs=table.obs.copy(), var=var, obsm={"spatial": xy_px})


def _sizes(
    store: Any, image_name: str | None, adata: AnnData
) -> tuple[float | None, str | None, float | None, float | None]:
    """Scale in um per px, how that is known, and pitch and diameter in um of a Visium array."""
    from spatialdata.transformations import get_transformation

    mpp, source, pitch_um, diameter_um = None, None, None, None
    pitch_px = _visium_pitch_px(adata)
    if pitch_px is not None:
        mpp, source = _VISIUM_PITCH_UM / pitch_px, "the 100 um pitch of the Visium array"
        pitch_um, diameter_um = _VISIUM_PITCH_UM, _VISIUM_DIAMETER_UM
    if image_name is not None:
        image = store.images[image_name]
        named = next((name for name in get_transformation(image, get_all=True) if name.lower() in _MICRONS), None)
        if named is not None:
            mpp = float(np.sqrt(abs(np.linalg.det(_matrix(image, named)[:2, :2]))))
            source = f"the coordinate system '{named}'"
    return mpp, source, pitch_um, diameter_um


def _visium_pitch_px(adata: AnnData) -> float | None:
    """Pitch in px when obs has the hexagonal array positions of Visium, and the spots do lie so."""
    if not {"array_row", "array_col"} <= set(adata.obs):
        return None
    raw = adata.obs[["array_col", "array_row"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    array, xy_px = array_positions(adata.obs), np.asarray(adata.obsm["spatial"])
    if array is None or np.ptp(raw.sum(axis=1) % 2) != 0:
        return None
    pitch = spot_pitch(xy_px, array)
    if pitch is None or pitch.source != "array":
        return None
    design = np.column_stack([array, np.ones(len(array))])
    stretch = np.linalg.svd(np.linalg.lstsq(design, xy_px, rcond=None)[0][:2], compute_uv=False)
    return pitch.px if stretch[0] <= DISTORTION * stretch[1] else None


FORMATS = (SpatialDataStore(),)
