"""What an evaluation found, and its folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.words import counted
from ..errors import InputError, MissingFileError
from ..progress import tell
from ..provenance import (
    atomic_path,
    digest_file,
    read_json,
    read_sealed,
    refuse_pipe,
    require_folder,
    sealed,
    write_json,
)
from .folds import ORTHOGONAL, PROTOCOLS
from .scores.ceiling import CEILING
from .text import in_words

_OURS = {"metrics.csv", "summary.json", "predictions", "labels", "truth"}
_COORDINATES = ["x_px", "y_px"]
#: In ``summary.json`` alone: the digest of each table beside it.
_FILES = "files"
_TEXT = ["head", "protocol", "fold", "donor", "section", "cell_type", "metric", "target"]

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Evaluation:
    """Scores of heads on spots they were not trained on.

    Attributes
    ----------
    metrics
        Long table: head, protocol, fold, donor, section, cell_type, metric, value, target (``"label"`` or ``"truth"``),
        n_spots. ``section`` is empty for metrics over a whole fold, ``cell_type`` for metrics over all types. The head
        ``"labels"`` has the metric ``"ceiling"`` alone: the reliability of the labels, where they carry one. The metric
        ``"pearson_group"`` has the name of a group of cell types as its ``cell_type``.
    predictions
        ``{head: {section: spots x cell types}}``: each spot as predicted by the fold that held it out.
    summary
        Protocol, folds, rules and mean scores with intervals (see `histomix.evaluation.scores.bootstrap.summarise`);
        ``summary["cost"]`` alone may differ between two runs of the same evaluation.
    labels, truth
        ``{section: spots x cell types}`` that the predictions were scored against; ``truth`` may be empty.
    positions
        ``{section: DataFrame}`` with x_px, y_px of every spot, level-0 px.
    others
        Scores under other protocols, where several were asked for: the columns of ``metrics``. In the folder they stand
        in ``metrics.csv`` below those of the protocol of the summary.
    """

    metrics: pd.DataFrame
    predictions: dict[str, Tables]
    summary: dict[str, Any]
    labels: Tables = field(default_factory=dict)
    truth: Tables = field(default_factory=dict)
    positions: Tables = field(default_factory=dict)
    others: pd.DataFrame = field(default_factory=pd.DataFrame)

    @staticmethod
    def of(source: Evaluation | str | os.PathLike[str]) -> Evaluation:
        """The evaluation itself, or that of a folder. Raises as `read_evaluation`."""
        return source if isinstance(source, Evaluation) else read_evaluation(source)

    def table(self, target: str = "label") -> pd.DataFrame:
        """Mean scores, one row per head, as numbers; ``interval`` is that of ``pearson``.

        Against the labels, ``ceiling`` is the mean reliability of the labels and ``share`` the part of the bound of
        pearson that a head reaches; NaN where that is unknown.

        Raises
        ------
        InputError
            There are no scores against ``target``.
        """
        scores = self.summary["scores"]
        if target not in scores:
            raise InputError(f"there are no scores against {target!r}", hint=f"Choose from {', '.join(scores)}")
        rows = {}
        ceiling = self.summary.get(CEILING) or {"mean": None}
        shares = ceiling.get("shares") or {}
        for head, entry in scores[target].items():
            low, high = entry["pearson"]["low"], entry["pearson"]["high"]
            rows[head] = {
                "pearson": entry["pearson"]["mean"],
                "interval": "" if low is None else f"{low:.3f} to {high:.3f}",
                **{
                    name: entry[name]["mean"] for name in ("pearson_pooled", "pearson_within", "rmse", "js_composition")
                },
                **({CEILING: ceiling["mean"], "share": shares.get(head)} if target == "label" else {}),
                "n_types": entry["pearson"]["n_types"],
            }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("head")
        numbers = [name for name in table if name not in ("interval", "n_types")]
        return table.astype(dict.fromkeys(numbers, float))

    def _repr_html_(self) -> str:
        from ..notebook import card_html

        facts, columns, rows = self.summary, ("head", "Pearson", "interval", "RMSE", "types"), []
        for target in facts["scores"]:
            words = "" if target == "label" else f" (against the {target})"
            for head, row in self.table(target).iterrows():
                rows.append([f"{head}{words}", row["pearson"], row["interval"], row["rmse"], row["n_types"]])
        lead = (
            f"{facts['protocol']} folds ({facts['protocol_means']}): {counted(facts['n_donors'], 'donor')}, "
            f"{counted(facts['n_sections'], 'section')}, {counted(facts['n_spots'], 'spot')}"
        )
        cautions = [one["message"] for one in facts.get("audit") or [] if one["severity"] != "note"]
        listed = [("unit", facts["unit"]), ("audit", "; ".join(cautions)), ("notes", "; ".join(facts["notes"]))]
        return card_html("Evaluation", lead, listed, columns, rows)

    def text(self) -> str:
        """The tables with the words that belong to them, for a terminal."""
        return in_words(self.summary, {target: self.table(target) for target in self.summary["scores"]})

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder whole or not at all; an earlier evaluation there is replaced.

        Raises
        ------
        InputError
            The folder holds files that no evaluation wrote.
        StorageError
            The disk is full, or the folder cannot be written.
        """
        check_folder(folder)
        with atomic_path(folder) as path:
            path.mkdir()
            # One region of which nothing was expected has no metric: the table has its header.
            parts = [part for part in (self.metrics, self.others) if len(part)] or [self.metrics]
            pd.concat(parts, ignore_index=True).to_csv(path / "metrics.csv", index=False, lineterminator="\n")
            for head, tables in self.predictions.items():
                self._write(path / "predictions" / head, tables)
            self._write(path / "labels", self.labels)
            if self.truth:
                self._write(path / "truth", self.truth)
            digests = {file.relative_to(path).as_posix(): digest_file(file) for file in sorted(path.rglob("*.csv"))}
            self._write_summary(path, digests)

    def save_summary(self, folder: str | os.PathLike[str]) -> None:
        """Write the summary anew into a folder that `save` wrote of the same tables.

        Raises
        ------
        InputError
            The folder has no summary that can be read.
        StorageError
            The disk is full, or the folder cannot be written.
        """
        self._write_summary(Path(folder), read_json(Path(folder) / "summary.json")[_FILES])

    def _write_summary(self, folder: Path, digests: dict[str, str]) -> None:
        write_json(folder / "summary.json", sealed({**self.summary, _FILES: digests}))

    def _write(self, folder: Path, tables: Tables) -> None:
        folder.mkdir(parents=True)
        for done, (section, table) in enumerate(tables.items()):
            tell(f"write {folder.name} (sections)", done, len(tables))
            places = self.positions[section].loc[table.index, _COORDINATES]
            pd.concat([places, table], axis=1).to_csv(
                folder / f"{section}.csv", index_label="spot", lineterminator="\n"
            )
        tell(f"write {folder.name} (sections)", len(tables), len(tables))


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse to replace a folder that holds anything an evaluation did not write."""
    path = Path(folder)
    require_folder(path)
    if not path.exists():
        return
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in _OURS)
    if foreign:
        raise InputError(
            f"holds {foreign[0]!r}, which no evaluation wrote and replacing the folder would delete",
            where=path,
            hint="Choose an empty or new folder as --out",
        )


def read_evaluation(folder: str | os.PathLike[str]) -> Evaluation:
    """Read what `Evaluation.save` wrote, number for number.

    Raises
    ------
    InputError
        A file is absent, damaged, or not the one that was written; the message names it.

    Examples
    --------
    >>> hm.read_evaluation("evaluation").summary["n_donors"]
    3
    """
    path = Path(folder)
    hint = "Run histomix evaluate again"
    summary = read_sealed(path / "summary.json", hint=hint)
    digests = summary.pop(_FILES, None)  # of an evaluation by an older version nothing is known
    missing = {"protocol", "heads", "sections", "cell_types", "scores"} - set(summary)
    if missing or summary["protocol"] not in (*PROTOCOLS, ORTHOGONAL):
        raise InputError("is not the summary of an evaluation", where=path / "summary.json", hint=hint)

    def read_csv(file: Path, text: list[str]) -> pd.DataFrame:
        table = _read_csv(file, text)
        if digests is not None and digests.get(file.relative_to(path).as_posix()) != digest_file(file):
            raise InputError("was changed since it was written", where=file, hint=hint)
        return table

    metrics = read_csv(path / "metrics.csv", _TEXT)
    _require_numbers(metrics, ["value"], path / "metrics.csv", gaps=True)
    ours = metrics["protocol"] == summary["protocol"]
    columns = [*_COORDINATES, *summary["cell_types"]]

    def read_tables(place: Path, sections: list[str]) -> Tables:
        by_section = {section: read_csv(place / f"{section}.csv", ["spot"]).set_index("spot") for section in sections}
        for section, table in by_section.items():
            if list(table.columns) != columns:
                raise InputError("has other columns than summary.json says", where=place / f"{section}.csv", hint=hint)
            _require_numbers(table, columns, place / f"{section}.csv")
        return by_section

    labels = read_tables(path / "labels", summary["sections"])
    with_truth = summary["truth"]["sections"] if summary.get("truth") else []
    types = summary["cell_types"]
    return Evaluation(
        metrics=metrics[ours].reset_index(drop=True),
        predictions={
            head: {
                name: table[types]
                for name, table in read_tables(path / "predictions" / head, summary["sections"]).items()
            }
            for head in summary["heads"]
        },
        summary=summary,
        labels={name: table[types] for name, table in labels.items()},
        truth={name: table[types] for name, table in read_tables(path / "truth", with_truth).items()},
        positions={name: table[_COORDINATES] for name, table in labels.items()},
        others=metrics[~ours].reset_index(drop=True),
    )


def _require_numbers(table: pd.DataFrame, columns: Sequence[str], path: Path, *, gaps: bool = False) -> None:
    for name in columns:
        values = table[name].to_numpy(float if table.empty else None) if name in table else np.array([None])
        if values.dtype.kind not in "iuf" or not (np.isfinite(values) | (gaps & np.isnan(values))).all():
            what = f"holds something else than numbers in the column {name}"
            raise InputError(what, where=path, hint="Run histomix evaluate again")


def _read_csv(path: Path, text: list[str]) -> pd.DataFrame:
    """Read a table in which only numbers may be empty: "NA" is a fine name for a donor."""
    hint = "Run histomix evaluate again"
    refuse_pipe(path)
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,
            na_values={"value": [""]},
            float_precision="round_trip",
        )
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file", where=path, hint=hint) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as a table ({error})", where=path, hint=hint) from error
    if not set(text) <= set(table.columns):
        raise InputError(f"lacks the column {min(set(text) - set(table.columns))}", where=path, hint=hint)
    return table
