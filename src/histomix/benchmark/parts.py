"""What the cells of a benchmark are told apart by, and made of."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..abundance import Abundance, labels_of
from ..common.paths import as_list
from ..encoders import card
from ..errors import EncoderError, InputError, LabelError, MissingExtraError
from ..evaluation.result import Evaluation, read_evaluation
from ..provenance import digest_json, read_json, read_sealed
from ..spots import Cohort

if TYPE_CHECKING:
    from anndata import AnnData

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkCohort:
    """A cohort with its labels.

    Parameters
    ----------
    name
        What it is called in tables and folders.
    cohort
        Sections with their slides.
    labels
        Section -> abundances.
    truth
        Known abundances, where there are any.
    """

    name: str
    cohort: Cohort
    labels: Mapping[str, Abundance]
    truth: Mapping[str, Abundance] | None = None


Tables = Mapping[str, Abundance] | str | os.PathLike[str]


def benchmark_cohorts(
    cohorts: Sequence[BenchmarkCohort | Cohort | str | os.PathLike[str]],
    labels: Tables | Sequence[Tables] | None,
    truth: Tables | Sequence[Tables] | None,
) -> list[BenchmarkCohort]:
    """Cohorts by the names of their sheets, with their labels; parameters and errors as for `run_benchmark`."""
    tables: dict[str, list[Tables | None]] = {}
    for what, given in (("labels", labels), ("truth", truth)):
        tables[what] = [None] * len(cohorts) if given is None else [*as_list(given)]
        if len(tables[what]) != len(cohorts):
            raise InputError(
                f"{len(tables[what])} folders of {what} were given for {len(cohorts)} sheets",
                hint=f"Give {what} once for each sheet, in their order",
            )
    opened = [one if isinstance(one, BenchmarkCohort) else Cohort.of(one) for one in cohorts]
    stems = [one.name if isinstance(one, BenchmarkCohort) else one.sheet.stem for one in opened]
    alike = len(set(stems)) < len(stems)
    members = []
    for place, (one, known, true) in enumerate(zip(opened, tables["labels"], tables["truth"], strict=True)):
        if not isinstance(one, BenchmarkCohort):
            name = f"{stems[place]}-{place + 1}" if alike else stems[place]
            one = BenchmarkCohort(name, one, labels_of(known, one), None if true is None else labels_of(true, one))
        members.append(one)
    return members


def finished(folder: Path, note: Path, wanted: str) -> Evaluation | None:
    """What an earlier call made of the same input; None where there is none, or it is damaged."""
    if not note.is_file():
        return None
    try:
        return read_evaluation(folder) if read_json(note).get("identity") == wanted else None
    except InputError as error:
        _LOG.warning("%s It is made again", error)
        return None


def kept_note(note: Path) -> dict[str, Any]:
    """What an earlier call noted; nothing where there is no note, or it is damaged."""
    try:
        return read_sealed(note, hint="Remove it") if note.is_file() else {}
    except InputError as error:
        _LOG.warning("%s It is made again", error)
        return {}


def common_spots(one: BenchmarkCohort, features: Sequence[Mapping[str, AnnData]]) -> tuple[dict[str, Abundance], int]:
    """Labels of the spots that every encoder could read, and how many spots that leaves out."""
    labels, left_out = {}, 0
    for name in one.cohort.names:
        if name not in one.labels:
            continue
        table = one.labels[name]
        keys = table.values.index
        kept = np.ones(len(keys), dtype=bool)
        anywhere = np.zeros(len(keys), dtype=bool)
        for block in features:
            adata = block[name]
            readable = adata.obs_names[np.isfinite(np.asarray(adata.X, dtype=np.float32)).all(axis=1)]
            kept &= keys.isin(readable)
            anywhere |= keys.isin(readable)
        left_out += int((anywhere & ~kept).sum())
        if kept.any():
            rows = keys[kept]
            sd, median = (None if part is None else part.loc[rows] for part in (table.sd, table.median))
            labels[name] = replace(table, values=table.values.loc[rows], sd=sd, median=median)
    if not labels:
        raise LabelError(
            "no labelled spot was read by every encoder", where=one.name, hint="Check the labels and the features"
        )
    return labels, left_out


def table_digest(table: Abundance) -> str:
    """Digest of the spots, cell types, values, unit and reliability of labels."""
    values = table.values
    reliability = None if table.reliability is None else table.reliability.tolist()
    return digest_json(
        [values.index.tolist(), values.columns.tolist(), values.to_numpy().tolist(), table.unit, reliability]
    )


def encoder_facts(known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Facts of every encoder that was used: name, revision, weights, licence, tile and parameters."""
    facts = []
    for name, one in known.items():
        entry = {key: one.get(key) for key in ("name", "revision", "digest", "licence", "dim", "size_px", "mpp")}
        entry["parameters"] = parameters(name)
        facts.append(entry)
    return facts


def parameters(name: str) -> float | None:
    """Parameters of an encoder by its card; None for one that has no card here."""
    try:
        return card(name).parameters
    except (EncoderError, MissingExtraError):
        return None
