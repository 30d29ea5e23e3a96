"""The indices of encoder robustness: the numbers of the library that defines them, and what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.benchmark.robustness import encoder_robustness, robustness

from .conftest import Job
from .extras import extra_module

CANDIDATES = (5, 10, 20, 50)


def _spots() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label, donor = rng.integers(3, size=240), rng.integers(4, size=240)
    section = donor * 2 + rng.integers(2, size=240)
    features = rng.normal(size=(240, 6))
    features[:, 0] += 2 * label
    features[:, 1] += 1.5 * donor
    features[:, 2] += section * 0.2
    return features, label, donor, section


#: What croma 1.0.1 gives for `_spots`: neighbours from other sections, and from other spots.
CROMA = {
    "sections": (10, 0.7764070932922128, 0.2847337137917277),
    "spots": (10, 0.6387351778656126, 0.16175483335979912),
}


@pytest.mark.parametrize("units", CROMA)
def test_the_numbers_are_those_of_croma(units: str) -> None:
    features, label, donor, section = _spots()
    found = robustness(features, label, donor, section if units == "sections" else np.arange(240), CANDIDATES)
    k, ri, croma = CROMA[units]
    assert (found.k, found.n_spots, found.n_margin) == (k, 240, 240)
    assert found.ri == pytest.approx(ri, abs=1e-12) and found.croma == pytest.approx(croma, abs=1e-12)


def test_and_still_those_of_the_library_where_it_is_installed() -> None:
    croma = extra_module("clients", "croma")
    features, label, donor, section = _spots()
    table = {"label": label, "group_id": section, "donor": donor}
    manifest = pd.DataFrame({name: values.astype(str) for name, values in table.items()})
    manifest["sample_id"], manifest["image_path"] = manifest.index.astype(str), ""
    theirs = croma.RI.compute(features, manifest, confounder_column="donor", k_candidates=list(CANDIDATES))
    margin = croma.CRoMa.compute(features, manifest, confounder_column="donor")
    found = robustness(features, label, donor, section, CANDIDATES)
    assert (found.k, found.ri) == (theirs.k, pytest.approx(theirs.value))
    assert found.croma == pytest.approx(margin.value)


def test_features_of_the_type_are_robust_and_features_of_the_donor_are_not() -> None:
    _, label, donor, section = _spots()
    noise = np.random.default_rng(1).normal(0, 0.1, (240, 7))
    types, donors = noise.copy(), noise.copy()
    types[np.arange(240), label] += 1
    donors[np.arange(240), 3 + donor] += 1
    good, bad = (robustness(one, label, donor, section) for one in (types, donors))
    assert good.ri is not None and good.croma is not None and bad.ri is not None and bad.croma is not None
    assert good.ri > 0.95 and good.croma > 0.5
    assert bad.ri < 0.05 and bad.croma < -0.5


def test_where_nothing_can_be_said_nothing_is() -> None:
    features, label, donor, _ = _spots()
    found = robustness(features, label, donor, donor)
    assert found.ri == 1.0 and found.croma is None and found.n_margin == 0, "no neighbour is of the same donor"


def test_the_features_of_a_cohort_are_told_with_what_they_are_of(small_job: Job) -> None:
    cohort = hm.read_cohort(small_job.sheet)
    features, labels = hm.read_features(small_job.features), hm.read_labels(small_job.labels)
    facts: dict[str, Any] = encoder_robustness(cohort, [features], labels)
    assert facts["confounder"] == "donor" and facts["neighbours"] == "other spots"
    assert facts["n_labels"] >= 2 and 0 <= facts["ri"] <= 1 and -1 <= facts["croma"] <= 1
    one = encoder_robustness(cohort.subset(cohort.names[:1]), [features], {cohort.names[0]: labels[cohort.names[0]]})
    assert one["ri"] is None and one["croma"] is None
