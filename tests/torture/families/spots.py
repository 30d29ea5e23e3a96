"""Sections of every format: their tables, matrices, places and scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from .. import commands, inputs
from ..case import EITHER, ERROR, TOLD, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_hdf5, of_json, of_text

OUTS = "sample/outs"
SQUARE = "hd/outs/binned_outputs/square_008um"
SEGMENTED = "outs/segmented_outputs"


def _role(name: str, make: Callable[[Path], object], file: str, spots: str, *more: str, **sheet: str) -> Role:
    return Role(
        name,
        file,
        inputs.with_sheet(make, spots, **sheet),
        lambda _room, _materials: commands.label(*more),
        lambda _room: commands.labels_of(),
        # Counts that no longer fit the reference may be the fault of either; of a sheet's row, its place is named.
        names=(spots.partition("#")[0], "reference.csv", "sheet.csv"),
    )


def _inspected(name: str, make: Callable[[Path], object], file: str, path: str) -> Role:
    def argv(_room: Path, _materials: object) -> list[str]:
        return ["inspect", path, "--json"]

    return Role(name, file, inputs.with_sheet(make, path), argv, commands.nothing_to_compare, names=(path,))


def _parquet(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    return lambda path, _rng: change(pd.read_parquet(path)).to_parquet(path, index=False)


def _set(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[table.index[3], column] = value
        return table.infer_objects()

    return change


def _columns(places: tuple[str, ...], key: str) -> list[tuple[str, Damage, str]]:
    cases: list[tuple[str, Damage, str]] = []
    for column in places:
        for value in (np.nan, np.inf, -1e9, 1e300):
            cases.append((f"{column}={value}", _parquet(_set(column, value)), EITHER))
        cases += [
            (f"{column}-text", _parquet(lambda table, column=column: table.astype({column: str})), EITHER),
            (f"{column}-lost", _parquet(lambda table, column=column: table.drop(columns=column)), ERROR),
        ]
    return [
        *cases,
        (f"{key}-repeated", _parquet(lambda table: pd.concat([table, table.iloc[:3]])), EITHER),
        (f"{key}-lost", _parquet(lambda table: table.drop(columns=key)), EITHER),
        (f"{key}-missing", _parquet(_set(key, None)), EITHER),
        ("no-rows", _parquet(lambda table: table.iloc[:0]), ERROR),
        ("half-the-rows", _parquet(lambda table: table.iloc[: len(table) // 2]), EITHER),
    ]


def _tenx() -> list[tuple[str, Damage, str]]:
    def shape(value: tuple[int, int]) -> Damage:
        return of_hdf5.by_file(lambda file, _rng: of_hdf5.replace(file, "matrix/shape", np.array(value, "i4")))

    def twins(file: h5py.File, _rng: np.random.Generator) -> None:
        values = np.asarray(file["matrix/barcodes"])
        values[1] = values[0]
        of_hdf5.replace(file, "matrix/barcodes", values)

    return [
        *of_hdf5.sparse("matrix"),
        *of_hdf5.lost("matrix", "matrix/barcodes", "matrix/features", "matrix/shape", "matrix/indptr"),
        ("shape-larger", shape((10**9, 10**9)), ERROR),
        ("shape-zero", shape((0, 0)), ERROR),
        ("barcodes-twins", of_hdf5.by_file(twins), ERROR),
        ("second-genome", of_hdf5.by_file(lambda file, _rng: file.copy("matrix", "mm10")), EITHER),
    ]


def _market() -> list[tuple[str, Damage, str]]:
    """Of a matrix in Matrix Market's text: a banner, a line of sizes, then row, column and value from 1 on."""

    def lines(change: Callable[[list[str]], object]) -> Damage:
        def of(text: str) -> bytes:
            parts = text.splitlines()
            changed = change(parts)
            return "\n".join(parts if changed is None else changed).encode() + b"\n"  # type: ignore[arg-type]

        return of_text.by_text(of)

    def banner(old: str, new: str) -> Damage:
        return of_text.by_text(lambda text: text.replace(old, new, 1).encode())

    def first(change: Callable[[list[str]], object]) -> Damage:
        """Of the first entry."""

        def apply(parts: list[str]) -> None:
            place = next(number for number, line in enumerate(parts) if not line.startswith("%")) + 1
            cells = parts[place].split()
            change(cells)
            parts[place] = " ".join(cells)

        return lines(apply)

    def put(place: int, value: str) -> Callable[[list[str]], object]:
        return lambda cells: cells.__setitem__(place, value)

    return [
        ("pattern", banner("integer", "pattern"), ERROR),
        ("complex", banner("integer", "complex"), ERROR),
        ("real", banner("integer", "real"), EITHER),
        ("array", banner("coordinate", "array"), ERROR),
        ("symmetric", banner("general", "symmetric"), ERROR),
        ("no-banner", lines(lambda parts: parts[1:]), ERROR),
        ("row-0", first(put(0, "0")), ERROR),
        ("row-beyond", first(put(0, "999")), ERROR),
        ("column-0", first(put(1, "0")), ERROR),
        ("value-negative", first(put(2, "-4")), ERROR),
        ("value-fraction", first(put(2, "4.5")), ERROR),
        ("value-text", first(put(2, "many")), ERROR),
        ("value-lost", first(lambda cells: cells.pop()), ERROR),
        ("value-more", first(lambda cells: cells.append("7")), EITHER),
        ("value-1e30", first(put(2, "1e30")), ERROR),
        ("entry-twice", lines(lambda parts: [*parts, parts[-1]]), ERROR),
        ("entry-lost", lines(lambda parts: parts[:-1]), ERROR),
        ("entries-shuffled", lines(lambda parts: [*parts[:-20], *parts[:-21:-1]]), EITHER),
        ("remark-inside", lines(lambda parts: [*parts[:-9], "% remark", *parts[-9:]]), EITHER),
    ]


def _counts(column: int) -> list[tuple[str, Damage, str]]:
    """Damages of a table of counts, whose last column is one gene of many: nobody can tell that it was there."""
    damages = of_text.table(column)
    return [(name, damage, UNTOLD if name == "column-lost" else expect) for name, damage, expect in damages]


def _of_cells(damages: list[tuple[str, Damage, str]]) -> list[tuple[str, Damage, str]]:
    """Damages of a table of cells, which are counted: fewer cells are told, and half a table is a table."""
    expected = {EITHER: TOLD}
    return [
        (name, damage, UNTOLD if name == "half-the-rows" else expected.get(expect, expect))
        for name, damage, expect in damages
    ]


def _absent_is_told(damages: list[tuple[str, Damage, str]]) -> list[tuple[str, Damage, str]]:
    """Damages of a file that may be missing."""
    return [
        (name, damage, EITHER if name in ("absent", "link-to-itself", "dangling-link") else expect)
        for name, damage, expect in damages
    ]


def _h5ad_of_cells() -> list[tuple[str, Damage, str]]:
    """Of cells in AnnData, whose counts are not asked for: places and types."""
    damages = [(name, damage, EITHER if expect == ERROR else expect) for name, damage, expect in of_hdf5.h5ad()]

    def framed(file: h5py.File, _rng: np.random.Generator) -> None:
        """Places as a table, as some programs keep them."""
        from anndata.io import write_elem

        table = pd.DataFrame(np.asarray(file["obsm/spatial"]), columns=["x", "y"])
        table.index = pd.Index([name.decode() for name in file["obs/_index"]])
        del file["obsm/spatial"]
        write_elem(file, "obsm/spatial", table)

    def codes(value: int) -> Damage:
        return of_hdf5.by_file(lambda file, _rng: file["obs/cell_type/codes"].__setitem__(0, value))

    places = [one for one in of_hdf5.h5ad("obsm/spatial") if one[0].startswith("places-")]
    return [
        *damages,
        *places,
        ("places-table", of_hdf5.by_file(framed), EITHER),
        ("types-beyond", codes(100), ERROR),
        ("types-below", codes(-5), ERROR),
        ("types-missing", codes(-1), EITHER),
        *of_hdf5.lost("obs/cell_type/categories"),
    ]


_FACTORS = [("spot_diameter_fullres",), ("tissue_hires_scalef",), ("fiducial_diameter_fullres",)]


def cases() -> Iterator[Case]:
    """Cases of all formats of spots."""
    whole_file = [*of_bytes.BROKEN, *of_bytes.LOST]
    st = {"counts": "counts.tsv", "format": "st"}
    yield from cases_of(
        _role("st-selection", inputs.st, "a_selection.tsv", "a_selection.tsv", **st), of_text.table(-2, -3)
    )
    yield from cases_of(_role("st-counts", inputs.st, "counts.tsv", "a_selection.tsv", **st), _counts(1))
    for version, positions, matrix in (
        ("1", "tissue_positions_list.csv", "mtx-v2"),
        ("2", "tissue_positions.csv", "h5"),
    ):
        make, file = inputs.visium(positions, matrix), f"{OUTS}/spatial/{positions}"
        yield from cases_of(_role(f"visium{version}-positions", make, file, OUTS), of_text.table(-1))
    visium = inputs.visium("tissue_positions.csv", "h5")
    factors = f"{OUTS}/spatial/scalefactors_json.json"
    yield from cases_of(
        _role("visium-factors", visium, factors, OUTS),
        # Without scale factors the pitch of the spots tells the scale, and labels do not follow it.
        [
            (name, damage, EITHER if name == "absent" else expect)
            for name, damage, expect in [*of_json.document(*_FACTORS[:1]), *of_json.values(*_FACTORS[1:])]
        ],
    )
    yield from cases_of(
        _role("visium-matrix", visium, f"{OUTS}/filtered_feature_bc_matrix.h5", OUTS),
        [*_tenx(), *whole_file, *of_bytes.flipped(6, UNTOLD)],
    )
    mtx = inputs.visium("tissue_positions_list.csv", "mtx")
    for name in ("matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"):
        yield from cases_of(
            _role(f"visium-{name}", mtx, f"{OUTS}/filtered_feature_bc_matrix/{name}", OUTS),
            [*whole_file, *of_text.SAME[1:3], *of_text.OTHER[1:8], *(_market() if name.startswith("m") else [])],
        )
    yield from cases_of(
        _role("hd-positions", inputs.visium_hd, f"{SQUARE}/spatial/tissue_positions.parquet", SQUARE),
        [*_columns(("pxl_row_in_fullres",), "barcode"), *whole_file],
    )
    yield from cases_of(
        _role("hd-factors", inputs.visium_hd, f"{SQUARE}/spatial/scalefactors_json.json", SQUARE),
        [
            *of_json.values(("microns_per_pixel",), ("bin_size_um",)),
            *of_json.lacking("microns_per_pixel", "bin_size_um"),
        ],
    )
    for kind, file in (("parquet", "cells.parquet"), ("csv", "cells.csv.gz")):
        role = _role(
            f"xenium-{kind}", inputs.xenium(kind), f"xenium/{file}", "xenium#types=types.csv", "--method", "cells"
        )
        damages = _columns(("x_centroid",), "cell_id") if kind == "parquet" else of_text.table(1)
        yield from cases_of(role, _of_cells([*damages, *of_bytes.BROKEN]))
    xenium = inputs.xenium("csv")
    for file, damages in (
        # Without it px are those of every Xenium, which is told.
        ("experiment.xenium", _absent_is_told(of_json.document(("pixel_size",)))),
        ("run_he_imagealignment.csv", [*of_text.OTHER, *of_text.cells(0), *of_bytes.LOST]),
        ("types.csv", _of_cells([*of_text.SAME, *of_text.OTHER, *of_bytes.LOST])),
    ):
        role = _role(f"xenium-{file}", xenium, f"xenium/{file}", "xenium#types=types.csv", "--method", "cells")
        yield from cases_of(role, damages)
    yield from cases_of(
        _role("hest-spots", inputs.hest, "hest/st/T1.h5ad", "hest/st/T1.h5ad", format="hest"),
        [*of_hdf5.h5ad("obsm/spatial"), *whole_file],
    )
    yield from cases_of(
        _role("hest-metadata", inputs.hest, "hest/metadata/T1.json", "hest/st/T1.h5ad", format="hest"),
        # Without them the scale is not known, which is told; labels do not follow it.
        _absent_is_told(of_json.document(("pixel_size_um_estimated",), ("spot_diameter",))),
    )
    scale = {"mpp": "0.5", "spot_diameter_um": "55", "spot_pitch_um": "100"}
    yield from cases_of(
        _role("h5ad", inputs.h5ad, "spots.h5ad", "spots.h5ad", **scale),
        [*of_hdf5.h5ad("obsm/spatial"), *whole_file, *of_bytes.flipped(6, UNTOLD)],
    )
    yield from cases_of(
        _inspected("h5ad-inspected", inputs.h5ad, "spots.h5ad", "spots.h5ad"),
        [(name, damage, UNTOLD) for name, damage, _ in [*of_hdf5.h5ad("obsm/spatial"), *whole_file]],
    )
    table = {"counts": "counts.csv", **scale}
    yield from cases_of(_role("csv-spots", inputs.csv, "spots.csv", "spots.csv", **table), of_text.table(1))
    yield from cases_of(_role("csv-counts", inputs.csv, "counts.csv", "spots.csv", **table), _counts(2))
    beads, locations = "Puck_MappedDGEForR.csv", "Puck_BeadLocationsForR.csv"
    for file in (locations, beads):
        role = _role(f"slideseq-{file[5:10]}", inputs.beads, file, f"{locations}#mpp=0.65", format="slideseq")
        yield from cases_of(role, of_text.table(1))
    for file in ("spots_BT1_C1.csv.gz", "BC1_C1_stdata.tsv.gz"):
        role = _role(f"stnet-{file[:5]}", inputs.stnet, file, "spots_BT1_C1.csv.gz", format="stnet")
        other = [(name, damage, UNTOLD if name == "column-lost" else expect) for name, damage, expect in of_text.OTHER]
        yield from cases_of(role, [*of_text.SAME, *other, *of_bytes.BROKEN])
    plain = {"format": "cells", "mpp": "0.5"}
    role = _role("cells", inputs.cell_table, "cells.csv", "cells.csv", "--method", "cells", **plain)
    yield from cases_of(role, _of_cells(of_text.table(1)))
    role = _role("cells-h5ad", inputs.h5ad_cells, "cells.h5ad", "cells.h5ad", "--method", "cells", **plain)
    yield from cases_of(role, _of_cells([*_h5ad_of_cells(), *whole_file]))
    role = _inspected("segmented", inputs.segmented, f"{SEGMENTED}/cell_segmentations.geojson", SEGMENTED)
    yield from cases_of(role, [(name, damage, UNTOLD) for name, damage, _ in [*of_json.WHOLE, *of_bytes.LOST]])
