"""cell2location inside: what a fit gives, how it goes on after a stop, what it leaves alone, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import entropy

from histomix.abundance import label, methods, most_specific_genes, read_labels
from histomix.abundance.deconvolve import signatures_c2l as regression
from histomix.abundance.deconvolve import svi as variational
from histomix.abundance.deconvolve.cell2location import _module, fit_spots, memory_needed
from histomix.abundance.deconvolve.svi import Plan, at_deviate, fit_guide, isolated_torch, moments
from histomix.errors import HistomixError, InputError, LabelError, MissingExtraError
from histomix.progress import silent
from histomix.spots import Section, read_cohort

from .extras import needs_extra

with_cell2location = needs_extra("cell2location", "cell2location")

TYPES = ["T", "B", "Tumour", "Stroma"]
GENES = [f"GENE{i}" for i in range(60)]


def simulate(n_spots: int = 30, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    signatures = np.random.default_rng(99).gamma(0.5, 0.4, size=(len(GENES), len(TYPES)))
    for kind in range(len(TYPES)):
        signatures[kind :: 2 * len(TYPES), kind] += 3
    weights = rng.gamma(0.6, 3, size=(n_spots, len(TYPES))) + 0.01
    counts = rng.poisson(weights @ signatures.T)
    return counts, pd.DataFrame(signatures, index=GENES, columns=TYPES), weights


REFERENCE = simulate()[1]


def make_section(name: str, counts: np.ndarray, donor: str = "d") -> Section:
    adata = anndata.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"{i}x1" for i in range(len(counts))]),
        var=pd.DataFrame(index=GENES[: counts.shape[1]]),
    )
    return Section(name=name, donor=donor, adata=adata, where=f"sheet.csv, {name}")


class Memory:
    """A cohort of sections in memory."""

    def __init__(self, *sections: Section) -> None:
        self.sheet, self.rows = Path("sheet.csv"), ()
        self.sections = {section.name: section for section in sections}

    @property
    def names(self) -> list[str]:
        return list(self.sections)

    @property
    def donors(self) -> dict[str, str]:
        return {name: section.donor for name, section in self.sections.items()}

    def section(self, name: str, counts: bool = True) -> Section:
        return self.sections[name]


def fitted(cohort: Memory, *args, **kwargs):  # type: ignore[no-untyped-def]
    kwargs = {"reference": REFERENCE, "max_epochs": 30, "cells_per_spot": 7, **kwargs}
    return label(cohort, "cell2location", *args, **kwargs)  # type: ignore[arg-type]


def pair() -> Memory:
    return Memory(make_section("A", simulate()[0], "d1"), make_section("B", simulate(20, 1)[0], "d2"))


@with_cell2location
def test_labels_are_quantiles_with_median_sd_and_reliability(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variational, "_REMARK_EVERY", 20)
    counts, _, truth = simulate()
    counts[7] = 0
    cohort = Memory(make_section("A", counts))
    steps: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.INFO, logger="histomix"):
        labels = fitted(cohort, out=tmp_path, max_epochs=30, progress=lambda *step: steps.append(step))["A"]
    assert labels.unit == "relative abundance"  # 60 genes and no picture do not tell how many cells there are
    assert labels.median is not None and labels.sd is not None and labels.reliability is not None
    assert "7x1" not in labels.values.index
    assert (labels.values.to_numpy() < labels.median.to_numpy()).all() and (labels.sd.to_numpy() > 0).all()
    seen = np.delete(truth, 7, axis=0)
    shares = labels.median.div(labels.median.sum(axis=1), axis=0).to_numpy()
    assert np.corrcoef(shares.ravel(), (seen / seen.sum(axis=1, keepdims=True)).ravel())[0, 1] > 0.9
    assert labels.reliability.between(0.5, 1).all()
    assert "epoch 20, ELBO -" in caplog.text and "at most 10 epochs (" in caplog.text
    assert steps[:2] == [("label", 0, 1), ("cell2location A (all counts)", 1, 30)] and steps[-1] == ("label", 1, 1)

    assert not (tmp_path / ".unfinished").exists()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    facts = manifest["sections"]["A"]
    assert (manifest["method"], manifest["fit"], manifest["summary"]) == ("cell2location", "donor", "q05")
    assert (facts["fitted_with"], facts["reliability_of"], facts["spots_without_counts"]) == (["A"], "poisson", ["7x1"])
    stored = read_labels(tmp_path)["A"]
    for name in ("values", "median", "sd"):
        pd.testing.assert_frame_equal(getattr(stored, name), getattr(labels, name), check_exact=True)
    assert stored.provenance["fitted_with"] == labels.provenance["fitted_with"] == ["A"]
    with caplog.at_level(logging.INFO, logger="histomix"):
        fitted(cohort, out=tmp_path, max_epochs=30)
    assert "1 section unchanged and kept, 0 labelled" in caplog.text

    # The same fit: the median as label, and proportions, which come of the median and nothing else.
    assert fitted(cohort, max_epochs=30, summary="median")["A"].values.equals(labels.median)
    proportions = fitted(cohort, max_epochs=30, unit="proportion")["A"]
    np.testing.assert_allclose(proportions.values, shares, rtol=1e-12)
    assert proportions.median is None
    assert proportions.sd is not None and 0 < proportions.sd.to_numpy().max() < 0.5


@with_cell2location
def test_summaries_are_those_of_the_guide() -> None:
    counts, signatures, weights = simulate()
    batches = np.zeros(len(counts), dtype=np.intp)
    with isolated_torch(3):
        import torch

        module = _module(sparse.csr_matrix(counts), signatures.to_numpy(), batches, weights, 7.0, 20.0)
        whole = (
            torch.tensor(counts, dtype=torch.float32),
            torch.arange(len(counts)),
            torch.zeros((len(counts), 1), dtype=torch.long),
        )
        fit_guide(module, lambda: [whole], Plan(max_epochs=15), silent, "test")
        low = module.guide.quantiles([0.05], *whole)["w_sf"][0].numpy()
        np.testing.assert_allclose(at_deviate(module.guide, "w_sf", -1.6448536), low, rtol=1e-4)
        with torch.no_grad():
            draws = np.stack([module.guide(*whole)["w_sf"].numpy() for _ in range(600)])
        mean, sd = moments(module.guide, "w_sf")
    np.testing.assert_allclose(mean, draws.mean(axis=0), rtol=0.1, atol=0.01)
    np.testing.assert_allclose(sd, draws.std(axis=0), rtol=0.25)
    # The fast weights are where the fit begins, at the expected number of cells.
    assert np.corrcoef(draws.mean(axis=0).ravel(), weights.ravel())[0, 1] > 0.9


class Stop(KeyboardInterrupt):
    pass


def stopping(after: int) -> Callable[[str, int, int], None]:
    def progress(task: str, done: int, total: int) -> None:
        if task.startswith(("cell2location", "signatures")) and done == after:
            raise Stop

    return progress


@with_cell2location
def test_a_stopped_fit_goes_on_to_the_same_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variational, "_CHECKPOINT_EVERY", 6)
    cohort = Memory(make_section("A", simulate()[0]))
    whole = fitted(cohort, max_epochs=14)["A"].values
    with pytest.raises(Stop):
        fitted(cohort, out=tmp_path, max_epochs=14, progress=stopping(10))
    left = list((tmp_path / ".unfinished").iterdir())
    assert len(left) == 1
    before = left[0].read_bytes()
    with caplog.at_level(logging.INFO, logger="histomix"):
        labels = fitted(cohort, out=tmp_path, max_epochs=14)["A"].values
    assert "goes on after epoch 6" in caplog.text
    pd.testing.assert_frame_equal(labels, whole, check_exact=True)
    assert not (tmp_path / ".unfinished").exists()

    # A damaged state, and one of other settings, are not gone on from.
    (tmp_path / "A.csv").unlink()
    left[0].parent.mkdir()
    left[0].write_bytes(before[: len(before) // 2])
    with caplog.at_level(logging.INFO, logger="histomix"):
        again = fitted(cohort, out=tmp_path, max_epochs=14)["A"].values
    assert "cannot be read" in caplog.text
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    caplog.clear()
    left[0].parent.mkdir()
    left[0].write_bytes(before)
    with caplog.at_level(logging.INFO, logger="histomix"):
        other = fitted(cohort, out=tmp_path, max_epochs=14, seed=2)["A"].values
    assert "goes on" not in caplog.text and not other.equals(whole)


@with_cell2location
def test_the_process_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyro
    import scvi
    import torch

    monkeypatch.chdir(tmp_path)
    pyro.get_param_store().clear()
    pyro.param("mine", torch.tensor(3.0))

    def state() -> tuple[object, ...]:
        loggers = [logging.getLogger(name).level for name in ("scvi", "cell2location", "lightning", "")]
        return (
            torch.get_num_threads(),
            torch.get_rng_state().sum().item(),
            np.random.get_state()[1].sum(),  # type: ignore[index, union-attr, call-overload]  # noqa: NPY002
            scvi.settings.seed,
            list(warnings.filters),
            loggers,
            {name: value.item() for name, value in pyro.get_param_store().items()},
            torch.distributions.Distribution._validate_args,
        )

    before = state()
    fitted(pair(), max_epochs=3, threads=1)
    with pytest.raises(Stop):
        fitted(pair(), max_epochs=3, threads=1, progress=stopping(2))
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    pyro.get_param_store().clear()


@with_cell2location
def test_which_sections_are_fitted_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = (simulate(20, seed)[0] for seed in range(3))

    def cohort(last: np.ndarray) -> Memory:
        return Memory(make_section("A", a, "d1"), make_section("C", last, "d2"), make_section("B", b, "d1"))

    first = fitted(cohort(c), max_epochs=4, out=tmp_path / "donor")
    assert {name: table.provenance["fitted_with"] for name, table in first.items()} == {
        "A": ["A", "B"],
        "C": ["C"],
        "B": ["A", "B"],
    }
    with caplog.at_level(logging.INFO, logger="histomix"):
        second = fitted(cohort(c + 1), max_epochs=4, out=tmp_path / "donor")
    assert "2 sections unchanged and kept, 1 labelled" in caplog.text
    assert second["A"].values.equals(first["A"].values) and not second["C"].values.equals(first["C"].values)

    alone = fitted(cohort(c), max_epochs=4, fit="section")
    assert alone["B"].provenance["fitted_with"] == ["B"] and alone["C"].values.equals(first["C"].values)
    joint = fitted(cohort(c), max_epochs=4, fit="cohort", out=tmp_path / "cohort")
    assert joint["C"].provenance["fitted_with"] == ["A", "C", "B"] and joint["C"].provenance["fit"] == "cohort"
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="histomix"):
        again = fitted(cohort(c + 1), max_epochs=4, fit="cohort", out=tmp_path / "cohort")
    assert "kept" not in caplog.text and not again["A"].values.equals(joint["A"].values)


@with_cell2location
def test_own_reliability_takes_two_more_fits() -> None:
    fits: list[str] = []
    labels = fitted(
        pair(), max_epochs=12, reliability="own", fit="cohort", progress=lambda task, done, total: fits.append(task)
    )
    assert [fit.rsplit("(")[-1] for fit in dict.fromkeys(fits)] == [
        "label",
        "all counts)",
        "first half)",
        "second half)",
    ]
    found = labels["A"].reliability
    assert (
        found is not None
        and found.between(0.3, 1).all()
        and labels["A"].provenance["reliability_of"] == "cell2location"
    )
    fast = fitted(pair(), max_epochs=12, fit="cohort")["A"].reliability
    assert fast is not None and not found.equals(fast)


@with_cell2location
def test_bad_input_is_refused_before_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, signatures, weights = simulate()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a fit was begun")

    monkeypatch.setattr("histomix.abundance.deconvolve.cell2location.fit_guide", never)
    good = Memory(make_section("A", counts))
    fractions = Memory(make_section("A", counts / 3))
    twice = make_section("A", counts)
    twice.adata.obs_names = ["0x1"] * len(counts)
    genes = make_section("A", counts)
    genes.adata.var_names = ["GENE0", *GENES[:-1]]
    missing = counts.astype(float)
    missing[3, 3] = np.nan
    empty = signatures.copy()
    empty["B"] = 0.0
    for cohort, kwargs, message in (
        (fractions, {}, "of the counts are fractions"),
        (Memory(make_section("A", -counts)), {}, "negative or missing"),
        (Memory(make_section("A", missing)), {}, "negative or missing"),
        (Memory(make_section("A", counts * 0)), {}, "no spot has counts"),
        (Memory(twice), {}, "has the spot '0x1' more than once"),
        (Memory(genes), {}, "has the gene 'GENE0' more than once"),
        (good, {"reference": signatures - 1}, "not log-transformed"),
        (good, {"reference": signatures * np.nan}, "not log-transformed"),
        (good, {"reference": signatures[["T"]]}, "with two types or more"),
        (good, {"reference": empty}, "1 cell types have no counts"),
        (good, {"reference": pd.concat([signatures, signatures])}, "the gene 'GENE0' more than once"),
        (good, {"reference": signatures.rename(index=lambda gene: "X" + gene)}, "0 of the 60 genes"),
        (good, {"fit": "patient"}, "fit cannot be 'patient'"),
        (good, {"summary": "q50"}, "summary cannot be 'q50'"),
        (good, {"reliability": "none"}, "reliability cannot be 'none'"),
        (good, {"detection_alpha": 0.0}, "detection_alpha cannot be"),
        (good, {"n_genes": 1}, "n_genes cannot be 1"),
        (good, {"cells_per_spot": float("nan")}, "cannot have nan cells"),
        (good, {"cells_per_spot": "nuclei"}, "has no image, so nuclei cannot be counted"),
        (good, {"batch_key": "batch"}, "columns of single cells"),
        (good, {"reference": None}, "needs a reference"),
    ):
        with pytest.raises(LabelError, match=message):
            fitted(cohort, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match='"poisson" has no choice of fit, n_genes'):
        label(good, "poisson", signatures, fit="donor", n_genes=5)  # type: ignore[arg-type]

    monkeypatch.setattr("histomix.abundance.deconvolve.cell2location.available_memory", lambda: 10_000_000)
    many = sparse.csr_matrix(np.tile(counts, (1000, 1)))
    with pytest.raises(InputError, match=r"30,000 spots x 60 genes needs about 0.* GB of memory, and 0.01 GB.*n_genes"):
        fit_spots(many, signatures.to_numpy(), np.zeros(30000, int), np.tile(weights, (1000, 1)), 5, progress=silent)
    assert memory_needed(600, 3000, 9) == pytest.approx(4 * 600 * 3000 * 28, rel=0.1)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = pair()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"histomix\[cell2location\]"):
            fitted(cohort)


@with_cell2location
def test_without_a_library_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyro", None)
    with pytest.raises(MissingExtraError, match="pyro"), isolated_torch(0):
        pass


@with_cell2location
def test_libraries_that_do_not_fit_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # As cell2location 0.1.5 beside pyro-ppl 1.9.2.
    class Broken:
        def find_spec(self, name: str, *args: object) -> None:
            if name == "cell2location.models":
                raise ImportError("cannot import name 'deep_getattr'")

    import cell2location

    monkeypatch.delattr(cell2location, "models")
    monkeypatch.delitem(sys.modules, "cell2location.models")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with (
        pytest.raises(HistomixError, match=r"cannot be imported \(cannot import name 'deep_getattr'\)"),
        isolated_torch(0),
    ):
        pass


@with_cell2location
def test_a_failing_group_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = methods.fit_spots

    def lost(*args, **kwargs):  # type: ignore[no-untyped-def]
        if "cell2location A" in kwargs["task"]:
            raise LabelError("the ELBO was lost")
        return real(*args, **kwargs)

    monkeypatch.setattr(methods, "fit_spots", lost)
    with pytest.raises(LabelError, match=r"(?s)1 of 2 sections failed.*A: the ELBO was lost"):
        fitted(pair(), out=tmp_path)
    assert list(read_labels(tmp_path)) == ["B"]


@with_cell2location
def test_the_most_specific_genes_hold_most_information() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.gamma(0.5, 1, (200, 5)) * np.array([1, 2, 3, 4, 50])
    joint = signatures / signatures.sum(axis=0) / 5
    share = joint.sum(axis=1)
    score = share * entropy((joint / share[:, None]).T, np.full((5, 200), 0.2))
    assert list(most_specific_genes(signatures, 30)) == sorted(np.argsort(score)[-30:])
    assert list(most_specific_genes(signatures, 500)) == list(range(200))
    # A marker that one type has beats a gene that all have, however much of it.
    signatures[0] = [0, 0, 9, 0, 0]
    signatures[1] = 1000 * signatures.sum(axis=0)
    found = most_specific_genes(signatures, 60)
    assert 0 in found and 1 not in found
    labels = fitted(pair(), n_genes=25, min_genes=10, max_epochs=3)
    assert labels["A"].cell_types == TYPES


def cells(seed: int = 0, n_cells: int = 301) -> anndata.AnnData:
    """Single cells of two batches, the second a third as deep and with more of the first genes."""
    rng = np.random.default_rng(seed)
    kinds, batch = rng.integers(0, len(TYPES), n_cells), rng.integers(0, 2, n_cells)
    mean = REFERENCE.to_numpy().T[kinds] * np.where(batch, 0.33, 1.0)[:, None]
    obs = pd.DataFrame({"kind": np.array(TYPES)[kinds], "batch": batch, "tech": batch.astype(str)})
    obs.index = [f"c{i}" for i in range(n_cells)]
    return anndata.AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES)
    )


@with_cell2location
def test_single_cells_are_regressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Several steps in each epoch, of which the last has one cell.
    monkeypatch.setattr(regression, "_BATCH", 100)
    monkeypatch.setattr(regression, "_PLAN", dataclasses.replace(regression._PLAN, max_epochs=30, patience=30))
    cells().write_h5ad(tmp_path / "ref.h5ad")
    out = tmp_path / "out"
    choice = {
        "reference": tmp_path / "ref.h5ad",
        "cell_type_key": "kind",
        "batch_key": "batch",
        "covariates": ["tech"],
        "max_epochs": 5,
    }
    with pytest.raises(Stop):
        fitted(pair(), out=out, progress=stopping(25), **choice)
    with caplog.at_level(logging.INFO, logger="histomix"):
        fitted(pair(), out=out, **choice)
    assert "signatures: goes on after epoch 20" in caplog.text
    table = pd.read_csv(out / "signatures.csv", index_col=0)
    assert list(table.columns) == sorted(TYPES)
    found, truth = table.to_numpy().ravel(), REFERENCE.loc[table.index, table.columns].to_numpy().ravel()
    assert np.corrcoef(found, truth)[0, 1] > 0.97
    made = json.loads((out / "manifest.json").read_text())["reference"]["regression"]
    assert (made["batch_key"], made["covariates"], made["cells"]) == ("batch", ["tech"], 301)

    before = (out / "signatures.csv").stat().st_mtime_ns
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="histomix"):
        fitted(pair(), out=out, **{**choice, "max_epochs": 6})
    assert "signatures fitted before are kept" in caplog.text
    assert (out / "signatures.csv").stat().st_mtime_ns == before
    (out / "signatures.csv").write_text("gene,T\n")
    fitted(pair(), out=out, **{**choice, "max_epochs": 6})
    pd.testing.assert_frame_equal(pd.read_csv(out / "signatures.csv", index_col=0), table)


@with_cell2location
def test_bad_single_cells_are_refused(tmp_path: Path) -> None:
    def refused(message: str, change: Callable[[anndata.AnnData], None], **kwargs: object) -> None:
        adata = cells()
        change(adata)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_h5ad(tmp_path / "ref.h5ad")
            with pytest.raises(LabelError, match=message):
                fitted(pair(), reference=tmp_path / "ref.h5ad", cell_type_key="kind", **kwargs)

    def names(adata: anndata.AnnData, which: str) -> None:
        found = list(getattr(adata, which))
        setattr(adata, which, [found[1], *found[1:]])

    refused("fractions", lambda adata: setattr(adata, "X", adata.X * 0.3))
    refused("negative or missing", lambda adata: setattr(adata, "X", -adata.X))
    refused("the gene 'GENE1' more than once", lambda adata: names(adata, "var_names"))
    refused("the cell 'c1' more than once", lambda adata: names(adata, "obs_names"))
    refused("has no column 'donor'", lambda adata: None, batch_key="donor")
    refused("two types or more", lambda adata: adata.obs.__setitem__("kind", "T"))

    def gap(adata: anndata.AnnData) -> None:
        adata.obs["batch"] = adata.obs["batch"].astype(float).where(adata.obs_names != "c3")

    refused("has gaps in the column 'batch'", gap, batch_key="batch")
    with pytest.raises(LabelError, match="named 'signatures'"):
        fitted(Memory(make_section("signatures", simulate()[0])), out=tmp_path / "x")


@with_cell2location
@pytest.mark.slow
def test_a_killed_run_loses_nothing(tmp_path: Path) -> None:
    cohort = pair()
    whole = fitted(cohort, max_epochs=400)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from tests.test_cell2location import fitted, pair\n"
        f"fitted(pair(), out={str(tmp_path)!r}, max_epochs=400)\n"
    )
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            until = time.monotonic() + 120
            while not list(tmp_path.glob(".unfinished/*.safetensors")) and time.monotonic() < until:
                time.sleep(0.02)
            process.kill()
    labels = fitted(cohort, out=tmp_path, max_epochs=400)
    for name in "AB":
        np.testing.assert_allclose(labels[name].values, whole[name].values, rtol=1e-5)


@with_cell2location
@pytest.mark.slow
def test_the_climb_is_that_of_the_trainer_of_scvi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    counts, signatures, weights = simulate(40)
    ours = fit_spots(
        sparse.csr_matrix(counts), signatures.to_numpy(), np.zeros(40, int), weights, 7.0,
        plan=Plan(max_epochs=200, patience=1000), progress=silent,
    )  # fmt: skip
    with isolated_torch(0):
        import scvi
        from cell2location.models import Cell2location

        scvi.settings.seed = 0
        adata = anndata.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=GENES))
        adata.obs["section"] = "A"
        Cell2location.setup_anndata(adata, batch_key="section")
        start = np.maximum(weights * (7 / np.median(weights.sum(axis=1))), 0.01).astype(np.float32)
        model = Cell2location(
            adata, signatures, N_cells_per_location=7.0, detection_alpha=20.0, init_vals={"w_sf": start}
        )
        model.train(max_epochs=200, lr=0.02, accelerator="cpu", enable_progress_bar=False)
        theirs = model.posterior_quantile(q=0.5, batch_size=None)["w_sf"]
        loss = float(model.history["elbo_train"].to_numpy()[-10:].mean())
    assert np.mean(ours.losses[-10:]) == pytest.approx(loss, rel=0.01)
    assert np.corrcoef(ours.median.ravel(), theirs.ravel())[0, 1] > 0.99


NAMES = {"Cancer Epithelial": "Epithelial", "Normal Epithelial": "Epithelial", "Plasmablasts": "Plasma Cells"}


@with_cell2location
@pytest.mark.slow
def test_her2st_agrees_with_stereoscope_and_the_fast_method(data_dir: Path, tmp_path: Path) -> None:
    root = data_dir / "her2st"
    rows = ["section,donor,spots,counts,image"]
    rows += [f"{n},{n[0]},{root}/spots/{n}_selection.tsv,{root}/counts/{n}.tsv.gz," for n in ("B1", "D5")]
    (tmp_path / "sheet.csv").write_text("\n".join(rows))
    cohort = read_cohort(tmp_path / "sheet.csv")
    reference = data_dir / "reference" / "wu2021_brca_major_dwls.csv"
    labels = label(cohort, "cell2location", reference, tmp_path / "out", unit="proportion", threads=1)
    again = label(cohort, "cell2location", reference, unit="proportion", threads=1, fit="section")
    fast = label(cohort, "poisson", reference)
    for name, table in labels.items():
        pd.testing.assert_frame_equal(again[name].values, table.values, check_exact=True)
        published = pd.read_csv(root / "proportions" / "major" / f"{name}.tsv.gz", sep="\t", index_col=0)
        ours = table.values.rename(columns=NAMES).T.groupby(level=0).sum().T
        spots = ours.index.intersection(published.index)
        assert ours.loc[spots].corrwith(published.loc[spots]).mean() > 0.6, name
        assert table.values.corrwith(fast[name].values).mean() > 0.8, name


@with_cell2location
@pytest.mark.slow
def test_fetal_heart_from_single_cells(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "heart_iss_truth"
    reference = pd.read_csv(folder / "sc_counts_cells_x_genes.tsv", sep="\t", index_col=0)
    kinds = pd.read_csv(folder / "sc_labels.tsv", sep="\t", index_col=0)
    adata = anndata.AnnData(
        sparse.csr_matrix(reference.to_numpy(np.float32)),
        obs=pd.DataFrame(
            {"cell_type": kinds.iloc[:, 0].reindex(reference.index).to_numpy()}, index=reference.index.astype(str)
        ),
        var=pd.DataFrame(index=reference.columns),
    )
    adata.write_h5ad(tmp_path / "ref.h5ad")
    counts = pd.read_csv(folder / "st_counts_genes_x_spots.tsv", sep="\t", index_col=0).T
    section = Section(
        "heart",
        "h",
        anndata.AnnData(
            sparse.csr_matrix(counts.to_numpy(np.float32)),
            obs=pd.DataFrame(index=counts.index.astype(str)),
            var=pd.DataFrame(index=counts.columns),
        ),
    )
    cohort = Memory(section)
    labels = label(cohort, "cell2location", tmp_path / "ref.h5ad", tmp_path / "out")  # type: ignore[arg-type]
    table = read_labels(tmp_path / "out")["heart"]
    pd.testing.assert_frame_equal(table.values, labels["heart"].values, check_exact=True)
    # Counted in situ there are 16.8 cells in a spot, and these sum to 1.1.
    assert table.values.shape == (1039, 12) and table.unit == "relative abundance"
    fast = label(cohort, "poisson", tmp_path / "ref.h5ad")["heart"]  # type: ignore[arg-type]
    assert labels["heart"].proportions().values.corrwith(fast.values).mean() > 0.8
