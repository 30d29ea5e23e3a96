"""Coverage-guided fuzzing of the readers: whatever a file holds, it is read, or refused by an error of ours.

In an environment with the group ``fuzz`` (``pip install --group fuzz``):

    python scripts/fuzz.py                       # every target for a minute
    python scripts/fuzz.py geojson --seconds 600 --corpus kept

What begins each target is a whole file of its format; inputs that lead somewhere new are kept in the folder
``--corpus``, where that is given. An input that ends in anything else, or takes over ten seconds, is written into the
working folder as ``TARGET-crash-*`` or ``TARGET-timeout-*``, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atheris
import numpy as np
import pandas as pd

with atheris.instrument_imports(include=["histomix", "json", "csv", "yaml"]):
    from histomix.abundance.number_tables import read_cells
    from histomix.abundance.tables import read_abundance
    from histomix.embedding.features import build_features, read_feature_file, write_features
    from histomix.encoders.card_file import read_card_file
    from histomix.errors import HistomixError
    from histomix.evaluation.measured.read_regions import read_regions
    from histomix.heads.cards.text import card_markdown
    from histomix.heads.files import check_card
    from histomix.provenance import digest_json, read_json
    from histomix.spots.formats.tenx.positions import read_positions, read_scalefactors
    from histomix.spots.sheet import read_sheet


@dataclass(frozen=True)
class Target:
    """A reader, the name of the file that it is given, and whole files to begin with."""

    read: Callable[[Path], Any]
    file: str
    whole: Callable[[], list[bytes]]


def _card(path: Path) -> None:
    """A head's card, its digest made right: who edits a card can do so too."""
    card = read_json(path)
    if isinstance(card, dict):
        card["digest"] = digest_json({name: value for name, value in card.items() if name != "digest"})
    check_card(card, path)
    card_markdown(card)


def _cards() -> list[bytes]:
    encoder = {
        "name": "builtin",
        "dim": 4,
        "licence": "MIT",
        "views": 1,
        "digest": "0" * 64,
        "size_px": 224,
        "mpp": 0.5,
    }
    card = {
        "format": 1, "histomix": "1.0", "unit": "proportion", "cell_types": ["A", "B"], "encoders": [encoder],
        "tile": {"size_px": 224, "mpp": 0.5}, "training": {"donors": ["P"], "sections": ["S"], "spots": 9},
        "head": {"kind": "ridge", "parameters": {}, "fitted": {}}, "files": {}, "scores": None,
    }  # fmt: skip
    return [json.dumps(card).encode()]


def _features() -> list[bytes]:
    tiles = pd.DataFrame({"x_px": [1.0, 2.0], "y_px": [3.0, 4.0], "tissue": 1.0}, index=["a", "b"])
    encoder = {"name": "e", "digest": "0", "dim": 2, "views": 1}
    facts = {
        "section": "S",
        "identity": "0",
        "encoder": encoder,
        "tile": {"size_px": 224, "mpp": 0.5},
        "dtype": "float32",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "S.h5ad"
        write_features(path, build_features(np.ones((2, 2), np.float32), tiles, facts))
        return [path.read_bytes()]


def _regions() -> list[bytes]:
    ring = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]
    named = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": "a"}}
    derived = {"classification": {"names": ["a", "b"]}}
    many = {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[ring]]}, "properties": derived}
    return [json.dumps({"type": "FeatureCollection", "features": [one]}).encode() for one in (named, many)]


def _scalefactors(path: Path) -> None:
    (path.parent / "tissue_positions.csv").touch()
    read_scalefactors(path.parent)


TARGETS = {
    "card": Target(_card, "card.json", _cards),
    "encoder": Target(
        read_card_file,
        "card.yaml",
        lambda: [b"name: e\nmodel: e.onnx\nsize_px: 8\nmpp: 1\nmean: [0, 0, 0]\nstd: [1, 1, 1]\ndim: 8\nlicence: A\n"],
    ),
    "sheet": Target(
        read_sheet,
        "sheet.csv",
        lambda: [b"section,donor,spots,image,mpp\nS,P,spots.csv,,0.5\nT,Q,spots.csv,,\n"],
    ),
    "sheet-yaml": Target(read_sheet, "sheet.yaml", lambda: [b"- {section: S, donor: P, spots: s.csv, image: ''}\n"]),
    "geojson": Target(read_regions, "regions.geojson", _regions),
    "region-table": Target(read_regions, "regions.csv", lambda: [b"x_px,y_px,region\n1,2,a\n3,4,b\n"]),
    "positions": Target(
        read_positions, "tissue_positions.csv",
        lambda: [b"barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\nA-1,1,0,0,5,6\n",
                 b"A-1,1,0,0,5,6\nB-1,0,0,2,5,9\n"],
    ),
    "scalefactors": Target(
        _scalefactors, "scalefactors_json.json",
        lambda: [b'{"spot_diameter_fullres": 90.5, "tissue_hires_scalef": 0.1, "fiducial_diameter_fullres": 140}'],
    ),
    "labels": Target(read_abundance, "S.csv", lambda: [b"spot,A,B\na,0.5,0.5\nb,0.1,0.9\n"]),
    "cells": Target(read_cells, "cells.csv", lambda: [b"cell_id,x_px,y_px,cell_type\n1,2,3,A\n2,4,5,B\n"]),
    "store": Target(read_feature_file, "S.h5ad", _features),
}  # fmt: skip


def _fuzz(name: str, seconds: int, seed: int, corpus: Path) -> None:
    """Fuzz one target in this process, which ends by itself."""
    target = TARGETS[name]
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    path = folder / target.file

    def once(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(HistomixError):
            target.read(path)

    for number, whole in enumerate(target.whole()):
        (corpus / f"whole-{number}").write_bytes(whole)
    options = [f"-max_total_time={seconds}", f"-seed={seed + 1}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={name}-", "-print_final_stats=1", str(corpus)], once)
    atheris.Fuzz()


def main() -> int:
    """Fuzz each target in a process of its own; 1 where an input was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="folder for inputs that lead somewhere new; gone on with if there")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        _fuzz(given.target[0], given.seconds, given.seed, given.corpus)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.target or TARGETS:
            corpus = (given.corpus or Path(scratch)) / name
            corpus.mkdir(parents=True, exist_ok=True)
            words = [name, "--here", "--seconds", given.seconds, "--seed", given.seed, "--corpus", corpus]
            command = [sys.executable, __file__, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed" in line), "?")
            print(f"{name}: {runs} inputs, {'clean' if not done.returncode else 'FAILED'}", flush=True)
            if done.returncode:
                failed.append(name)
                print((done.stdout + done.stderr)[-3000:], flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
