"""Fit heads on some donors, score them on the others: the work of `histomix.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ..abundance import Abundance
from ..common.metrics import RULES, Array
from ..progress import Progress, tell
from ..provenance import versions
from .baselines import NUCLEI, ORACLE, count_in_tiles
from .data import CohortData, EvaluationData, evaluation_data, positions, slide_scales, truth_rows
from .fit_folds import BASELINES, prototypes, searched
from .folds import PROTOCOLS
from .groups import check_groups, group_rows, groups_from_labels, summarise_groups
from .leakage.audit import audit, refuse_leaks
from .leakage.batch_probe import batch_effect_probe
from .leakage.coupled_labels import coupled_labels, coupling_notes
from .more_donors import check_more_donors, more_donors, n_fits
from .protocols import COLUMNS, Scored, absent_types, chosen_protocols, inflation, run_protocol
from .result import Evaluation
from .scores.bootstrap import REFERENCE, interval_words, small_sections
from .scores.ceiling import CEILING, ceiling_rows, shares_of_ceiling, summarise_ceiling
from .scores.paired_tests import paired_tests
from .spatial.detectability import detectability


def held_out_scores(
    data: CohortData,
    test: CohortData | None,
    heads: Sequence[str] | Mapping[str, Any],
    folds: str | Sequence[str] | None,
    truth: Mapping[str, Abundance] | None,
    seed: int,
    progress: Progress,
    *,
    n_folds: int | None,
    strict: bool,
    groups: Mapping[str, str] | None,
    nuclei: bool,
    with_more_donors: bool,
    damp_stain: bool,
) -> Evaluation:
    """The scores of `histomix.evaluate`, whose parameters and errors these are, without the spatial ones."""
    gathered = evaluation_data(data, test)
    if not damp_stain:
        gathered = replace(gathered, training=replace(gathered.training, shifts={}))
    training = gathered.training
    names = chosen_protocols(folds, gathered.transfer)
    splits = {name: gathered.folds(name, n_folds, seed) for name in names}
    estimators = prototypes(heads, training.unit, seed)
    coarse = None if groups is None else check_groups(groups, training.cell_types)
    if with_more_donors:
        check_more_donors(training)
    known, notes = (None, []) if truth is None else truth_rows(truth, training)

    main = names[0]
    coupled = coupled_labels(gathered.labels, training, splits[main])
    findings = audit(
        training,
        splits[main],
        main,
        blocks=gathered.blocks,
        labels=gathered.labels,
        coupled=coupled,
        estimators=estimators,
        folders=[path for part, _ in gathered.parts for path in part.paths],
        seed=seed,
    )
    if strict:
        refuse_leaks(findings)
    counts, uncounted = _nuclei(gathered, progress) if nuclei else ({}, [])

    shown = {name: estimators[name] for name in dict.fromkeys([REFERENCE, list(estimators)[-1]])}
    extra = n_fits(training, seed) * len(shown) if with_more_donors else 0
    step = _Steps(progress, sum(map(len, splits.values())) * len(estimators) + extra)
    results = [run_protocol(name, splits[name], gathered, estimators, counts, known, step, seed) for name in names]
    first, rest = results[0], results[1:]
    added = more_donors(training, shown, seed, step) if with_more_donors else None
    facts, rows = _facts(first, gathered, coarse, known, seed)
    sections = facts["sections"]
    summary = {
        **facts,
        "heads": list(estimators),
        "baselines": [*BASELINES, *([NUCLEI] if NUCLEI in first.scores["label"] else [])],
        "oracles": [ORACLE],
        "features": training.features,
        "sections_mpp": slide_scales(gathered, sections),
        "dropped": training.dropped,
        "seed": seed,
        "rules": RULES,
        "notes": [
            *coupling_notes(coupled),
            *facts["notes"],
            *gathered.notes,
            *absent_types(first.described),
            *notes,
            *uncounted,
            *small_sections(training.section[gathered.tested]),
            *([facts["probe"]["statement"]] if facts["probe"] and facts["probe"]["strong"] else []),
        ],
        "audit": [one.to_dict() for one in findings],
        "coupled_labels": coupled,
        "inflation": inflation(results) if rest else [],
        "versions": versions("numpy", "scipy", "scikit-learn", "torch"),
        "cost": first.fits.cost,
        "searched": searched(first.fits.searches),
        **({} if added is None else {"more_donors": added}),
    }
    tables = partial(_tables, gathered=gathered, sections=sections)
    return Evaluation(
        metrics=pd.concat([first.metrics, *rows], ignore_index=True),
        predictions={name: tables(values) for name, values in first.fits.predicted.items()},
        summary=summary,
        labels=tables(np.asarray(training.Y, dtype=np.float64)),
        truth={} if known is None else tables(known),
        positions=positions(gathered, sections),
        others=pd.concat([one.metrics for one in rest], ignore_index=True) if rest else pd.DataFrame(columns=COLUMNS),
    )


class _Steps:
    """Counts heads fitted, and tells."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        progress("evaluate", 0, total)

    def __call__(self) -> None:
        self.done += 1
        self.progress("evaluate", self.done, self.total)


def _facts(
    first: Scored, gathered: EvaluationData, coarse: Mapping[str, list[str]] | None, known: Array | None, seed: int
) -> tuple[dict[str, Any], list[pd.DataFrame]]:
    """What the summary says of the scores of the main protocol, and the rows that belong beside them."""
    training = gathered.training
    tested = gathered.tested
    section, donor = (np.asarray(values, dtype=str)[tested] for values in (training.section, training.donor))
    observed, xy_um = np.asarray(training.Y, dtype=np.float64)[tested], training.xy_um[tested]
    types = [str(name) for name in training.cell_types]
    sections, donors = list(dict.fromkeys(section.tolist())), np.unique(donor).tolist()

    rows = [ceiling_rows(gathered.labels, training, first.folds, first.protocol)]
    ceiling, notes = summarise_ceiling(rows[0], len(sections))
    if ceiling is not None:
        ceiling["shares"] = shares_of_ceiling(first.metrics, rows[0])
    tell("groups of cell types", 0, 1)
    heads = list(first.fits.predicted)
    shown = next((name for name in reversed(heads) if name not in BASELINES), heads[-1])
    source = "user" if coarse is not None else "labels"
    if coarse is None:
        coarse = groups_from_labels(observed, section, types)
    grouped = None
    if coarse:
        table = group_rows(
            np.asarray(training.Y, dtype=np.float64),
            first.fits.predicted,
            coarse,
            types,
            section=np.asarray(training.section, dtype=str),
            donor=np.asarray(training.donor, dtype=str),
            folds=[(fold.name, fold.test) for fold in first.folds],
        )
        rows.append(table.assign(protocol=first.protocol, target="label")[COLUMNS])
        grouped = summarise_groups(table, coarse, source, seed)
    tell("groups of cell types", 1, 1)
    probe = batch_effect_probe(training.X[tested], section, donor, xy_um, seed)
    truths = 0 if known is None else int(np.isfinite(known[tested]).all(axis=1).sum())
    with_truth = [] if known is None else [s for s in sections if np.isfinite(known[training.section == s]).any()]
    ranked = [*heads, NUCLEI]
    return {
        "protocol": first.protocol,
        "protocol_means": PROTOCOLS[first.protocol],
        "folds": first.described,
        "unit": training.unit,
        "cell_types": types,
        "sections": sections,
        "donors": donors,
        "n_sections": len(sections),
        "n_donors": len(donors),
        "n_spots": int(tested.sum()),
        "truth": {"sections": with_truth, "n_spots": truths} if with_truth else None,
        "interval": interval_words(len(donors), len(sections)),
        "notes": notes,
        CEILING: ceiling,
        "scores": first.scores,
        "tests": paired_tests(first.metrics, [*ranked, "label"], seed),
        "groups": grouped,
        "detectability": detectability(
            shown,
            observed,
            first.fits.predicted[shown][tested],
            xy_um,
            section,
            types,
            scores=first.scores["label"][shown]["pearson"]["types"],
            ceiling=ceiling,
            groups=coarse,
            seed=seed,
        ),
        "probe": probe,
        "calibration": first.calibration,
    }, [part for part in rows if len(part)]


def _nuclei(gathered: EvaluationData, progress: Progress) -> tuple[dict[str, pd.Series], list[str]]:
    counts: dict[str, pd.Series] = {}
    notes: list[str] = []
    for part, names in gathered.parts:
        counted, missing = count_in_tiles(part.cohort, part.blocks[0], progress)
        counts |= {names[name]: series for name, series in counted.items()}
        notes += missing
    return counts, notes


def _tables(values: Array, gathered: EvaluationData, sections: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Values of the tested rows by section; a row without any is left out."""
    training = gathered.training
    types = [str(name) for name in training.cell_types]
    keys = np.asarray(training.keys).astype(str)
    frames = {}
    for name in sections:
        rows = training.section == name
        frame = pd.DataFrame(values[rows], pd.Index(keys[rows], name="spot"), types).dropna()
        if len(frame):
            frames[name] = frame
    return frames
