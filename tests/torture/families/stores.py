"""Stores of features and labels that a head is trained on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from .. import commands
from ..case import EITHER, ERROR, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_hdf5, of_json, of_text
from ..materials import Materials


def _make(room: Path, materials: Materials) -> None:
    shutil.copytree(materials.folder / "phantom", room / "phantom")
    for name in ("features", "labels"):
        shutil.copytree(materials.folder / name, room / name)


def _role(file: str) -> Role:
    argv = [
        "train",
        "phantom/sheet.csv",
        "--features",
        "features",
        "--labels",
        "labels",
        "--head",
        "ridge",
        "--out",
        "out",
    ]

    def result(_room: Path) -> object:
        return commands.arrays_of(Path("out/weights.safetensors"))

    return Role(f"store-{file}", file, _make, lambda _room, _m: [*argv, "--json"], result)  # type: ignore[arg-type]


def _changed(name: str, change: object) -> Damage:
    return of_hdf5.by_file(lambda file, rng: of_hdf5.replace(file, name, change(np.asarray(file[name]), rng)))  # type: ignore[operator]


def _features() -> list[tuple[str, Damage, str]]:
    def shuffled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return values[rng.permutation(len(values))]

    def one(value: float) -> object:
        def change(values: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
            values = values.copy()
            values.flat[7] = value
            return values

        return change

    def manifest(file: h5py.File, text: str) -> None:
        of_hdf5.replace(file, "uns/manifest", text)

    return [
        ("keys-shuffled", _changed("obs/spot", shuffled), ERROR),
        ("rows-shuffled", _changed("X", shuffled), ERROR),
        ("places-shuffled", _changed("obsm/spatial", shuffled), ERROR),
        ("places-moved", _changed("obs/x_px", lambda values, _rng: values + 50), ERROR),
        ("nan", _changed("X", one(np.nan)), ERROR),
        ("infinite", _changed("X", one(np.inf)), ERROR),
        ("one-changed", _changed("X", one(9.0)), ERROR),
        ("other-type", _changed("X", lambda values, _rng: values.astype("f8")), EITHER),
        ("integers", _changed("X", lambda values, _rng: values.astype("i4")), ERROR),
        ("column-lost", _changed("X", lambda values, _rng: values[:, :-1]), ERROR),
        ("row-lost", _changed("X", lambda values, _rng: values[:-1]), ERROR),
        ("manifest-empty", of_hdf5.by_file(lambda file, _rng: manifest(file, "{}")), ERROR),
        ("manifest-text", of_hdf5.by_file(lambda file, _rng: manifest(file, "words")), ERROR),
        ("manifest-deep", of_hdf5.by_file(lambda file, _rng: manifest(file, "[" * 100_000)), ERROR),
        *of_hdf5.lost("X", "obs", "var", "uns", "uns/manifest", "obs/spot", "obsm/spatial", "obs/x_px"),
    ]


def _other(path: Path, _rng: np.random.Generator) -> None:
    shutil.copy(path.with_name("P2S1.h5ad"), path)


def cases() -> Iterator[Case]:
    """Cases of stores."""
    features = [
        *_features(),
        ("of-another-section", _other, ERROR),
        *of_bytes.BROKEN,
        *of_bytes.LOST,
        *of_bytes.flipped(6),
    ]
    yield from cases_of(_role("features/P1S1.h5ad"), features)
    ways = (("encoder", "dim"), ("encoder", "digest"), ("sections", "P1S1"), ("sections",), ("tile",), ("dtype",))
    manifest = [(name, damage, UNTOLD) for name, damage, _ in of_json.document(*ways)]
    yield from cases_of(_role("features/manifest.json"), manifest)
    blind = [
        (name, damage, UNTOLD if expect == EITHER and "=" not in name else expect)
        for name, damage, expect in of_text.OTHER
    ]
    # The posterior beside them has the same order.
    same = [(name, damage, EITHER if name == "shuffled" else expect) for name, damage, expect in of_text.SAME]
    yield from cases_of(_role("labels/P1S1.csv"), [*same, *blind, *of_text.cells(1), *of_bytes.LOST])
    labels = [(name, damage, UNTOLD) for name, damage, _ in of_json.document(("unit",), ("sections",), ("settings",))]
    yield from cases_of(_role("labels/manifest.json"), labels)
