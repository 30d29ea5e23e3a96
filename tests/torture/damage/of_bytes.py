"""Damage of any file: cut, zeroed, noisy, replaced, no file at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..case import EITHER, ERROR, Damage

Bytes = Callable[[bytes, np.random.Generator], bytes]


def of(change: Bytes) -> Damage:
    """A damage by what it makes of the bytes."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(change(path.read_bytes(), rng))

    return apply


def cut(fraction: float) -> Bytes:
    """The file ends early."""
    return lambda data, _rng: data[: int(len(data) * fraction)]


def zeros(start: float, stop: float) -> Bytes:
    """A hole, as a broken transfer leaves it."""
    return lambda data, _rng: (
        data[: int(len(data) * start)]
        + bytes(int(len(data) * stop) - int(len(data) * start))
        + data[int(len(data) * stop) :]
    )


def noise(start: float, stop: float) -> Bytes:
    """Other bytes in the place of a part."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        first, last = int(len(data) * start), int(len(data) * stop)
        return data[:first] + rng.bytes(last - first) + data[last:]

    return change


def flips(count: int) -> Bytes:
    """Single bits turned, anywhere."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        changed = bytearray(data)
        for place in rng.integers(0, max(1, len(data)), count if data else 0):
            changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    return change


def swapped(data: bytes, _rng: np.random.Generator) -> bytes:
    """Its halves in the wrong order."""
    return data[len(data) // 2 :] + data[: len(data) // 2]


def _replaced(make: Callable[[Path], object]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return apply


PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Your session has expired.</body></html>\n" * 20

#: Where the whole cannot be read.
LOST: list[tuple[str, Damage, str]] = [
    ("empty", of(lambda _data, _rng: b""), ERROR),
    ("one-byte", of(lambda data, _rng: data[:1]), ERROR),
    ("page", of(lambda _data, _rng: PAGE), ERROR),
    ("all-zeros", of(lambda data, _rng: bytes(len(data))), ERROR),
    ("absent", _replaced(lambda _path: None), ERROR),
    ("folder", _replaced(lambda path: path.mkdir()), ERROR),
    ("pipe", _replaced(os.mkfifo), ERROR),
    ("link-to-itself", _replaced(lambda path: path.symlink_to(path.name)), ERROR),
    ("dangling-link", _replaced(lambda path: path.symlink_to("nowhere")), ERROR),
    ("device", _replaced(lambda path: path.symlink_to("/dev/zero")), ERROR),
]

#: Where a part cannot be read; by what follows in the format, nothing may be lost.
BROKEN: list[tuple[str, Damage, str]] = [
    ("cut-0.1", of(cut(0.1)), EITHER),
    ("cut-0.5", of(cut(0.5)), EITHER),
    ("cut-0.9", of(cut(0.9)), EITHER),
    ("cut-0.999", of(cut(0.999)), EITHER),
    ("zeros-start", of(zeros(0, 0.1)), EITHER),
    ("zeros-middle", of(zeros(0.4, 0.6)), EITHER),
    ("zeros-end", of(zeros(0.8, 1)), EITHER),
    ("noise-start", of(noise(0, 0.05)), EITHER),
    ("noise-middle", of(noise(0.45, 0.55)), EITHER),
    ("noise-end", of(noise(0.95, 1)), EITHER),
    ("swapped", of(swapped), EITHER),
]


def flipped(count: int, expect: str = EITHER) -> list[tuple[str, Damage, str]]:
    """``count`` cases of a few bits turned."""
    return [(f"bits-{number}", of(flips(3)), expect) for number in range(count)]
