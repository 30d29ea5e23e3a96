"""Finished maps: edited, truncated and impossible ones in every verb that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from .. import commands
from ..case import EITHER, ERROR, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_hdf5, of_json, of_text
from ..materials import MPP, Materials


def _make(room: Path, materials: Materials) -> None:
    shutil.copytree(materials.map, room / "maps" / "slide")
    (room / "clinical.csv").write_text("slide,patient,age,response\nslide,p1,61,yes\n")
    cells = pd.DataFrame(
        {"x_px": [50.0, 90, 300, 330], "y_px": [50.0, 90, 100, 120], "cell_type": ["T cells", "B cells"] * 2}
    )
    cells.to_csv(room / "cells.csv", index=False)


def _cohort() -> pd.DataFrame:
    table = pd.read_csv("out/cohort.csv", dtype={"slide": str})
    keys = ["slide", "level", "part", "measure", "cell_type", "other_type"]
    index = table[keys].fillna("").astype(str).agg(":".join, axis=1)
    return pd.DataFrame({"value": pd.to_numeric(table["value"], errors="coerce").to_numpy()}, index=index)


def _exported() -> pd.DataFrame:
    table = pd.read_csv("out/slide.csv")
    index = table["x_px"].astype(str) + "," + table["y_px"].astype(str)
    return table.select_dtypes("number").astype(float).set_axis(index)


def _anndata() -> pd.DataFrame:
    import anndata as ad

    table = ad.read_h5ad("out/slide.h5ad")
    return pd.DataFrame(np.asarray(table.X), index=table.obs_names.astype(str), columns=list(table.var_names))


def _metrics() -> pd.DataFrame:
    return commands.table_of("out/metrics.csv", "head", "fold", "cell_type", "metric")[["value"]]


_VERBS: dict[str, tuple[list[str], Callable[[], pd.DataFrame]]] = {
    "cohort": (["cohort", "maps", "--out", "out", "--json"], _cohort),
    "export-csv": (["export", "maps", "--to", "csv", "--out", "out", "--json"], _exported),
    "export-anndata": (["export", "maps", "--to", "anndata", "--out", "out", "--json"], _anndata),
    "score": (["score", "maps/slide", "--cells", "cells.csv", "--no-spatial", "--out", "out", "--json"], _metrics),
    "report": (["report", "maps", "--out", "out", "--json"], lambda: commands.nothing_to_compare(Path())),
}


def _role(verb: str, file: str) -> Role:
    argv, result = _VERBS[verb]
    return Role(
        f"map-{verb}-{Path(file).name}", f"maps/slide/{file}", _make, lambda _room, _m: argv, lambda _room: result(),
        names=("slide",),
    )  # fmt: skip


def _resumed(file: str) -> Role:
    """Predict over a finished map: what was edited is made again, or refused, and never kept."""

    def make(room: Path, materials: Materials) -> None:
        Image.fromarray(materials.pixels()).save(room / "slide.png")
        run = commands.predict_with(materials, "slide.png")
        _run_quietly(run)

    return Role(
        f"map-resumed-{file}",
        f"out/slide/{file}",
        make,
        lambda _room, materials: commands.predict_with(materials, "slide.png"),
        lambda _room: commands.map_of("slide"),
        names=("slide",),
    )


def _run_quietly(argv: list[str]) -> None:
    from histomix.prediction import predict_slides

    head = argv[argv.index("--head") + 1]
    for result in predict_slides(["slide.png"], head, "out", mpp=MPP):
        if result.error is not None:
            raise result.error


def _values(change: Callable[[np.ndarray], np.ndarray], name: str = "X") -> Damage:
    return of_hdf5.by_file(lambda file, _rng: of_hdf5.replace(file, name, change(np.asarray(file[name]))))


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(float)
        values.flat[0] = value
        return values

    return change


def _h5ad() -> list[tuple[str, Damage, str]]:
    def manifest(text: str) -> Damage:
        return of_hdf5.by_file(lambda file, _rng: of_hdf5.replace(file, "uns/manifest", text))

    def types(file: h5py.File, _rng: np.random.Generator) -> None:
        names = np.asarray(file["var/_index"])
        names[1] = names[0]
        of_hdf5.replace(file, "var/_index", names.astype(object))

    return [
        *((f"x={value}", _values(_first(value)), ERROR) for value in (1e30, -0.5, np.inf, 7.0)),
        ("x=nan", _values(_first(np.nan)), EITHER),
        # As good numbers as those that were there: only their digest tells.
        ("x-scaled", _values(lambda values: values * 0.9), ERROR),
        ("x-backwards", _values(lambda values: values[::-1]), ERROR),
        ("x-column-lost", _values(lambda values: values[:, :-1]), ERROR),
        ("x-row-lost", _values(lambda values: values[:-1]), ERROR),
        ("x-text", _values(lambda values: values.astype("S8")), ERROR),
        ("places-nan", _values(_first(np.nan), "obsm/spatial"), ERROR),
        ("places-huge", _values(_first(1e300), "obs/x_px"), ERROR),
        ("novelty-huge", _values(_first(1e30), "obs/novelty"), EITHER),
        ("lower-huge", _values(_first(1e30), "layers/lower"), EITHER),
        ("types-twins", of_hdf5.by_file(types), ERROR),
        ("manifest-empty", manifest("{}"), ERROR),
        ("manifest-cut", manifest('{"unit": '), ERROR),
        ("manifest-deep", manifest("[" * 100_000), ERROR),
        *of_hdf5.lost("X", "obs", "var", "uns/manifest", "obsm/spatial", "obs/x_px", "obs/read_ok", "obs/in_scope"),
        *of_bytes.BROKEN,
        *of_bytes.LOST,
    ]  # fmt: skip


def cases() -> Iterator[Case]:
    """Cases of maps."""
    for verb in ("cohort", "export-csv"):
        yield from cases_of(_role(verb, "composition.h5ad"), _h5ad())
    few = [
        one
        for one in _h5ad()
        if one[0] in ("x=1e+30", "x=nan", "x-scaled", "cut-0.5", "zeros-middle", "noise-middle", "empty", "no-obs/x_px")
    ]
    for verb in ("export-anndata", "score", "report"):
        yield from cases_of(_role(verb, "composition.h5ad"), few)
    beside = [*of_bytes.BROKEN[::3], *of_bytes.LOST[:4], *of_bytes.flipped(1)]
    for number, (verb, file) in enumerate(
        zip(_VERBS, ("composition.csv", "tiles.geojson", "preview.jpg", "tissue.png", "not_read.png"), strict=True)
    ):
        yield from cases_of(_role(verb, file), [(name, damage, ERROR) for name, damage, _ in beside[number % 2 :: 2]])
    untold = [(name, damage, UNTOLD) for name, damage, _ in of_json.document(("state",), ("digests",), ("files",))]
    yield from cases_of(_role("cohort", "status.json"), untold[::2])
    yield from cases_of(_role("report", "status.json"), untold[1::3])
    for file, damages in (
        ("composition.csv", [*of_text.OTHER[:8], *of_text.cells(2)[:4], *of_bytes.LOST[:4]]),
        (
            "composition.h5ad",
            [one for one in _h5ad() if one[0] in ("x=7.0", "cut-0.5", "noise-middle", "empty", "absent")],
        ),
        ("status.json", [*of_json.WHOLE, *of_json.values(("digests",), ("file_digests",), ("tiles",))]),
    ):
        pipes = ("pipe", "device", "folder")
        yield from cases_of(
            _resumed(file), [(name, damage, EITHER) for name, damage, _ in damages if name not in pipes]
        )
    clinical = Role(
        "clinical", "clinical.csv", _make, lambda _room, _m: [*_VERBS["cohort"][0], "--clinical", "clinical.csv"],
        lambda _room: _cohort(),
    )  # fmt: skip
    yield from cases_of(
        clinical, [(name, damage, UNTOLD if expect == EITHER else expect) for name, damage, expect in of_text.table(2)]
    )
