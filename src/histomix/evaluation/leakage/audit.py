"""Before anything is fitted: does what the heads will train on know what they will be tested on?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...abundance import Abundance
from ...common.naming import identity_key
from ...embedding import feature_manifest
from ...errors import FeatureError, InputError
from ...heads import TrainingSet
from ..folds import OPTIMISTIC, PROTOCOLS, Fold
from .adjacent import adjacent_levels, label_points, picture_points
from .cohort_statistics import (
    cohort_statistics,
    features_fitted_with,
    fitted_already,
    is_fitted_on_cohort,
    scaled_labels,
)
from .coupled_labels import coupling_notes
from .duplicates import near_pictures, near_tiles, read_previews

if TYPE_CHECKING:
    from anndata import AnnData

#: What each rule looks for.
AUDIT_RULES = {
    "donors across folds": "a donor whose spots stand in training and in test",
    "donors of like names": "two donors, on either side of a fold, whose names differ in case, zeros or signs only",
    "one slide twice": "sections on either side of a fold that are of one image file",
    "near-duplicate sections": "sections on either side of a fold whose pictures are near copies",
    "adjacent levels": "sections of two donors that fit onto each other as levels of one block do",
    "near-duplicate tiles": "test tiles far nearer to a training tile of another section than tiles of a section are",
    "label coupling": "labels of test sections fitted together with sections of training donors",
    "features fitted outside training": "features normalised, standardised or projected with test sections",
    "labels fitted outside training": "labels scaled or fitted over the whole cohort",
    "fitted estimators": "estimators that were fitted before the folds were made",
}
SEVERITIES = ("error", "warning", "note")
#: Examples that the numbers of a finding list at most.
_EXAMPLES = 20


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    Attributes
    ----------
    rule
        A key of `AUDIT_RULES`.
    severity
        ``"error"`` (scores are of what was trained on), ``"warning"`` (they may be), ``"note"`` (it is not known).
    message
        One sentence, with numbers.
    numbers
        The same numbers, for programs.
    """

    rule: str
    severity: str
    message: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def audit(
    training: TrainingSet,
    folds: list[Fold],
    protocol: str,
    *,
    blocks: Sequence[Mapping[str, AnnData]],
    labels: Mapping[str, Abundance],
    coupled: Mapping[str, Any],
    estimators: Mapping[str, Any] | None = None,
    folders: Sequence[Path] = (),
    seed: int = 0,
) -> list[Finding]:
    """Look for leaks between the training and the test rows of some folds, before any fit.

    Parameters
    ----------
    training, folds, protocol
        The rows, their splits, and the name of the protocol that made them.
    blocks
        Features by section, one mapping per encoder.
    labels
        Abundances by section.
    coupled
        What `coupled_labels` found.
    estimators
        Unfitted estimators by name.
    folders
        Folders of the features: the previews in them are compared.
    seed
        Chooses which tiles are compared.

    Returns
    -------
    Findings, the gravest first; none for a clean cohort.
    """
    findings = [*_donors(training, folds, protocol), *_names(training, folds)]
    pairs = _pairs(training, folds)
    findings += _slides(blocks, pairs)
    names = sorted({name for _, a, b in pairs for name in (a, b)})
    findings += _pictures(near_pictures(read_previews(list(folders), names), pairs))
    findings += _levels(training, pairs, blocks, folders)
    findings += _tiles(near_tiles(training, folds, seed))
    findings += _coupling(coupled)
    findings += _features(blocks, training, folds)
    top = scaled_labels(labels, list(dict.fromkeys(training.section.tolist())))
    if top is not None:
        message = (
            f"the greatest value of every cell type over the whole cohort is {top:g}: labels seem to be scaled with "
            "test sections"
        )
        findings.append(Finding("labels fitted outside training", "warning", message, {"greatest": top}))
    for name, estimator in (estimators or {}).items():
        parts = fitted_already(estimator)
        if parts:
            message = (
                f"head {name} was fitted before the folds were made ({', '.join(parts)}): what it learnt or was chosen "
                "by may include test donors"
            )
            findings.append(Finding("fitted estimators", "warning", message, {"head": name, "parts": parts}))
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def refuse_leaks(findings: Sequence[Finding]) -> None:
    """Refuse to score when there is any error or warning (InputError); what is only unknown passes."""
    grave = [one for one in findings if one.severity != "note"]
    if grave:
        count = "1 finding" if len(grave) == 1 else f"{len(grave)} findings"
        lines = "".join(f"\n  - {one.severity}: {one.rule}: {one.message}" for one in grave)
        raise InputError(
            f"the audit has {count}, and it was to be strict:{lines}\n",
            hint="Mend the cohort, or leave --strict out and report them with the scores",
        )


def _donors(training: TrainingSet, folds: list[Fold], protocol: str) -> list[Finding]:
    donor = np.asarray(training.donor, dtype=str)
    shared = {fold.name: np.intersect1d(donor[fold.test], donor[fold.train]).tolist() for fold in folds}
    donors = sorted({name for names in shared.values() for name in names})
    if not donors:
        return []
    n_folds = sum(bool(names) for names in shared.values())
    message = (
        f"{len(donors)} of {len(np.unique(donor))} donors ({', '.join(donors[:3])}) stand in training and in test, in "
        f"{n_folds} of {len(folds)} folds"
    )
    if protocol in OPTIMISTIC:
        message += f" by the choice of {protocol} folds ({PROTOCOLS[protocol]})"
    numbers = {"n_donors": len(donors), "n_folds": n_folds, "donors": donors}
    return [Finding("donors across folds", "error", message, numbers)]


def _names(training: TrainingSet, folds: list[Fold]) -> list[Finding]:
    """Names such as "P-01" and "p 01": a person would take them for one donor."""
    donor = np.asarray(training.donor, dtype=str)
    alike: dict[str, set[str]] = {}
    for name in np.unique(donor).tolist():
        alike.setdefault(re.sub(r"[\W_]+", "", identity_key(name)) or name, set()).add(name)
    across = []
    for names in alike.values():
        for fold in folds:
            test, train = (names & set(np.unique(donor[rows]).tolist()) for rows in (fold.test, fold.train))
            if any(a != b for a in test for b in train):
                across.append(sorted(names))
                break
    if not across:
        return []
    message = f"donors {' and '.join(across[0])} stand on either side of a fold: are they one? ({len(across)} such)"
    return [Finding("donors of like names", "warning", message, {"names": across})]


def _pairs(training: TrainingSet, folds: list[Fold]) -> list[tuple[str, str, str]]:
    """Fold, test section and training section, of all pairs of different sections across a fold."""
    section = np.asarray(training.section, dtype=str)
    return [
        (fold.name, test, train)
        for fold in folds
        for test in dict.fromkeys(section[fold.test].tolist())
        for train in dict.fromkeys(section[fold.train].tolist())
        if test != train
    ]


def _slides(blocks: Sequence[Mapping[str, AnnData]], pairs: list[tuple[str, str, str]]) -> list[Finding]:
    prints: dict[str, str] = {}
    for name, table in blocks[0].items():
        try:
            prints[name] = str(feature_manifest(table)["slide"]["fingerprint"])
        except (FeatureError, KeyError, TypeError):
            continue  # features without a manifest of slides: nothing to compare
    shared = [pair for pair in pairs if pair[1] in prints and prints[pair[1]] == prints.get(pair[2])]
    if not shared:
        return []
    sections = sorted({name for _, *names in shared for name in names})
    _, a, b = shared[0]
    message = f"{len(sections)} sections across folds share an image file (such as {a} and {b})"
    return [Finding("one slide twice", "error", message, {"sections": sections})]


def _pictures(pairs: list[dict[str, Any]]) -> list[Finding]:
    if not pairs:
        return []
    first = min(pairs, key=lambda one: one["difference"])
    message = (
        f"{len({one['section'] for one in pairs})} test sections look like a training section of another name (such as "
        f"{first['section']} like {first['with']}: {first['difference']:.0%} of the bits of their picture hashes "
        "differ, about half do in unrelated ones)"
    )
    return [Finding("near-duplicate sections", "warning", message, {"n_pairs": len(pairs), "pairs": pairs[:_EXAMPLES]})]


def _levels(
    training: TrainingSet,
    pairs: list[tuple[str, str, str]],
    blocks: Sequence[Mapping[str, AnnData]],
    folders: Sequence[Path],
) -> list[Finding]:
    owner = dict(zip(np.asarray(training.section).tolist(), np.asarray(training.donor).tolist(), strict=True))
    # As the sections stand in the rows: each pair once, whichever of the two is tested.
    across = {(min(pair), max(pair)) for _, *pair in pairs if owner[pair[0]] != owner[pair[1]]}
    mpp = {}
    for name, table in blocks[0].items():
        try:
            mpp[name] = float(feature_manifest(table)["preview"]["mpp"])
        except (FeatureError, KeyError, TypeError):
            continue  # features without a picture: label maps are compared alone
    found = adjacent_levels(label_points(training), picture_points(folders, mpp), sorted(across))
    if not found["pairs"]:
        return []
    first = found["pairs"][0]
    a, b = (f"{name} of {owner[name]}" for name in (first["section"], first["with"]))
    donors = sorted({str(owner[one[side]]) for one in found["pairs"] for side in ("section", "with")})
    which = "" if found["likest"] is None else f" (of each section the {found['likest']} of likest composition)"
    message = (
        f"{len(found['pairs'])} of {found['n_compared']} pairs of sections of two donors{which} fit onto each other as "
        f"levels of one block do (such as {a} and {b}: {first['score']:.2f}, where other donors stay below "
        f"{found['threshold']:.2f}): are they of one donor?"
    )
    numbers = {**found, "n_pairs": len(found["pairs"]), "pairs": found["pairs"][:_EXAMPLES], "donors": donors}
    return [Finding("adjacent levels", "warning", message, numbers)]


def _tiles(pairs: list[dict[str, Any]]) -> list[Finding]:
    if not pairs:
        return []
    first = max(pairs, key=lambda one: one["n_near"] / one["n_checked"])
    copied = first["n_near"] / first["n_checked"]
    message = (
        f"{len({one['section'] for one in pairs})} test sections hold near copies of training tiles (such as "
        f"{first['section']}: {first['n_near']} of {first['n_checked']} tiles lie at {first['ratio']:.3f} of the usual "
        f"distance from a tile of {first['with']})"
    )
    numbers = {"n_sections": len({one["section"] for one in pairs}), "sections": pairs[:_EXAMPLES]}
    return [Finding("near-duplicate tiles", "error" if copied > 0.5 else "warning", message, numbers)]


def _coupling(coupled: Mapping[str, Any]) -> list[Finding]:
    notes = iter(coupling_notes(coupled))
    findings = []
    if coupled["count"]:
        numbers = {name: coupled[name] for name in ("count", "n_sections", "examples")}
        findings.append(Finding("label coupling", "warning", next(notes), numbers))
    if coupled["unknown"]:
        numbers = {name: coupled[name] for name in ("unknown", "n_sections")}
        findings.append(Finding("label coupling", "note", next(notes), numbers))
    return findings


def _features(blocks: Sequence[Mapping[str, AnnData]], training: TrainingSet, folds: list[Fold]) -> list[Finding]:
    rule = "features fitted outside training"
    section, donor = np.asarray(training.section, dtype=str), np.asarray(training.donor, dtype=str)
    owner = dict(zip(section.tolist(), donor.tolist(), strict=True))
    findings = []
    for number, block in enumerate(blocks, start=1):
        which = "features" if len(blocks) == 1 else f"features of encoder {number}"
        declared = features_fitted_with({name: block[name] for name in owner})
        shared: set[str] = set()
        for fold in folds:
            test, train = (set(section[rows].tolist()) for rows in (fold.test, fold.train))
            trained = set(donor[fold.train].tolist())
            for name, others in declared.items():
                known = {other for other in others if other in owner}
                if name in train and known & test:
                    shared |= known & test
                elif name in test and any(owner[other] in trained for other in known):
                    shared.add(name)
        if shared:
            message = (
                f"{which} say that they were normalised or fitted together across folds: {len(shared)} of {len(owner)} "
                f"test sections (such as {min(shared)}) had a part in those of training donors, or the reverse"
            )
            findings.append(Finding(rule, "error", message, {"sections": sorted(shared)}))
        numbers = cohort_statistics(block, list(owner))
        words = is_fitted_on_cohort(numbers)
        if words is not None:
            findings.append(Finding(rule, "warning", f"the {which} {words}", numbers))
    return findings
