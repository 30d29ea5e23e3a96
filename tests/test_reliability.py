"""How well labels agree with themselves, against two real measurements of the same spots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from histomix.abundance import nnls_deconvolve, poisson_deconvolve, read_abundance, read_reference
from histomix.abundance.deconvolve.reliability import label_reliability, thin
from histomix.abundance.genes import match_section
from histomix.errors import InputError, LabelError
from histomix.spots import read_cohort

from .test_deconvolution import shares, simulate


def identity(counts: sparse.csr_matrix, signatures: np.ndarray) -> np.ndarray:
    """A linear estimator: each gene is a type."""
    return counts.toarray().astype(float)


def test_thinning_deals_out_molecules() -> None:
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(20, (200, 50)))
    before = counts.copy()
    kept = thin(counts, 0.3, np.random.default_rng(1))
    rest = counts - kept
    assert (counts != before).nnz == 0
    assert rest.data.min() >= 0 and kept.data.min() > 0
    assert kept.sum() / counts.sum() == pytest.approx(0.3, abs=0.01)
    # Halves of Poisson counts are independent.
    assert abs(np.corrcoef(kept.toarray().ravel(), rest.toarray().ravel())[0, 1]) < 0.03


def test_it_is_the_share_of_variance_that_is_no_noise() -> None:
    # Poisson counts of rate m: variance of the rate over total variance, known in closed form for a linear estimator.
    rng = np.random.default_rng(0)
    means, spreads = np.array([5.0, 20.0, 50.0]), np.array([2.0, 2.0, 20.0])
    rates = rng.gamma((means / spreads) ** 2, spreads**2 / means, (20_000, 3))
    found = label_reliability(rng.poisson(rates), np.eye(3), identity, proportions=False, most_spots=None)
    np.testing.assert_allclose(found, spreads**2 / (spreads**2 + means), atol=0.02)
    some = label_reliability(rng.poisson(rates), np.eye(3), identity, proportions=False)
    np.testing.assert_allclose(some, found, atol=0.1)
    assert not np.array_equal(some, found)


def test_it_is_the_agreement_of_two_measurements() -> None:
    counts, signatures, truth = simulate(1500, depth=0.5)
    again = np.random.default_rng(99).poisson(0.5 * truth @ signatures.T)
    first, second = (shares(poisson_deconvolve(table, signatures)) for table in (counts, again))
    agreement = [np.corrcoef(first[:, kind], second[:, kind])[0, 1] for kind in range(4)]
    found = label_reliability(counts, signatures, poisson_deconvolve, repeats=2)
    np.testing.assert_allclose(found, agreement, atol=0.03)
    # The bound: not even the truth correlates better with the labels than the root of the reliability.
    with_truth = [np.corrcoef(first[:, kind], shares(truth)[:, kind])[0, 1] for kind in range(4)]
    assert (np.array(with_truth) < np.sqrt(found) + 0.03).all()


def test_what_does_not_vary_has_none_and_noise_has_zero() -> None:
    rng = np.random.default_rng(0)
    counts = np.column_stack([rng.poisson(50, 400), np.zeros(400, dtype=int), rng.poisson(5, 400)])
    found = label_reliability(counts, np.eye(3), identity, proportions=False)
    assert np.isnan(found[1])
    assert (found[[0, 2]] >= 0).all() and (found[[0, 2]] < 0.2).all()
    # One molecule in one spot is in one half or the other: never in both.
    counts[7, 1] = 1
    assert label_reliability(counts, np.eye(3), identity, proportions=False)[1] == 0
    assert np.isnan(label_reliability(counts[:2], np.eye(3), identity)).all()
    assert np.isnan(label_reliability(counts * 0, np.eye(3), identity)).all()


def test_depth_that_varies_raises_that_of_weights_only() -> None:
    rng = np.random.default_rng(0)
    depth = rng.lognormal(3, 1, (2000, 1))
    counts = rng.poisson(depth * rng.dirichlet([20, 20, 20], 2000))
    of_shares, of_weights = (
        label_reliability(counts, np.eye(3), identity, proportions=proportions) for proportions in (True, False)
    )
    assert (of_weights > 0.9).all() and (of_shares < 0.8).all()


def test_it_is_seeded_and_refuses_what_has_no_halves() -> None:
    counts, signatures, _ = simulate(50, depth=0.1)
    first, again, other = (
        label_reliability(counts, signatures, nnls_deconvolve, seed=seed, repeats=1) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(InputError, match="0 splits"):
        label_reliability(counts, signatures, nnls_deconvolve, repeats=0)
    with pytest.raises(LabelError, match="fractions"):
        label_reliability(counts / 3, signatures, nnls_deconvolve)


# --- real sections


def sections(data: Path, folder: Path, names: list[str]):  # type: ignore[no-untyped-def]
    """Counts and signatures in the shared genes, and what is published, of real sections."""
    root = data / "her2st"
    lines = [f"{n},{n[0]},{root}/spots/{n}_selection.tsv,{root}/counts/{n}.tsv.gz," for n in names]
    (folder / "sheet.csv").write_text("section,donor,spots,counts,image\n" + "\n".join(lines) + "\n")
    cohort = read_cohort(folder / "sheet.csv")
    reference = read_reference(data / "reference" / "wu2021_brca_major_dwls.csv")
    for name in names:
        adata = cohort.section(name).adata
        match = match_section(adata, reference)
        signatures = reference.table.to_numpy()[match.in_reference]
        yield (
            name,
            sparse.csr_matrix(adata.X)[:, match.in_section],
            signatures,
            adata.obs_names,
            reference.table.columns,
        )


@pytest.fixture
def real(data_dir: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    return lambda names: sections(data_dir, tmp_path, names)


def test_labels_of_real_sections_agree_less_with_half_the_counts(real) -> None:  # type: ignore[no-untyped-def]
    whole, half = [], []
    for _, counts, signatures, *_ in real(["C1", "E1", "G2"]):
        whole.append(label_reliability(counts, signatures, poisson_deconvolve, repeats=2))
        fewer = thin(counts, 0.5, np.random.default_rng(0))
        half.append(label_reliability(fewer, signatures, poisson_deconvolve, repeats=2))
    found = np.array([whole, half])
    assert ((found >= 0) & (found < 1)).all()
    assert found[1].mean() < found[0].mean() - 0.03
    assert (found[1] < found[0]).mean() > 0.8


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_poisson_agrees_with_published_proportions(data_dir: Path, real, step: int) -> None:  # type: ignore[no-untyped-def]
    published = {path.name.split(".")[0]: path for path in (data_dir / "her2st/proportions/major").glob("*.tsv.gz")}
    names = {"Cancer Epithelial": "Epithelial", "Normal Epithelial": "Epithelial", "Plasmablasts": "Plasma Cells"}
    scores = []
    for name, counts, signatures, keys, types in real(sorted(published)[::step]):
        filled = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel())
        ours = pd.DataFrame(shares(poisson_deconvolve(counts[filled], signatures)), keys[filled], types)
        theirs = read_abundance(published[name], "proportion").values
        ours = ours.rename(columns=names).T.groupby(level=0).sum().T
        common = ours.index.intersection(theirs.index)
        scores.append(ours.loc[common].corrwith(theirs.loc[common]).mean())
    assert len(scores) == {1: 31, 8: 4}[step]
    assert np.mean(scores) > 0.76
    assert min(scores) > 0.65
