"""Co-localisation of all pairs of cell types with its permutation null, against a plain loop over the pairs.

    python benchmarks/spatial.py [--types 80] [--spots 5000] [--permutations 200] [--repeats 3]
    python benchmarks/spatial.py --level 200

Both compute the bivariate Moran's R of every pair of types on the same hexagonal lattice with the same Gaussian
weights. The loop is the textbook one (a sparse product per pair, as esda.Moran_BV does it); it is timed on some pairs
of one permutation and multiplied up, since all of it would take long. They agree to 1e-8, or the script fails.

With --level N, how often the null of shifted maps and one of permuted spots call N unrelated pairs of maps related, at
p <= 0.05: patchy maps of eight types that have the same mean abundances in both, as labels and any prediction have.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from histomix.evaluation.spatial.moran import SpatialWeights, colocalisation, off_diagonal, spatial_weights
from histomix.evaluation.spatial.null import compare_colocalisation, random_shifts

PITCH_UM = 100.0
PAIRS = 200


def section(spots: int, types: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, SpatialWeights]:
    """Places, labels and predictions of a made-up section with patchy types."""
    side = int(np.ceil(np.sqrt(spots)))
    row, column = np.mgrid[:side, :side]
    x = (column + (row % 2) / 2) * PITCH_UM
    xy = np.stack([x, row * PITCH_UM * np.sqrt(3) / 2], axis=-1).reshape(-1, 2)[:spots]
    weights = spatial_weights(xy, PITCH_UM)
    rng = np.random.default_rng(seed)
    field = weights.matrix @ (weights.matrix @ rng.normal(size=(spots, types)))
    labels = np.exp(field / field.std(axis=0))
    return xy, labels, labels * np.exp(0.5 * rng.normal(size=labels.shape)), weights


def loop(values: np.ndarray, weights: SpatialWeights, pairs: list[tuple[int, int]]) -> np.ndarray:
    """One pair after the other."""
    shares = values / values.sum(axis=1, keepdims=True)
    n = len(values)
    found = []
    for a, b in pairs:
        za = (shares[:, a] - shares[:, a].mean()) / shares[:, a].std(ddof=1)
        zb = (shares[:, b] - shares[:, b].mean()) / shares[:, b].std(ddof=1)
        found.append((za * (weights.matrix @ zb)).sum() / (n - 1))
    return np.array(found)


def level(count: int, types: int = 8, permutations: int = 39) -> None:
    """Print the share of unrelated pairs of maps that each null calls related."""
    row, column = np.mgrid[:18, :16]
    xy = np.stack([(column + (row % 2) / 2) * PITCH_UM, row * PITCH_UM * np.sqrt(3) / 2], axis=-1).reshape(-1, 2)
    middle = xy - xy.mean(axis=0)
    ragged = xy[np.hypot(*middle.T) < 600 + 120 * np.sin(3 * np.arctan2(*middle.T))]
    for name, positions in (("a full rectangle", xy), ("a ragged section", ragged)):
        weights = spatial_weights(positions, PITCH_UM)
        shifts = random_shifts(positions, 128)
        distance = np.hypot(*(positions[:, None] - positions[None]).T)
        smooth = np.exp(-0.5 * (distance / (2.5 * PITCH_UM)) ** 2)
        called = {"shifted": 0, "permuted": 0}
        for seed in range(count):
            rng = np.random.default_rng(seed)
            scale = rng.gamma(0.7, size=types) + 0.02
            fields = [smooth @ rng.normal(size=(len(positions), types)) for _ in range(2)]
            a, b = (scale * np.exp(field / field.std(axis=0) + 0.3 * rng.normal(size=field.shape)) for field in fields)
            found = compare_colocalisation(
                a, b, positions, weights, n_permutations=permutations, seed=seed, shifts=shifts
            )
            target = off_diagonal(found.label)
            null = [
                np.corrcoef(target, off_diagonal(colocalisation(b[rng.permutation(len(b))], weights)))[0, 1]
                for _ in range(permutations)
            ]
            called["shifted"] += found.p <= 0.05
            called["permuted"] += (1 + (np.array(null) >= found.correlation).sum()) / (permutations + 1) <= 0.05
        shares = ", ".join(f"{what} {number / count:.3f}" for what, number in called.items())
        print(f"{name} ({len(positions)} spots): called related at p <= 0.05: {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("types", 80), ("spots", 5000), ("permutations", 200), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--level", type=int, help="pairs of unrelated maps; nothing is timed")
    arguments = parser.parse_args()
    if arguments.level:
        level(arguments.level)
        return
    xy, labels, predicted, weights = section(arguments.spots, arguments.types)
    rows, columns = np.triu_indices(arguments.types, k=1)
    rng = np.random.default_rng(1)
    some = rng.choice(len(rows), min(PAIRS, len(rows)), replace=False)
    pairs = list(zip(rows[some].tolist(), columns[some].tolist(), strict=True))
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        found = compare_colocalisation(labels, predicted, xy, weights, n_permutations=arguments.permutations)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        single = loop(predicted, weights, pairs)
        theirs.append((time.perf_counter() - start) / len(pairs) * len(rows) * (arguments.permutations + 2))
    matrix = colocalisation(predicted, weights)
    worst = abs(matrix[rows[some], columns[some]] - single).max()
    if worst > 1e-8:
        raise SystemExit(f"the two differ by {worst:.2g}")
    print(
        f"{arguments.types} types ({len(rows)} pairs), {arguments.spots} spots, {weights.matrix.nnz} weights, "
        f"{arguments.permutations} permutations; correlation {found.correlation:.3f}, null {found.null_mean:.3f}"
    )
    print(f"all at once, with the null: {spread(ours)} s")
    print(f"loop over pairs, multiplied up from {len(pairs)} pairs: {spread(theirs)} s")
    ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    print(f"ratio {spread(ratios)}; largest difference {worst:.1g}")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
