"""Labels of test sections that were fitted together with sections of training donors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...abundance import Abundance
from ...heads import TrainingSet
from ..folds import Fold

#: Provenance of labels: the sections whose counts had a part in them.
FITTED_WITH = "fitted_with"
_EXAMPLES = 3


def coupled_labels(labels: Mapping[str, Abundance], training: TrainingSet, folds: list[Fold]) -> dict[str, Any]:
    """Count the test sections whose labels share a fit with a section of a donor that trains in the same fold.

    Returns
    -------
    dict
        ``count`` coupled sections of ``n_sections``, ``examples`` of them, and how many have labels of which it is
        ``unknown`` what they were fitted with.
    """
    section, donor = np.asarray(training.section, dtype=str), np.asarray(training.donor, dtype=str)
    owner = dict(zip(section.tolist(), donor.tolist(), strict=True))
    known = {name: labels[name].provenance.get(FITTED_WITH) for name in owner}
    partners: dict[str, set[str]] = {name: set() for name in owner}
    for name, together in known.items():
        for other in {str(one) for one in together or ()} & set(owner) - {name}:
            partners[name].add(other)
            partners[other].add(name)
    coupled: dict[str, dict[str, Any]] = {}
    for fold in folds:
        trained = set(donor[fold.train].tolist())
        for name in dict.fromkeys(section[fold.test].tolist()):
            shared = sorted(other for other in partners[name] if owner[other] in trained)
            if shared:
                coupled.setdefault(name, {"fold": fold.name, "section": name, "with": shared[:_EXAMPLES]})
    return {
        "count": len(coupled),
        "n_sections": len(owner),
        "unknown": sum(together is None for together in known.values()),
        "examples": list(coupled.values())[:_EXAMPLES],
    }


def coupling_notes(facts: Mapping[str, Any]) -> list[str]:
    """Remarks on coupled labels, and on labels of which nothing is known."""
    notes = []
    if facts["count"]:
        example = facts["examples"][0]
        notes.append(
            f"the labels of {facts['count']} of {facts['n_sections']} test sections were fitted together with sections "
            f"of training donors (such as {example['section']} with {', '.join(example['with'])}): what they share "
            "may raise the scores; label each donor by itself to exclude that"
        )
    if facts["unknown"]:
        which = (
            "the labels" if facts["unknown"] == facts["n_sections"] else f"the labels of {facts['unknown']} sections"
        )
        notes.append(
            f"{which} do not say with which sections they were fitted: test and training labels may share a fit"
        )
    return notes
