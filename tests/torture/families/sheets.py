"""Cohort sheets, vocabularies and ready labels: what a person writes by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from .. import commands, inputs
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_text
from ..materials import Materials

_SCALE = {"mpp": "0.5", "spot_diameter_um": "55", "spot_pitch_um": "100"}


def _csv(room: Path, materials: Materials) -> None:
    inputs.with_sheet(inputs.h5ad, "spots.h5ad", **_SCALE)(room, materials)


def _yaml(room: Path, materials: Materials) -> None:
    _csv(room, materials)
    lines = [
        "section: S",
        "donor: P",
        "spots: spots.h5ad",
        "image: ''",
        *(f"{key}: {text}" for key, text in _SCALE.items()),
    ]
    (room / "sheet.yaml").write_text("sections:\n  - " + "\n    ".join(lines) + "\n")


def _labels(room: Path, _materials: Materials) -> None:
    inputs.csv(room)
    keys = pd.read_csv(room / "spots.csv", index_col=0).index
    table = pd.DataFrame(0.25, index=keys, columns=inputs.TYPES)
    table["Tumour"] = 0.5
    table.to_csv(room / "labels.csv")
    (room / "sheet.csv").write_text(
        inputs.sheet("spots.csv", counts="counts.csv", labels="labels.csv", label_unit="proportion", **_SCALE)
    )


def _vocabulary(room: Path, materials: Materials) -> None:
    _csv(room, materials)
    (room / "words.yaml").write_text("merge:\n  Immune: [B cells]\nrename:\n  Tumour: Cancer\n")


def _written(text: str | bytes) -> Damage:
    data = text.encode() if isinstance(text, str) else text
    return of_bytes.of(lambda _data, _rng: data)


def _replaced(old: str, new: str) -> Damage:
    return of_bytes.of(lambda data, _rng: data.decode().replace(old, new).encode())


def _hostile_yaml() -> list[tuple[str, Damage, str]]:
    billion = "a0: &a0 [lol, lol]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    return [
        ("aliases", _written(billion + "sections: *a9\n"), ERROR),
        ("alias-of-itself", _written("sections: &a [*a]\n"), ERROR),
        ("deep-flow", _written("[" * 20_000 + "]" * 20_000), ERROR),
        ("deep-maps", _written("{a: " * 20_000 + "1" + "}" * 20_000), ERROR),
        ("deep-block", _written("".join(" " * n + "a:\n" for n in range(3000))), ERROR),
        ("python-object", _written("sections: !!python/object/apply:os.system ['touch owned']\n"), ERROR),
        ("tag-unknown", _written("sections: !thing [1]\n"), ERROR),
        ("tab", _written("sections:\n\t- section: S\n"), ERROR),
        ("key-twice", _replaced("donor: P\n", "donor: P\n    donor: Q\n"), EITHER),
        ("two-documents", of_bytes.of(lambda data, _rng: data + b"---\n" + data), EITHER),
        ("number", _written("3\n"), ERROR),
        ("null", _written("~\n"), ERROR),
        ("text", _written("just words\n"), ERROR),
        ("sections-text", _written("sections: words\n"), ERROR),
        ("sections-numbers", _written("sections: [1, 2]\n"), ERROR),
        ("sections-empty", _written("sections: []\n"), ERROR),
        ("cut-in-a-quote", _written("sections:\n  - section: 'S\n"), ERROR),
        ("bom", of_bytes.of(lambda data, _rng: b"\xef\xbb\xbf" + data), RIGHT),
        ("utf-16", of_bytes.of(lambda data, _rng: data.decode().encode("utf-16")), EITHER),
        ("latin-1", _replaced("donor: P", "donor: Müller").__class__ and of_bytes.of(
            lambda data, _rng: data.replace(b"donor: P", b"donor: M\xfcller")), EITHER),
        ("control-character", _replaced("donor: P", "donor: P\x07"), EITHER),
        ("nul", _replaced("donor: P", "donor: P\0"), ERROR),
        ("norway", _replaced("section: S", "section: no"), UNTOLD),
        ("date", _replaced("section: S", "section: 2024-01-01"), UNTOLD),
        ("octal", _replaced("section: S", "section: 0o17"), UNTOLD),
        ("sexagesimal", _replaced("mpp: 0.5", "mpp: 1:30"), ERROR),
        ("mpp-list", _replaced("mpp: 0.5", "mpp: [0.5]"), ERROR),
        ("mpp-nan", _replaced("mpp: 0.5", "mpp: .nan"), ERROR),
        ("mpp-infinite", _replaced("mpp: 0.5", "mpp: .inf"), ERROR),
        ("mpp-map", _replaced("mpp: 0.5", "mpp: {a: 1}"), ERROR),
        ("spots-list", _replaced("spots: spots.h5ad", "spots: [spots.h5ad]"), ERROR),
    ]  # fmt: skip


def _values() -> list[tuple[str, Damage, str]]:
    """Of single cells of a CSV sheet."""
    long = "x" * 300
    return [
        ("section-long", _replaced("\nS,", f"\n{long},"), ERROR),
        ("section-longest", _replaced("\nS,", f"\n{'x' * 1_000_000},"), ERROR),
        ("section-blank", _replaced("\nS,", "\n,"), ERROR),
        ("section-up", _replaced("\nS,", "\n../S,"), ERROR),
        ("section-slash", _replaced("\nS,", "\na/b,"), ERROR),
        ("section-root", _replaced("\nS,", "\n/etc,"), ERROR),
        ("section-con", _replaced("\nS,", "\nCON,"), ERROR),
        ("section-escape", _replaced("\nS,", "\n\x1b[2JS,"), ERROR),
        ("section-emoji", _replaced("\nS,", "\n🧬,"), UNTOLD),
        ("section-turned", _replaced("\nS,", "\nS\u202e,"), EITHER),
        ("section-formula", _replaced("\nS,", "\n=1+1,"), UNTOLD),
        ("spots-long", _replaced("spots.h5ad", f"{long}.h5ad"), ERROR),
        ("spots-deep", _replaced("spots.h5ad", "a/" * 3000 + "spots.h5ad"), ERROR),
        ("spots-nul", _replaced("spots.h5ad", "spots\0.h5ad"), ERROR),
        ("spots-absent", _replaced("spots.h5ad", "spotz.h5ad"), ERROR),
        ("spots-blank", _replaced("spots.h5ad", ""), ERROR),
        ("spots-folder", _replaced("spots.h5ad", "."), EITHER),
        ("spots-url", _replaced("spots.h5ad", "http://127.0.0.1:1/spots.h5ad"), ERROR),
        ("spots-option-unknown", _replaced("spots.h5ad", "spots.h5ad#colour=red"), ERROR),
        ("spots-windows", _replaced("spots.h5ad", ".\\spots.h5ad"), RIGHT),
        ("mpp-0", _replaced(",0.5,", ",0,"), ERROR),
        ("mpp-negative", _replaced(",0.5,", ",-0.5,"), ERROR),
        ("mpp-nan", _replaced(",0.5,", ",nan,"), ERROR),
        ("mpp-infinite", _replaced(",0.5,", ",inf,"), ERROR),
        ("mpp-1e300", _replaced(",0.5,", ",1e300,"), ERROR),
        ("mpp-text", _replaced(",0.5,", ",half,"), ERROR),
        (
            "format-unknown",
            of_bytes.of(lambda data, _rng: data.replace(b"\n", b",format\n", 1).rstrip() + b",tiff\n"),
            ERROR,
        ),
        (
            "format-other",
            of_bytes.of(lambda data, _rng: data.replace(b"\n", b",format\n", 1).rstrip() + b",visium\n"),
            ERROR,
        ),
        (
            "column-unknown",
            of_bytes.of(lambda data, _rng: data.replace(b"\n", b",colour\n", 1).rstrip() + b",red\n"),
            EITHER,
        ),
        ("sections-twice", of_bytes.of(lambda data, _rng: data + data.splitlines(True)[1]), ERROR),
        ("sections-many", of_bytes.of(lambda data, _rng: data + data.splitlines(True)[1] * 3000), ERROR),
        ("case-twins", of_bytes.of(lambda data, _rng: data + data.splitlines(True)[1].replace(b"S,", b"s,", 1)), ERROR),
    ]


def _role(name: str, file: str, make: inputs.Maker, *more: str, sheet: str = "sheet.csv") -> Role:
    def argv(_room: Path, _materials: object) -> list[str]:
        return [sheet if one == "sheet.csv" else one for one in commands.label(*more)]

    return Role(name, file, make, argv, lambda _room: commands.labels_of(sheet), names=("spots.h5ad", "section S"))


def cases() -> Iterator[Case]:
    """Cases of what people write."""
    texts = [
        (name, damage, UNTOLD if name in ("column-lost", "header-lost", "column-repeated") else expect)
        for name, damage, expect in [*of_text.SAME, *of_text.OTHER]
    ]
    yield from cases_of(_role("sheet-csv", "sheet.csv", _csv), [*texts, *_values(), *of_bytes.LOST])
    role = _role("sheet-yaml", "sheet.yaml", _yaml, sheet="sheet.yaml")
    yield from cases_of(role, [*_hostile_yaml(), *of_bytes.BROKEN[:3], *of_bytes.LOST])
    yield from cases_of(_role("labels-ready", "labels.csv", _labels, "--method", "table"), of_text.table(1))
    words = _role("vocabulary", "words.yaml", _vocabulary, "--vocabulary", "words.yaml")
    hostile = [(name, damage, expect) for name, damage, expect in _hostile_yaml()[:14] if name != "key-twice"]
    more: list[tuple[str, Damage, str]] = [
        ("merge-into-itself", _written("merge:\n  B cells: [B cells, Stroma]\n"), UNTOLD),
        ("merge-twice", _written("merge:\n  A: [B cells]\n  B: [B cells]\n"), ERROR),
        ("rename-to-one", _written("rename:\n  B cells: A\n  Stroma: A\n"), UNTOLD),
        ("drop-all", _written("drop: [B cells, Stroma, Tumour]\n"), ERROR),
        ("merge-number", _written("merge: 3\n"), ERROR),
        ("unknown-word", _written("join:\n  A: [B cells]\n"), ERROR),
    ]
    yield from cases_of(words, [*hostile, *more, *of_bytes.LOST])
