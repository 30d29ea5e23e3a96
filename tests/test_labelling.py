"""Labels of a cohort from counts and a reference: what is written, kept, and refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from histomix.abundance import label, label_reliability, poisson_deconvolve, read_labels
from histomix.abundance.cells import expected_cells
from histomix.errors import HistomixError, LabelError, StorageError
from histomix.spots import Section, read_cohort

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


class Memory:
    """A cohort of sections in memory; an exception in place of a section is raised when it is read."""

    def __init__(self, *sections: Section, broken: Mapping[str, HistomixError] | None = None) -> None:
        self.sheet, self.rows = Path("sheet.csv"), ()
        self.sections: dict[str, Section | HistomixError] = {section.name: section for section in sections}
        self.sections.update(broken or {})

    @property
    def names(self) -> list[str]:
        return list(self.sections)

    def section(self, name: str, counts: bool = True) -> Section:
        found = self.sections[name]
        if isinstance(found, HistomixError):
            raise found
        return found


def run(*args, **kwargs):  # type: ignore[no-untyped-def]
    return label(*args, **kwargs)


def test_label_writes_what_it_returns_and_then_keeps_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, signatures, truth = simulate(40)
    counts[7] = 0
    cohort = Memory(make_section("A", counts), make_section("B", counts[:20, :100]))
    seen: list[tuple[str, int, int]] = []
    labels = run(cohort, "poisson", make_reference(signatures), tmp_path, progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[0] == "label"] == [("label", done, 2) for done in range(3)]
    assert ("label A", 39, 39) in seen and ("reliability of B", 3, 3) in seen
    expected = shares(np.delete(poisson_deconvolve(counts, signatures), 7, axis=0))
    np.testing.assert_allclose(labels["A"].values, expected, atol=1e-6)  # single precision
    assert "7x1" not in labels["A"].values.index
    assert np.corrcoef(labels["A"].values["T"], np.delete(shares(truth)[:, 0], 7))[0, 1] > 0.9
    for name, table in read_labels(tmp_path).items():
        pd.testing.assert_frame_equal(table.values, labels[name].values, check_exact=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["method"], manifest["unit"], manifest["seed"]) == ("poisson", "proportion", 0)
    assert manifest["reference"]["digest"].startswith("sha256:")
    assert manifest["sections"]["A"]["spots_without_counts"] == ["7x1"]
    assert (manifest["sections"]["A"]["spots"], manifest["sections"]["B"]["genes_shared"]) == (39, 100)
    assert manifest["sections"]["B"]["share_of_reference_genes"] == pytest.approx(100 / 120)

    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.csv")}
    with caplog.at_level(logging.INFO, logger="histomix"):
        again = run(cohort, "poisson", make_reference(signatures), tmp_path)
    assert "2 sections unchanged and kept, 0 labelled" in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.csv")} == before
    pd.testing.assert_frame_equal(again["A"].values, labels["A"].values, check_exact=True)


def kept(folder: Path, caplog: pytest.LogCaptureFixture, *args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """How many sections a run into ``folder`` keeps."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="histomix"):
        run(*args, out=folder, **kwargs)
    notes = [record for record in caplog.records if "unchanged and kept" in record.msg]
    return int(str(notes[0].args[1]).split()[0]) if notes else 0  # type: ignore[index]


def test_only_what_changed_is_labelled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, signatures, _ = simulate(20)
    reference = make_reference(signatures)
    first = Memory(make_section("A", counts), make_section("B", counts))
    assert kept(tmp_path, caplog, first, "poisson", reference) == 0
    changed = Memory(make_section("A", counts), make_section("B", counts + 1))
    assert kept(tmp_path, caplog, changed, "poisson", reference) == 1
    more = Memory(*changed.sections.values(), make_section("C", counts))  # type: ignore[arg-type]
    assert kept(tmp_path, caplog, more, "poisson", reference) == 2
    assert kept(tmp_path, caplog, Memory(make_section("A", counts)), "poisson", reference) == 1
    assert list(read_labels(tmp_path)) == ["A", "B", "C"]
    (tmp_path / "B.csv").write_text("spot,T\n")
    assert kept(tmp_path, caplog, more, "poisson", reference) == 2
    assert kept(tmp_path, caplog, more, "nnls", reference) == 0
    assert kept(tmp_path, caplog, more, "nnls", reference * 2) == 0
    (tmp_path / "manifest.json").write_text("{")
    assert kept(tmp_path, caplog, more, "nnls", reference * 2) == 0
    assert kept(tmp_path, caplog, more, "nnls", reference * 2) == 3
    with pytest.raises(LabelError, match=r"not in this cohort \(B, C\), made in another way"):
        run(Memory(make_section("A", counts)), "poisson", reference, tmp_path)


def test_one_failing_section_does_not_lose_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, signatures, _ = simulate(20)
    fractions = counts * 0.5 + 0.25
    broken = {"lost": LabelError("there is no such file", where="lost.tsv")}
    cohort = Memory(
        make_section("normalised", fractions),
        make_section("empty", counts * 0),
        make_section("good", counts),
        make_section("alien", counts, [f"X{i}" for i in range(120)]),
        make_section("none", counts[:, :0]),
        broken=broken,
    )
    with pytest.raises(LabelError, match="5 of 6 sections failed") as caught:
        run(cohort, "poisson", make_reference(signatures), tmp_path)
    text = str(caught.value)
    for name, fault in {
        "normalised": "are fractions", "empty": "no spot has counts", "alien": "0 of the 120 genes",
        "none": "has no counts", "lost": "no such file",
    }.items():  # fmt: skip
        assert any(line.strip().startswith(f"- {name}: ") and fault in line for line in text.splitlines()), name
    assert list(read_labels(tmp_path)) == ["good"]
    assert set(json.loads((tmp_path / "manifest.json").read_text())["failed"]) == set(cohort.names) - {"good"}
    mended = Memory(make_section("good", counts), make_section("lost", counts))
    assert kept(tmp_path, caplog, mended, "poisson", make_reference(signatures)) == 1
    assert list(read_labels(tmp_path)) == ["good", "lost"]


def test_a_full_disk_stops_the_run_and_leaves_what_was_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, signatures, _ = simulate(10)
    sections = [make_section(name, counts + shift) for shift, name in enumerate("ABC")]
    full = {"B": StorageError("the disk is full")}
    with pytest.raises(StorageError, match="disk is full"):
        run(Memory(sections[0], broken=full), "poisson", make_reference(signatures), tmp_path)
    assert list(read_labels(tmp_path)) == ["A"]
    assert kept(tmp_path, caplog, Memory(*sections), "poisson", make_reference(signatures)) == 1
    # Stopped again before it reaches C: the labels of C stay listed.
    with pytest.raises(StorageError):
        run(Memory(make_section("A", counts + 9), broken=full), "poisson", make_reference(signatures), tmp_path)
    assert list(read_labels(tmp_path)) == ["A", "B", "C"]


def test_cells_per_spot_need_a_declared_scale_and_share_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, signatures, _ = simulate(40, n_genes=160)
    reference = make_reference(signatures)
    cohort = Memory(make_section("A", counts[:25]), make_section("B", counts[25:]))
    settings = {"unit": "cells per spot", "cells_per_spot": 12}
    labels = run(cohort, "poisson", reference, **settings)
    assert labels["B"].unit == "cells per spot"
    totals = pd.concat([table.values.sum(axis=1) for table in labels.values()])
    assert totals.median() == pytest.approx(12)
    # One scale for the whole cohort: ratios of totals between sections stay those of the weights.
    weights = np.vstack([poisson_deconvolve(part, signatures) for part in (counts[:25], counts[25:])])
    np.testing.assert_allclose(totals / totals.iloc[0], weights.sum(axis=1) / weights[0].sum(), rtol=1e-5)
    np.testing.assert_allclose(labels["A"].proportions().values, shares(weights[:25]), atol=1e-6)

    assert kept(tmp_path, caplog, cohort, "poisson", reference, **settings) == 0
    assert kept(tmp_path, caplog, cohort, "poisson", reference, **settings) == 2
    # The weights of what is kept are not stored, only their scaled labels: one damaged table means all are made anew.
    (tmp_path / "B.csv").write_text("spot,T\n")
    assert kept(tmp_path, caplog, cohort, "poisson", reference, **settings) == 0
    pd.testing.assert_frame_equal(read_labels(tmp_path)["B"].values, labels["B"].values, check_exact=True)
    # A new section moves the median.
    more = Memory(*cohort.sections.values(), make_section("C", counts * 3))  # type: ignore[arg-type]
    assert kept(tmp_path, caplog, more, "poisson", reference, **settings) == 0
    with pytest.raises(LabelError, match="needs cells_per_spot"):
        run(cohort, "poisson", reference, unit="cells per spot")
    with pytest.raises(LabelError, match="takes no cells_per_spot"):
        run(cohort, "poisson", reference, cells_per_spot=5)
    with pytest.raises(LabelError, match="cannot have 0 cells"):
        run(cohort, "poisson", reference, unit="cells per spot", cells_per_spot=0)


def test_cells_counted_in_the_image_scale_each_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts, signatures, _ = simulate(40)
    asked: list[float] = []

    class Slide:
        def __enter__(self) -> Slide:
            return self

        def __exit__(self, *args: object) -> None:
            pass

    def count(slide: Slide, xy_px: np.ndarray, diameter_um: float) -> np.ndarray:
        asked.append(diameter_um)
        found = np.full(len(xy_px), 30.0 if len(xy_px) == 25 else 4.0)
        found[:3] = np.nan
        return found

    monkeypatch.setattr("histomix.slides.count_nuclei", count)
    monkeypatch.setattr(Section, "slide", lambda section: Slide())
    sections = [make_section("A", counts[:25]), make_section("B", counts[25:])]
    for section in sections:
        section.adata.obsm["spatial"] = np.zeros((len(section.keys), 2))
    cohort = Memory(*(replace(section, image=tmp_path / "he.tif", spot_diameter_um=55.0) for section in sections))
    labels = run(cohort, "poisson", make_reference(signatures), unit="cells per spot", cells_per_spot="nuclei")
    assert [table.values.sum(axis=1).median() for table in labels.values()] == pytest.approx([30, 4])
    assert labels["A"].provenance["fitted_with"] == ["A"] and asked == [55.0, 55.0]

    monkeypatch.setattr("histomix.slides.count_nuclei", lambda slide, xy_px, diameter_um: np.full(len(xy_px), np.nan))
    with pytest.raises(LabelError, match=r"(?s)he.tif: nuclei were found under 0 of 25 spots.*give cells_per_spot"):
        run(cohort, "poisson", make_reference(signatures), unit="cells per spot", cells_per_spot="nuclei")
    with pytest.raises(LabelError, match="cannot have many cells"):
        run(cohort, "poisson", make_reference(signatures), unit="cells per spot", cells_per_spot="many")


def test_a_spot_is_presumed_to_have_as_many_cells_as_its_area() -> None:
    assert expected_cells(55) == expected_cells(None) == 8
    assert expected_cells(110) == pytest.approx(32)
    assert expected_cells(100) == pytest.approx(26.4, abs=0.1)


def test_labels_carry_their_noise(tmp_path: Path) -> None:
    counts, signatures, _ = simulate(40)
    shallow, deep = make_section("A", np.random.default_rng(1).binomial(counts, 0.1)), make_section("B", counts * 3)
    labels = run(Memory(shallow, deep), "poisson", make_reference(signatures), tmp_path)
    for name, table in labels.items():
        assert table.reliability is not None and table.sd is not None, name
        # Shares cannot vary by more than a half.
        assert 0 < table.sd.to_numpy().max() <= 0.5
    assert labels["A"].reliability.mean() < labels["B"].reliability.mean()  # type: ignore[union-attr]
    expected = label_reliability(counts * 3, signatures, poisson_deconvolve, 0, 3)
    np.testing.assert_allclose(labels["B"].reliability, expected)  # type: ignore[arg-type]
    pd.testing.assert_series_equal(read_labels(tmp_path)["A"].reliability, labels["A"].reliability, check_names=False)
    nnls = run(Memory(shallow, deep), "nnls", make_reference(signatures))
    assert nnls["A"].sd is None and nnls["A"].provenance["reliability_of"] == "nnls"
    whole = run(Memory(shallow, deep), "poisson", make_reference(signatures), unit="cells per spot", cells_per_spot=5)
    assert whole["A"].provenance["fitted_with"] == ["A", "B"]
    twice = run(Memory(shallow, deep), "poisson", make_reference(signatures), unit="cells per spot", cells_per_spot=10)
    np.testing.assert_allclose(twice["A"].sd, 2 * whole["A"].sd, rtol=1e-12)  # type: ignore[operator, arg-type]


def test_a_vocabulary_maps_what_is_derived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, signatures, _ = simulate(40)
    cohort, reference = Memory(make_section("A", counts)), make_reference(signatures)
    plain = run(cohort, "poisson", reference)["A"].values
    (tmp_path / "words.yaml").write_text("merge: {Lymphoid: [T, B]}\nrename: {Tumour: Cancer}\n")
    labels = run(cohort, "poisson", reference, tmp_path / "out", vocabulary=tmp_path / "words.yaml")["A"]
    assert set(labels.cell_types) == {"Lymphoid", "Cancer", "Stroma"}
    np.testing.assert_allclose(labels.values["Lymphoid"], plain["T"] + plain["B"])
    stored = read_labels(tmp_path / "out")["A"]
    assert stored.provenance["vocabulary"]["merge"] == {"Lymphoid": ["T", "B"]}
    assert kept(tmp_path / "out", caplog, cohort, "poisson", reference, vocabulary=tmp_path / "words.yaml") == 1
    assert kept(tmp_path / "out", caplog, cohort, "poisson", reference) == 0
    (tmp_path / "words.yaml").write_text("rename: {Tumor: Cancer}\n")
    with pytest.raises(LabelError, match="Tumor"):
        run(Memory(), "poisson", reference, vocabulary=tmp_path / "words.yaml")


def test_methods_that_cannot_run_say_so() -> None:
    cohort = Memory(make_section("A", simulate(3)[0]))
    with pytest.raises(LabelError, match="no method 'rctd'"):
        run(cohort, "rctd")
    with pytest.raises(LabelError, match="needs a reference"):
        run(cohort, "poisson")
    with pytest.raises(LabelError, match="no such file"):
        run(cohort, "poisson", "absent.csv")
    with pytest.raises(LabelError, match="'cells' is not a unit"):
        run(cohort, "poisson", "absent.csv", unit="cells")


def test_her2st_labels_agree_with_stereoscope(data_dir: Path, tmp_path: Path) -> None:
    root = data_dir / "her2st"
    rows = ["section,donor,spots,counts,image"]
    rows += [f"{n},{n[0]},{root}/spots/{n}_selection.tsv,{root}/counts/{n}.tsv.gz," for n in ("B1", "D5")]
    (tmp_path / "sheet.csv").write_text("\n".join(rows))
    cohort = read_cohort(tmp_path / "sheet.csv")
    reference = data_dir / "reference" / "wu2021_brca_major_dwls.csv"
    names = {"Cancer Epithelial": "Epithelial", "Normal Epithelial": "Epithelial", "Plasmablasts": "Plasma Cells"}
    for method, least in (("poisson", 0.65), ("nnls", 0.6)):
        labels = label(cohort, method, reference)
        # Two spots of B1 and two of D5 have no counts of any gene of the reference.
        assert (len(labels["B1"].values), len(labels["D5"].values)) == (293, 304)
        for name, table in labels.items():
            published = pd.read_csv(root / "proportions" / "major" / f"{name}.tsv.gz", sep="\t", index_col=0)
            ours = table.values.rename(columns=names).T.groupby(level=0).sum().T
            spots = ours.index.intersection(published.index)
            assert ours.loc[spots].corrwith(published.loc[spots]).mean() > least, (method, name)
