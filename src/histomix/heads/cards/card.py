"""The card of a head: what it was trained on and for, how well it did, and the same in Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...abundance import Abundance
from ...common.metrics import pearson_by_section
from ...encoders import card as encoder_card
from ...errors import EncoderError, HeadError, MissingExtraError
from ...provenance import versions
from ..base import CompositionRegressor
from ..dataset import TrainingSet
from ..trust.intervals import Intervals
from .imported import imported_notes

#: Of the folder's layout; a head of another format is refused.
FORMAT = 2
NOT_DECLARED = "not declared"
INTENDED_USE = "Research on H&E slides of the tissue, preparation and scanner kind of the training sections."
LIMITS = (
    "Not for diagnosis. The labels are estimates from spatial transcriptomics, so the head cannot be better than they "
    "are. Accuracy on donors unlike those of training is unknown: read the novelty score, and evaluate with held-out "
    "donors. Cell types absent from training are never predicted."
)
_SCORED = ("pearson", "pearson_within", "spearman", "rmse", "js_composition", "auroc_present")


def make_card(
    training: TrainingSet,
    labels: Mapping[str, Abundance],
    kind: str,
    estimator: CompositionRegressor,
    intervals: Intervals | None,
    *,
    tissue: Sequence[str | None],
    seed: int,
    scores: Mapping[str, Any] | None,
    levels: Mapping[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    stability: Mapping[str, Any] | None = None,
    precision: Mapping[str, Any] | None = None,
    damping: Mapping[str, Any] | None = None,
    scale_check: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """All that a card says but the digests of its files, as plain JSON values.

    Parameters
    ----------
    training, labels
        What the head was trained on.
    kind, estimator, intervals
        The fitted head.
    tissue
        Tissues the head is for.
    seed
        Of everything drawn at random.
    scores
        Scores with their protocol, see `evaluation_scores` and `inner_scores`.
    levels
        How well slides are told apart, see `heads.trust.levels.held_out_levels`.
    answers
        Which names its tiles may be answered with, see `heads.answers.fit.held_out_answers`.
    stability
        How far predictions move when a slide is cropped, see `heads.cards.crops.crop_stability`.
    precision
        How far they move when features are in float32, see `heads.cards.precision.require_precision`.
    damping
        How it looks past the stain, see `heads.stain.StainDamping`.
    scale_check
        What wrong um per px it can tell, see `heads.trust.scale.ScaleModel`.
    notes
        Sentences to add to the limits.
    """
    encoders = training.features["encoders"]
    card = {
        "format": FORMAT,
        "histomix": versions()["histomix"],
        "name": f"{kind}-{'-'.join(encoder['name'] for encoder in encoders)}",
        "head": {
            "kind": kind,
            "parameters": estimator.get_params(),
            "fitted": estimator.fitted()[1],
            # Of a head after a paper: what the paper leaves open.
            **({"own_choices": choices} if (choices := getattr(estimator, "own_choices", None)) else {}),
            **({"search": estimator.search_} if estimator.search_ else {}),
        },
        # None for a head that looks at its whole slide.
        "context_um": estimator.context_um if np.isfinite(estimator.context_um) else None,
        "cell_types": training.cell_types,
        "unit": training.unit,
        **training.features,
        "encoder_licences": [_licence(encoder) for encoder in encoders],
        "tissue": sorted({name for name in tissue if name}) or NOT_DECLARED,
        "training": _training_facts(training, labels),
        "seed": seed,
        "scores": scores,
        "levels": levels,
        "answers": answers,
        "crop_stability": stability,
        **({"precision": precision} if precision else {}),
        "stain_damping": damping,
        "scale_check": scale_check,
        "calibration": None if intervals is None else _named(intervals.facts(), training.cell_types),
        "intended_use": INTENDED_USE,
        "limits": " ".join([LIMITS, *notes, *imported_notes(encoders)]),
        "versions": versions("numpy", "scipy", "scikit-learn", "torch", "safetensors"),
    }
    # Through JSON once, so that a card in memory equals the same card loaded (lists, not tuples).
    plain: dict[str, Any] = json.loads(json.dumps(card, default=_plain, allow_nan=False))
    return plain


def inner_scores(training: TrainingSet, held_out: np.ndarray, kind: str) -> dict[str, Any] | None:
    """Score held-out predictions of the training rows: mean Pearson over sections and types, and RMSE.

    Parameters
    ----------
    training
        The training rows.
    held_out
        Predictions by fits without the row's group, ``(n, n_types)``; NaN where there are none.
    kind
        What the inner splits keep together, in words.

    Returns
    -------
    None where no section has three spots with predictions.
    """
    known = np.isfinite(held_out).all(axis=1)
    table = pearson_by_section(training.Y, held_out, training.section)
    counts = np.isfinite(table).sum(axis=0)
    if not counts.any():
        return None
    by_type = np.divide(np.nansum(table, axis=0), counts, out=np.full(len(counts), np.nan), where=counts > 0)
    error = np.sqrt(np.square(held_out[known] - training.Y[known]).mean(axis=0))
    return {
        "source": "inner splits of the training",
        "protocol": f"held-out {kind}",
        "protocol_means": f"each of the training's {kind} predicted by fits without it; parameters of the head may "
        "have been chosen on the same splits, so this is a little optimistic",
        "n_sections": len(table),
        "n_donors": len(np.unique(training.donor[known])),
        "n_spots": int(known.sum()),
        "pearson": {
            "mean": round(float(np.nanmean(by_type)), 4),
            "n_types": int((counts > 0).sum()),
            "by_type": {
                name: round(float(value), 4)
                for name, value in zip(training.cell_types, by_type, strict=True)
                if np.isfinite(value)
            },
        },
        "rmse": {"mean": round(float(error.mean()), 5)},
    }


def evaluation_scores(summary: Mapping[str, Any], head: str, training: TrainingSet) -> dict[str, Any]:
    """What an evaluation found of a kind of head, with its protocol.

    Parameters
    ----------
    summary
        The ``summary.json`` of an evaluation.
    head
        Name of the head in it.
    training
        What the head of the card is trained on: the evaluation must be of the same cell types, unit and encoders.

    Raises
    ------
    HeadError
        The evaluation is of something else, or has no scores of this head.
    """
    hint = f"Evaluate this head on these labels and features: histomix evaluate SHEET --heads {head} --out EVAL"
    entries = summary.get("scores", {}).get("label", {}).get(head)
    if not isinstance(entries, Mapping):
        raise HeadError(f"the evaluation has no scores of the head {head!r} against labels", hint=hint)
    encoders = [
        [(entry.get("name"), entry.get("digest")) for entry in features.get("encoders", ())]
        for features in (summary.get("features") or {}, training.features)
    ]
    for what, one, other in (
        ("cell types", summary.get("cell_types"), training.cell_types),
        ("unit", summary.get("unit"), training.unit),
        ("encoders", *encoders),
    ):
        if one != other:
            raise HeadError(f"the evaluation is of other {what} ({one}) than the head ({other})", hint=hint)
    counts = ("n_donors", "n_sections", "n_spots")
    scores: dict[str, Any] = {
        "source": "histomix evaluate",
        "protocol": f"{summary.get('protocol')} folds",
        "protocol_means": summary.get("protocol_means"),
        **{name: summary.get(name) for name in counts},
        "interval": (summary.get("interval") or {}).get("method"),
    }
    for metric in _SCORED:
        if metric in entries:
            entry = entries[metric]
            scores[metric] = {name: entry.get(name) for name in ("mean", "low", "high", "n_types")}
            if metric == "pearson" and isinstance(entry.get("types"), Mapping):
                types = entry["types"]
                means = {name: value["mean"] if isinstance(value, Mapping) else value for name, value in types.items()}
                scores[metric]["by_type"] = {name: means[name] for name in training.cell_types if name in means}
    more = (summary.get("more_donors") or {}).get("heads", {}).get(head)
    if more:
        scores["more_donors"] = {**more, **{name: summary["more_donors"][name] for name in ("n_donors", "n_sections")}}
    return scores


def _named(facts: dict[str, Any], cell_types: Sequence[str]) -> dict[str, Any]:
    """Calibration facts with the names of the types instead of their positions."""
    for part in ("coverage", "width"):
        facts[part] = {**facts[part], "by_type": dict(zip(cell_types, facts[part]["by_type"], strict=True))}
    return facts


def _training_facts(training: TrainingSet, labels: Mapping[str, Abundance]) -> dict[str, Any]:
    sections, counts = np.unique(training.section, return_counts=True)
    donors = sorted(set(training.donor.tolist()))
    absent = [
        name for name, here in zip(training.cell_types, np.any(training.Y, axis=0).tolist(), strict=True) if not here
    ]
    sources: list[dict[str, Any]] = []
    for name in sections.tolist():
        provenance = dict(labels[name].provenance)
        if "file" in provenance:  # its name says enough, and a path may name a person
            provenance["file"] = Path(str(provenance["file"])).name
        match = next((source for source in sources if source["provenance"] == provenance), None)
        if match is None:
            sources.append({"sections": [name], "unit": labels[name].unit, "provenance": provenance})
        else:
            match["sections"].append(name)
    return {
        "n_spots": len(training.X),
        "n_sections": len(sections),
        "n_donors": len(donors),
        "donors": donors,
        "sections": dict(zip(sections.tolist(), counts.tolist(), strict=True)),
        "slides": training.slides,
        "dropped": training.dropped,
        "cell_types_without_labels": absent,
        "labels": sources,
    }


def _licence(encoder: Mapping[str, Any]) -> dict[str, Any]:
    commercial_use: bool | str | None
    try:
        commercial_use = encoder_card(encoder["name"]).commercial_use
    except (EncoderError, MissingExtraError):  # the caller's own encoder, which has no card here
        commercial_use = NOT_DECLARED
    return {"encoder": encoder["name"], "licence": encoder["licence"], "commercial_use": commercial_use}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
