"""The Poisson method on non-zeros against the same method written out on dense tables, and what changes no number."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import sparse

from histomix.abundance import poisson_deconvolve
from histomix.abundance.deconvolve import climb
from histomix.abundance.deconvolve.climb import Spots
from histomix.abundance.deconvolve.poisson import poisson_labels, poisson_spread
from histomix.abundance.deconvolve.poisson_fit import calibrate

from .test_deconvolution import shares

REFERENCE = Path(__file__).parent.parent / "benchmarks" / "dense_poisson.py"


def dense(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dense_poisson", REFERENCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dense_poisson", module)  # where its dataclass looks
    spec.loader.exec_module(module)
    return module


def section(n_spots: int, n_genes: int, depth: float, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Over-dispersed counts in unequally deep spots, most of them zero, with genes captured unlike the reference."""
    rng = np.random.default_rng(seed)
    signatures = rng.lognormal(0, 1.5, (n_genes, 1)) * np.exp(rng.normal(0, 0.7, (n_genes, 6)))
    mean = rng.dirichlet(np.full(6, 0.3), n_spots) @ signatures.T
    mean *= (depth * rng.lognormal(0, 0.7, n_spots) / mean.sum(axis=1))[:, None]
    mean *= rng.gamma(2, 0.5, mean.shape) * rng.lognormal(0, 0.4, n_genes)
    return sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), signatures


@pytest.mark.parametrize(("n_spots", "depth"), [(300, 60), (120, 900), (60, 4000)])
def test_non_zeros_give_what_dense_tables_give(n_spots: int, depth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, signatures = section(n_spots, 500, depth)
    assert np.diff(counts.indptr).min() > 0
    weights, spread, model = dense(monkeypatch).dense_labels(counts, signatures)
    found = calibrate(counts, signatures, 0, True, None)
    assert found.updates == model.updates
    assert 2 < model.updates < 300
    np.testing.assert_allclose(found.dispersion, model.dispersion, rtol=1e-3, atol=1e-4)
    ours, sd = poisson_labels(counts, signatures)
    np.testing.assert_allclose(shares(ours), shares(weights), atol=3e-6)
    np.testing.assert_allclose(ours, weights, atol=3e-6 * weights.max())
    assert spread.mean() > 100 * 3e-6
    # Draws in strides: near, and exactly the same where none is taken.
    apart = sd / spread - 1
    assert np.abs(np.mean(apart)) < 0.005
    assert np.sqrt(np.mean(apart**2)) < 0.03
    monkeypatch.setattr(climb, "_STEADY", 300)
    np.testing.assert_allclose(poisson_labels(counts, signatures)[1], spread, atol=3e-6)


def test_strides_lead_to_where_single_updates_lead() -> None:
    for updates in (0, 1, 16, 17, 24, 25, 100, 300):
        assert sum(climb.strides(updates)) == updates
    assert len(climb.strides(100)) < 50
    counts, signatures = section(60, 500, 4000)
    spots = calibrate(counts, signatures, 0, True, None).spots(counts)
    steps, in_strides = (shares(spots.climb(100, exact=exact)[:, 0]) for exact in (1, 0))
    moved = np.abs(shares(spots.climb(50)[:, 0]) - steps).max()
    assert 0 < np.abs(in_strides - steps).max() < 0.1 * moved


def test_neither_threads_nor_other_spots_change_a_bit_and_draws_change_but_roundings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts, signatures = section(90, 400, 300)
    weights, spread = poisson_labels(counts, signatures, threads=1)
    for threads in (2, 5):
        again = poisson_labels(counts, signatures, threads=threads)
        np.testing.assert_array_equal(again[0], weights)
        np.testing.assert_array_equal(again[1], spread)
    np.testing.assert_allclose(poisson_deconvolve(counts, signatures), weights, rtol=1e-4, atol=1e-6 * weights.max())
    np.testing.assert_array_equal(poisson_spread(counts, signatures), spread)
    few = Spots.of(counts, signatures.astype(np.float32)).climb(20)
    monkeypatch.setattr(climb, "_ROWS", 500)
    np.testing.assert_array_equal(Spots.of(counts, signatures.astype(np.float32)).climb(20), few)
    np.testing.assert_array_equal(Spots.of(counts[7:20], signatures.astype(np.float32)).climb(20), few[7:20])


def test_pieces_of_a_spot_change_but_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, signatures = section(60, 400, 2000)
    parts = np.random.default_rng(0).random((3, 400)) < 0.5
    spots = Spots.of(counts, signatures.astype(np.float32), parts)
    whole = spots.climb(20)
    alone = [Spots.of(counts, signatures.astype(np.float32), part[None]).climb(20)[:, 0] for part in parts]
    np.testing.assert_allclose(whole, np.stack(alone, axis=1), rtol=1e-4, atol=1e-6 * whole.max())
    monkeypatch.setattr(climb, "_SMALL", 500)
    assert {spots.group(rows).counts.shape[1] for rows in spots.few()} >= {8, 16}
    np.testing.assert_allclose(spots.climb(20), whole, rtol=1e-4, atol=1e-6 * whole.max())


def test_spots_are_told_of_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, signatures = section(90, 400, 300)
    monkeypatch.setattr("histomix.abundance.deconvolve.poisson._BLOCK", 400 * 20)
    told: list[tuple[str, int, int]] = []
    poisson_labels(counts, signatures, progress=lambda *step: told.append(step), task="label A")
    assert told == [("label A", done, 90) for done in (20, 40, 60, 80, 90)]


def test_zeros_that_are_stored_and_spots_without_counts_are_nothing() -> None:
    counts, signatures = section(60, 300, 200)
    stored = counts.copy()
    stored.data[::7] = 0
    without = stored.copy()
    without.eliminate_zeros()
    assert stored.nnz > without.nnz
    np.testing.assert_array_equal(poisson_labels(stored, signatures)[0], poisson_labels(without, signatures)[0])
    empty = sparse.vstack([counts, sparse.csr_matrix((3, 300), dtype=np.float32)], format="csr")
    found, sd = poisson_labels(empty, signatures)
    assert not found[-3:].any() and not sd[-3:].any()
    nothing, none = poisson_labels(sparse.csr_matrix((4, 300)), signatures)
    assert not nothing.any() and not none.any()
