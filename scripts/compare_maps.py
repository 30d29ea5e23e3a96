"""Are the maps of two runs equal, such as those of two sets of libraries?

Usage: python scripts/compare_maps.py ONE OTHER [--tolerance 1e-3]

ONE and OTHER are folders (of `histomix demo` or `histomix predict`) or files composition.h5ad. Each map in ONE is
compared with that of the same name in OTHER: tiles and cell types must be the same and in the same order, unreadable
tiles and tiles in scope too, and no number may differ by more than the tolerance (in the unit of the map; novelty has
its own). Prints the greatest difference of each array. Exit codes: 0 equal, 1 different, 2 nothing to compare.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np

NAME = "composition.h5ad"


def maps(place: Path) -> dict[str, Path]:
    """Maps under a folder, by the name of their slide; or the one map that a file is."""
    if place.is_file():
        return {"": place}
    return {path.parent.name: path for path in sorted(place.rglob(NAME))}


def arrays(one: ad.AnnData) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of numbers of a map."""
    yield "X", np.asarray(one.X, float)
    for name in sorted(key for key in one.layers if key is not None):
        yield f"layer {name}", np.asarray(one.layers[name], float)
    yield "places", np.asarray(one.obsm["spatial"], float)
    for name in sorted(one.obs):
        if one.obs[name].dtype.kind in "fiub":
            yield f"column {name}", one.obs[name].to_numpy(float)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The greatest difference; infinite where the shapes differ or one has a number and the other none."""
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    both = np.isfinite(one)
    return float(np.abs(one[both] - other[both]).max(initial=0.0))


def compare(one: Path, other: Path, tolerance: float) -> list[str]:
    """Print how far two maps are apart; returns what is beyond the tolerance, in words."""
    first, second = ad.read_h5ad(one), ad.read_h5ad(other)
    faults = [
        f"the {what} differ"
        for what, found, expected in (
            ("tiles", first.obs_names, second.obs_names),
            ("cell types", first.var_names, second.var_names),
        )
        if list(found) != list(expected)
    ]
    if faults:
        return faults
    numbers, others = dict(arrays(first)), dict(arrays(second))
    if set(numbers) != set(others):
        return [f"only one of them has: {', '.join(sorted(set(numbers) ^ set(others)))}"]
    for name, values in numbers.items():
        found = difference(values, others[name])
        print(f"  {name}: {found:.3g}")
        if not found <= tolerance:
            faults.append(f"{name} differs by {found:.3g}")
    return faults


def main() -> int:
    """Compare all maps; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="greatest difference (default: 0.001)")
    given = parser.parse_args()
    found, others = maps(given.one), maps(given.other)
    if not found or not others:
        print(f"there is no {NAME} in {given.one if not found else given.other}", file=sys.stderr)
        return 2
    failed = False
    for name in sorted(set(found) | set(others)):
        print(name or "map")
        if name not in found or name not in others:
            faults = [f"only in {given.one if name in found else given.other}"]
        else:
            faults = compare(found[name], others[name], given.tolerance)
        for fault in faults:
            print(f"  DIFFERENT: {fault}")
        failed |= bool(faults)
    print("different" if failed else f"equal within {given.tolerance:g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
