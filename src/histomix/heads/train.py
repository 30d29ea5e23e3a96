"""From a cohort with features and labels to a head with its card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from ..abundance import Abundance
from ..encoders import card as encoder_card
from ..errors import EncoderError, HeadError, MissingExtraError
from ..progress import Progress, silent
from ..provenance import versions
from .base import CompositionRegressor
from .dataset import TrainingSet, assemble
from .head import FORMAT, Head, seal
from .inner import inner_groups
from .novelty import NoveltyModel
from .registry import HEADS, make_estimator

if TYPE_CHECKING:
    from anndata import AnnData

    from ..spots import Cohort

NOT_DECLARED = "not declared"
INTENDED_USE = "Research on H&E slides of the tissue, preparation and scanner kind of the training sections."
LIMITS = (
    "Not for diagnosis. The labels are estimates from spatial transcriptomics, so the head cannot be better than they "
    "are. Accuracy on donors unlike those of training is unknown: read the novelty score, and evaluate with held-out "
    "donors. Cell types absent from training are never predicted."
)


def train(
    cohort: Cohort,
    features: Mapping[str, AnnData] | Sequence[Mapping[str, AnnData]],
    labels: Mapping[str, Abundance],
    head: str | CompositionRegressor = "mlp",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    tissue: str | Sequence[str] | None = None,
    progress: Progress = silent,
    scores: Mapping[str, Any] | None = None,
) -> Head:
    """Train a head on all sections of a cohort.

    Hyper-parameters are chosen on inner splits of these sections: by donor, else by section, else by strips of the
    one section. The same inputs, seed and thread count give the same head.

    Parameters
    ----------
    cohort, features, labels
        As for `assemble`.
    head
        A name in `HEADS`, or an unfitted estimator of `histomix.heads` (its own seed and unit count then).
    seed
        Of everything drawn at random.
    out
        Folder to save to; see `Head.save`.
    tissue
        Tissues that the head is for; those of the sheet when left out.
    progress
        Told when training begins and ends.
    scores
        Scores to carry in the card, with their protocol.

    Raises
    ------
    FeatureError, LabelError
        Features and labels cannot be joined; see `assemble`.
    HeadError
        The head is unknown or cannot be fitted.
    """
    training = assemble(cohort, features, labels)
    estimator = make_estimator(head, training.unit, seed) if isinstance(head, str) else clone(head)
    kind = next((name for name, cls in HEADS.items() if type(estimator) is cls), None)
    if kind is None:
        raise HeadError(
            f"a {type(estimator).__name__} cannot be saved as a head", mend=f"Use one of: {', '.join(HEADS)}"
        )
    if estimator.unit != training.unit:
        raise HeadError(f"the estimator predicts {estimator.unit}, but the labels are in {training.unit}")
    progress(f"train {kind}", 0, 1)
    groups = inner_groups(training.section, training.donor, training.xy_um)
    estimator.fit(training.X, training.Y, groups=groups, places=training.places)
    novelty_model = NoveltyModel().fit(training.X, groups)
    names = [row.tissue for row in cohort.rows] if tissue is None else [tissue] if isinstance(tissue, str) else tissue
    card = {
        "format": FORMAT,
        "histomix": versions()["histomix"],
        "name": f"{kind}-{'-'.join(encoder['name'] for encoder in training.features['encoders'])}",
        "head": {"kind": kind, "parameters": estimator.get_params(), "fitted": estimator.fitted()[1]},
        "cell_types": training.cell_types,
        "unit": training.unit,
        **training.features,
        "encoder_licences": [_licence(encoder) for encoder in training.features["encoders"]],
        "tissue": sorted({name for name in names if name}) or NOT_DECLARED,
        "training": _training_facts(training, labels),
        "seed": seed,
        "scores": scores,
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "versions": versions("numpy", "scipy", "scikit-learn", "torch", "safetensors"),
    }
    # Through JSON once, so that a card in memory equals the same card loaded (lists, not tuples).
    card = json.loads(json.dumps(card, default=_plain, allow_nan=False))
    trained = Head(seal(card, estimator, novelty_model), estimator, novelty_model)
    if out is not None:
        trained.save(out)
    progress(f"train {kind}", 1, 1)
    return trained


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
