"""Every rule of the audit finds the leak that is planted for it, and nothing in a clean cohort."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from histomix.abundance import Abundance
from histomix.datasets.phantom.levels import make_level
from histomix.errors import InputError
from histomix.evaluation import AUDIT_RULES, Finding, audit, make_folds
from histomix.evaluation.leakage.adjacent import LEAST_SPOTS, adjacent_levels, picture
from histomix.evaluation.leakage.audit import refuse_leaks
from histomix.evaluation.leakage.coupled_labels import coupled_labels
from histomix.evaluation.leakage.duplicates import picture_hash
from histomix.evaluation.leakage.registration import SectionPoints, fit_pairs
from histomix.heads import TrainingSet

pytestmark = pytest.mark.once

TYPES = ["T cell", "B cell", "Tumour", "Stroma"]
DONOR = {"a1": "A", "a2": "A", "b1": "B", "c1": "C", "d1": "D"}
SPOTS, DIM = 120, 24


class Planted(SimpleNamespace):
    """A cohort as the audit is given it; change anything before `run`."""

    def run(self, protocol: str = "donor", site: Any = None, **options: Any) -> list[Finding]:
        section = np.repeat(list(self.donor), SPOTS)
        donor = np.array([self.donor[name] for name in section])
        training = TrainingSet(
            X=np.concatenate(list(self.X.values())).astype(np.float32),
            Y=np.concatenate([table.values.to_numpy() for table in self.labels.values()]),
            keys=np.tile(np.arange(SPOTS).astype(str), len(self.donor)),
            section=section,
            donor=donor,
            xy_um=np.concatenate([self.xy_um[name] for name in self.donor]),
            cell_types=TYPES,
            unit="cells per spot",
            features={},
        )
        sites = None if site is None else np.array([site[name] for name in section])
        folds = make_folds(section, donor, protocol, site=sites)
        block = {}
        for name, X in self.X.items():
            table = AnnData(np.asarray(X, dtype=np.float32))
            facts = {
                "section": name,
                "identity": name,
                "slide": {"fingerprint": self.prints[name], "mpp": 0.5},
                "encoder": {"name": "fake", "digest": "x", "dim": DIM, "views": 1},
                "tile": {"size_px": 224, "mpp": 0.5},
                **self.facts.get(name, {}),
            }
            table.uns["manifest"] = json.dumps(facts)
            block[name] = table
        return audit(
            training,
            folds,
            protocol,
            blocks=[block],
            labels=self.labels,
            coupled=coupled_labels(self.labels, training, folds),
            **options,
        )


@pytest.fixture
def cohort() -> Planted:
    """Five sections of four donors whose tiles share a stain within a section, labels fitted by donor."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(6, DIM))
    X, labels = {}, {}
    for name, donor in DONOR.items():
        X[name] = rng.normal(size=(SPOTS, 6)) @ basis + 0.4 * rng.normal(size=(SPOTS, DIM)) + rng.normal(size=DIM) + 2
        together = [other for other in DONOR if DONOR[other] == donor]
        values = pd.DataFrame(rng.gamma(2.0, size=(SPOTS, 4)), columns=TYPES)
        labels[name] = Abundance(values, "cells per spot", provenance={"fitted_with": together})
    xy_um = {name: rng.random((SPOTS, 2)) * 1000 for name in DONOR}
    prints = {name: f"print {name}" for name in DONOR}
    return Planted(donor=dict(DONOR), X=X, labels=labels, prints=prints, facts={}, xy_um=xy_um)


def only(findings: list[Finding], rule: str, severity: str) -> Finding:
    """The one finding there is."""
    assert [(one.rule, one.severity) for one in findings] == [(rule, severity)]
    assert rule in AUDIT_RULES and findings[0].numbers and findings[0].message
    json.dumps(findings[0].to_dict(), allow_nan=False)
    return findings[0]


def labelled_alone(cohort: Planted) -> None:
    for name in cohort.labels:
        cohort.labels[name] = replace(cohort.labels[name], provenance={"fitted_with": [name]})


def preview(folder: Path, name: str, seed: int, change: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> None:
    """A picture of tissue with some structure on white glass."""
    rng = np.random.default_rng(seed)
    grey = Image.fromarray(rng.random((9, 11)).astype(np.float32)).resize((220, 180), Image.Resampling.BICUBIC)
    rows, columns = np.mgrid[-1:1:180j, -1:1:220j]
    tissue = rows**2 / rng.uniform(0.5, 0.9) + columns**2 / rng.uniform(0.5, 0.9) < 1
    picture = np.where(tissue[..., None], 90 + 120 * np.asarray(grey)[..., None] * [1.0, 0.7, 1.0], 242)
    (folder / "previews").mkdir(exist_ok=True)
    Image.fromarray(change(np.clip(picture, 0, 255).astype(np.uint8))).save(folder / "previews" / f"{name}.jpg")


def test_a_clean_cohort_has_no_findings(cohort: Planted, tmp_path: Path) -> None:
    for seed, name in enumerate(DONOR):
        preview(tmp_path, name, seed)
    assert cohort.run(folders=[tmp_path], estimators={"ridge": Ridge()}) == []
    refuse_leaks([])
    # Sections of one site are whole in a fold, and donors with them.
    assert cohort.run("site", site={"a1": "x", "a2": "x", "b1": "y", "c1": "z", "d1": "z"}) == []


def test_a_donor_at_two_sites_stands_on_both_sides_of_a_fold(cohort: Planted) -> None:
    labelled_alone(cohort)
    found = only(
        cohort.run("site", site={"a1": "x", "a2": "y", "b1": "y", "c1": "z", "d1": "z"}), "donors across folds", "error"
    )
    assert found.numbers == {"n_donors": 1, "n_folds": 2, "donors": ["A"]}
    with pytest.raises(InputError, match=r"strict.*\n.*donors across folds: 1 of 4 donors \(A\)"):
        refuse_leaks([found])


def test_optimistic_folds_are_told_as_what_they_are(cohort: Planted) -> None:
    labelled_alone(cohort)
    found = only(cohort.run("section"), "donors across folds", "error")
    assert "by the choice of section folds (optimistic" in found.message


@pytest.mark.parametrize(("one", "other"), [("P-01", "p 01"), ("Patient_7", "PATIENT7"), ("P01", "P1")])
def test_one_donor_under_two_names(cohort: Planted, one: str, other: str) -> None:
    cohort.donor.update(b1=one, c1=other)
    found = only(cohort.run(), "donors of like names", "warning")
    assert found.numbers["names"] == [sorted([one, other])]


def test_two_sections_of_one_image_file(cohort: Planted) -> None:
    cohort.prints["c1"] = cohort.prints["b1"]
    assert only(cohort.run(), "one slide twice", "error").numbers == {"sections": ["b1", "c1"]}
    # Within a donor it is no leak: they are always held out together.
    cohort.prints.update(c1="its own", a2=cohort.prints["a1"])
    assert cohort.run() == []


def test_a_section_under_another_donor_is_found_by_its_tiles(cohort: Planted) -> None:
    rng = np.random.default_rng(1)
    # The same tiles, in another order and encoded from another compression.
    cohort.X["d1"] = rng.permutation(cohort.X["b1"]) + 0.02 * rng.normal(size=(SPOTS, DIM))
    found = only(cohort.run(), "near-duplicate tiles", "error")
    assert {(one["section"], one["with"], one["n_near"]) for one in found.numbers["sections"]} == {
        ("b1", "d1", SPOTS),
        ("d1", "b1", SPOTS),
    }
    assert all(one["ratio"] < 0.1 for one in found.numbers["sections"])


def test_a_few_copied_tiles_are_a_warning_and_empty_glass_is_none(cohort: Planted) -> None:
    cohort.X["d1"][:12] = cohort.X["b1"][20:32]
    found = only(cohort.run(), "near-duplicate tiles", "warning")
    assert {one["n_near"] for one in found.numbers["sections"]} == {12}
    rng = np.random.default_rng(2)
    cohort.X["d1"][:12] = rng.normal(size=(12, DIM))
    for name in DONOR:  # white tiles are alike everywhere, also within a section
        cohort.X[name][:30] = 5 + 1e-3 * rng.normal(size=(30, DIM))
    assert cohort.run() == []


def test_copied_tiles_are_found_in_many_dimensions(cohort: Planted) -> None:
    rng = np.random.default_rng(3)
    wide = {name: np.hstack([X, rng.normal(size=(SPOTS, 300))]) for name, X in cohort.X.items()}
    wide["d1"] = wide["b1"] + 1e-3 * rng.normal(size=wide["b1"].shape)
    cohort.X = wide
    assert only(cohort.run(), "near-duplicate tiles", "error").numbers["sections"][0]["n_near"] == SPOTS


def test_a_picture_that_stands_twice(cohort: Planted, tmp_path: Path) -> None:
    for seed, name in enumerate(DONOR):
        preview(tmp_path, name, seed)

    def changed(x: np.ndarray) -> np.ndarray:
        """Brighter, with a wider margin of glass, at another size, lying on its side."""
        bright = np.clip(x * 1.04 + 3, 0, 255).astype(np.uint8)
        framed = np.pad(bright, ((9, 40), (30, 5), (0, 0)), constant_values=252)
        return np.rot90(np.asarray(Image.fromarray(framed).resize((333, 290))))

    preview(tmp_path, "d1", 2, changed)
    found = only(cohort.run(folders=[tmp_path]), "near-duplicate sections", "warning")
    assert {(one["section"], one["with"]) for one in found.numbers["pairs"]} == {("b1", "d1"), ("d1", "b1")}
    (tmp_path / "previews" / "d1.jpg").write_bytes(b"not a picture")
    assert cohort.run(folders=[tmp_path]) == []


def tissue(seed: int, angle: float = 0.0, mirror: bool = False, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Spots of a lattice on tissue with domains, the inner ones first, and their types; it lies turned and mirrored."""
    rng, own = np.random.default_rng(seed), np.random.default_rng(round(1000 * angle) + 7)
    waves, bumps = rng.normal(size=(4, 3, 2)) * 5e-3, rng.normal(scale=0.15, size=3)
    lattice = np.stack(np.meshgrid(*[np.arange(-1500.0, 1500.0, 100.0)] * 2), axis=-1).reshape(-1, 2) + 0.5
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    flat = (lattice - own.uniform(-80, 80, 2)) @ turn * (-1 if mirror else 1, 1)
    theta = np.arctan2(flat[:, 1], flat[:, 0])
    edge = 1000 * (1 + sum(bump * np.cos(order * theta + order) for order, bump in enumerate(bumps, start=1)))
    share = np.hypot(*flat.T) / edge
    inside = np.argsort(share)[: int((share < 1).sum())]
    domains = np.sin(flat[inside] @ waves.transpose(0, 2, 1)).sum(axis=2).T
    fields = np.exp(domains + noise * own.normal(size=domains.shape))
    return lattice[inside] + 1600, fields


def laid_out(cohort: Planted, sections: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Give sections these places and labels."""
    for name, (xy_um, values) in sections.items():
        cohort.xy_um[name] = xy_um[:SPOTS]
        cohort.labels[name] = replace(cohort.labels[name], values=pd.DataFrame(values[:SPOTS], columns=TYPES))


def test_levels_of_one_block_under_two_donors(cohort: Planted) -> None:
    laid_out(cohort, {name: tissue(seed) for seed, name in enumerate(DONOR)})
    assert cohort.run() == []
    laid_out(cohort, {"c1": tissue(2, angle=2.2, mirror=True, noise=0.3)})
    found = only(cohort.run(), "adjacent levels", "warning")
    assert [(one["section"], one["with"]) for one in found.numbers["pairs"]] == [("b1", "c1")]
    assert found.numbers["donors"] == ["B", "C"] and found.numbers["n_compared"] >= 5
    assert "b1 of B and c1 of C" in found.message and f"{found.numbers['pairs'][0]['score']:.2f}" in found.message
    with pytest.raises(InputError, match="adjacent levels"):
        refuse_leaks([found])
    # Under one name they are held out together.
    cohort.donor["c1"] = "B"
    labelled_alone(cohort)
    assert cohort.run() == []


def points(seed: int, **how: Any) -> SectionPoints:
    xy_um, values = tissue(seed, **how)
    return SectionPoints.of(xy_um, np.sqrt(values / values.sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7, 1.5, 3.1, 5.0])
def test_a_section_fits_onto_itself_however_it_lies(angle: float, mirror: bool) -> None:
    sections = {"a": points(0), "b": points(0, angle=angle, mirror=mirror, noise=0.2), "c": points(1)}
    found = fit_pairs(sections, [("a", "b"), ("c", "a"), ("b", "c")])
    scores = {pair: one.score for pair, one in found.items() if one is not None}
    assert scores[("a", "b")] > 1.6 > 1.4 > max(scores.get(pair, 0.0) for pair in [("c", "a"), ("b", "c")])


def test_sections_of_very_different_size_or_with_few_spots_are_not_compared() -> None:
    whole = points(0)
    half = SectionPoints(whole.xy_um[: len(whole.xy_um) // 2], whole.values[: len(whole.values) // 2], whole.pitch_um)
    assert fit_pairs({"a": whole, "b": half}, [("a", "b")]) == {("a", "b"): None}
    assert adjacent_levels({"a": whole}, {"a": whole, "b": whole}, [("a", "b")])["n_compared"] == 0
    assert LEAST_SPOTS > 30


def test_in_a_large_cohort_each_section_is_laid_onto_those_of_likest_composition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("histomix.evaluation.leakage.adjacent.MOST_OTHERS", 2)
    sections = {f"s{n}": points(n) for n in range(8)} | {"again": points(3, angle=2.0, noise=0.3)}
    pairs = [(a, b) for a in sections for b in sections if a < b]
    told = adjacent_levels(sections, {}, pairs)
    assert told["likest"] == 2 and told["n_compared"] <= 2 * len(sections) < len(pairs)
    assert [(one["section"], one["with"]) for one in told["pairs"]] == [("again", "s3")]
    assert adjacent_levels(sections, {}, pairs[:2])["likest"] is None


def test_what_fits_in_every_cohort_is_the_organ() -> None:
    """Sections of one anatomy (a brain, say) whoever they are of: none stands out."""
    alike = {f"s{n}": points(0, angle=0.3 * n, noise=0.5) for n in range(7)}
    pairs = [(a, b) for a in alike for b in alike if a < b]
    told = adjacent_levels(alike, {}, pairs)
    assert told["n_compared"] == len(pairs) and len(told["pairs"]) <= 2
    assert len(adjacent_levels(alike, {}, pairs[:3])["pairs"]) == 3


def test_sections_without_structure_fit_nowhere_and_break_nothing() -> None:
    plain = SectionPoints(points(0).xy_um, np.ones((len(points(0).xy_um), 4)), 100.0)
    one = fit_pairs({"a": plain, "b": plain}, [("a", "b")])[("a", "b")]
    assert one is not None and one.structure == 0 and np.isfinite(one.score)


def test_levels_of_the_phantom_are_found_by_labels_and_pictures(tmp_path: Path) -> None:
    labels, pictures = {}, {}
    for name, donor, number in (("a", 0, 0), ("b", 0, 1), ("c", 1, 0)):
        level = make_level(0, donor, number, (1000.0, 1000.0))
        share = level.truth / level.truth.sum(axis=1, keepdims=True)
        labels[name] = SectionPoints.of(level.xy_um, np.sqrt(share))
        Image.fromarray(level.picture).reduce(4).save(tmp_path / f"{name}.jpg")
        pictures[name] = picture(tmp_path / f"{name}.jpg", 8.0)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    for seen in ({}, pictures):
        told = adjacent_levels(labels, seen, pairs)
        assert [(one["section"], one["with"]) for one in told["pairs"]] == [("a", "b")]


def test_hashes_of_unrelated_pictures_differ_in_about_half_their_bits(tmp_path: Path) -> None:
    hashes = []
    for seed in range(8):
        preview(tmp_path, str(seed), seed)
        with Image.open(tmp_path / "previews" / f"{seed}.jpg") as image:
            hashes.append(picture_hash(np.asarray(image)))
    differences = [(a != b).mean() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(differences) > 0.25


def test_labels_fitted_together(cohort: Planted) -> None:
    for name in cohort.labels:
        cohort.labels[name] = replace(cohort.labels[name], provenance={"fitted_with": list(DONOR)})
    found = only(cohort.run(), "label coupling", "warning")
    assert found.numbers["count"] == 5 and "5 of 5 test sections" in found.message
    for name in cohort.labels:
        cohort.labels[name] = replace(cohort.labels[name], provenance={})
    found = only(cohort.run(), "label coupling", "note")
    assert found.numbers["unknown"] == 5
    refuse_leaks([found])  # what is not known is not a leak


def test_labels_scaled_over_the_cohort(cohort: Planted) -> None:
    top = np.max([table.values.max() for table in cohort.labels.values()], axis=0)
    for name, table in cohort.labels.items():
        cohort.labels[name] = replace(table, values=table.values / top)
    assert only(cohort.run(), "labels fitted outside training", "warning").numbers == {"greatest": pytest.approx(1)}


@pytest.mark.parametrize("part", ["top", "encoder"])
def test_features_that_say_they_were_normalised_together(cohort: Planted, part: str) -> None:
    said = {"fitted_with": ["b1", "c1"]}
    manifest = {"name": "fake", "digest": "x", "dim": DIM, "views": 1}
    cohort.facts["b1"] = said if part == "top" else {"encoder": {**manifest, **said}}
    found = only(cohort.run(), "features fitted outside training", "error")
    assert found.numbers["sections"] == ["b1", "c1"]
    cohort.facts["b1"] = {"fitted_with": ["b1"]}
    assert cohort.run() == []


def test_features_standardised_on_the_whole_cohort(cohort: Planted) -> None:
    scaler = StandardScaler().fit(np.concatenate(list(cohort.X.values())))
    raw = cohort.X
    cohort.X = {name: scaler.transform(X) for name, X in raw.items()}
    found = only(cohort.run(), "features fitted outside training", "warning")
    assert found.numbers["standardised"] == 1 and "standardised on all of it" in found.message
    # Standardised without the last donor, as a head does inside a fold: nothing to find.
    honest = StandardScaler().fit(np.concatenate([X for name, X in raw.items() if name != "d1"]))
    cohort.X = {name: honest.transform(X) for name, X in raw.items()}
    assert cohort.run() == []


def test_features_projected_on_components_of_the_whole_cohort(cohort: Planted) -> None:
    projection = PCA(8).fit(np.concatenate(list(cohort.X.values())))
    cohort.X = {name: projection.transform(X) for name, X in cohort.X.items()}
    found = only(cohort.run(), "features fitted outside training", "warning")
    assert found.numbers["decorrelated"] and "principal components" in found.message


def test_an_estimator_that_knows_something_already(cohort: Planted) -> None:
    from sklearn.frozen import FrozenEstimator
    from sklearn.pipeline import make_pipeline

    X, Y = np.random.default_rng(0).normal(size=(2, 50, 4))
    fitted = Ridge().fit(X, Y)
    found = only(cohort.run(estimators={"mine": fitted, "plain": Ridge()}), "fitted estimators", "warning")
    assert found.numbers == {"head": "mine", "parts": ["the estimator"]}
    # A frozen part goes through cloning with what it learnt.
    frozen = make_pipeline(FrozenEstimator(StandardScaler().fit(X)), Ridge())
    found = only(cohort.run(estimators={"frozen": frozen}), "fitted estimators", "warning")
    assert found.numbers["parts"] == ["frozenestimator", "frozenestimator__estimator"]


def test_the_gravest_finding_comes_first(cohort: Planted) -> None:
    cohort.labels["a1"] = replace(cohort.labels["a1"], provenance={})
    cohort.donor.update(b1="P-01", c1="p 01")
    cohort.prints["c1"] = cohort.prints["b1"]
    assert [one.severity for one in cohort.run()] == ["error", "warning", "note"]
