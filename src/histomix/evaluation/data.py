"""Rows to score: of one cohort, or of one to train on and another to test on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..abundance import Abundance, labels_of
from ..common.metrics import Array
from ..embedding import (
    FeatureSource,
    encoder_identity,
    feature_blocks,
    feature_folders,
    feature_manifest,
    require_same_encoder,
)
from ..errors import InputError, LabelError
from ..heads import TrainingSet, assemble
from ..heads.models.pixels import CohortTiles
from ..spots import Cohort
from .folds import Fold, make_folds
from .leakage.coupled_labels import FITTED_WITH

if TYPE_CHECKING:
    from anndata import AnnData

Blocks = list[dict[str, "AnnData"]]


@dataclass(frozen=True)
class CohortData:
    """A cohort with what an evaluation reads of it.

    Parameters
    ----------
    cohort, features, labels
        As for `histomix.heads.assemble`.
    folders
        Folders of the features, where they have any: previews in them are compared.
    """

    cohort: Cohort
    features: Mapping[str, AnnData] | Sequence[Mapping[str, AnnData]]
    labels: Mapping[str, Abundance]
    folders: Sequence[str | os.PathLike[str]] = ()

    @classmethod
    def of(
        cls,
        cohort: Cohort | str | os.PathLike[str],
        features: FeatureSource,
        labels: Mapping[str, Abundance] | str | os.PathLike[str] | None = None,
        folders: Sequence[str | os.PathLike[str]] = (),
    ) -> Self:
        """A cohort or its sheet, its features or their folders, and its labels or their folder (None: the sheet's).

        Raises
        ------
        SheetError, FeatureError, LabelError
            One of them cannot be read.
        """
        opened = Cohort.of(cohort)
        return cls(opened, feature_blocks(features), labels_of(labels, opened), folders or feature_folders(features))

    @property
    def blocks(self) -> Blocks:
        """Features by section, one mapping per encoder."""
        given = [self.features] if isinstance(self.features, Mapping) else self.features
        return [dict(block) for block in given]

    @property
    def paths(self) -> list[Path]:
        """Folders of the features."""
        return [Path(folder) for folder in self.folders]


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """All rows, and what is known of their sections.

    Attributes
    ----------
    training
        All rows, those of both cohorts in a transfer.
    blocks, labels
        By section, under the names that ``training.section`` has.
    site
        Site of each row, ``(n,)``, empty where the sheet says none.
    tested
        Rows that may be tested, bool ``(n,)``: all, or those of the second cohort.
    parts
        Each cohort, with the name that each of its sections has here.
    notes
        Remarks on cell types that only one cohort has.
    """

    training: TrainingSet
    blocks: Blocks
    labels: dict[str, Abundance]
    site: NDArray[np.str_]
    tested: NDArray[np.bool_]
    parts: list[tuple[CohortData, dict[str, str]]]
    notes: list[str] = field(default_factory=list)

    @property
    def transfer(self) -> bool:
        """Whether there are two cohorts."""
        return len(self.parts) > 1

    def folds(self, protocol: str, n: int | None, seed: int) -> list[Fold]:
        """Split the rows (see `make_folds`); in a transfer, one fold."""
        if self.transfer:
            return [Fold("transfer", np.flatnonzero(~self.tested), np.flatnonzero(self.tested))]
        return make_folds(self.training.section, self.training.donor, protocol, n, seed, self.site)


def evaluation_data(train: CohortData, test: CohortData | None = None) -> EvaluationData:
    """Join features and labels of a cohort, or of two.

    Only cell types that both cohorts have can be scored: others are left out of both, and named in the notes;
    proportions are divided by what is left of them. A section of the training cohort that is called as one of the other
    is called ``"<name> (training)"``.

    Raises
    ------
    FeatureError, LabelError
        As `histomix.heads.assemble`; the cohorts have features of different encoders, labels in different units, or no
        cell type in common.
    """
    if test is None:
        training = assemble(train.cohort, train.features, train.labels)
        names = {name: name for name in dict.fromkeys(training.section.tolist())}
        rows = np.ones(len(training.Y), dtype=bool)
        return EvaluationData(
            training, train.blocks, dict(train.labels), _site(training, [train]), rows, [(train, names)]
        )
    train, test, notes = _common_types(train, test)
    _same_encoders(train.blocks, test.blocks)
    first, second = (assemble(one.cohort, one.features, one.labels) for one in (train, test))
    ours, theirs = (list(dict.fromkeys(one.section.tolist())) for one in (first, second))
    renamed = {name: f"{name} (training)" if name in theirs else name for name in ours}
    section = np.array([renamed[name] for name in first.section.tolist()])
    training = replace(
        second,
        X=np.concatenate([first.X, second.X]),
        Y=np.concatenate([first.Y, second.Y]),
        keys=np.concatenate([first.keys, second.keys]),
        donor=np.concatenate([first.donor, second.donor]),
        xy_um=np.concatenate([first.xy_um, second.xy_um]),
        section=np.concatenate([section, second.section]),
        tiles=_joined(first.tiles, second.tiles),
        dropped={**{renamed[name]: lost for name, lost in first.dropped.items()}, **second.dropped},
        shifts={**{renamed[name]: moved for name, moved in first.shifts.items()}, **second.shifts},
    )
    return EvaluationData(
        training=training,
        blocks=[
            {**{renamed[name]: a[name] for name in ours}, **b} for a, b in zip(train.blocks, test.blocks, strict=True)
        ],
        labels={**{renamed[name]: _renamed(train.labels[name], renamed) for name in ours}, **test.labels},
        site=np.concatenate([_site(first, [train]), _site(second, [test])]),
        tested=np.repeat([False, True], [len(first.Y), len(second.Y)]),
        parts=[(train, renamed), (test, {name: name for name in theirs})],
        notes=notes,
    )


def _joined(first: CohortTiles | None, second: CohortTiles | None) -> CohortTiles | None:
    """Pixels of the rows of both cohorts; None where those of one are not there."""
    if first is None or second is None:
        return None
    return replace(
        first,
        slides=[*first.slides, *second.slides],
        section=np.concatenate([first.section, second.section + len(first.slides)]),
        xy_px=np.concatenate([first.xy_px, second.xy_px]),
    )


def _renamed(table: Abundance, names: Mapping[str, str]) -> Abundance:
    """Labels that name the sections they were fitted with as they are called here."""
    together = table.provenance.get(FITTED_WITH)
    if together is None:
        return table
    renamed = [names.get(str(one), str(one)) for one in together]
    return replace(table, provenance={**table.provenance, FITTED_WITH: renamed})


def _site(training: TrainingSet, parts: Sequence[CohortData]) -> NDArray[np.str_]:
    sites = {row.section: row.site or "" for part in parts for row in part.cohort.rows}
    return np.array([sites[name] for name in training.section.tolist()], dtype=str)


def _same_encoders(train: Blocks, test: Blocks) -> None:
    if len(train) != len(test):
        raise InputError(
            f"the training cohort has features of {len(train)} encoders, the test cohort of {len(test)}",
            hint="Give the features of the same encoders, in the same order",
        )
    for a, b in zip(train, test, strict=True):
        expected = encoder_identity(feature_manifest(next(iter(a.values()))))
        for name, table in b.items():
            identity = encoder_identity(feature_manifest(table))
            where = f"features of section {name} of the test cohort"
            require_same_encoder(expected, identity, where=where, expected_by="of the training cohort")


def _common_types(train: CohortData, test: CohortData) -> tuple[CohortData, CohortData, list[str]]:
    first, second = (next(iter(one.labels.values())) for one in (train, test))
    if first.unit != second.unit:
        raise LabelError(
            f"the labels of the training cohort are in {first.unit}, those of the test cohort in {second.unit}",
            hint="Label both cohorts in one unit; cells, shares and relative abundances are not mixed",
        )
    common = [name for name in first.cell_types if name in second.cell_types]
    if not common:
        raise LabelError(
            "the two cohorts have no cell type in common",
            hint="Give their labels the same names with: histomix label --vocabulary",
        )
    notes = []
    for which, own in (("training", first), ("test", second)):
        alone = [name for name in own.cell_types if name not in common]
        if alone:
            what = "taken out, and proportions divided by the rest" if own.unit == "proportion" else "left out"
            listed = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
            notes.append(
                f"{len(alone)} cell types have labels in the {which} cohort alone and are not scored: {listed} ({what})"
            )
    if not notes:
        return train, test, []
    return _restricted(train, common), _restricted(test, common), notes


def _restricted(data: CohortData, types: list[str]) -> CohortData:
    return replace(data, labels={name: _restrict(table, types) for name, table in data.labels.items()})


def _restrict(table: Abundance, types: list[str]) -> Abundance:
    values = table.values[types]
    if table.unit == "proportion":
        values = values[values.sum(axis=1) > 0]
        values = values.div(values.sum(axis=1), axis=0)
    reliability = None if table.reliability is None else table.reliability[types]
    return replace(table, values=values, sd=None, median=None, reliability=reliability)


def positions(gathered: EvaluationData, sections: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Level-0 position of every spot, by section."""
    training = gathered.training
    spots = np.asarray(training.keys).astype(str)
    tables: dict[str, Any] = {
        name: gathered.blocks[0][name].obs.loc[spots[training.section == name], ["x_px", "y_px"]] for name in sections
    }
    return {name: table.astype(np.float64).rename_axis("spot") for name, table in tables.items()}


def slide_scales(gathered: EvaluationData, sections: Sequence[str]) -> dict[str, float]:
    """Um per px of every section's slide."""
    return {name: float(feature_manifest(gathered.blocks[0][name])["slide"]["mpp"]) for name in sections}


_log = logging.getLogger(__name__)


def truth_rows(truth: Mapping[str, Abundance], training: TrainingSet) -> tuple[Array, list[str]]:
    """Truth of each row in the unit of the labels (NaN where there is none), with remarks on what it lacks."""
    types = [str(name) for name in training.cell_types]
    section, keys = np.asarray(training.section, dtype=str), np.asarray(training.keys).astype(str)
    known = np.full((len(section), len(types)), np.nan)
    empty = 0
    for name in dict.fromkeys(section.tolist()):
        if name not in truth:
            continue
        abundance, where = truth[name], f"truth of section {name}"
        values = abundance.values
        if set(values.columns) != set(types):
            odd = sorted(set(values.columns) ^ set(types))
            raise LabelError(f"truth and labels do not have the same cell types ({', '.join(odd)})", where=where)
        if abundance.unit != training.unit and training.unit != "proportion":
            raise LabelError(
                f"is in {abundance.unit}, but the labels are in {training.unit}",
                where=where,
                hint="Shares follow from cells or relative abundances, never the reverse: give both in one unit",
            )
        spots = keys[section == name]
        if abundance.unit != training.unit:
            values = values[values.sum(axis=1) > 0]
            values = values.div(values.sum(axis=1), axis=0)
            empty += int(np.isin(spots, abundance.values.index).sum() - np.isin(spots, values.index).sum())
        known[section == name] = values[types].reindex(spots).to_numpy()
    missing = int(np.isnan(known).any(axis=1).sum())
    if missing == len(known):
        raise LabelError("the truth covers none of the labelled spots", hint="Check its section names and spot keys")
    notes = []
    if missing:
        why = f", {empty} of them because they hold no cells" if empty else ""
        notes.append(f"{missing:,} of {len(known):,} spots have no truth{why}; scores against the truth leave them out")
        _log.warning("%s", notes[0])
    return known, notes
