"""Which runtime is the fastest for an encoder here: a short race, and what was measured before."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, StorageError
from ..provenance import digest_json, read_json, versions, write_json

if TYPE_CHECKING:
    from .card import Encoder

#: Each runs a batch so often, in turns, and the best time of each counts: what else the machine does only slows.
ROUNDS = 5
#: A batch of the race takes about so long, and has so many tiles at most.
_SECONDS, _LARGEST = 0.15, 16
_LOG = logging.getLogger(__name__)


def known_facts(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before, else now; what cannot be kept is measured each time."""
    try:
        known: dict[str, Any] = read_json(path)
        return known
    except (InputError, OSError):
        found = measure()
    try:
        write_json(path, found)
    except StorageError as error:
        _LOG.info("what was measured is not kept: %s", error)
    return found


def fastest(
    encoder: Encoder,
    make: Mapping[str, Callable[[], Encoder]],
    folder: Callable[[], Path],
    asked: Sequence[Any],
    unusable: tuple[type[Exception], ...],
) -> Encoder:
    """The fastest of several runtimes of an encoder.

    Parameters
    ----------
    encoder
        What is run.
    make
        Name of a runtime -> what makes it; the last one that can be made is taken where nothing can be kept.
    folder
        Gives the folder that times are kept in.
    asked
        What else the race depends on.
    unusable
        What making one may raise; it is left out then.

    Returns
    -------
    The fastest; with one alone, that one, without a race.
    """
    if len(make) == 1:
        return next(iter(make.values()))()
    libraries = versions("torch", "onnxruntime", "openvino", "onnx")
    machine = [platform.machine(), platform.processor(), _cpu_name()]
    key = digest_json([encoder.digest, sorted(make), libraries, machine, list(asked)]).removeprefix("sha256:")[:24]
    made: dict[str, Encoder] = {}

    def get(name: str) -> Encoder | None:
        if name not in made:
            try:
                made[name] = make[name]()
            except unusable as error:
                _LOG.info("%s does not run %s: %s", name, encoder.card.name, error)
                return None
        return made[name]

    def measure() -> dict[str, Any]:
        for name in make:
            get(name)
        return {"seconds": race(made) if len(made) > 1 else dict.fromkeys(made, 0.0)}

    try:
        found = known_facts(folder() / f"{key}-race.json", measure)
    except StorageError as error:  # no cache, so no graphs either
        _LOG.info("%s", error)
        found = measure()
    for name in sorted(found["seconds"], key=found["seconds"].__getitem__):
        if name in make and (taken := get(name)) is not None:
            return taken
    return next(one for name in make if (one := get(name)) is not None)


def race(contenders: Mapping[str, Encoder]) -> dict[str, float]:
    """Seconds a tile of each, the best of `ROUNDS` batches in turns."""
    from .onnx.graph import trial_tiles

    first = next(iter(contenders.values()))
    tiles = trial_tiles(first.tile_spec().size_px)

    def seconds(encoder: Encoder, count: int) -> float:
        batch = np.resize(tiles, (count, *tiles.shape[1:]))
        start = time.perf_counter()
        encoder.embed(batch)
        return (time.perf_counter() - start) / count

    once = {name: seconds(encoder, 1) for name, encoder in contenders.items()}  # the first is slower than all later
    count = int(np.clip(_SECONDS / min(once.values()), 1, _LARGEST))
    times = [{name: seconds(encoder, count) for name, encoder in contenders.items()} for _ in range(ROUNDS)]
    best = {name: min(each[name] for each in times) for name in contenders}
    told = ", ".join(f"{name} {1 / took:.3g}" for name, took in best.items())
    _LOG.debug("tiles a second of %s by runtime: %s", first.card.name, told)
    return best


def seconds_a_tile(encoder: Encoder, count: int = 8) -> float:
    """How long an encoder takes for a tile here, by one small batch after a first tile."""
    from .onnx.graph import trial_tiles

    tiles = trial_tiles(encoder.tile_spec().size_px)
    encoder.embed(tiles[:1])
    start = time.perf_counter()
    encoder.embed(np.resize(tiles, (count, *tiles.shape[1:])))
    return (time.perf_counter() - start) / count


def _cpu_name() -> str:
    """What Linux calls the CPU; elsewhere `platform` says enough."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")
