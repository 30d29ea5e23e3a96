"""Solvers that deconvolve counts, and the reference that they need."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse
from scipy.special import xlogy

from histomix.abundance import match_genes, nnls_deconvolve, poisson_deconvolve, read_reference
from histomix.abundance.deconvolve.poisson import poisson_spread
from histomix.abundance.deconvolve.poisson_fit import calibrate
from histomix.abundance.genes import match_section
from histomix.errors import InputError, LabelError
from histomix.spots import Section

TYPES = ["T", "B", "Tumour", "Stroma"]


def simulate(n_spots: int = 60, n_genes: int = 120, depth: float = 1.0, seed: int = 0):  # type: ignore[no-untyped-def]
    """Poisson counts of known weights, with a marker block per type over shared expression."""
    rng = np.random.default_rng(seed)
    signatures = rng.gamma(0.5, 0.4, size=(n_genes, len(TYPES)))
    for kind in range(len(TYPES)):
        signatures[kind :: 2 * len(TYPES), kind] += 3
    weights = rng.gamma(0.6, 3, size=(n_spots, len(TYPES))) + 0.01
    counts = rng.poisson(depth * weights @ signatures.T)
    return counts, signatures, weights


def likelihood(weights: np.ndarray, counts: np.ndarray, signatures: np.ndarray) -> np.ndarray:
    mean = weights @ signatures.T
    return (xlogy(counts, mean) - mean).sum(axis=1)


def shares(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=1, keepdims=True)


def make_reference(signatures: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(signatures, index=[f"GENE{i}" for i in range(len(signatures))], columns=TYPES)


def make_section(name: str, counts: np.ndarray, genes: list[str] | None = None) -> Section:
    adata = anndata.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"{i}x1" for i in range(len(counts))]),
        var=pd.DataFrame(index=genes or [f"GENE{i}" for i in range(counts.shape[1])]),
    )
    return Section(name=name, donor="d", adata=adata, where=f"sheet.csv, {name}")


# --- solvers


def test_poisson_climbs_to_the_maximum_that_another_solver_finds() -> None:
    counts, signatures, _ = simulate(12)
    weights = poisson_deconvolve(counts, signatures, updates=20_000)
    for spot, found in zip(counts, weights, strict=True):
        result = optimize.minimize(  # type: ignore[call-overload]
            lambda w, y=spot: -likelihood(w[None], y[None], signatures)[0],
            np.ones(len(TYPES)),
            jac=lambda w, y=spot: signatures.sum(axis=0) - signatures.T @ (y / (signatures @ w)),
            bounds=[(1e-12, None)] * len(TYPES),
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
        )
        ours = likelihood(found[None], spot[None], signatures)[0]
        assert ours == pytest.approx(-result.fun, rel=1e-6)
        np.testing.assert_allclose(found, result.x, atol=0.01 * result.x.sum())


def test_poisson_recovers_known_weights() -> None:
    counts, signatures, truth = simulate(300, depth=2.0)
    found = poisson_deconvolve(counts, 2.0 * signatures)
    for kind in range(len(TYPES)):
        assert np.corrcoef(found[:, kind], truth[:, kind])[0, 1] > 0.97
        assert np.corrcoef(shares(found)[:, kind], shares(truth)[:, kind])[0, 1] > 0.95
    # The total is unbiased: the scale of the weights is that of the signatures.
    assert found.sum() == pytest.approx(truth.sum(), rel=0.02)
    exact = poisson_deconvolve(np.rint(1e6 * truth[:5] @ signatures.T), signatures) / 1e6
    np.testing.assert_allclose(exact, truth[:5], rtol=2e-3, atol=2e-3)


def test_poisson_likelihood_never_falls() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.gamma(0.5, 1, (30, 1)) * np.exp(rng.normal(0, 0.3, (30, 6)))
    counts = rng.poisson(rng.gamma(0.2, 3, (200, 6)) @ signatures.T * 0.3)
    levels = [
        likelihood(poisson_deconvolve(counts, signatures, gene_weights=False, updates=updates), counts, signatures)
        for updates in range(1, 30)
    ]
    steps = np.diff(levels, axis=0)
    assert (steps >= -1e-5).all()  # single precision
    assert steps[0].sum() > 1


def test_poisson_stops_where_held_out_counts_say() -> None:
    # Types that differ little, and few counts: the maximum of the likelihood fits the noise.
    rng = np.random.default_rng(0)
    signatures = rng.gamma(0.5, 1, (200, 1)) * np.exp(rng.normal(0, 0.4, (200, 6)))
    truth = rng.dirichlet(np.ones(6), 300)

    def chosen(depth: float) -> tuple[int, np.ndarray]:
        counts = sparse.csr_matrix(rng.poisson(depth * truth @ signatures.T))
        return calibrate(counts, signatures, 0, True, None).updates, counts.toarray()

    few, shallow = chosen(1.5)
    many, _ = chosen(200.0)
    assert few < 30 < many
    error = {
        updates: np.abs(shares(poisson_deconvolve(shallow, signatures, updates=updates)) - truth).mean()
        for updates in (None, 1, 300)
    }
    assert error[None] < 0.96 * error[300]
    assert error[None] < 0.9 * error[1]
    np.testing.assert_array_equal(
        poisson_deconvolve(shallow, signatures), poisson_deconvolve(shallow, signatures, updates=few)
    )


def test_genes_that_the_reference_does_not_explain_count_less() -> None:
    rng = np.random.default_rng(0)
    _, signatures, truth = simulate(200)
    mean = 3 * truth @ signatures.T
    wild = rng.random(len(signatures)) < 0.3
    mean[:, wild] *= rng.gamma(0.3, 1 / 0.3, (200, wild.sum()))
    counts = rng.poisson(mean)
    found = calibrate(sparse.csr_matrix(counts), signatures, 0, True, None)
    # The variance of a gamma of shape 0.3 and mean 1 is 1 / 0.3.
    assert np.median(found.dispersion[wild]) == pytest.approx(1 / 0.3, rel=0.5)
    assert np.median(found.dispersion[~wild]) < 0.1
    weighed = shares(poisson_deconvolve(counts, signatures))
    alike = shares(poisson_deconvolve(counts, signatures, gene_weights=False))
    assert np.abs(weighed - shares(truth)).mean() < 0.8 * np.abs(alike - shares(truth)).mean()


def test_genes_captured_unlike_the_reference_are_scaled_half_way() -> None:
    rng = np.random.default_rng(0)
    _, signatures, truth = simulate(400)
    capture = rng.lognormal(0, 0.5, len(signatures))
    counts = rng.poisson(20 * truth @ (signatures * capture[:, None]).T)
    found = calibrate(sparse.csr_matrix(counts), signatures, 0, True, None)
    scale = found.signatures[:, 0] / signatures[:, 0]
    assert np.corrcoef(np.log(scale), np.log(capture))[0, 1] > 0.9
    slope = np.polyfit(np.log(capture), np.log(scale), 1)[0]
    assert 0.35 < slope < 0.55


def test_poisson_fits_a_section_by_itself_in_any_format() -> None:
    counts, signatures, _ = simulate(40)
    dense = poisson_deconvolve(counts, signatures)
    np.testing.assert_array_equal(poisson_deconvolve(sparse.csr_matrix(counts.astype(np.float32)), signatures), dense)
    np.testing.assert_array_equal(poisson_deconvolve(counts, signatures, seed=0), dense)
    # Empty spots take no part, and a gene that no type expresses says nothing about types.
    empty = np.insert(counts, [3, 20], 0, axis=0)
    found = poisson_deconvolve(empty, signatures)
    assert not found[[3, 21]].any()
    np.testing.assert_allclose(np.delete(found, [3, 21], axis=0), dense, rtol=1e-9)
    silent = np.vstack([signatures, np.zeros(len(TYPES))])
    np.testing.assert_allclose(poisson_deconvolve(np.hstack([counts, np.full((40, 1), 50)]), silent), dense, rtol=1e-9)
    assert poisson_deconvolve(counts * 0, signatures).shape == (40, 4)
    # Too few spots to judge genes by: all count alike.
    np.testing.assert_array_equal(
        poisson_deconvolve(counts[:29], signatures), poisson_deconvolve(counts[:29], signatures, gene_weights=False)
    )
    alone = poisson_deconvolve(counts[:1], signatures)
    assert np.isfinite(alone).all() and alone.any()


def test_blocks_and_the_choice_of_spots_change_nothing_of_note(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, signatures, _ = simulate(700)
    whole = poisson_deconvolve(counts, signatures)
    monkeypatch.setattr("histomix.abundance.deconvolve.poisson._BLOCK", 1000)
    np.testing.assert_allclose(poisson_deconvolve(counts, signatures), whole, rtol=1e-9)
    other = poisson_deconvolve(counts, signatures, seed=1)
    assert not np.array_equal(other, whole)
    assert np.corrcoef(shares(other).ravel(), shares(whole).ravel())[0, 1] > 0.99


def test_updates_that_cannot_be() -> None:
    counts, signatures, _ = simulate(4)
    with pytest.raises(InputError, match="0 updates"):
        poisson_deconvolve(counts, signatures, updates=0)
    with pytest.raises(InputError, match="1 draws have no spread"):
        poisson_spread(counts, signatures, n_boot=1)


# --- spread


def test_spread_is_that_of_repeated_experiments_on_other_genes() -> None:
    # With exchangeable genes, other genes and other counts give the spread that the bootstrap foretells.
    rng = np.random.default_rng(0)
    truth = np.repeat([[0.6, 0.3, 0.1]], 60, axis=0)

    def experiment() -> tuple[np.ndarray, np.ndarray]:
        signatures = rng.gamma(0.5, 2, (300, 3))
        return rng.poisson(2 * truth @ (signatures * rng.lognormal(0, 0.3, (300, 1))).T), signatures

    def fit(counts: np.ndarray, signatures: np.ndarray) -> np.ndarray:
        return shares(poisson_deconvolve(counts, signatures, gene_weights=False, updates=50))

    repeated = np.stack([fit(*experiment()) for _ in range(40)])
    actual = repeated.std(axis=0, ddof=1).mean(axis=0)
    foretold = [poisson_spread(*experiment(), gene_weights=False, updates=50).mean(axis=0) for _ in range(8)]
    np.testing.assert_allclose(np.mean(foretold, axis=0), actual, rtol=0.2)


def test_spread_shrinks_with_depth_and_is_seeded() -> None:
    counts, signatures, truth = simulate(50)
    counts[7] = 0
    first = poisson_spread(counts, signatures)
    assert first.shape == truth.shape and not first[7].any() and (np.delete(first, 7, axis=0) > 0).all()
    np.testing.assert_array_equal(poisson_spread(counts, signatures), first)
    assert not np.array_equal(poisson_spread(counts, signatures, seed=1), first)
    deep = np.random.default_rng(0).poisson(100 * truth @ signatures.T)
    assert poisson_spread(deep, signatures).mean() < 0.5 * first.mean()
    weights = poisson_spread(deep, signatures, proportions=False)
    assert weights.mean() > 5 * poisson_spread(deep, signatures).mean()


def test_nnls_is_that_of_scipy() -> None:
    counts, signatures, truth = simulate(50)
    found = nnls_deconvolve(counts, signatures)
    scale = 1 / np.sqrt(signatures.mean(axis=1))
    for spot, weights in zip(counts, found, strict=True):
        expected, _ = optimize.nnls(signatures * scale[:, None], spot / spot.sum() * scale)
        np.testing.assert_allclose(weights, expected * spot.sum(), atol=1e-8 * spot.sum())
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.97
    assert not nnls_deconvolve(counts[:1] * 0, signatures).any()


@pytest.mark.parametrize("solver", [poisson_deconvolve, nnls_deconvolve])
def test_solvers_refuse_what_cannot_be_counts_or_signatures(solver) -> None:  # type: ignore[no-untyped-def]
    counts, signatures, _ = simulate(4)
    for wrong in (-1.0, np.nan, np.inf):
        bad = counts.astype(float)
        bad[1, 2] = wrong
        with pytest.raises(LabelError, match=r"1 of the counts are negative or missing.*raw counts"):
            solver(bad, signatures)
        bad = signatures.copy()
        bad[1, 2] = wrong
        with pytest.raises(LabelError, match="signatures hold negative or missing values"):
            solver(counts, bad)
    with pytest.raises(LabelError, match="do not fit counts of 120 genes"):
        solver(counts, signatures.T)
    with pytest.raises(LabelError, match="1 cell types have no counts"):
        solver(counts, signatures * [1, 0, 1, 1])


def test_poisson_refuses_normalised_counts() -> None:
    counts, signatures, _ = simulate(4)
    with pytest.raises(LabelError, match=r"are fractions \(such as 0\.6.*raw counts: not normalised"):
        poisson_deconvolve(np.log1p(np.minimum(counts, 1)), signatures)


def test_without_weights_a_scale_per_gene_fitted_to_the_pool_changes_nothing() -> None:
    # Why genes are scaled only together with their weights: see poisson_deconvolve.
    counts, signatures, _ = simulate(80)
    counts = np.random.default_rng(1).binomial(counts, np.linspace(0.1, 1, len(signatures)))

    def fit(y: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return poisson_deconvolve(y, reference, gene_weights=False, updates=3000)

    pool = counts.sum(axis=0)
    scale = pool / (signatures @ fit(pool[None], signatures)[0])
    assert scale.max() > 3 * scale.min()
    np.testing.assert_allclose(
        shares(fit(counts, signatures * scale[:, None])), shares(fit(counts, signatures)), atol=1e-3
    )


# --- the reference


def test_reference_table(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("gene,T,B \nCD3E,2,0\nMT-CO1,9,9\nmt-Nd1,1,1\nNA,0,1.5\nOFF,0,0\n")
    found = read_reference(path)
    pd.testing.assert_frame_equal(found.table, pd.DataFrame({"T": [2.0, 0.0], "B": [0.0, 1.5]}, index=["CD3E", "NA"]))
    assert found.mitochondrial == ("MT-CO1", "mt-Nd1")
    assert found.silent == ("OFF",)
    path.write_text(path.read_text().replace("2", "3"))
    assert read_reference(path).digest != found.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gene,T,B\nCD3E,2,-1\n", "gene 'CD3E', cell type 'B' is -1.0"),
        ("gene,T,B\nCD3E,2,\n", "row 2, column 'B': '' is not a number"),
        ("gene,T,B\nCD3E,2,nan\n", "row 2, column 'B': 'nan' is not a number"),
        ("gene,T,B\nCD3E,2,1\nCD3E,2,1\n", "gene 'CD3E' more than once"),
        ("gene,T,T\nCD3E,2,1\n", "column 'T' more than once"),
        ("gene,T\nCD3E,2\n", "1 genes x 1 cell types"),
        ("gene,T,B\nCD3E,2,0\nMT-1,0,1\n", r"1 cell types have no counts \(such as 'B'\)"),
    ],
)
def test_bad_references_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(content)
    with pytest.raises(LabelError, match=message) as caught:
        read_reference(path)
    assert caught.value.where == str(path)


def test_bad_frames_are_refused() -> None:
    frame = pd.DataFrame({"T": [1.0, np.nan], "B": [1.0, 1.0]}, index=["a", "b"])
    with pytest.raises(LabelError, match="gene 'b', cell type 'T' is nan"):
        read_reference(frame)
    with pytest.raises(LabelError, match="not numeric"):
        read_reference(frame.fillna(0).astype({"T": str}))


def test_single_cells_are_averaged_by_type(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.h5ad"
    counts = np.array([[2, 0, 1], [4, 0, 1], [0, 3, 1], [9, 9, 9]], dtype=np.float32)
    obs = pd.DataFrame({"cell_type": ["T", "T", "B", None], "fine": list("wxyz")}, index=list("abcd"))
    adata = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=["G1", "G2", "G3"]))
    adata.write_h5ad(path)
    expected = pd.DataFrame({"B": [0.0, 3.0, 1.0], "T": [3.0, 0.0, 1.0]}, index=["G1", "G2", "G3"])
    with caplog.at_level(logging.INFO, logger="histomix"):
        pd.testing.assert_frame_equal(read_reference(path).table, expected)
    assert "1 of 4 cells have no type" in caplog.text
    assert list(read_reference(path, "fine").table.columns) == list("wxyz")
    with pytest.raises(LabelError, match=r"no column 'nothing' in obs \(it has: cell_type, fine\)"):
        read_reference(path, "nothing")
    adata.X = np.log1p(counts)
    adata.write_h5ad(path)
    with pytest.raises(LabelError, match="are fractions") as caught:
        read_reference(path)
    assert caught.value.where == str(path)
    adata.layers["counts"] = counts
    adata.write_h5ad(path)
    pd.testing.assert_frame_equal(read_reference(path).table, expected)


def test_signatures_as_h5ad(tmp_path: Path) -> None:
    table = pd.DataFrame({"G1": [3.0, 0.5], "G2": [0.0, 2.0]}, index=["T", "B"])
    anndata.AnnData(table).write_h5ad(tmp_path / "r.h5ad")
    pd.testing.assert_frame_equal(read_reference(tmp_path / "r.h5ad").table, table.T)
    cells = anndata.AnnData(np.ones((501, 2), dtype=np.float32))
    cells.write_h5ad(tmp_path / "many.h5ad")
    with pytest.raises(LabelError, match="501 rows and no column 'cell_type'"):
        read_reference(tmp_path / "many.h5ad")


def test_genes_match_by_name_then_case_then_ensembl_version() -> None:
    section = pd.Index(["Gapdh", "CD3E", "ENSG01.4", "ACTB", "actb", "ENSG02", "Dup", "HLA.1"])
    reference = pd.Index(["CD3E", "GAPDH", "ENSG01", "ACTB", "ENSG02.7", "dup", "DUP", "HLA"])
    match = match_genes(section, reference)
    pairs = {(section[i], reference[j]) for i, j in zip(match.in_section, match.in_reference, strict=True)}
    # ACTB is taken by its very name; "Dup" could be either of two, and a dot ends a version in Ensembl ids only.
    assert pairs == {
        ("CD3E", "CD3E"), ("Gapdh", "GAPDH"), ("ENSG01.4", "ENSG01"), ("ACTB", "ACTB"), ("ENSG02", "ENSG02.7")
    }  # fmt: skip
    assert match.exact == 2


def test_gene_ids_in_var_are_tried_and_poor_overlap_is_refused() -> None:
    counts, signatures, _ = simulate(5)
    reference = read_reference(make_reference(signatures))
    section = make_section("s", counts, [f"OTHER{i}" for i in range(120)])
    with pytest.raises(
        LabelError, match=r"0 of the 120 genes .*'OTHER0'.*the 120 of DataFrame .*'GENE0'.*20 are needed"
    ):
        match_section(section.adata, reference)
    section.adata.var["gene_ids"] = [f"GENE{i}" for i in range(120)]
    assert len(match_section(section.adata, reference).in_section) == 120
    few = make_section("s", counts[:, :19])
    with pytest.raises(LabelError, match="19 of the 19 genes"):
        match_section(few.adata, reference)
    assert len(match_section(few.adata, reference, min_genes=19).in_section) == 19
    lost = signatures.copy()
    lost[:60, 1] = 0
    with pytest.raises(LabelError, match=r"no counts in the 60 shared genes \(such as 'B'\)"):
        match_section(make_section("s", counts[:, :60]).adata, read_reference(make_reference(lost)))
