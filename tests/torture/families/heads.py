"""Heads: cards and arrays that were edited, with and without the digests made anew."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from .. import commands
from ..case import EITHER, ERROR, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_json
from ..materials import MPP, Materials

_WAYS: tuple[tuple[str | int, ...], ...] = (
    *(
        (name,)
        for name in ("cell_types", "unit", "encoders", "training", "context_um", "levels", "calibration", "files")
    ),
    *((name,) for name in ("format", "tissue", "scores")),
    *(("encoders", 0, name) for name in ("dim", "size_px", "mpp", "name")),
    *(("head", name) for name in ("kind", "parameters", "fitted")),
)


def _make(room: Path, materials: Materials) -> None:
    Image.fromarray(materials.pixels()).save(room / "slide.png")
    shutil.copytree(materials.head, room / "head")


def _role(file: str) -> Role:
    argv = commands.predict("slide.png", "--head", "head", "--mpp", str(MPP))
    result = commands.map_of
    return Role(f"head-{file}", f"head/{file}", _make, lambda _room, _m: argv, lambda _room: result("slide"))


def sealed(damage: Damage) -> Damage:
    """The damage, and then digests that fit it: as a maker with bad intent or a bad program leaves a head."""
    from histomix.provenance import digest_bytes, digest_json

    def apply(path: Path, rng: np.random.Generator) -> None:
        damage(path, rng)
        card = path.parent / "card.json"
        facts = json.loads(card.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            return
        if path != card and isinstance(facts.get("files"), dict):
            facts["files"][path.name] = digest_bytes(path.read_bytes())
        facts.pop("digest", None)
        card.write_text(json.dumps(facts | {"digest": digest_json(facts)}), encoding="utf-8")

    return apply


def _array(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        arrays = dict(load_file(path))
        changed = change(arrays[name].copy())
        if changed is None:
            del arrays[name]
        else:
            arrays[name] = np.ascontiguousarray(changed)
        save_file(arrays, path)

    return sealed(apply)


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values.flat[0] = value
        return values

    return change


def _arrays(*names: str) -> list[tuple[str, Damage, str]]:
    kinds: list[tuple[str, Callable[[np.ndarray], np.ndarray | None]]] = [
        ("lost", lambda values: None),
        ("int64", lambda values: values.astype(np.int64)),
        ("bool", lambda values: values > 0),
        ("nan", _first(np.nan)),
        ("infinite", _first(np.inf)),
        ("1e300", lambda values: _first(1e300)(values.astype(np.float64))),
        ("negative", lambda values: -np.abs(values.astype(np.float64)) - 1),
        ("short", lambda values: values[:-1]),
        ("transposed", lambda values: values.T if values.ndim > 1 else values[:, None]),
        ("empty", lambda values: values[:0]),
        ("zero", lambda values: values * 0),
    ]
    return [
        (f"{name}-{kind}", _array(name, change), UNTOLD if kind in ("negative", "zero", "int64") else EITHER)
        for name in names
        for kind, change in kinds
        if not (kind == "infinite" and name == "present_")
    ]


def _added(path: Path, _rng: np.random.Generator) -> None:
    save_file({**load_file(path), "extra": np.zeros(3)}, path)


def _header(text: bytes, length: int | None = None) -> Damage:
    """Another header of a safetensors file, of a length that may be a lie."""
    head = struct.pack("<Q", len(text) if length is None else length)
    return sealed(of_bytes.of(lambda data, _rng: head + text + data[8 + struct.unpack_from("<Q", data)[0] :]))


def _headers() -> list[tuple[str, Damage, str]]:
    one = {"dtype": "F64", "shape": [1024, 8], "data_offsets": [0, 65_536]}
    return [
        ("header-length-huge", _header(b"{}", 2**62), ERROR),
        ("header-length-0", _header(b"", 0), ERROR),
        ("header-no-json", _header(b"words"), ERROR),
        ("header-deep", _header(b"[" * 100_000), ERROR),
        ("header-empty", _header(b"{}"), ERROR),
        ("header-shape-lie", _header(json.dumps({"coef_": one | {"shape": [2**40, 2**40]}}).encode()), ERROR),
        ("header-offset-lie", _header(json.dumps({"coef_": one | {"data_offsets": [0, 2**50]}}).encode()), ERROR),
        ("header-type-unknown", _header(json.dumps({"coef_": one | {"dtype": "F7"}}).encode()), ERROR),
        ("header-overlap", _header(json.dumps({"coef_": one, "intercept_": one}).encode()), ERROR),
    ]


def _swapped(path: Path, _rng: np.random.Generator) -> None:
    weights, novelty = path.read_bytes(), path.with_name("novelty.safetensors").read_bytes()
    path.write_bytes(novelty)
    path.with_name("novelty.safetensors").write_bytes(weights)


def _pickled(path: Path, _rng: np.random.Generator) -> None:
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")


def cases() -> Iterator[Case]:
    """Cases of heads."""
    plain = [(f"plain-{name}", damage, ERROR) for name, damage, _ in of_json.values(("unit",), ("cell_types", 0))]
    types = sealed(of_json.set_at(("cell_types",), ["a"] * 8))
    more: list[tuple[str, Damage, str]] = [
        ("types-twins", types, ERROR),
        ("types-few", sealed(of_json.by_object(lambda top: top["cell_types"].pop() and None)), ERROR),
        ("types-many", sealed(of_json.by_object(lambda top: top["cell_types"].append("x"))), ERROR),
        ("types-long", sealed(of_json.set_at(("cell_types", 0), "x" * 100_000)), EITHER),
        ("types-escape", sealed(of_json.set_at(("cell_types", 0), "\x1b[2J")), UNTOLD),
        ("types-own-column", sealed(of_json.set_at(("cell_types", 0), "novelty")), EITHER),
        ("format-newer", sealed(of_json.set_at(("format",), 99)), ERROR),
        ("kind-of-another", sealed(of_json.set_at(("head", "kind"), "mlp")), ERROR),
        ("file-elsewhere", sealed(of_json.set_at(("files",), {"../card.json": "sha256:0"})), ERROR),
        ("deep", sealed(of_json.set_at(("scores",), _nested(900))), EITHER),
    ]
    values = [
        (name, sealed(damage), UNTOLD if name.startswith(("tissue", "scores", "levels", "training")) else EITHER)
        for name, damage, _ in of_json.values(*_WAYS)
    ]
    yield from cases_of(_role("card.json"), [*of_json.WHOLE, *plain, *values, *more, *of_bytes.LOST])
    weights: list[tuple[str, Damage, str]] = [
        ("swapped-with-novelty", _swapped, ERROR),
        ("swapped-and-sealed", sealed(_swapped), ERROR),
        ("pickle", sealed(_pickled), ERROR),
        ("array-more", sealed(_added), EITHER),
        ("cut-and-sealed", sealed(of_bytes.of(of_bytes.cut(0.7))), ERROR),
        *((f"{name}-plain", damage, ERROR) for name, damage, _ in of_bytes.flipped(4)),
    ]
    arrays = _arrays("coef_", "intercept_", "present_")
    yield from cases_of(
        _role("weights.safetensors"), [*arrays, *_headers(), *weights, *of_bytes.BROKEN, *of_bytes.LOST]
    )
    yield from cases_of(
        _role("novelty.safetensors"), [*_arrays("axes", "scale", "quantiles", "prototypes", "usual"), *_headers()[:3]]
    )
    yield from cases_of(_role("intervals.safetensors"), [*_arrays("multiplier", "variance", "edges"), *_headers()[:3]])
    yield from cases_of(_role("stain.safetensors"), [*_arrays("take", "give", "offset"), *_headers()[:3]])
    yield from cases_of(_role("scale.safetensors"), [*_arrays("weights", "offset"), *_headers()[:3]])


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value
