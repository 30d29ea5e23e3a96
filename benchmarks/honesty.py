"""What a head says of itself and of a slide, against what is so, in one Markdown table.

Means of slides beside a constant, novelty and its alarms, the checks of um per px and focus, intervals by stratum, what
was not read against truth, and adjacent levels that the audit finds. Run on the phantom; where HISTOMIX_DATA is set, on
her2st (C2, C3 and C4, one patient) and on MoNuSAC (patients of four organs) too.

    python benchmarks/honesty.py [--quick] [--only audit,scale] [--folder FOLDER]

What was embedded is kept in FOLDER, and not made again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from honesty_audit import audit_rows, patient_rows
from honesty_focus import focus_rows
from honesty_novelty import coverage_rows, novelty_rows
from honesty_scale import scale_rows
from honesty_slides import area_rows, slide_rows

Row = dict[str, Any]
#: Parts by their names: each is given the folder, the data (None: not here) and whether to be quick.
PARTS: dict[str, Callable[[Path, Path | None, bool], Iterator[Row]]] = {
    "slides": slide_rows,
    "coverage": coverage_rows,
    "areas": area_rows,
    "novelty": novelty_rows,
    "scale": scale_rows,
    "focus": focus_rows,
    "audit": audit_rows,
    "audit-patients": patient_rows,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer donors, and smaller ones")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--folder", type=Path, help="where what was made is kept")
    args = parser.parse_args()
    data = Path(os.environ["HISTOMIX_DATA"]) if os.environ.get("HISTOMIX_DATA") else None
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("| part | cohort | what | value | n |\n|---|---|---|---|---|")
        for name in args.only.split(","):
            began = time.process_time()
            for row in PARTS[name](folder, data, args.quick):
                value = row["value"]
                shown = f"{value:.3f}" if isinstance(value, float | np.floating) else value
                print(f"| {name} | {row['cohort']} | {row['what']} | {shown} | {row['n']} |", flush=True)
            print(f"| {name} | all | seconds of CPU | {time.process_time() - began:.0f} | 1 |", flush=True)


if __name__ == "__main__":
    main()
