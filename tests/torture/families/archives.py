"""Heads in archives: what a zip may do to whoever opens it."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from .. import commands
from ..case import EITHER, ERROR, RIGHT, Case, Damage, Role, cases_of
from ..damage import of_bytes
from ..materials import Materials
from .heads import sealed

Files = dict[str, bytes]


def _write(path: Path, files: Files, kind: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def _files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _make(room: Path, materials: Materials) -> None:
    _write(room / "head.zip", _files(materials.head))


def _result(_room: Path) -> pd.DataFrame:
    strays = [path.name for path in Path().rglob("*") if path.name.startswith("owned")]
    assert not strays and not Path("../owned").exists(), f"the archive wrote {strays}"
    return commands.arrays_of(Path("out/weights.safetensors"))


def _changed(change: Callable[[Files], Files | None]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        changed = change(files)
        _write(path, files if changed is None else changed)

    return apply


def _entry(name: str, data: bytes = b"x", mode: int | None = None, system: int = 3) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            info = zipfile.ZipInfo(name)
            info.create_system = system
            if mode is not None:
                info.external_attr = mode << 16
            archive.writestr(info, data)

    return apply


def _bomb(path: Path, _rng: np.random.Generator) -> None:
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("README.md", "w", force_zip64=True) as out,
    ):
        for _ in range(1200):
            out.write(bytes(1 << 20))


def _nested_bomb(files: Files) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(50 << 20))
    files["more.zip"] = inner.getvalue()


def _lies(path: Path, _rng: np.random.Generator) -> None:
    """The directory says that a file is short."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)


def _encrypted(path: Path, _rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.find(mark)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(mark, place + 1)
    path.write_bytes(data)


def _many(files: Files) -> None:
    files.update({f"a{number}.json": b"{}" for number in range(5000)})


def _card(change: Callable[[dict[str, object]], object]) -> Damage:
    def apply(path: Path, rng: np.random.Generator) -> None:
        folder = path.with_suffix("")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)

        def edited(card: Path, _rng: np.random.Generator) -> None:
            facts = json.loads(card.read_text(encoding="utf-8"))
            change(facts)
            card.write_text(json.dumps(facts), encoding="utf-8")

        sealed(edited)(folder / "card.json", rng)
        _write(path, _files(folder))
        shutil.rmtree(folder)

    return apply


def cases() -> Iterator[Case]:
    """Cases of archives, pulled."""
    role = Role(
        "archive",
        "head.zip",
        _make,
        lambda _room, _m: ["head", "pull", "head.zip", "--out", "out", "--accept-licence", "--json"],
        _result,
    )
    damages: list[tuple[str, Damage, str]] = [
        ("slip", _entry("../owned.json"), ERROR),
        ("slip-deep", _entry("a/../../owned.json"), ERROR),
        ("slip-windows", _entry("..\\owned.json"), ERROR),
        ("root", _entry("/tmp/owned.json"), ERROR),
        ("drive", _entry("C:\\owned.json"), ERROR),
        ("link", _entry("owned.json", b"/etc/passwd", stat.S_IFLNK | 0o777), ERROR),
        ("pipe-inside", _entry("owned.json", b"", stat.S_IFIFO | 0o666), ERROR),
        ("device-inside", _entry("owned.json", b"", stat.S_IFCHR | 0o666), ERROR),
        ("folder-inside", _entry("sub/"), EITHER),
        ("name-blank", _entry("", b"x"), ERROR),
        ("name-long", _entry("x" * 300 + ".json"), ERROR),
        ("name-escape", _entry("\x1b[2J.json"), ERROR),
        ("name-con", _entry("CON.json"), ERROR),
        ("name-turned", _entry("a\u202enosj.json"), ERROR),
        ("code", _entry("setup.py", b"open('owned', 'w')"), ERROR),
        ("pickle", _entry("weights.pkl", b"\x80\x04."), ERROR),
        ("twin", _entry("card.json", b"{}"), ERROR),
        ("case-twin", _entry("Card.JSON", b"{}"), ERROR),
        ("bomb", _bomb, ERROR),
        ("bomb-in-zip", _changed(_nested_bomb), ERROR),
        ("size-lie", _lies, ERROR),
        ("encrypted", _encrypted, ERROR),
        ("many", _changed(_many), ERROR),
        ("no-card", _changed(lambda files: files.pop("card.json") and None), ERROR),
        ("no-weights", _changed(lambda files: files.pop("weights.safetensors") and None), ERROR),
        (
            "weights-other",
            _changed(lambda files: files.update({"weights.safetensors": files["novelty.safetensors"]})),
            ERROR,
        ),
        (
            "card-edited",
            _changed(lambda files: files.update({"card.json": files["card.json"].replace(b"ridge", b"RIDGE")})),
            ERROR,
        ),
        ("card-deep", _changed(lambda files: files.update({"card.json": b"[" * 100_000})), ERROR),
        ("card-null", _changed(lambda files: files.update({"card.json": b"null"})), ERROR),
        ("card-name-number", _card(lambda facts: facts.update(name=3)), EITHER),
        ("card-licence-list", _card(lambda facts: facts.update(encoder_licences=[1])), EITHER),
        ("card-licence-none", _card(lambda facts: facts.update(encoder_licences=None)), EITHER),
        ("card-encoders-none", _card(lambda facts: facts.update(encoders=None)), EITHER),
        ("card-levels-number", _card(lambda facts: facts.update(levels=3)), EITHER),
        ("in-a-folder", _changed(lambda files: {f"head/{name}": data for name, data in files.items()}), EITHER),
        ("stored", lambda path, _rng: _write(path, _unzipped(path), zipfile.ZIP_STORED), RIGHT),
        ("lzma", lambda path, _rng: _write(path, _unzipped(path), zipfile.ZIP_LZMA), EITHER),
        ("prefix", of_bytes.of(lambda data, _rng: b"#!/bin/sh\n" + data), EITHER),
        ("tail", of_bytes.of(lambda data, _rng: data + b"tail" * 100), EITHER),
        ("empty-zip", _changed(lambda _files: {}), ERROR),
    ]
    yield from cases_of(role, [*damages, *of_bytes.BROKEN, *of_bytes.flipped(6), *of_bytes.LOST])


def _unzipped(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
