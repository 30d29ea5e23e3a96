"""Build the ready heads: the phantom's, which comes with the package, and those of the data at hand.

Usage: python scripts/heads.py                 every head into dist/heads/, with a catalogue and a card each
       python scripts/heads.py --package       the phantom's head into the package, anew for each built-in encoder
       python scripts/heads.py --check-data    says what would be built, and what is refused
       python scripts/heads.py --work FOLDER   keeps each step there, and goes on from it

A head is handed on only where the licence of its training data allows it (histomix.sharing.sharing_fault). Data are
looked for in the folder that HISTOMIX_DATA names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import histomix as hm
from histomix.heads import DEFAULT
from histomix.provenance import write_json
from histomix.sharing import listing, sharing_fault, with_licences
from histomix.sharing.catalogue import BUNDLED, CATALOGUE, FORMAT

OUT = Path("dist/heads")
#: What the package may grow by.
MOST_BYTES = 1_500_000
#: Of the phantom that the package's head is trained on.
PHANTOM = {"seed": 11, "donors": 4, "sections_per_donor": 2, "size_um": (1200.0, 1200.0)}


@dataclass(frozen=True)
class Recipe:
    """A head, and what it is made of."""

    name: str
    title: str
    sheet: Callable[[Path], tuple[Path, Path | None]]
    data: str
    labels: str
    folds: str
    kind: str
    damp_stain: bool = True


def phantom(folder: Path) -> tuple[Path, Path | None]:
    sheet = hm.make_phantom(folder / "phantom", progress=False, **PHANTOM)
    return sheet, sheet.parent / "reference.csv"


def her2st(folder: Path) -> tuple[Path, Path | None]:
    data = _data("her2st/images/C2.jpg").parents[1]
    rows = [
        {
            "section": name,
            "donor": name[0],
            "spots": data / "spots" / f"{name}_selection.tsv",
            "image": data / "images" / f"{name}.jpg",
            "counts": data / "counts" / f"{name}.tsv.gz",
            "mpp": 0.69,
            "tissue": "breast",
        }
        for name in ("C2", "C3", "C4")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "her2st.csv", index=False)
    return folder / "her2st.csv", _data("reference/wu2021_brca_major_dwls.csv")


def monusac(folder: Path) -> tuple[Path, Path | None]:
    return _data("monusac/images.csv"), None


def _data(name: str) -> Path:
    path = Path(os.environ.get("HISTOMIX_DATA", "")) / name
    if not os.environ.get("HISTOMIX_DATA") or not path.exists():
        raise FileNotFoundError(f"HISTOMIX_DATA has no {name}")
    return path


RECIPES = (
    Recipe(
        "phantom",
        "Cell types of a synthetic tissue, the phantom: to try every command with, and for nothing else",
        phantom,
        "BSD-3-Clause (made by histomix)",
        "BSD-3-Clause (Poisson deconvolution of made counts)",
        "donor",
        "ridge",
        damp_stain=False,
    ),
    Recipe(
        "her2st-c",
        "Breast cancer, HER2-positive: three sections of one patient (optimistic scores)",
        her2st,
        "CC BY 4.0 by the record zenodo.org/records/4751624; the authors' repository states none. Andersson et al., "
        "Nat Commun 12, 6012 (2021)",
        "Poisson deconvolution with signatures of Wu et al., Nat Genet 53, 1334 (2021)",
        "section",
        DEFAULT,
    ),
    Recipe("monusac", "Nuclei of four organs", monusac, "CC BY-NC-SA 4.0", "CC BY-NC-SA 4.0", "donor", "ridge"),
)


def build(recipe: Recipe, folder: Path, archive: Path) -> dict[str, Any]:
    """Make a head and its archive; what the catalogue says of it."""
    sheet, reference = recipe.sheet(folder)
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=reference, progress=False)
    features = hm.embed(cohort, out=folder / "features", progress=False)
    scores = hm.evaluate(
        cohort,
        features,
        labels,
        heads=[recipe.kind],
        folds=recipe.folds,
        nuclei=False,
        spatial=False,
        damp_stain=recipe.damp_stain,
        progress=False,
    )
    head = hm.train(
        cohort, features, labels, head=recipe.kind, scores=scores, damp_stain=recipe.damp_stain, progress=False
    )
    head = with_licences(head, data=recipe.data, labels=recipe.labels, name=recipe.name)
    head.save(folder / "head")
    hm.push_head(folder / "head", archive)
    return listing(head.card, recipe.name, recipe.title, archive.name, archive)


def refused(recipe: Recipe) -> str | None:
    """Why a head may not be handed on, whatever it is good for."""
    return sharing_fault(recipe.data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", action="store_true", help="the phantom's head into the package")
    parser.add_argument("--check-data", action="store_true", help="build nothing")
    parser.add_argument("--work", type=Path, help="keep the steps here, and go on from them")
    chosen = parser.parse_args()
    out = BUNDLED if chosen.package else OUT
    entries = []
    for recipe in RECIPES[:1] if chosen.package else RECIPES:
        if (why := refused(recipe)) is not None:
            print(f"{recipe.name}: refused: {why}")
            continue
        if chosen.check_data:
            print(f"{recipe.name}: may be built and handed on ({recipe.data})")
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = chosen.work / recipe.name if chosen.work else Path(temporary)
            out.mkdir(parents=True, exist_ok=True)
            try:
                entry = build(recipe, folder, out / f"{recipe.name}.zip")
            except FileNotFoundError as error:
                print(f"{recipe.name}: not built: {error}")
                continue
            if not chosen.package:
                shutil.copy(folder / "head" / "card.json", out / f"{recipe.name}.card.json")
                card = hm.load_head(folder / "head").card_markdown()
                (out / f"{recipe.name}.md").write_text(card, encoding="utf-8")
        entries.append(entry)
        print(f"{recipe.name}: {entry['bytes']:,} bytes, {entry['sha256']}, {entry['scores']}")
    if entries:
        write_json(out / CATALOGUE, {"format": FORMAT, "heads": entries})
    if chosen.package and entries[0]["bytes"] > MOST_BYTES:
        print(f"the package's head has more than {MOST_BYTES:,} bytes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
