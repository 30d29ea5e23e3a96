"""``python -m tests.torture``: run the corpus, or a slice of it, and print the table."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from .case import KINDS, NEVER, Case, Outcome  # noqa: E402
from .families import FAMILIES  # noqa: E402
from .families.remote import serve  # noqa: E402
from .materials import Materials, make_materials  # noqa: E402
from .worker import Bench, _forked  # noqa: E402


def chosen(families: list[str], only: str, few: int, seed: int, every: int = 1) -> dict[str, list[Case]]:
    """The cases of each family, or every so manyth; ``few`` of them all, drawn by the seed, where that is not 0."""
    found = {name: [case for case in list(FAMILIES[name].cases())[::every] if only in case.name] for name in families}
    total = sum(map(len, found.values()))
    if not few or few >= total:
        return found
    drawn = {}
    for name, cases in found.items():
        order = sorted(cases, key=lambda case: zlib.crc32(f"{seed} {case.name}".encode()))
        drawn[name] = order[: max(2, round(few * len(cases) / total))]
    return drawn


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """How many cases of each family came to what."""
    lines = [("family", "cases", *KINDS)]
    every = [one for family in outcomes.values() for one in family]
    for name, some in [*outcomes.items(), ("all", every)]:
        count = Counter(one.kind for one in some)
        lines.append((name, str(len(some)), *(str(count[kind]) for kind in KINDS)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def warm() -> None:
    """Import what the verbs need, and build what they build once, so that each child starts with it."""
    import importlib
    import pkgutil

    import histomix
    from histomix.cli.app import app
    from histomix.common.quiet import settle_libraries

    settle_libraries()
    libraries = (
        "anndata contourpy h5py imagecodecs onnx onnxruntime pandas.io.formats.csvs PIL.GifImagePlugin "
        "PIL.PpmImagePlugin pyarrow.parquet pydantic.type_adapter pydicom scipy.cluster.vq shapely skimage.color "
        "skimage.measure._find_contours skimage.measure._regionprops tifffile torch typer._adapters zarr"
    )
    for name in libraries.split():
        importlib.import_module(name)
    for room in pkgutil.walk_packages(histomix.__path__, "histomix."):
        if not room.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # rooms of an extra that is not there
                importlib.import_module(room.name)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        app(["inspect", "--help"])
    # What is here is the children's too: the collector need not touch it, which would copy its pages.
    gc.freeze()


def main() -> int:
    """Run, print the table and what must not be; 1 where something must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="only these families")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--few", type=int, default=0, help="so many cases of all, drawn by the seed")
    parser.add_argument("--every", type=int, default=1, help="of each family the first case, and every so manyth")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every outcome here")
    parser.add_argument("--keep", type=Path, help="a new folder for the rooms of what failed")
    given = parser.parse_args()
    began = time.monotonic()
    cases = chosen(given.family or list(FAMILIES), given.only, given.few, given.seed, given.every)
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        folder = given.keep or Path(scratch)
        os.environ["HISTOMIX_CACHE"] = str(folder / "cache")
        warm()
        materials = Materials(folder / "materials")
        materials.folder.mkdir(parents=True)
        if os.waitpid(_forked(lambda: make_materials(materials.folder), folder), 0)[1]:
            sys.exit((folder / "trace").read_text())
        server, url = serve(materials)
        try:
            outcomes = _run(cases, Bench(Materials(materials.folder, url), folder / "rooms", given.seed), given.jobs)
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    _say(table(outcomes))
    every = [one for some in outcomes.values() for one in some]
    _say(f"{len(every)} cases, seed {given.seed}, {time.monotonic() - began:.0f} s")
    if given.json:
        rows = [
            {"family": name, "name": one.case.name, "kind": one.kind, "detail": one.detail, "seconds": one.seconds}
            for name, some in outcomes.items()
            for one in some
        ]
        given.json.write_text(json.dumps(rows, indent=1))
    return int(any(one.kind in NEVER for one in every))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(cases: dict[str, list[Case]], bench: Bench, jobs: int) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {}
    for name, some in cases.items():
        outcomes[name] = []
        for outcome in bench.run(some, jobs):
            outcomes[name].append(outcome)
            if outcome.kind not in KINDS[:2]:
                _say(f"{outcome.kind}: {outcome.case.name}: {outcome.detail[-700:]}")
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
