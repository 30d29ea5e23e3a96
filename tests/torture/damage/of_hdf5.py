"""Damage of an HDF5 file from the inside: what is in it contradicts itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from ..case import EITHER, ERROR, UNTOLD, Damage


def by_file(change: Callable[[h5py.File, np.random.Generator], object]) -> Damage:
    """A damage by what it does to the open file."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        with h5py.File(path, "r+") as file:
            change(file, rng)

    return apply


def replace(file: h5py.File, name: str, values: object) -> None:
    """Other values for a dataset, whose attributes stay."""
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def _changed(name: str, change: Callable[[np.ndarray], object]) -> Damage:
    return by_file(lambda file, _rng: replace(file, name, change(np.asarray(file[name]))))


def _twice(group: str) -> Damage:
    """Two numbers for one place of a compressed sparse matrix."""

    def change(file: h5py.File, _rng: np.random.Generator) -> None:
        indptr, indices = (np.asarray(file[f"{group}/{name}"]) for name in ("indptr", "indices"))
        start = int(indptr[int(np.argmax(np.diff(indptr) > 1))])
        indices[start + 1] = indices[start]
        replace(file, f"{group}/indices", indices)

    return by_file(change)


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values.flat[0] = value
        return values

    return change


def lost(*names: str) -> list[tuple[str, Damage, str]]:
    """Without a group or dataset."""
    return [(f"no-{name}", by_file(lambda file, _rng, name=name: file.__delitem__(name)), EITHER) for name in names]


def sparse(group: str) -> list[tuple[str, Damage, str]]:
    """Of a compressed sparse matrix in ``group``: data, indices, indptr."""
    data, indices, indptr = (f"{group}/{name}" for name in ("data", "indices", "indptr"))
    return [
        ("index-beyond", _changed(indices, _first(10**6)), ERROR),
        ("index-far-beyond", _changed(indices, _first(2**31 - 1)), ERROR),
        ("index-negative", _changed(indices, _first(-1)), ERROR),
        ("index-repeated", _changed(indices, lambda values: np.zeros_like(values)), EITHER),
        ("index-twice", _twice(group), ERROR),
        ("index-float", _changed(indices, lambda values: values + 0.5), EITHER),
        ("indices-short", _changed(indices, lambda values: values[:-5]), ERROR),
        ("indptr-falling", _changed(indptr, lambda values: values[::-1].copy()), ERROR),
        ("indptr-short", _changed(indptr, lambda values: values[:-1]), ERROR),
        ("indptr-beyond", _changed(indptr, lambda values: values * 2), ERROR),
        ("indptr-negative", _changed(indptr, lambda values: values - 1), ERROR),
        ("data-short", _changed(data, lambda values: values[:-1]), ERROR),
        ("data-nan", _changed(data, lambda values: _first(np.nan)(values.astype("f4"))), ERROR),
        ("data-negative", _changed(data, lambda values: _first(-3)(values.astype("i4"))), ERROR),
        ("data-infinite", _changed(data, lambda values: _first(np.inf)(values.astype("f4"))), ERROR),
        ("data-text", _changed(data, lambda values: np.array(["a"] * len(values), "S1")), ERROR),
        ("data-fractions", _changed(data, lambda values: values * 0.37), EITHER),
        ("data-float64", _changed(data, lambda values: values.astype("f8")), EITHER),
        ("data-float16", _changed(data, lambda values: values.astype("f2")), EITHER),
        ("data-complex", _changed(data, lambda values: values * (1 + 1j)), ERROR),
        ("data-boolean", _changed(data, lambda values: values > 0), EITHER),
        ("data-int8", _changed(data, lambda values: values.astype("i1")), EITHER),
        ("data-uint64", _changed(data, lambda values: values.astype("u8")), EITHER),
        ("data-2d", _changed(data, lambda values: values[:, None]), ERROR),
        ("data-huge", _changed(data, lambda values: _first(1e30)(values.astype("f8"))), ERROR),
    ]


def h5ad(obsm: str = "") -> list[tuple[str, Damage, str]]:
    """Of an AnnData file whose X is sparse, and places in ``obsm``."""

    def twins(file: h5py.File, name: str) -> None:
        values = np.asarray(file[name])
        values[1] = values[0]
        replace(file, name, values.astype(object))

    def blank(file: h5py.File, name: str) -> None:
        replace(file, name, np.array([""] * len(file[name]), object))

    cases = [
        *sparse("X"),
        *lost("X", "obs", "var", "obs/_index", "var/_index", *([obsm] if obsm else [])),
        ("shape-larger", by_file(lambda file, _rng: _shape(file, (10**9, 10**9))), ERROR),
        ("shape-smaller", by_file(lambda file, _rng: _shape(file, (2, 2))), ERROR),
        ("shape-negative", by_file(lambda file, _rng: _shape(file, (-1, -1))), ERROR),
        ("obs-twins", by_file(lambda file, _rng: twins(file, "obs/_index")), EITHER),
        ("var-twins", by_file(lambda file, _rng: twins(file, "var/_index")), EITHER),
        ("obs-blank", by_file(lambda file, _rng: blank(file, "obs/_index")), EITHER),
        ("obs-short", _changed("obs/_index", lambda values: values[:-2]), ERROR),
        ("var-short", _changed("var/_index", lambda values: values[:-2]), ERROR),
        ("encoding-unknown", by_file(lambda file, _rng: file["X"].attrs.__setitem__("encoding-type", "tensor")), ERROR),
        ("encoding-newer", by_file(lambda file, _rng: file["X"].attrs.__setitem__("encoding-version", "9.0")), EITHER),
        ("x-to-itself", by_file(_loop), ERROR),
        ("x-elsewhere", by_file(_elsewhere), ERROR),
        ("obs-compound", by_file(_compound), EITHER),
        ("root-other", by_file(lambda file, _rng: file.attrs.__setitem__("encoding-type", "mudata")), EITHER),
    ]
    if obsm:
        cases += [
            ("places-nan", _changed(obsm, _first(np.nan)), EITHER),
            ("places-infinite", _changed(obsm, _first(np.inf)), EITHER),
            ("places-huge", _changed(obsm, _first(1e300)), EITHER),
            ("places-1d", _changed(obsm, lambda values: values[:, 0].copy()), ERROR),
            ("places-short", _changed(obsm, lambda values: values[:-2]), ERROR),
            ("places-one-column", _changed(obsm, lambda values: values[:, :1]), ERROR),
            ("places-text", _changed(obsm, lambda values: values.astype("S8")), EITHER),
            ("places-three-columns", _changed(obsm, lambda values: np.hstack([values, values[:, :1]])), EITHER),
            ("places-turned", _changed(obsm, lambda values: values[:, ::-1].copy()), UNTOLD),
        ]
    return cases


def _shape(file: h5py.File, shape: tuple[int, int]) -> None:
    file["X"].attrs["shape"] = np.array(shape)


def _loop(file: h5py.File, _rng: np.random.Generator) -> None:
    del file["X"]
    file["X"] = h5py.SoftLink("/X")


def _elsewhere(file: h5py.File, _rng: np.random.Generator) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink("/etc/hostname", "/X")


def _compound(file: h5py.File, _rng: np.random.Generator) -> None:
    index = np.asarray(file["obs/_index"])
    del file["obs"]
    file["obs"] = np.array([(value,) for value in index], dtype=[("index", h5py.string_dtype())])
